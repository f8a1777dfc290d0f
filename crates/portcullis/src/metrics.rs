//! The agent's figures as OpenMetrics text: of a [`Status`], for the file in the state directory and for `/metrics`.

mod values;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use crate::admin::snapshot::{ManifestState, Port, PortState, Queue, Statistics, Status};

pub use values::{VALUES, Values};

/// The name of the file in the state directory.
pub const FILE: &str = "metrics.prom";

/// The figures as OpenMetrics text.
///
/// # Errors
///
/// None that is known: a string takes everything.
pub fn encode(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("portcullis");
    registry.register_collector(Box::new(Figures(status)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Whether the agent that left these figures has left traffic to the kernel as well, unjudged, once it had ended.
#[must_use]
pub fn left_open(figures: &str, ended_cleanly: bool) -> bool {
    let mut info = figures.lines().filter(|line| line.starts_with("portcullis_agent_info{"));
    info.any(|info| {
        info.contains("fallback=\"open\"") || (ended_cleanly && info.contains("on_exit=\"detach\""))
    })
}

/// Writes the figures to [`FILE`] in `dir`, whole: a reader never meets half a file.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(status: Status, dir: &Path) -> io::Result<()> {
    let new = dir.join(".metrics.prom.new");
    fs::write(&new, encode(status).map_err(io::Error::other)?)?;
    fs::rename(new, dir.join(FILE))
}

/// Logs how writing went, once for each change; `fine` is how it went before.
pub fn tell(written: &io::Result<()>, fine: &mut bool) {
    match written {
        Err(error) if *fine => warn!(%error, "the figures cannot be written"),
        Ok(()) if !*fine => info!("the figures can be written again"),
        _ => {}
    }
    *fine = written.is_ok();
}

#[derive(Debug)]
struct Figures(Status);

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (status, mut page) = (&self.0, Page(encoder));
        about_the_agent(status, &mut page)?;
        about_traffic(status, &mut page)?;
        about_ports(status, &mut page)?;
        about_sockets(status, &mut page)?;
        about_inline_mode(status, &mut page)?;
        about_policy(status, &mut page)?;
        about_workers(status, &mut page)
    }
}

fn about_the_agent(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    page.gauges("build_info", "What runs", [(vec![("version", status.version.clone())], 1.0)])?;
    let labels = vec![
        ("mode", status.mode.clone()),
        ("fallback", status.fallback.clone()),
        ("on_exit", status.on_exit.clone()),
    ];
    page.gauges("agent_info", "How the agent is attached, and what holds while none runs", [(labels, 1.0)])?;
    page.gauge("uptime_seconds", "How long the agent has run", status.uptime_seconds)?;
    let unfiltered = status.previous.gap_seconds.filter(|_| status.previous.unfiltered);
    page.gauge(
        "unfiltered_seconds",
        "How long before this start pods' traffic was carried unjudged, because of `fallback: open`",
        unfiltered.unwrap_or(0.0),
    )
}

fn about_traffic(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let sum = |of: fn(&crate::admin::snapshot::Worker) -> u64| status.workers.iter().map(of).sum::<u64>();
    page.counter("received_frames", "Frames received from ports", sum(|worker| worker.received))?;
    page.counter("transmitted_frames", "Frames given to transmit rings", sum(|worker| worker.transmitted))?;
    let judged = sum(|worker| worker.judged);
    page.counter("judged_connections", "Connections that policy was asked about", judged)?;
    let made = sum(|worker| worker.icmp_errors);
    page.counter("icmp_errors", "ICMP errors made about packets that could not be forwarded", made)?;
    let withheld = sum(|worker| worker.icmp_errors_withheld);
    page.counter("icmp_errors_withheld", "ICMP errors not made, because their port had its share", withheld)?;
    let reasons = status.drops.iter().map(|(reason, count)| (vec![("reason", reason.clone())], *count));
    page.counters("drops", "Frames dropped, by reason", reasons)?;
    let packets = queues(status).flat_map(|(port, queue)| {
        [("rx", queue.received), ("tx", queue.sent)].map(|(direction, count)| {
            let mut labels = at(port, queue);
            labels.push(("direction", direction.to_owned()));
            (labels, count)
        })
    });
    page.counters("packets", "Frames received by a socket, and sent by the kernel for it", packets)?;
    let dropped = status.ports.iter().map(|port| (vec![("iface", port.interface.clone())], port.dropped));
    page.counters("port_drops", "Frames dropped of those that came by a port, whatever the reason", dropped)?;
    let steered = status.ports.iter().filter_map(|port| Some((port, port.xdp?))).flat_map(|(port, xdp)| {
        [("kernel", xdp.passed), ("socket", xdp.redirected), ("dropped", xdp.dropped)]
            .map(|(to, count)| (vec![("iface", port.interface.clone()), ("to", to.to_owned())], count))
    });
    page.counters("xdp_frames", "Frames by where a port's XDP program sent them", steered)?;
    let connections = status.connections;
    page.gauge("conntrack_entries", "Connections in the connection table", connections.entries as f64)?;
    page.gauge("conntrack_capacity", "Connections that have room in it", connections.capacity as f64)?;
    page.gauge("conntrack_bytes", "Memory that it takes", connections.bytes as f64)?;
    page.counter(
        "conntrack_given_up",
        "Connections that were over, or unanswered, and gave their place to others",
        connections.given_up,
    )?;
    let displaced = sum(|worker| worker.fragments_displaced);
    page.counter("fragments_displaced", "Fragmented datagrams that were forgotten for others", displaced)?;
    let lost = sum(|worker| worker.records_lost);
    page.counter(
        "flow_records_lost",
        "Records of flows beyond the rate of their kind, or that found no room",
        lost,
    )
}

fn about_ports(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let attached = status.ports.iter().map(|port| {
        let attached = port.state == PortState::Attached;
        (vec![("iface", port.interface.clone())], f64::from(u8::from(attached)))
    });
    page.gauges("port_attached", "Whether a port has its program and its sockets, and is up", attached)?;
    let states = status
        .ports
        .iter()
        .map(|port| (vec![("iface", port.interface.clone()), ("state", port.state.name().to_owned())], 1.0));
    page.gauges("port_state", "How a port is: attached, paused, absent, closed or unknown", states)?;
    let repairs = status.repairs.named().map(|(what, count)| (vec![("what", what.to_owned())], count));
    page.counters("repairs", "What was found otherwise than the agent had left it, and was mended", repairs)
}

fn about_inline_mode(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let ports = || {
        status
            .ports
            .iter()
            .filter_map(|port| Some((vec![("iface", port.interface.clone())], port.tc.as_ref()?)))
    };
    let packets = ports().flat_map(|(labels, tc)| {
        tc.packets.iter().map(move |(what, count)| {
            let mut labels = labels.clone();
            labels.push(("what", what.clone()));
            (labels, *count)
        })
    });
    page.counters("tc_packets", "Inline mode: packets by what a port's tc programs made of them", packets)?;
    let verdicts = ports().map(|(labels, tc)| (labels, f64::from(tc.verdicts)));
    page.gauges("port_verdicts", "Inline mode: verdicts of a port that the kernel has", verdicts)?;
    let Some(inline) = status.inline else { return Ok(()) };
    page.gauge("verdicts", "Inline mode: verdicts that the kernel has", inline.verdicts as f64)?;
    page.gauge(
        "verdicts_capacity",
        "Inline mode: verdicts of each family that have room",
        inline.capacity as f64,
    )?;
    for (name, help, count) in [
        (
            "verdicts_refused",
            "Inline mode: verdicts that found no room, or were beyond what their port may have",
            inline.refused,
        ),
        (
            "verdicts_expired",
            "Inline mode: verdicts that were idle for too long, or nobody's",
            inline.expired,
        ),
        ("verdicts_renewed", "Inline mode: verdicts that a new policy table still allowed", inline.renewed),
    ] {
        page.counter(name, help, count)?;
    }
    Ok(())
}

/// The kernel's own names, and what they mean.
type Counted = (&'static str, &'static str, fn(&Statistics) -> u64);
const COUNTED: [Counted; 6] = [
    (
        "xsk_rx_dropped",
        "Received frames that the kernel dropped; frames that found the fill ring empty count there, too",
        |counted| counted.rx_dropped,
    ),
    (
        "xsk_rx_ring_full",
        "Received frames that the kernel dropped because the receive ring was full",
        |counted| counted.rx_ring_full,
    ),
    ("xsk_rx_fill_ring_empty", "Times that a frame came and the fill ring was empty", |counted| {
        counted.rx_fill_ring_empty
    }),
    ("xsk_rx_invalid_descs", "Descriptors in the fill ring that made no sense", |counted| {
        counted.rx_invalid_descs
    }),
    ("xsk_tx_invalid_descs", "Descriptors in the transmit ring that made no sense", |counted| {
        counted.tx_invalid_descs
    }),
    ("xsk_tx_ring_empty", "Times that the kernel found the transmit ring empty", |counted| {
        counted.tx_ring_empty
    }),
];

fn about_sockets(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    for (name, help, of) in COUNTED {
        let counts = queues(status)
            .filter_map(|(port, queue)| Some((at(port, queue), of(queue.statistics.as_ref()?))));
        page.counters(name, help, counts)?;
    }
    let entries = queues(status).flat_map(|(port, queue)| {
        let rings = queue.rings;
        [("fill", rings.fill), ("rx", rings.rx), ("tx", rings.tx), ("completion", rings.completion)].map(
            |(ring, entries)| {
                let mut labels = at(port, queue);
                labels.push(("ring", ring.to_owned()));
                (labels, f64::from(entries))
            },
        )
    });
    page.gauges("ring_entries", "Frames in a ring", entries)?;
    let capacities = queues(status).map(|(port, queue)| (at(port, queue), f64::from(queue.rings.capacity)));
    page.gauges("ring_capacity", "Frames that have room in each ring of a socket", capacities)
}

fn about_policy(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let ready = status.ports.iter().filter(|port| port.mac.is_some() && !port.addresses.is_empty()).count();
    let help = "Pods of configured ports whose address and MAC address are known";
    page.gauge("ready_pods", help, ready as f64)?;
    let table = status.table.clone().unwrap_or_default();
    for (name, help, value) in [
        (
            "table_generation",
            "Generation of the policy table in force; 0 without one",
            table.generation as f64,
        ),
        ("table_pods", "Pods whose connections it judges", table.pods as f64),
        ("table_policies", "Policies of the cluster", table.policies as f64),
        ("table_rules", "Their rules", table.rules as f64),
        ("table_bytes", "Memory that the policy table takes", table.bytes as f64),
        (
            "table_last_publish_timestamp_seconds",
            "When it came into force, since 1970; 0 without one",
            table.published_timestamp_seconds,
        ),
        (
            "policy_propagation_seconds",
            "From the notice of the last change to its publication, which workers see with their next burst",
            table.took_seconds,
        ),
    ] {
        page.gauge(name, help, value)?;
    }
    page.counter("reload_failures", "How often the manifests were refused", status.manifests.refusals)?;
    let refused = status.manifests.state == ManifestState::Refused;
    let help = "Whether the manifests are refused now; the table of before is then in force";
    page.gauge("manifests_refused", help, f64::from(u8::from(refused)))
}

fn about_workers(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let named = || status.workers.iter().map(|worker| (vec![("worker", worker.worker.to_string())], worker));
    let ratios = named().map(|(labels, worker)| (labels, worker.busy_ratio));
    page.gauges(
        "worker_busy_ratio",
        "Share of the last seconds in which a worker had frames to handle",
        ratios,
    )?;
    let ages = named().map(|(labels, worker)| (labels, worker.heartbeat_age_seconds));
    page.gauges("worker_heartbeat_age_seconds", "How long ago a worker turned last", ages)?;
    let turns = status.workers.iter().map(|worker| worker.bursts).sum();
    page.counter("turns", "Turns of workers that handled at least one frame", turns)?;
    let frames = named().filter_map(|(labels, worker)| Some((labels, worker.frames?)));
    let places = frames.flat_map(|(labels, frames)| {
        [("free", frames.free), ("fill", frames.fill), ("tx", frames.tx), ("held", frames.held)].map(
            |(place, count)| {
                let mut labels = labels.clone();
                labels.push(("place", place.to_owned()));
                (labels, count as f64)
            },
        )
    });
    page.gauges("frames", "Frames of a worker's packet memory, by where they are", places)
}

fn queues(status: &Status) -> impl Iterator<Item = (&Port, &Queue)> {
    status.ports.iter().flat_map(|port| port.queues.iter().map(move |queue| (port, queue)))
}

type Labels = Vec<(&'static str, String)>;

fn at(port: &Port, queue: &Queue) -> Labels {
    vec![("iface", port.interface.clone()), ("queue", queue.queue.to_string())]
}

/// The text that is being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::snapshot::Repairs;

    #[test]
    fn a_page_is_openmetrics() {
        let port = Port {
            interface: "veth-web".to_owned(),
            state: PortState::Closed,
            dropped: 7,
            queues: vec![Queue { received: 9, statistics: Some(Statistics::default()), ..Queue::default() }],
            ..Port::default()
        };
        let drops = [("default_deny".to_owned(), 7)].into();
        let repairs = Repairs { pins: 2, ..Repairs::default() };
        let text = encode(Status { ports: vec![port], drops, repairs, ..Status::default() }).unwrap();
        for line in [
            "portcullis_drops_total{reason=\"default_deny\"} 7",
            "portcullis_port_drops_total{iface=\"veth-web\"} 7",
            "portcullis_packets_total{iface=\"veth-web\",queue=\"0\",direction=\"rx\"} 9",
            "portcullis_xsk_rx_ring_full_total{iface=\"veth-web\",queue=\"0\"} 0",
            "portcullis_port_attached{iface=\"veth-web\"} 0.0",
            "portcullis_port_state{iface=\"veth-web\",state=\"closed\"} 1.0",
            "portcullis_repairs_total{what=\"pins\"} 2",
            "portcullis_table_generation 0.0",
            "# TYPE portcullis_drops counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn what_was_left_open_can_be_told() {
        let left = |fallback: &str, on_exit: &str| {
            let (fallback, on_exit) = (fallback.to_owned(), on_exit.to_owned());
            encode(Status { fallback, on_exit, ..Status::default() }).unwrap()
        };
        assert!(left_open(&left("open", "keep"), false));
        assert!(left_open(&left("closed", "detach"), true));
        assert!(!left_open(&left("closed", "detach"), false), "killed, it keeps its ports closed");
        assert!(!left_open(&left("closed", "keep"), true));
        assert!(!left_open("", true));
    }
}
