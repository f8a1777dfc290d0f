//! One object a line for each measurement: what a record holds, and what a person reads of it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The benchmark; the [output](crate::output) fills it in.
    pub bench: String,
    /// What was measured.
    pub metric: String,
    /// Of what: sizes, shares, conditions.
    pub params: Map<String, Value>,
    /// Of all figures of the row.
    pub unit: String,
    /// Ours; null where it could not be measured.
    pub ours: Option<Figures>,
    /// Who else was measured in the same run.
    pub peer: Option<String>,
    /// Theirs; null where the peer could not run.
    pub theirs: Option<Figures>,
    /// How many times better ours is than the peer's.
    pub ratio: Option<f64>,
    /// What is asked for.
    pub target: Option<String>,
    /// Whether it is reached.
    pub met: Option<bool>,
    /// Why a figure is missing, or what else must be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Repetitions of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The one in the middle.
    pub median: f64,
    /// The 99th percentile, where single events were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many there are.
    pub n: usize,
}

impl Figures {
    /// Of repetitions.
    ///
    /// # Panics
    ///
    /// When there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).expect("a sample");
        let median = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        let [median, min, max] = [median, sorted[0], sorted[last]].map(rounded);
        Self { median, p99: None, min, max, n: sorted.len() }
    }

    /// Of single events, with their 99th percentile: the smallest value that 99 of 100 do not exceed.
    ///
    /// # Panics
    ///
    /// When there are none.
    #[must_use]
    pub fn of_events(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * 99).div_ceil(100);
        Self { p99: Some(rounded(sorted[rank - 1])), ..Self::of(samples) }
    }

    /// Of something that is counted, not timed.
    #[must_use]
    pub fn exactly(value: f64) -> Self {
        Self::of(&[value])
    }
}

impl Row {
    /// A row without a figure.
    #[must_use]
    pub fn new(metric: &str, unit: &str, params: Value) -> Self {
        let Value::Object(params) = params else { panic!("parameters have names") };
        Self {
            bench: String::new(),
            metric: metric.into(),
            params,
            unit: unit.into(),
            ours: None,
            peer: None,
            theirs: None,
            ratio: None,
            target: None,
            met: None,
            note: None,
        }
    }

    /// With our figures.
    #[must_use]
    pub const fn ours(mut self, figures: Figures) -> Self {
        self.ours = Some(figures);
        self
    }

    /// With the peer's figures, less being better.
    #[must_use]
    pub fn against(mut self, peer: &str, figures: Figures) -> Self {
        self.peer = Some(peer.into());
        self.ratio = self.ours.map(|ours| rounded(figures.median / ours.median));
        self.theirs = Some(figures);
        self
    }

    /// With the peer's figures, more being better.
    #[must_use]
    pub fn beside(mut self, peer: &str, figures: Figures) -> Self {
        self.peer = Some(peer.into());
        self.ratio = self.ours.map(|ours| rounded(ours.median / figures.median));
        self.theirs = Some(figures);
        self
    }

    /// With a peer that could not run.
    #[must_use]
    pub fn without(mut self, peer: &str, why: &str) -> Self {
        self.peer = Some(peer.into());
        self.note = Some(why.into());
        self
    }

    /// With a target, and whether it is reached.
    #[must_use]
    pub fn target(mut self, target: impl Into<String>, met: Option<bool>) -> Self {
        (self.target, self.met) = (Some(target.into()), met);
        self
    }

    /// With the target that the median is at most this.
    #[must_use]
    pub fn at_most(self, most: f64) -> Self {
        let met = self.ours.map(|ours| ours.median <= most);
        let target = format!("<= {most} {}", self.unit);
        self.target(target, met)
    }

    /// With the target that ours is this many times better than the peer's.
    #[must_use]
    pub fn times_better(self, times: f64) -> Self {
        let met = self.ratio.map(|ratio| ratio >= times);
        let target = format!(">= {times} x {}", self.peer.as_deref().unwrap_or("the peer"));
        self.target(target, met)
    }

    /// With the target that ours costs at most this many times what the peer costs.
    #[must_use]
    pub fn at_most_times(self, times: f64) -> Self {
        let met = self.ours.zip(self.theirs).map(|(ours, theirs)| ours.median <= times * theirs.median);
        let target = format!("<= {times} x {}", self.peer.as_deref().unwrap_or("the peer"));
        self.target(target, met)
    }

    /// With the targets that the median and the 99th percentile are at most these.
    #[must_use]
    pub fn percentiles(self, median: Option<f64>, p99: f64) -> Self {
        let unit = self.unit.clone();
        let met = self.ours.map(|ours| {
            median.is_none_or(|most| ours.median <= most) && ours.p99.is_some_and(|worst| worst <= p99)
        });
        let median = median.map_or_else(String::new, |most| format!("p50 <= {most} {unit}, "));
        self.target(format!("{median}p99 <= {p99} {unit}"), met)
    }

    /// With something else that must be known.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The row as a line of the record.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("a row has names and numbers")
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, p99, min, max, n } = *self;
        if n == 1 {
            return write!(f, "{}", short(median));
        }
        write!(f, "{}", short(median))?;
        if let Some(p99) = p99 {
            write!(f, ", p99 {}", short(p99))?;
        }
        write!(f, " ({} to {}, n {n})", short(min), short(max))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |name: &str| self.params.get(name).map(|value| format!(" {name}={value}"));
        let of = ["rules", "policies", "pods", "local", "which", "keys", "structure", "family", "flows"];
        let of: String = of.into_iter().filter_map(number).collect();
        let figure = |figures: Option<Figures>| {
            figures.map_or_else(|| "-".to_owned(), |figures| format!("{figures} {}", self.unit))
        };
        write!(f, "{:<34}{of:<52} {}", self.metric, figure(self.ours))?;
        if let Some(peer) = &self.peer {
            write!(f, " | {peer} {}", figure(self.theirs))?;
        }
        if let Some(ratio) = self.ratio {
            write!(f, " | x{}", short(ratio))?;
        }
        if let Some(target) = &self.target {
            let met = self.met.map_or("not measured", |met| if met { "met" } else { "MISSED" });
            write!(f, " | {target}: {met}")?;
        }
        if let Some(note) = &self.note {
            write!(f, " | {note}")?;
        }
        Ok(())
    }
}

/// To four significant digits: what noise leaves of a figure.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    if value.abs() >= 1e4 { value.round() } else { (value * unit).round() / unit }
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_what_they_say() {
        let figures = Figures::of(&[3.0, 1.0, 2.0, 10.0]);
        assert_eq!(figures, Figures { median: 2.5, p99: None, min: 1.0, max: 10.0, n: 4 });
        let events: Vec<f64> = (1..=300).rev().map(f64::from).collect();
        assert_eq!(Figures::of_events(&events).p99, Some(297.0));
        assert_eq!(Figures::exactly(17.239_99).median, 17.24);
    }

    #[test]
    fn a_row_is_a_line_that_reads_back() {
        let params = json!({ "policies": 10_000, "batch": 32 });
        let row = Row::new("classify_ipv4_hot", "ns", params).ours(Figures::of(&[10.0, 8.0, 9.0]));
        let row = row.against("rte_acl", Figures::of(&[17.0, 18.0, 19.0])).times_better(2.0);
        assert_eq!((row.ratio, row.met), (Some(2.0), Some(true)));
        assert_eq!(row.clone().times_better(2.1).met, Some(false));
        let line = row.line();
        assert!(!line.contains('\n') && line.contains(r#""target":">= 2 x rte_acl""#), "{line}");
        assert_eq!(serde_json::from_str::<Row>(&line).unwrap(), row);
        let rate = Row::new("tcp", "Gbit/s", json!({})).ours(Figures::exactly(19.0));
        let rate = rate.beside("plain", Figures::exactly(20.0));
        assert_eq!((rate.ratio, rate.clone().times_better(0.95).met), (Some(0.95), Some(true)));
        assert_eq!(rate.times_better(0.96).met, Some(false));
        assert_eq!(row.clone().at_most_times(0.4).met, Some(false));
        assert_eq!(row.at_most_times(0.6).met, Some(true));
    }

    #[test]
    fn a_missing_figure_meets_nothing() {
        let row =
            Row::new("classify", "ns", json!({})).ours(Figures::exactly(5.0)).without("rte_acl", "absent");
        let row = row.times_better(2.0);
        assert_eq!((row.met, row.theirs, row.note.as_deref()), (None, None, Some("absent")));
        let late = Figures::of_events(&[1.0, 1.0, 9.0]);
        let row = Row::new("added", "ms", json!({})).ours(late);
        assert_eq!(row.clone().percentiles(Some(1.0), 9.0).met, Some(true));
        assert_eq!(row.percentiles(Some(1.0), 5.0).met, Some(false));
    }
}
