//! The tables of ports, their programs, queues and kernel counters.

use std::iter;

use super::{Numbers, table, unknown};
use crate::admin::snapshot::{Port, Queue, Role, Statistics, Status, Xdp};

pub(super) fn all(status: &Status, numbers: Numbers) -> String {
    let header = [
        "INTERFACE",
        "INDEX",
        "ROLE",
        "POD",
        "STATE",
        "ATTACH",
        "WORKER",
        "TO KERNEL",
        "TO SOCKET",
        "NO SOCKET",
        "DROPPED",
    ];
    let row = |port: &Port| {
        let xdp = |of: fn(&Xdp) -> u64| port.xdp.as_ref().map_or_else(unknown, |xdp| numbers.write(of(xdp)));
        vec![
            port.interface.clone(),
            port.ifindex.to_string(),
            match port.role {
                Role::Pod => "pod".to_owned(),
                Role::Uplink => "uplink".to_owned(),
                Role::Punt => "punt".to_owned(),
            },
            port.pod.clone().unwrap_or_else(unknown),
            port.state.name().to_owned(),
            port.attach.clone(),
            port.worker.to_string(),
            xdp(|xdp| xdp.passed),
            xdp(|xdp| xdp.redirected),
            xdp(|xdp| xdp.dropped),
            numbers.write(port.dropped),
        ]
    };
    table(&header, &[0, 2, 3, 4, 5], status.ports.iter().map(row))
}

/// Inline mode's, of the programs at each port; nothing in other modes.
pub(super) fn programs(status: &Status, numbers: Numbers) -> String {
    const SHOWN: [&str; 8] =
        ["hit", "denied", "missed", "stale", "punted", "limited", "reinjected", "spoofed"];
    let header = ["INTERFACE", "EPOCH", "VERDICTS"].into_iter();
    let header: Vec<String> = header.map(str::to_owned).chain(SHOWN.map(str::to_uppercase)).collect();
    let rows: Vec<Vec<String>> = status
        .ports
        .iter()
        .filter_map(|port| Some((port, port.tc.as_ref().filter(|_| port.role != Role::Punt)?)))
        .map(|(port, tc)| {
            let known = [port.interface.clone(), tc.epoch.to_string(), numbers.write(tc.verdicts.into())];
            let packets =
                SHOWN.map(|what| tc.packets.get(what).map_or_else(unknown, |count| numbers.write(*count)));
            known.into_iter().chain(packets).collect()
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &[0], rows)
}

pub(super) fn queues(status: &Status, numbers: Numbers) -> String {
    let header = ["INTERFACE", "QUEUE", "COPY", "RECEIVED", "SENT", "RING", "FILL", "RX", "TX", "COMPLETION"];
    let row = |(port, queue): (&Port, &Queue)| {
        let rings = queue.rings;
        let mut row = vec![
            port.interface.clone(),
            queue.queue.to_string(),
            if queue.zero_copy { "zero-copy" } else { "copy" }.to_owned(),
            numbers.write(queue.received),
            numbers.write(queue.sent),
        ];
        let places = [rings.capacity, rings.fill, rings.rx, rings.tx, rings.completion];
        row.extend(places.map(|places| numbers.write(places.into())));
        row
    };
    table(&header, &[0, 2], all_queues(status).map(row))
}

/// Each for itself: two of them count the same frames.
pub(super) fn kernel_counters(status: &Status, numbers: Numbers) -> String {
    let header = [
        "INTERFACE",
        "QUEUE",
        "RX_DROPPED",
        "RX_RING_FULL",
        "RX_FILL_RING_EMPTY",
        "RX_INVALID",
        "TX_INVALID",
        "TX_RING_EMPTY",
    ];
    let row = |(port, queue): (&Port, &Queue)| {
        let counted = queue.statistics.map_or_else(
            || iter::repeat_with(unknown).take(6).collect(),
            |counted| {
                let Statistics {
                    rx_dropped,
                    rx_ring_full,
                    rx_fill_ring_empty,
                    rx_invalid_descs,
                    tx_invalid_descs,
                    tx_ring_empty,
                } = counted;
                [
                    rx_dropped,
                    rx_ring_full,
                    rx_fill_ring_empty,
                    rx_invalid_descs,
                    tx_invalid_descs,
                    tx_ring_empty,
                ]
                .map(|count| numbers.write(count))
                .to_vec()
            },
        );
        [vec![port.interface.clone(), queue.queue.to_string()], counted].concat()
    };
    table(&header, &[0], all_queues(status).map(row))
}

fn all_queues(status: &Status) -> impl Iterator<Item = (&Port, &Queue)> {
    status.ports.iter().flat_map(|port| port.queues.iter().map(move |queue| (port, queue)))
}
