//! The kernel's side of inline mode, as the worker deals with it: verdicts entered, frames approved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bpf::conntrack::Conntrack;
use bpf::inline::{Approval, CachedFlow, VerdictCache};
use engine::inline::{APPROVAL, Judged, Kernel};
use engine::wiring::PortId;
use flow::{Epoch, FlowKey, Verdict};
use tracing::warn;

use super::numbers::Numbers;

const _: () = assert!(APPROVAL == Approval::BYTES);

/// Where the epochs of this process begin in the kernel's count: everything that a predecessor entered is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base(pub(super) u32);

impl Base {
    /// The kernel's number of an epoch of the policy table. It wraps around: only distances count.
    pub(super) const fn of(self, epoch: Epoch) -> u32 {
        self.0.wrapping_add(epoch.number())
    }
}

/// How many verdicts each port has in the kernel, and may have.
///
/// A quarter of the room is for denials, and a quarter for what is allowed; each port has its share of both, whatever
/// others do. The other half is for what is allowed, first come, first served.
#[derive(Debug)]
pub(super) struct Quota {
    capacity: u32,
    /// Of one port, both of denials and of what is allowed.
    share: u32,
    /// What is allowed beyond the shares, of all ports.
    common: u32,
    taken: AtomicU32,
    ports: Box<[Entered]>,
    /// Verdicts that were not entered: beyond what their port may have, or without room in the kernel.
    refused: AtomicU64,
}

/// The verdicts of a port.
#[derive(Debug, Default)]
struct Entered {
    allowed: AtomicU32,
    denied: AtomicU32,
}

impl Quota {
    pub(super) fn new(ports: usize, capacity: u32) -> Self {
        let share = capacity / 4 / u32::try_from(ports.max(1)).unwrap_or(u32::MAX);
        Self {
            capacity,
            share,
            common: capacity / 2,
            taken: AtomicU32::new(0),
            ports: (0..ports).map(|_| Entered::default()).collect(),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts one more, if the port may have it.
    fn admits(&self, port: PortId, verdict: Verdict) -> bool {
        let Entered { allowed, denied } = &self.ports[usize::from(port.0)];
        match verdict {
            Verdict::Deny => count_below(denied, self.share),
            Verdict::Allow if count_below(allowed, self.share) => true,
            Verdict::Allow => {
                let common = count_below(&self.taken, self.common);
                if common {
                    allowed.fetch_add(1, Ordering::Relaxed);
                }
                common
            }
        }
    }

    /// How many verdicts a port has, as far as is known.
    pub(super) fn of(&self, port: PortId) -> u32 {
        self.ports.get(usize::from(port.0)).map_or(0, |entered| {
            entered.allowed.load(Ordering::Relaxed) + entered.denied.load(Ordering::Relaxed)
        })
    }

    /// How many verdicts of each family have room.
    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many verdicts were not entered since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// None of any port, to count with.
    pub(super) fn none(&self) -> Vec<[u32; 2]> {
        vec![[0; 2]; self.ports.len()]
    }

    /// What a look at all verdicts has found, allowed and denied by port. It corrects what was counted twice.
    pub(super) fn set(&self, counted: &[[u32; 2]]) {
        let mut taken = 0;
        for (entered, [allowed, denied]) in self.ports.iter().zip(counted) {
            entered.allowed.store(*allowed, Ordering::Relaxed);
            entered.denied.store(*denied, Ordering::Relaxed);
            taken += allowed.saturating_sub(self.share);
        }
        self.taken.store(taken, Ordering::Relaxed);
    }
}

/// Only the worker counts up; who corrects the count meanwhile may be one round behind it.
fn count_below(count: &AtomicU32, most: u32) -> bool {
    count.load(Ordering::Relaxed) < most && {
        count.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// The kernel's side, for the worker.
#[derive(Debug)]
pub(super) struct KernelSide {
    cache: VerdictCache,
    base: Base,
    quota: Arc<Quota>,
    numbers: Arc<Numbers>,
    key: [u64; 2],
    /// Where the kernel has it.
    conntrack: Option<Conntrack>,
    /// How many frames were approved.
    approved: u64,
    entering: Vec<CachedFlow>,
    /// Those for which there is no room.
    refused: Vec<CachedFlow>,
}

impl KernelSide {
    /// The side whose approvals are made with `key`, from number 1.
    pub(super) fn new(
        cache: VerdictCache,
        base: Base,
        quota: Arc<Quota>,
        numbers: Arc<Numbers>,
        key: [u64; 2],
    ) -> Self {
        let conntrack = Conntrack::open().inspect_err(|error| {
            warn!(%error, "connection tracking cannot be asked: what comes masqueraded to pods is dropped");
        });
        Self {
            cache,
            base,
            quota,
            numbers,
            key,
            conntrack: conntrack.ok(),
            approved: 0,
            entering: Vec::with_capacity(256),
            refused: Vec::new(),
        }
    }
}

impl Kernel for KernelSide {
    fn port(&self, id: u16) -> Option<PortId> {
        self.numbers.port(id)
    }

    fn enter(&mut self, verdicts: &[Judged]) {
        let Self { cache, base, quota, numbers, entering, refused, .. } = self;
        let now = super::coarse_now();
        entering.clear();
        refused.clear();
        for judged in verdicts {
            let admitted = quota.admits(judged.port, judged.verdict);
            let list = if admitted { &mut *entering } else { &mut *refused };
            list.push(CachedFlow {
                port: numbers.of(judged.port),
                key: judged.key,
                verdict: judged.verdict,
                pod_opened: judged.pod_opened,
                ending: false,
                answered: false,
                provisional: judged.provisional,
                hidden: judged.hidden,
                epoch: base.of(judged.epoch),
                other: judged.other.map(|(port, epoch)| (numbers.of(port), base.of(epoch))),
                last_seen: now,
            });
        }
        // Where an entry stands already, it takes no room, and must not go on saying something else.
        let outside = refused.len() - cache.replace(refused) + cache.enter(entering);
        if outside > 0 {
            quota.refused.fetch_add(outside as u64, Ordering::Relaxed);
        }
    }

    fn opened(&mut self, key: &FlowKey) -> Option<FlowKey> {
        self.conntrack.as_mut()?.opened(key)
    }

    fn approve(&mut self, tag: u16, provisional: bool) -> [u8; APPROVAL] {
        self.approved += 1;
        Approval { number: self.approved, tag, provisional }.to_bytes(self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many more a port may have.
    fn room(quota: &Quota, port: u16, verdict: Verdict) -> usize {
        (0..1000).take_while(|_| quota.admits(PortId(port), verdict)).count()
    }

    #[test]
    fn every_port_has_its_share_whatever_others_do() {
        let quota = Quota::new(4, 160);
        assert_eq!(room(&quota, 0, Verdict::Deny), 10);
        assert_eq!(room(&quota, 0, Verdict::Allow), 10 + 80, "its share, and all that is common");
        for port in 1..4 {
            assert_eq!(room(&quota, port, Verdict::Allow), 10);
            assert_eq!(room(&quota, port, Verdict::Deny), 10);
        }
    }

    #[test]
    fn a_round_corrects_the_count() {
        let quota = Quota::new(2, 80);
        assert_eq!((room(&quota, 0, Verdict::Allow), room(&quota, 0, Verdict::Deny)), (50, 10));
        quota.set(&[[20, 4], [0, 0]]);
        assert_eq!(room(&quota, 0, Verdict::Deny), 6);
        assert_eq!(room(&quota, 1, Verdict::Allow), 10 + 30, "10 of what is common is the other's");
        assert_eq!(room(&quota, 0, Verdict::Allow), 0);
    }
}
