//! One worker: bursts of frames from the ports that it owns to the ports where they go.

use std::sync::Arc;

use flow::{Address, DropReason};
use table::PolicyTable;
use table::Reader;

use crate::burst::Burst;
use crate::counters::{Counters, Tally};
use crate::events::Events;
use crate::flows::{Flows, Millis};
use crate::handoff::Inbox;
use crate::io::{PacketIo, Slot};
use crate::wiring::{PortId, Wiring};

/// The most frames that are handled together.
pub const BURST: usize = 64;

/// Which worker owns a port, and in which slot of its [`PacketIo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The worker, counted from zero.
    pub worker: usize,
    /// The slot.
    pub slot: Slot,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The connection table.
    pub flows: Flows,
    /// What workers tell the control thread.
    pub events: Events,
    pub(crate) owners: Vec<Owner>,
    pub(crate) inboxes: Vec<Inbox>,
}

impl Shared {
    /// What the workers that own these ports share: `owners[p]` owns `PortId(p)`.
    #[must_use]
    pub fn new(owners: Vec<Owner>, flow_capacity: usize) -> Self {
        let workers = owners.iter().map(|owner| owner.worker + 1).max().unwrap_or(1);
        // A single worker hands nothing over.
        let parcels = if workers > 1 { 1024 } else { 1 };
        let inboxes = (0..workers).map(|_| Inbox::new(parcels)).collect();
        Self { flows: Flows::new(flow_capacity), events: Events::default(), owners, inboxes }
    }

    fn ports_of(&self, worker: usize) -> Vec<PortId> {
        let mut owned: Vec<(usize, PortId)> = Vec::new();
        for (port, owner) in self.owners.iter().enumerate() {
            if owner.worker == worker {
                owned.push((owner.slot.0, PortId(port as u16)));
            }
        }
        owned.sort_unstable_by_key(|(slot, _)| *slot);
        owned.into_iter().map(|(_, port)| port).collect()
    }
}

/// One worker and the ports that it owns.
#[derive(Debug)]
pub struct Worker<Io: PacketIo> {
    io: Io,
    me: usize,
    /// By slot.
    ports: Vec<PortId>,
    shared: Arc<Shared>,
    table: Reader<PolicyTable>,
    wiring: Reader<Wiring>,
    recovery: Recovery,
    burst: Burst<Io::Frame>,
    tally: Tally,
    counters: Arc<Counters>,
}

impl<Io: PacketIo> Worker<Io> {
    /// Worker `me`, which drives `io`. `recovery_window` milliseconds after its first table, mid-stream
    /// packets no longer open their connection again.
    ///
    /// # Panics
    ///
    /// When `io` does not drive just the ports that `shared` says this worker owns.
    #[must_use]
    pub fn new(
        me: usize,
        io: Io,
        shared: Arc<Shared>,
        table: Reader<PolicyTable>,
        wiring: Reader<Wiring>,
        recovery_window: u64,
    ) -> Self {
        let ports = shared.ports_of(me);
        assert_eq!(ports.len(), io.ports(), "worker {me} drives other ports than it owns");
        let recovery = Recovery { window: recovery_window, until: None };
        let (tally, counters) = (Tally::default(), Arc::default());
        Self { io, me, ports, shared, table, wiring, recovery, burst: Burst::new(), tally, counters }
    }

    /// Where this worker's figures can be read.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// One round over all ports; returns how many frames it has handled.
    ///
    /// The tiers of a packet, fastest first: dropped by the guard (parse alone); of a known connection (one
    /// look-up in the connection table); of a new one, or of one whose epoch has changed (policy as well,
    /// all of a burst together). All frames of a burst see one policy table and one wiring.
    pub fn turn(&mut self, now: Millis) -> u64 {
        let Self { io, me, ports, shared, table, wiring, recovery, burst, tally, counters } = self;
        let (table, wiring) = (table.get(), wiring.get());
        let recovering = recovery.is_on(table.is_some(), now);
        let before = tally.rx + tally.handed_in;

        for (slot, port) in ports.iter().enumerate() {
            burst.receive(io, Slot(slot), tally);
            burst.admit(io, *port, wiring, &shared.events, tally);
            burst.judge(io, table, wiring, &shared.flows, now, recovering, tally);
            burst.forward(io, *me, wiring, shared, tally);
        }
        take_over(io, *me, shared, tally);
        io.flush();

        let handled = tally.rx + tally.handed_in - before;
        if handled > 0 {
            tally.bursts += 1;
            counters.store(tally);
        }
        handled
    }

    /// Sleeps until a frame arrives on one of the ports, at most `timeout`.
    pub fn wait(&mut self, timeout: std::time::Duration) {
        self.io.wait(timeout);
    }

    /// The packet memory and rings, to look at.
    #[must_use]
    pub const fn io(&self) -> &Io {
        &self.io
    }

    /// The packet memory and rings, for tests that put frames in and take them out.
    pub const fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// The exact figures, which balance.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// Sends what other workers have handed over.
fn take_over<Io: PacketIo>(io: &mut Io, me: usize, shared: &Shared, tally: &mut Tally) {
    for _ in 0..BURST {
        let taken = shared.inboxes[me].open(|port, packet| (port, io.allocate(packet)));
        let Some((port, frame)) = taken else { return };
        tally.handed_in += 1;
        match frame {
            Some(frame) => transmit(io, shared.owners[usize::from(port.0)].slot, frame, tally),
            None => tally.drop_one(DropReason::NoFrame),
        }
    }
}

/// Queues a frame on a port of this worker, or counts why not.
pub(crate) fn transmit<Io: PacketIo>(io: &mut Io, slot: Slot, frame: Io::Frame, tally: &mut Tally) {
    match io.transmit(slot, frame) {
        Ok(()) => tally.tx += 1,
        Err(frame) => {
            io.recycle(frame);
            tally.drop_one(DropReason::TxRingFull);
        }
    }
}

/// The time after a start in which connections of before may be recognised by a packet in mid-stream.
#[derive(Debug)]
struct Recovery {
    window: u64,
    until: Option<Millis>,
}

impl Recovery {
    fn is_on(&mut self, has_table: bool, now: Millis) -> bool {
        if has_table && self.until.is_none() {
            self.until = Some(Millis(now.0 + self.window));
        }
        self.until.is_some_and(|until| now < until)
    }
}

/// Whether the pod that owns this address has a port here that the policy table does not know of: then no
/// policy of it is known either, and nothing may pass.
pub(crate) fn is_unknown_pod(address: Address, wiring: &Wiring, table: &PolicyTable) -> bool {
    wiring.pod_port(address).is_some() && table.epoch_of(address).is_none()
}
