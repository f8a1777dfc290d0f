//! The agent's figures as OpenMetrics text, in a file of the state directory.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use engine::counters::{Counters, Tally};
use engine::shared::Shared;
use flow::DropReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use table::PolicyTable;
use table::Reader;

/// The name of the file in the state directory.
pub const FILE: &str = "metrics.prom";

/// Where the figures are read from.
#[derive(Debug)]
pub struct Figures {
    counters: Vec<Arc<Counters>>,
    shared: Arc<Shared>,
    table: Reader<PolicyTable>,
    /// How many pods can be reached.
    pub ready: usize,
}

impl Figures {
    /// The figures of these workers.
    #[must_use]
    pub const fn new(counters: Vec<Arc<Counters>>, shared: Arc<Shared>, table: Reader<PolicyTable>) -> Self {
        Self { counters, shared, table, ready: 0 }
    }

    /// The sum over all workers.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for counters in &self.counters {
            total.add(&counters.read());
        }
        total
    }

    /// Writes the figures of now to [`FILE`] in `dir`, whole: a reader never meets half a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&mut self, dir: &Path) -> io::Result<()> {
        let generation = self.table.get().map_or(0, PolicyTable::generation);
        let flows = self.shared.flows.len() as u64;
        let snapshot = Snapshot { tally: self.total(), flows, generation, ready: self.ready as u64 };
        let mut registry = Registry::with_prefix("portcullis");
        registry.register_collector(Box::new(snapshot));
        let mut body = String::new();
        text::encode(&mut body, &registry).map_err(io::Error::other)?;
        let new = dir.join(".metrics.prom.new");
        fs::write(&new, body)?;
        fs::rename(new, dir.join(FILE))
    }
}

#[derive(Debug)]
struct Snapshot {
    tally: Tally,
    flows: u64,
    generation: u64,
    ready: u64,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Tally { rx, tx, judged, turns, .. } = self.tally;
        for (name, help, value) in [
            ("received_frames", "Frames received from ports", rx),
            ("transmitted_frames", "Frames given to transmit rings", tx),
            ("judged_connections", "Connections that policy was asked about", judged),
            ("turns", "Turns of workers that handled at least one frame", turns),
        ] {
            ConstCounter::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let help = "Frames dropped, by reason";
        let mut drops = encoder.encode_descriptor("drops", help, None, MetricType::Counter)?;
        for reason in DropReason::ALL {
            let labels = [("reason", reason.name())];
            ConstCounter::new(self.tally.dropped_for(reason)).encode(drops.encode_family(&labels)?)?;
        }
        for (name, help, value) in [
            ("flow_entries", "Connections in the connection table", self.flows),
            ("ready_pods", "Pods of configured ports whose address and MAC address are known", self.ready),
            ("table_generation", "Generation of the policy table in force; 0 without one", self.generation),
        ] {
            ConstGauge::new(value as i64).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_line() {
        let mut tally = Tally::default();
        tally.dropped[DropReason::DefaultDeny as usize] = 7;
        let mut registry = Registry::with_prefix("portcullis");
        registry.register_collector(Box::new(Snapshot { tally, flows: 3, generation: 2, ready: 1 }));
        let mut body = String::new();
        text::encode(&mut body, &registry).unwrap();
        for reason in DropReason::ALL {
            let value = if reason == DropReason::DefaultDeny { 7 } else { 0 };
            assert!(
                body.contains(&format!("portcullis_drops_total{{reason=\"{reason}\"}} {value}\n")),
                "{body}"
            );
        }
        assert!(body.contains("portcullis_flow_entries 3\n") && body.ends_with("# EOF\n"), "{body}");
    }
}
