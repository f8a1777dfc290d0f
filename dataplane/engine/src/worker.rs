//! One worker: bursts of frames from the ports that it owns to the ports where they go.

use std::sync::Arc;

use flow::DropReason;
use table::PolicyTable;
use table::Reader;

use crate::burst::{BURST, Burst};
use crate::cache::Cache;
use crate::counters::{Counters, Tally};
use crate::ends::{Way, transmit};
use crate::flows::Millis;
use crate::io::{PacketIo, Slot};
use crate::ledger::Ledger;
use crate::polling::Turns;
use crate::records::Records;
use crate::shared::Shared;
use crate::wiring::{PortId, Wiring};

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
    cache: Cache,
    /// The shard of the connection table whose turn to expire it was last.
    expiry: usize,
    burst: Burst<Io::Frame>,
    /// Whether the latest turn handled frames.
    worked: bool,
    ledger: Ledger,
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
        let recovery = Recovery::new(recovery_window);
        let burst = Burst::new(&ports);
        let cache = Cache::new(shared.flows.capacity());
        let (ledger, counters) = (Ledger::default(), Arc::new(Counters::new(ports.len())));
        Self {
            io,
            me,
            ports,
            shared,
            table,
            wiring,
            recovery,
            cache,
            expiry: 0,
            burst,
            worked: false,
            ledger,
            counters,
        }
    }

    /// Where this worker's figures can be read.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Where its records of verdicts and drops can be taken.
    #[must_use]
    pub fn records(&self) -> Arc<Records> {
        self.ledger.records()
    }

    /// One round over all ports; returns how many frames it has handled.
    ///
    /// The tiers of a packet, fastest first: dropped by the guard (parse alone); of a connection that this worker
    /// knows (its own cache, and one word of the connection table); of one that is known elsewhere, or whose state
    /// it changes (the connection table); of a new one, or of one whose epoch has changed (policy as well, all of a
    /// burst together). All frames of a burst see one policy table and one wiring.
    pub fn turn(&mut self, now: Millis) -> u64 {
        let Self {
            io,
            me,
            ports,
            shared,
            table,
            wiring,
            recovery,
            cache,
            expiry,
            burst,
            worked,
            ledger,
            counters,
        } = self;
        counters.beat(now, *worked);
        let (table, wiring) = (table.get(), wiring.get());
        cache.begin([place(table), place(wiring)]);
        let recovering = recovery.is_on(table.is_some(), now);
        let before = ledger.tally.rx + ledger.tally.handed_in;
        ledger.begin(now, table.map_or(0, PolicyTable::generation));

        for (slot, port) in ports.iter().enumerate() {
            let arrival = (*port, Slot(slot));
            let way = wiring.map(|wiring| Way { me: *me, arrival, wiring, shared, now });
            ledger.ingress(Some(*port));
            burst.receive(io, Slot(slot), ledger);
            burst.admit(io, *port, wiring, &shared.events, ledger);
            burst.pass_known(io, way, cache, ledger);
            burst.judge(io, table, wiring, cache, &shared.flows, *port, now, recovering, ledger);
            burst.follow(io, *port, table, now, ledger);
            burst.forward(io, way, ledger);
            counters.add_drops(Slot(slot), ledger.take_drops());
        }
        shared.flows.connections().expire(now.ticks(), expiry, EXPIRY);
        take_over(io, *me, shared, ledger);
        io.flush();

        let tally = &mut ledger.tally;
        let handled = tally.rx + tally.handed_in - before;
        *worked = handled > 0;
        if *worked {
            tally.turns += 1;
            counters.store(tally, burst.fragments_displaced());
        }
        handled
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
        &self.ledger.tally
    }
}

/// How many connections are looked at in a turn, whether they have expired.
pub(crate) const EXPIRY: usize = 16;

/// The address of a version, as its identity. It cannot repeat at once: the reader holds the old version while it takes
/// the new one.
fn place<T>(version: Option<&T>) -> usize {
    version.map_or(0, |version| std::ptr::from_ref(version).addr())
}

/// Sends what other workers have handed over.
fn take_over<Io: PacketIo>(io: &mut Io, me: usize, shared: &Shared, ledger: &mut Ledger) {
    ledger.ingress(None);
    for _ in 0..BURST {
        let taken = shared.inboxes[me].open(|port, packet| {
            let frame = io.allocate(packet);
            if frame.is_none() {
                ledger.drop_frame(packet, DropReason::NoFrame, Some(port));
            }
            (port, frame)
        });
        let Some((port, frame)) = taken else { return };
        ledger.tally.handed_in += 1;
        if let Some(frame) = frame {
            transmit(io, shared.owners[usize::from(port.0)].slot, port, frame, ledger);
        }
    }
}

/// The time after a start in which connections of before may be recognised by a packet in mid-stream.
#[derive(Debug)]
pub(crate) struct Recovery {
    window: u64,
    until: Option<Millis>,
}

impl Recovery {
    pub(crate) const fn new(window: u64) -> Self {
        Self { window, until: None }
    }

    pub(crate) fn is_on(&mut self, has_table: bool, now: Millis) -> bool {
        if has_table && self.until.is_none() {
            self.until = Some(Millis(now.0 + self.window));
        }
        self.until.is_some_and(|until| now < until)
    }
}

impl<Io: PacketIo> Turns for Worker<Io> {
    type Io = Io;

    /// Some tens of microseconds, longer than the gap between the frames of one busy connection.
    const SPINS: u32 = 64;

    fn turn(&mut self, now: Millis) -> u64 {
        Self::turn(self, now)
    }

    fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }
}
