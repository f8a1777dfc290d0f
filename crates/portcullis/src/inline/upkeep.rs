//! The kernel's verdicts, looked after: forgotten when they are idle, renewed before their epoch ends.
//!
//! A new policy table changes the epochs of some ports. What it still allows is entered under the new epoch before
//! the port's epoch is raised, so that no packet of it has to be asked about; what it does not is asked about, and
//! cut, from then on.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use bpf::inline::{CachedFlow, VerdictCache};
use engine::flows::{Course, Flows, Millis};
use engine::wiring::{PortId, Wiring};
use flow::{FlowKey, Protocol, Verdict};
use table::PolicyTable;

use super::numbers::Numbers;
use super::verdicts::{Base, Quota};

/// Verdicts that are renewed at most; with more of them, the others are asked about again.
const RENEWED: usize = 131_072;
/// Verdicts that are judged at a time.
const BATCH: usize = 256;

/// How long a verdict is kept without a packet: as a connection of its kind (docs/ARCHITECTURE.md), seen from the
/// kernel's few facts about it.
const fn patience(flow: &CachedFlow) -> Duration {
    let seconds = match (flow.verdict, flow.key.protocol) {
        (Verdict::Deny, _) => 30,
        _ if !flow.answered => 30,
        (_, Protocol::TCP) if flow.ending => 2 * 60,
        (_, Protocol::TCP) => 2 * 3600 + 4 * 60,
        (_, Protocol::SCTP) if flow.ending => 10,
        (_, Protocol::SCTP) => 5 * 60,
        (_, Protocol::ICMP | Protocol::ICMPV6) => 60,
        _ => 2 * 60,
    };
    Duration::from_secs(seconds)
}

const fn course(flow: &CachedFlow) -> Course {
    if flow.ending {
        Course::Ending
    } else if flow.answered {
        Course::Answered
    } else {
        Course::Opened
    }
}

/// What a round over the verdicts has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// Verdicts there are.
    pub(super) kept: usize,
    /// Verdicts that were idle for too long, or nobody's any more, and are gone.
    pub(super) expired: usize,
    /// Verdicts that were entered anew under a new epoch.
    pub(super) renewed: usize,
}

/// Forgets idle verdicts, and tells the connection table which of its connections the kernel carries. `owner` tells
/// whose a verdict is: one of nobody is forgotten, too.
///
/// # Errors
///
/// The verdicts cannot be read.
pub(super) fn sweep(
    cache: &mut VerdictCache,
    flows: &Flows,
    quota: &Quota,
    owner: impl Fn(&CachedFlow) -> Option<PortId>,
    now: Millis,
) -> Result<Round> {
    let coarse = super::coarse_now();
    let mut gone = Vec::new();
    let mut counted = quota.none();
    cache.each(|flow| {
        let age = Duration::from_nanos(coarse.saturating_sub(flow.last_seen));
        let Some(port) = owner(&flow).filter(|_| age <= patience(&flow)) else {
            gone.push(flow);
            return;
        };
        if flow.verdict == Verdict::Allow {
            let seen = Millis(now.0.saturating_sub(age.as_millis() as u64));
            flows.carried(&original(&flow), port, course(&flow), seen, now);
        }
        counted[usize::from(port.0)][usize::from(flow.verdict == Verdict::Deny)] += 1;
    })?;
    cache.remove(&gone);
    quota.set(&counted);
    let kept = counted.as_flattened().iter().map(|count| *count as usize).sum();
    Ok(Round { kept, expired: gone.len(), renewed: 0 })
}

/// Enters anew what `table` still allows, of the ports whose epochs it changes: `epochs` has the new ones.
///
/// # Errors
///
/// The verdicts cannot be read.
pub(super) fn renew(
    cache: &mut VerdictCache,
    table: &PolicyTable,
    wiring: &Wiring,
    numbers: &Numbers,
    epochs: &HashMap<PortId, u32>,
) -> Result<usize> {
    let mut asked = Vec::new();
    cache.each(|flow| {
        // Behind a port, another pod may have been before.
        let is_of =
            |number, address| numbers.port(number).is_some_and(|port| wiring.pod_port(address) == Some(port));
        let ours = is_of(flow.port, flow.key.src.address)
            && flow.other.is_none_or(|(other, _)| is_of(other, flow.key.dst.address));
        // What goes under an address of the node was judged by another than that.
        let hidden = wiring.is_node(original(&flow).src.address);
        if flow.verdict == Verdict::Allow
            && ours
            && !hidden
            && asked.len() < RENEWED
            && let Some(renewed) = under(&flow, numbers, epochs)
        {
            asked.push(renewed);
        }
    })?;
    let mut renewed = 0;
    let mut verdicts = [Verdict::Deny; BATCH];
    for flows in asked.chunks(BATCH) {
        let keys: Vec<FlowKey> = flows.iter().map(original).collect();
        let verdicts = &mut verdicts[..keys.len()];
        table.classify(&keys, verdicts);
        let allowed: Vec<CachedFlow> = flows
            .iter()
            .zip(verdicts)
            .filter(|(flow, verdict)| flow.provisional || **verdict == Verdict::Allow)
            .map(|(flow, _)| *flow)
            .collect();
        renewed += allowed.len() - cache.enter(&allowed);
    }
    Ok(renewed)
}

/// The same verdict under new epochs, if it is under one that changes.
fn under(flow: &CachedFlow, numbers: &Numbers, epochs: &HashMap<PortId, u32>) -> Option<CachedFlow> {
    let epoch = |number: u16| numbers.port(number).and_then(|port| epochs.get(&port)).copied();
    let (own, other) = (epoch(flow.port), flow.other.and_then(|(number, _)| epoch(number)));
    (own.is_some() || other.is_some()).then(|| CachedFlow {
        epoch: own.unwrap_or(flow.epoch),
        other: flow.other.map(|(number, before)| (number, other.unwrap_or(before))),
        ..*flow
    })
}

/// The epochs that `table` gives the ports of these pods.
pub(super) fn epochs(table: &PolicyTable, wiring: &Wiring, base: Base) -> HashMap<PortId, u32> {
    let ports = wiring.ports().iter().zip(0..).filter_map(|(known, id)| {
        let engine::wiring::Role::Pod { addresses, .. } = &known.role else { return None };
        let epoch = addresses.iter().find_map(|address| table.epoch_of(*address))?;
        Some((PortId(id), base.of(epoch)))
    });
    ports.collect()
}

/// The connection in the direction in which it was opened.
const fn original(flow: &CachedFlow) -> FlowKey {
    if flow.pod_opened { flow.key } else { flow.key.reversed() }
}
