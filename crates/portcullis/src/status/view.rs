//! A [`Status`] for people: a line for each matter, then a table each for ports, queues, kernel counters, workers
//! and drops. Lines are as long as they are: whoever reads a pipe finds every row in one line.

mod ports;

use std::iter;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::admin::snapshot::{Ended, ManifestState, Port, Previous, Recovery, Repairs, Status, Worker};

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// With a comma after every three digits, for a terminal.
    pub grouped: bool,
}

impl Numbers {
    /// A number.
    #[must_use]
    pub fn write(self, number: u64) -> String {
        let digits = number.to_string();
        if !self.grouped {
            return digits;
        }
        let first = digits.len() % 3;
        let (head, tail) = digits.split_at(first);
        let groups = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
        iter::once(head.to_owned())
            .filter(|head| !head.is_empty())
            .chain(groups)
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// The whole page.
#[must_use]
pub fn render(status: &Status, numbers: Numbers) -> String {
    let mut page = String::new();
    for (matter, text) in matters(status, numbers) {
        page.push_str(&format!("{matter:<12} {text}\n"));
    }
    for table in [
        ports::all(status, numbers),
        ports::programs(status, numbers),
        ports::queues(status, numbers),
        ports::kernel_counters(status, numbers),
        workers(status, numbers),
        drops(status, numbers),
    ]
    .into_iter()
    .filter(|table| !table.is_empty())
    {
        page.push('\n');
        page.push_str(&table);
    }
    page
}

fn matters(status: &Status, numbers: Numbers) -> Vec<(&'static str, String)> {
    let count = |number: usize| numbers.write(number as u64);
    let Status { version, node, pid, mode, fallback, connections, .. } = status;
    let mut matters = vec![
        ("portcullis", format!("{version}, pid {pid}, up {}", span(status.uptime_seconds))),
        ("node", format!("{node}, {mode} mode")),
        ("fallback", fallback_line(fallback)),
    ];
    matters.push(match &status.table {
        Some(table) => (
            "policy",
            format!(
                "generation {} in force for {}: {} pods, {} policies, {} rules, {} (took {})",
                table.generation,
                span(table.age_seconds),
                count(table.pods),
                count(table.policies),
                count(table.rules),
                bytes(table.bytes),
                span(table.took_seconds),
            ),
        ),
        None => ("policy", "none yet: everything from and to pods is dropped".to_owned()),
    });
    matters.push(("manifests", manifests(status)));
    matters.push(("recovery", recovery(&status.recovery)));
    matters.push(("before", previous(&status.previous)));
    matters.push((
        "connections",
        format!(
            "{} of {}, {} given up, {}",
            count(connections.entries),
            count(connections.capacity),
            numbers.write(connections.given_up),
            bytes(connections.bytes),
        ),
    ));
    matters.extend(status.inline.map(|inline| {
        let text = format!(
            "{} of {} in the kernel, {} refused, {} renewed, {} expired",
            count(inline.verdicts),
            count(inline.capacity),
            numbers.write(inline.refused),
            numbers.write(inline.renewed),
            numbers.write(inline.expired),
        );
        ("verdicts", text)
    }));
    matters.push(("repairs", repairs(status.repairs, numbers)));
    for Port { interface, why, .. } in &status.ports {
        matters.extend(why.as_ref().map(|why| ("closed", format!("{interface}: {}", one_line(why)))));
    }
    matters
}

/// What was found changed, and mended.
fn repairs(repairs: Repairs, numbers: Numbers) -> String {
    let done = repairs.named().into_iter().filter(|(_, count)| *count > 0);
    let done: Vec<_> = done.map(|(what, count)| format!("{what} {}", numbers.write(count))).collect();
    if done.is_empty() { "none".to_owned() } else { done.join(", ") }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn fallback_line(fallback: &str) -> String {
    match fallback {
        "open" => {
            "open: what the kernel forwards is never judged, and while no agent runs, nothing is".to_owned()
        }
        other => other.to_owned(),
    }
}

fn manifests(status: &Status) -> String {
    let manifests = &status.manifests;
    match (manifests.state, &manifests.refusal) {
        (ManifestState::Unread, _) => "not read yet".to_owned(),
        (_, Some(refusal)) => {
            let first = refusal.report.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let stays = if status.table.is_some() { "; the policy of before stays in force" } else { "" };
            let errors =
                if refusal.errors == 1 { "1 error".to_owned() } else { format!("{} errors", refusal.errors) };
            format!("refused for {}, {errors}{stays}: {}", span(refusal.since_seconds), first.trim())
        }
        (_, None) => match manifests.refusals {
            0 => "in force".to_owned(),
            refusals => format!("in force; refused {refusals} times before"),
        },
    }
}

fn recovery(recovery: &Recovery) -> String {
    let Recovery { window_seconds: window, left_seconds: left } = *recovery;
    if left > 0.0 {
        format!("connections may be taken up in mid-stream for another {}", span(left))
    } else {
        format!("over (its window was {})", span(window))
    }
}

fn previous(previous: &Previous) -> String {
    let ended = match (previous.ended, previous.pid) {
        (Ended::Never, _) => return "no agent has run with this state directory".to_owned(),
        (Ended::Clean, _) => "the last agent ended as it was told to".to_owned(),
        (Ended::Unclean, Some(pid)) => format!("the last agent (pid {pid}) was killed or crashed"),
        (Ended::Unclean, None) => "the last agent was killed or crashed".to_owned(),
    };
    let Some(gap) = previous.gap_seconds.map(span) else { return ended };
    let meanwhile =
        if previous.unfiltered { "pods' traffic was unfiltered" } else { "the ports let nothing pass" };
    format!("{ended}; then no agent ran for about {gap}, and {meanwhile}")
}

fn workers(status: &Status, numbers: Numbers) -> String {
    let header = [
        "WORKER",
        "STATE",
        "HEARTBEAT",
        "POLLING",
        "CORE",
        "BUSY",
        "BURSTS",
        "RECEIVED",
        "SENT",
        "DROPPED",
        "JUDGED",
        "FREE",
        "IN FILL",
        "IN TX",
        "HELD",
        "FRAMES",
    ];
    let row = |worker: &Worker| {
        let mut row = vec![
            worker.worker.to_string(),
            if worker.answers { "answers" } else { "SILENT" }.to_owned(),
            format!("{} ago", span(worker.heartbeat_age_seconds)),
            worker.polling.clone(),
            worker.core.map_or_else(unknown, |core| core.to_string()),
            format!("{:.1} %", worker.busy_ratio * 100.0),
        ];
        let counts = [worker.bursts, worker.received, worker.transmitted, worker.dropped, worker.judged];
        row.extend(counts.map(|count| numbers.write(count)));
        match worker.frames {
            Some(frames) => {
                let places = [frames.free, frames.fill, frames.tx, frames.held, frames.total];
                row.extend(places.map(|count| numbers.write(count as u64)));
            }
            None => row.extend(iter::repeat_with(unknown).take(5)),
        }
        row
    };
    table(&header, &[1, 3], status.workers.iter().map(row))
}

fn drops(status: &Status, numbers: Numbers) -> String {
    let happened = status.drops.iter().filter(|(_, frames)| **frames > 0);
    let rows: Vec<_> =
        happened.map(|(reason, frames)| vec![reason.clone(), numbers.write(*frames)]).collect();
    if rows.is_empty() {
        return "No frame was dropped.\n".to_owned();
    }
    table(&["DROPPED AS", "FRAMES"], &[0], rows)
}

/// Columns two spaces apart; numbers, which is all but the columns named in `words`, to the right.
fn table(header: &[&str], words: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if !words.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn unknown() -> String {
    "-".to_owned()
}

/// A time as people say it: `3.1 ms`, `12.0 s`, `5 min 3 s`, `2 h 3 min`, `4 d 2 h`.
#[must_use]
pub(crate) fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0 => format!("{:.1} ms", seconds * 1000.0),
        1..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

fn bytes(bytes: usize) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::snapshot::{self, PortState, Queue, Role, Statistics};

    fn status() -> Status {
        let counted = Statistics { rx_fill_ring_empty: 3, tx_ring_empty: 4711, ..Statistics::default() };
        let queue = Queue {
            received: 1_234_567,
            sent: 9,
            rings: snapshot::Rings { capacity: 2048, fill: 900, rx: 1, tx: 2, completion: 3 },
            statistics: Some(counted),
            ..Queue::default()
        };
        let pod = Port {
            interface: "veth-web".into(),
            ifindex: 7,
            pod: Some("shop/web".into()),
            state: PortState::Attached,
            attach: "native".into(),
            dropped: 1500,
            xdp: Some(snapshot::Xdp { passed: 12, redirected: 1_234_567, dropped: 0 }),
            queues: vec![queue],
            ..Port::default()
        };
        let uplink = Port {
            interface: "eth1".into(),
            role: Role::Uplink,
            state: PortState::Unknown,
            attach: "native".into(),
            worker: 1,
            ..Port::default()
        };
        let tap = Port {
            interface: "tap7".into(),
            ifindex: 9,
            pod: Some("shop/db".into()),
            state: PortState::Closed,
            why: Some("another program runs on tap7\n(id 4711)".into()),
            attach: "native".into(),
            ..Port::default()
        };
        let worker = Worker {
            answers: true,
            heartbeat_age_seconds: 0.004,
            polling: "adaptive".into(),
            busy_ratio: 0.125,
            received: 1_234_567,
            transmitted: 9,
            dropped: 1500,
            bursts: 40_000,
            judged: 17,
            frames: Some(snapshot::Frames { free: 15_480, fill: 901, tx: 3, held: 0, total: 16_384 }),
            ..Worker::default()
        };
        let hung = Worker {
            worker: 1,
            heartbeat_age_seconds: 75.0,
            polling: "busy".into(),
            core: Some(3),
            ..Worker::default()
        };
        Status {
            version: "0.1.0".into(),
            node: "node-1".into(),
            pid: 4242,
            uptime_seconds: 7400.0,
            mode: "router".into(),
            fallback: "closed".into(),
            previous: Previous {
                ended: Ended::Unclean,
                pid: Some(17),
                gap_seconds: Some(2.14),
                unfiltered: true,
            },
            recovery: Recovery { window_seconds: 30.0, left_seconds: 0.0 },
            table: Some(snapshot::Table {
                generation: 4,
                age_seconds: 12.0,
                took_seconds: 0.0031,
                pods: 9,
                policies: 5,
                rules: 14,
                bytes: 123_456,
                ..snapshot::Table::default()
            }),
            manifests: snapshot::Manifests {
                state: ManifestState::Refused,
                refusals: 2,
                refusal: Some(snapshot::Refusal {
                    since_seconds: 34.0,
                    errors: 1,
                    report: "error[unknown-field]: no such field `portz`\n  --> a.yaml:3:1\n".into(),
                }),
            },
            ports: vec![pod, tap, uplink],
            repairs: Repairs { pins: 1, interlock: 1234, ..Repairs::default() },
            workers: vec![worker, hung],
            drops: [("default_deny".into(), 1400), ("no_flow".into(), 0), ("spoofed_source".into(), 100)]
                .into(),
            connections: snapshot::Connections {
                entries: 123,
                capacity: 262_144,
                given_up: 5,
                bytes: 25_165_824,
            },
            ..Status::default()
        }
    }

    #[test]
    fn a_page_for_pipes() {
        let page = render(&status(), Numbers { grouped: false });
        assert_eq!(page, include_str!("../../tests/golden/status.txt"), "{page}");
    }

    #[test]
    fn a_page_before_anything_has_happened() {
        let page = render(&Status::default(), Numbers { grouped: true });
        for line in [
            "policy       none yet: everything from and to pods is dropped",
            "manifests    not read yet",
            "repairs      none",
            "before       no agent has run with this state directory",
            "No frame was dropped.",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}: {page}");
        }
    }

    #[test]
    fn numbers_are_grouped_for_people() {
        let grouped = |number| Numbers { grouped: true }.write(number);
        assert_eq!(
            [0, 999, 1000, 123_456, 1_234_567].map(grouped),
            ["0", "999", "1,000", "123,456", "1,234,567"]
        );
        assert_eq!(Numbers { grouped: false }.write(1_234_567), "1234567");
    }

    #[test]
    fn times_are_as_coarse_as_they_are_long() {
        let said = [0.0031, 2.14, 63.0, 7400.0, 90_000.0].map(span);
        assert_eq!(said, ["3.1 ms", "2.1 s", "1 min 3 s", "2 h 3 min", "1 d 1 h"]);
    }
}
