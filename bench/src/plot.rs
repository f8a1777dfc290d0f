//! The plot of `docs/table-scaling.svg`: how cost grows with policies and with pods.
//!
//! Two columns (policies, pods) and three rows (a lookup, a change, memory); sizes on a logarithmic axis. Colours
//! follow the reader's light or dark mode.

use std::fmt::Write as _;

use crate::record::Row;

/// One row of panels.
struct Panel {
    title: &'static str,
    unit: &'static str,
    /// What one of `unit` is in the unit of the record.
    scale: f64,
    logarithmic: bool,
    /// Metrics, and what they are called.
    lines: &'static [(&'static str, &'static str)],
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "A lookup, in batches of 32",
        unit: "ns",
        scale: 1.0,
        logarithmic: false,
        lines: &[
            ("scaling_classify_ipv4_hot", "IPv4 hot"),
            ("scaling_classify_ipv6_hot", "IPv6 hot"),
            ("scaling_classify_ipv4_cold", "IPv4 cold"),
            ("scaling_classify_ipv6_cold", "IPv6 cold"),
        ],
    },
    Panel {
        title: "A new table",
        unit: "ms",
        scale: 1.0,
        logarithmic: true,
        lines: &[
            ("scaling_full_compile", "full compile"),
            ("scaling_pod_added_to_published", "one pod added"),
            ("scaling_pod_relabelled_to_published", "relabelled"),
        ],
    },
    Panel {
        title: "The table's size",
        unit: "MB",
        scale: 1e6,
        logarithmic: false,
        lines: &[("scaling_table_bytes", "table")],
    },
];

const COLUMNS: [&str; 2] = ["policies", "pods"];
// Of the whole, of a panel, and from panel to panel.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 780.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 80.0;
const PANEL_WIDTH: f64 = 330.0;
const PANEL_HEIGHT: f64 = 160.0;
const COLUMN: f64 = 410.0;
const ROW: f64 = 240.0;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#24292f}.h{font-size:14px;font-weight:600}\
    .back{fill:#fff}.axis{stroke:#8c959f;fill:none}.grid{stroke:#d8dee4;fill:none}\
    .l{fill:none;stroke-width:2}.l0{stroke:#0969da}.l1{stroke:#bc4c00}.l2{stroke:#1a7f37}.l3{stroke:#8250df}\
    .d0{fill:#0969da}.d1{fill:#bc4c00}.d2{fill:#1a7f37}.d3{fill:#8250df}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.back{fill:#0d1117}.axis{stroke:#6e7681}\
    .grid{stroke:#30363d}.l0{stroke:#58a6ff}.l1{stroke:#f0883e}.l2{stroke:#3fb950}.l3{stroke:#bc8cff}\
    .d0{fill:#58a6ff}.d1{fill:#f0883e}.d2{fill:#3fb950}.d3{fill:#bc8cff}}";

/// The plot of a record's rows.
#[must_use]
pub fn svg(rows: &[Row]) -> String {
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = draw(&mut svg, rows);
    svg
}

fn draw(svg: &mut String, rows: &[Row]) -> std::fmt::Result {
    write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Cost of the policy table by policies and pods\">\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"h\" x=\"{LEFT}\" y=\"26\">What policies and pods cost</text>\n"
    )?;
    for (column, by) in COLUMNS.into_iter().enumerate() {
        let other = COLUMNS[1 - column];
        let fixed =
            rows.iter().filter(|row| is_by(row, by)).filter_map(|row| row.params.get(other)?.as_u64()).max();
        let x = LEFT + COLUMN * column as f64;
        let fixed =
            fixed.map_or_else(String::new, |fixed| format!(", with {} {other}", thousands(fixed as f64)));
        writeln!(svg, "<text x=\"{x}\" y=\"46\">by {by}{fixed}</text>")?;
        for (index, panel) in PANELS.iter().enumerate() {
            panel.draw(svg, rows, by, x, TOP + ROW * index as f64)?;
        }
    }
    svg.push_str("</svg>\n");
    Ok(())
}

impl Panel {
    fn draw(&self, svg: &mut String, rows: &[Row], by: &str, left: f64, top: f64) -> std::fmt::Result {
        let lines: Vec<Vec<(f64, f64)>> =
            self.lines.iter().map(|(metric, _)| self.points(rows, by, metric)).collect();
        // Both columns share the scale, so that they can be compared.
        let all = COLUMNS
            .iter()
            .flat_map(|by| self.lines.iter().flat_map(|(metric, _)| self.points(rows, by, metric)));
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for (_, value) in all {
            (least, most) = (least.min(value), most.max(value));
        }
        let sizes = || lines.iter().flatten().map(|&(size, _)| size);
        let (first, last) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(0.0, f64::max));
        if most == 0.0 || first >= last {
            return Ok(());
        }
        let (low, high) = if self.logarithmic {
            (10_f64.powf(least.log10().floor()), 10_f64.powf(most.log10().ceil()))
        } else {
            (0.0, nice(most))
        };
        let x = |size: f64| left + PANEL_WIDTH * (size / first).log10() / (last / first).log10();
        let y = |value: f64| {
            let share =
                if self.logarithmic { (value / low).log10() / (high / low).log10() } else { value / high };
            top + PANEL_HEIGHT * (1.0 - share)
        };
        let (right, bottom) = (left + PANEL_WIDTH, top + PANEL_HEIGHT);
        writeln!(
            svg,
            "<text class=\"h\" x=\"{left}\" y=\"{}\">{}, {}</text>",
            top - 8.0,
            self.title,
            self.unit
        )?;
        let ticks: Vec<f64> = if self.logarithmic {
            std::iter::successors(Some(low), |tick| Some(tick * 10.0))
                .take_while(|&tick| tick <= high * 1.01)
                .collect()
        } else {
            (0..=4).map(|part| high * f64::from(part) / 4.0).collect()
        };
        for tick in ticks {
            let at = y(tick);
            writeln!(svg, "<path class=\"grid\" d=\"M{left:.1} {at:.1}H{right:.1}\"/>")?;
            let label = thousands(tick);
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                left - 6.0,
                at + 4.0
            )?;
        }
        writeln!(svg, "<path class=\"axis\" d=\"M{left:.1} {top:.1}V{bottom:.1}H{right:.1}\"/>")?;
        let mut size = first;
        while size <= last * 1.01 {
            let (at, label) = (x(size), thousands(size));
            writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 16.0
            )?;
            size *= 10.0;
        }
        for (number, (points, (_, name))) in lines.iter().zip(self.lines).enumerate() {
            let path: Vec<String> =
                points.iter().map(|&(size, value)| format!("{:.1} {:.1}", x(size), y(value))).collect();
            writeln!(svg, "<path class=\"l l{number}\" d=\"M{}\"/>", path.join("L"))?;
            for &(size, value) in points {
                writeln!(
                    svg,
                    "<circle class=\"d{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                    x(size),
                    y(value)
                )?;
            }
            let at = left + 84.0 * number as f64 * if self.lines.len() == 3 { 1.3 } else { 1.0 };
            writeln!(
                svg,
                "<circle class=\"d{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
                at + 4.0,
                bottom + 32.0
            )?;
            writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{name}</text>", at + 12.0, bottom + 36.0)?;
        }
        Ok(())
    }

    /// Sizes and medians of one metric.
    fn points(&self, rows: &[Row], by: &str, metric: &str) -> Vec<(f64, f64)> {
        let of_line = rows.iter().filter(|row| row.metric == metric && is_by(row, by));
        let mut points: Vec<(f64, f64)> = of_line
            .filter_map(|row| Some((row.params.get(by)?.as_f64()?, row.ours?.median / self.scale)))
            .collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    }
}

fn is_by(row: &Row, by: &str) -> bool {
    row.params.get("by").and_then(serde_json::Value::as_str) == Some(by)
}

/// The next round number.
fn nice(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * unit).find(|&step| step >= value).unwrap_or(value)
}

/// A number with separators: `10,000`, `0.01`.
fn thousands(value: f64) -> String {
    if value < 1000.0 {
        return format!("{}", (value * 1e4).round() / 1e4);
    }
    let digits = format!("{value:.0}");
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| str::from_utf8(part).ok()).collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;
    use serde_json::json;

    #[test]
    fn every_line_is_drawn_with_all_its_points() {
        let mut rows = Vec::new();
        for (by, sizes) in [("policies", [1, 10, 100]), ("pods", [100, 1000, 10_000])] {
            for (number, size) in sizes.into_iter().enumerate() {
                for (metric, _) in PANELS.iter().flat_map(|panel| panel.lines) {
                    let mut params = json!({ "by": by, "policies": 100, "pods": 10_000 });
                    params[by] = size.into();
                    let figures = Figures::exactly(1.0 + number as f64);
                    rows.push(Row::new(metric, "ns", params).ours(figures));
                }
            }
        }
        let plot = svg(&rows);
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n") && !plot.contains("NaN"), "{plot}");
        assert_eq!(plot.matches("class=\"l l").count(), 16);
        assert_eq!(plot.matches("r=\"3\"").count(), 16 * 3);
        assert!(plot.contains("by policies, with 10,000 pods"), "{plot}");
        assert!(svg(&[]).ends_with("</svg>\n"), "nothing to draw is no reason to fail");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0.01, 1.0, 999.0, 1000.0, 1e5].map(thousands), ["0.01", "1", "999", "1,000", "100,000"]);
        assert_eq!([2.5, 150.0, 100.0].map(nice), [3.0, 200.0, 100.0]);
    }
}
