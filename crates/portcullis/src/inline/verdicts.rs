//! The kernel's side of inline mode, as the worker deals with it: verdicts entered, frames approved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bpf::inline::{Approval, CachedFlow, MAX_PORTS, VerdictCache};
use engine::inline::{APPROVAL, Judged, Kernel};
use engine::wiring::PortId;
use flow::Epoch;

const _: () = assert!(APPROVAL == Approval::BYTES);

/// The number of a port in the kernel's keys and tags: none has 0.
pub(super) const fn number(port: PortId) -> u16 {
    port.0 + 1
}

/// The port with this number.
pub(super) const fn port(number: u16) -> Option<PortId> {
    match number.checked_sub(1) {
        Some(port) if number < MAX_PORTS => Some(PortId(port)),
        _ => None,
    }
}

/// Where the epochs of this process begin in the kernel's count: everything that a predecessor entered is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base(pub(super) u32);

impl Base {
    /// The kernel's number of an epoch of the policy table. It wraps around: only distances count.
    pub(super) const fn of(self, epoch: Epoch) -> u32 {
        self.0.wrapping_add(epoch.number())
    }
}

/// How many verdicts each port has in the kernel, and how many it may have.
#[derive(Debug)]
pub(super) struct Quota {
    most: u32,
    entered: Box<[AtomicU32]>,
}

impl Quota {
    /// None of several ports may take more than half of the room.
    pub(super) fn new(ports: usize, capacity: u32) -> Self {
        let most = if ports > 1 { capacity / 2 } else { capacity };
        Self { most, entered: (0..ports).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Counts one more, if the port may have it.
    fn admits(&self, port: PortId) -> bool {
        let entered = &self.entered[usize::from(port.0)];
        entered.load(Ordering::Relaxed) < self.most && {
            entered.fetch_add(1, Ordering::Relaxed);
            true
        }
    }

    /// What a look at all verdicts has found. It corrects what renewals have counted twice.
    pub(super) fn set(&self, counted: &[u32]) {
        for (entered, counted) in self.entered.iter().zip(counted) {
            entered.store(*counted, Ordering::Relaxed);
        }
    }
}

/// The kernel's side, for the worker.
#[derive(Debug)]
pub(super) struct KernelSide {
    cache: VerdictCache,
    base: Base,
    quota: Arc<Quota>,
    key: [u64; 2],
    sequence: u32,
    entering: Vec<CachedFlow>,
}

impl KernelSide {
    /// The side whose approvals are made with `key`, from sequence number 1.
    pub(super) fn new(cache: VerdictCache, base: Base, quota: Arc<Quota>, key: [u64; 2]) -> Self {
        Self { cache, base, quota, key, sequence: 0, entering: Vec::with_capacity(256) }
    }
}

impl Kernel for KernelSide {
    fn port(&self, id: u16) -> Option<PortId> {
        port(id)
    }

    fn enter(&mut self, verdicts: &[Judged]) -> usize {
        let Self { cache, base, quota, entering, .. } = self;
        let now = super::coarse_now();
        entering.clear();
        entering.extend(verdicts.iter().filter(|judged| quota.admits(judged.port)).map(|judged| {
            CachedFlow {
                port: number(judged.port),
                key: judged.key,
                verdict: judged.verdict,
                pod_opened: judged.pod_opened,
                ending: false,
                answered: false,
                provisional: judged.provisional,
                epoch: base.of(judged.epoch),
                last_seen: now,
            }
        }));
        verdicts.len() - entering.len() + cache.enter(entering)
    }

    fn approve(&mut self, tag: u16) -> [u8; APPROVAL] {
        self.sequence = self.sequence.wrapping_add(1);
        Approval { sequence: self.sequence, tag }.to_bytes(self.key)
    }
}
