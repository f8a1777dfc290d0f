//! Inline mode: a worker judges what the kernel punts, tells the kernel, and gives the frame back.
//!
//! The kernel carries the connections whose verdicts it knows. Those are a cache of the connection table: an entry
//! for each pod of a connection, from its point of view. What the kernel knows no verdict for comes here, tagged
//! with the port and the direction; whoever opened the connection, and whether it was allowed, the connection table
//! says, so that a reply is never judged as a connection of its own.
//!
//! ```text
//! punted ─ admit ──────────────── judge ─────────────── follow ─────── enter ──────── approve ─ given back
//!           from a pod: the guard  flows.rs, as ever     fragments.rs   both pods'     the frame's end shows it
//!           to a pod: is it its own?                     later ones     verdicts
//! ```

mod punt;
mod verdicts;

use std::sync::Arc;

use flow::{DropReason, FlowKey, Verdict};
use packet::{LaterFragment, Packet};
use table::{PolicyTable, Reader};

use crate::burst::{BURST, settle};
use crate::counters::Counters;
use crate::events::Event;
use crate::flows::{Millis, Pass, Question, Standing};
use crate::fragments::Fragments;
use crate::guard::{self, Admission};
use crate::io::{PacketIo, Slot};
use crate::ledger::Ledger;
use crate::polling::Turns;
use crate::records::Records;
use crate::segment::Arrival;
use crate::shared::Shared;
use crate::state::Sender;
use crate::wiring::{PortId, Wiring};
use crate::worker::{EXPIRY, Recovery};

pub use punt::{APPROVAL, Punt};
pub use verdicts::Judged;
use verdicts::{Exception, exception, is_hidden, is_provisional, is_remembered, translated};
use verdicts::{on_allowed, on_answer, on_denied};

/// The kernel's side, as the worker deals with it.
pub trait Kernel {
    /// The port that has this number in tags.
    fn port(&self, id: u16) -> Option<PortId>;

    /// Makes verdicts known, as far as they find room, before the frames that they are about go back.
    fn enter(&mut self, verdicts: &[Judged]);

    /// The connection of a packet, in the direction and with the addresses with which it was opened, before the node
    /// translated it. `None` where that is not known.
    fn opened(&mut self, key: &FlowKey) -> Option<FlowKey>;

    /// What the end of the next frame with this tag shows, so that it is taken back. What is `provisional` is judged once
    /// more where the address behind a service can be seen.
    fn approve(&mut self, tag: u16, provisional: bool) -> [u8; APPROVAL];
}

/// The worker of inline mode.
#[derive(Debug)]
pub struct Judge<Io: PacketIo, K> {
    io: Io,
    kernel: K,
    shared: Arc<Shared>,
    table: Reader<PolicyTable>,
    wiring: Reader<Wiring>,
    recovery: Recovery,
    expiry: usize,
    arrived: Vec<Io::Frame>,
    admitted: Vec<Item<Io::Frame>>,
    later: Vec<(Io::Frame, Punt, LaterFragment)>,
    asked: Vec<(Item<Io::Frame>, Question, Option<Verdict>)>,
    keys: Vec<FlowKey>,
    answers: Vec<Verdict>,
    allowed: Vec<Item<Io::Frame>>,
    /// Those that go back, and whether they are judged once more.
    approved: Vec<(Io::Frame, Punt, bool)>,
    judged: Vec<Judged>,
    fragments: Fragments,
    /// A frame as it goes back.
    back: Vec<u8>,
    worked: bool,
    ledger: Ledger,
    counters: Arc<Counters>,
}

/// A punted packet.
#[derive(Debug)]
struct Item<Frame> {
    frame: Frame,
    punt: Punt,
    packet: Packet,
}

impl<Io: PacketIo, K: Kernel> Judge<Io, K> {
    /// The worker that has the punt pair's socket as the one port of `io`.
    ///
    /// # Panics
    ///
    /// When `io` drives another number of ports than one.
    #[must_use]
    pub fn new(
        io: Io,
        kernel: K,
        shared: Arc<Shared>,
        table: Reader<PolicyTable>,
        wiring: Reader<Wiring>,
        recovery_window: u64,
    ) -> Self {
        assert_eq!(io.ports(), 1, "the punt pair is one port");
        let ports: Vec<PortId> = (0..shared.owners.len()).map(|port| PortId(port as u16)).collect();
        let both: Vec<PortId> = ports.iter().flat_map(|port| [*port, departing(*port)]).collect();
        Self {
            io,
            kernel,
            shared,
            table,
            wiring,
            recovery: Recovery::new(recovery_window),
            expiry: 0,
            arrived: Vec::with_capacity(BURST),
            admitted: Vec::with_capacity(BURST),
            later: Vec::with_capacity(BURST),
            asked: Vec::with_capacity(BURST),
            keys: Vec::with_capacity(BURST),
            answers: Vec::with_capacity(BURST),
            allowed: Vec::with_capacity(BURST),
            approved: Vec::with_capacity(BURST),
            judged: Vec::with_capacity(2 * BURST),
            fragments: Fragments::new(&both),
            back: Vec::with_capacity(4096),
            worked: false,
            ledger: Ledger::default(),
            counters: Arc::new(Counters::new(1)),
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

    /// The kernel's side, for tests.
    pub const fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// One round; returns how many frames it has handled.
    pub fn turn(&mut self, now: Millis) -> u64 {
        self.counters.beat(now, self.worked);
        let before = self.ledger.tally.rx;
        self.io.receive(Slot(0), &mut self.arrived);
        self.ledger.tally.rx += self.arrived.len() as u64;
        self.admit();
        self.judge(now);
        self.follow(now);
        if !self.judged.is_empty() {
            // Before any of the frames goes back: the next packet of its connection may be right behind it.
            self.kernel.enter(&self.judged);
            self.judged.clear();
        }
        self.give_back();
        self.shared.flows.connections().expire(now.ticks(), &mut self.expiry, EXPIRY);
        self.io.flush();

        let tally = &mut self.ledger.tally;
        let handled = tally.rx - before;
        self.worked = handled > 0;
        if self.worked {
            tally.turns += 1;
            self.counters.add_drops(Slot(0), self.ledger.take_drops());
            self.counters.store(&self.ledger.tally, self.fragments.displaced());
        }
        handled
    }

    /// Takes the tag off every frame, and asks whether it may speak by its port, or is for the pod behind it.
    fn admit(&mut self) {
        let Self { io, kernel, shared, wiring, arrived, admitted, later, ledger, .. } = self;
        let wiring = wiring.get();
        for mut frame in arrived.drain(..) {
            let punt = Punt::take(io.bytes_mut(&mut frame), |id| kernel.port(id));
            let view = Punt::view(io.bytes(&frame));
            let admission = match (punt, wiring) {
                (_, None) => Err(DropReason::NoTable),
                (None, _) => Err(DropReason::UnknownPod),
                (Some(punt), Some(wiring)) => match wiring.port(punt.port) {
                    None => Err(DropReason::UnknownPod),
                    Some(port) if punt.departing => {
                        Ok((punt, guard::admit_departing(view, port, punt.sent_here, wiring)))
                    }
                    Some(port) => Ok((punt, guard::admit(view, port, wiring))),
                },
            };
            let reason = match admission {
                Ok((punt, Admission::Admitted(packet))) => {
                    admitted.push(Item { frame, punt, packet });
                    continue;
                }
                Ok((punt, Admission::Later(fragment))) => {
                    later.push((frame, punt, fragment));
                    continue;
                }
                Ok((punt, Admission::Introduced(mac))) => {
                    shared.events.tell(Event::MacSeen(punt.port, mac));
                    DropReason::MacUnknown
                }
                Ok((_, Admission::Refused(reason))) | Err(reason) => reason,
            };
            discard(io, frame, punt.map(|punt| punt.port), reason, ledger);
        }
    }

    /// Finds the connection of every packet, and asks policy about the rest together.
    fn judge(&mut self, now: Millis) {
        let Self { io, kernel, shared, table, wiring, recovery, admitted, asked, keys, answers, .. } = self;
        let Self { allowed, judged, ledger, .. } = self;
        let (table, flows) = (table.get(), &shared.flows);
        let recovering = recovery.is_on(table.is_some(), now);
        ledger.begin(now, table.map_or(0, PolicyTable::generation));
        let (Some(table), Some(wiring)) = (table, wiring.get()) else {
            for item in admitted.drain(..) {
                discard(io, item.frame, Some(item.punt.port), DropReason::NoTable, ledger);
            }
            return;
        };
        for item in admitted.drain(..) {
            let Item { punt, packet, .. } = item;
            let exception = match is_hidden(&packet.key, punt, wiring) {
                true => translated(&packet.key, punt, kernel.opened(&packet.key), wiring, table),
                false => exception(&packet.key, punt, wiring, table),
            };
            let opener = exception.and_then(Exception::opener);
            let standing = match exception {
                Some(Exception::Refused(reason)) => Standing::Drop(reason),
                Some(Exception::Answers) => {
                    judged.extend(on_answer(&packet, punt, wiring, table));
                    allowed.push(item);
                    continue;
                }
                _ => {
                    let arrival = Arrival::of(punt.port, Punt::view(io.bytes(&item.frame)), &packet);
                    flows.standing(&packet, arrival.opened_by(opener), table, now, recovering)
                }
            };
            match standing {
                Standing::Known(pass) => {
                    if let Pass::While(ticket) = pass
                        && is_remembered(&packet)
                    {
                        let opened = ticket.sender == Sender::Initiator;
                        let key = if opened { packet.key } else { packet.key.reversed() };
                        judged.extend(on_allowed(&key, opener, punt, packet.kind, wiring, table));
                    }
                    allowed.push(item);
                }
                Standing::Judge(question) => {
                    // A reply that must be judged again is judged as what it answers.
                    let allowed =
                        exception == Some(Exception::Allowed) || is_provisional(&question.key, wiring);
                    keys.push(question.judged());
                    asked.push((item, question, allowed.then_some(Verdict::Allow)));
                }
                Standing::Drop(reason) => discard(io, item.frame, Some(punt.port), reason, ledger),
            }
        }

        answers.clear();
        answers.resize(keys.len(), Verdict::Deny);
        table.classify(keys, answers);
        ledger.tally.judged += keys.len() as u64;
        keys.clear();

        for ((item, mut question, excepted), answer) in asked.drain(..).zip(&*answers) {
            let Item { ref frame, punt, packet } = item;
            let view = Punt::view(io.bytes(frame));
            let arrival = Arrival::of(punt.port, view, &packet).opened_by(question.opener);
            ledger.ingress(Some(punt.port));
            match settle(&packet, arrival, &mut question, excepted.unwrap_or(*answer), table, flows, now) {
                Ok(()) => {
                    let egress = || wiring.pod_port(packet.key.dst.address);
                    ledger.allow(question.judged(), question.effect, egress, view);
                    let Question { key, opener, .. } = question;
                    judged.extend(on_allowed(&key, opener, punt, packet.kind, wiring, table));
                    allowed.push(item);
                }
                Err(reason) => {
                    // One that lives on the same ends was opened the other way: its replies go on.
                    if reason == DropReason::DefaultDeny && !flows.lives(&question.key, now) {
                        judged.extend(on_denied(&question, punt, &packet, wiring, table));
                    }
                    ledger.deny(question.judged(), question.effect, reason, view);
                    io.recycle(item.frame);
                }
            }
        }
    }

    /// Remembers the first fragments that were allowed, and lets the later ones follow theirs.
    fn follow(&mut self, now: Millis) {
        let Self { io, table, wiring, allowed, approved, later, fragments, ledger, .. } = self;
        let (table, wiring) = (table.get(), wiring.get());
        let provisional = |punt: Punt, dst| !punt.departing && wiring.is_some_and(|w| w.is_service(dst));
        let epochs = |src, dst| table.map_or([None; 2], |table| [table.epoch_of(src), table.epoch_of(dst)]);
        for Item { frame, punt, packet } in allowed.drain(..) {
            let (src, dst) = (packet.key.src.address, packet.key.dst.address);
            let remembered = match packet.fragment {
                Some(_) => fragments.remember(place(punt), &packet, epochs(src, dst), now),
                None => Ok(()),
            };
            match remembered {
                Ok(()) => approved.push((frame, punt, provisional(punt, dst))),
                Err(reason) => discard(io, frame, Some(punt.port), reason, ledger),
            }
        }
        for (frame, punt, fragment) in later.drain(..) {
            let epochs = epochs(fragment.datagram.src, fragment.datagram.dst);
            match fragments.follow(place(punt), &fragment, epochs, now) {
                Ok(_) => approved.push((frame, punt, provisional(punt, fragment.datagram.dst))),
                Err(reason) => discard(io, frame, Some(punt.port), reason, ledger),
            }
        }
    }

    /// Sends the approved frames back, with their tags.
    fn give_back(&mut self) {
        let Self { io, kernel, approved, back, ledger, .. } = self;
        for (frame, punt, provisional) in approved.drain(..) {
            back.clear();
            punt.rebuild(io.bytes(&frame), back);
            back.extend_from_slice(&kernel.approve(punt.tag, provisional));
            io.recycle(frame);
            let sent = io.allocate(back).ok_or(DropReason::NoFrame).and_then(|frame| {
                io.transmit(Slot(0), frame).map_err(|frame| {
                    io.recycle(frame);
                    DropReason::TxRingFull
                })
            });
            match sent {
                Ok(()) => ledger.tally.tx += 1,
                Err(reason) => ledger.drop_frame(back, reason, Some(punt.port)),
            }
        }
    }
}

/// Where the fragments of one port and direction are remembered: a datagram is seen where it comes and where it goes.
const fn place(punt: Punt) -> PortId {
    if punt.departing { departing(punt.port) } else { punt.port }
}

const fn departing(port: PortId) -> PortId {
    PortId(port.0 | 1 << 15)
}

fn discard<Io: PacketIo>(
    io: &mut Io,
    frame: Io::Frame,
    port: Option<PortId>,
    reason: DropReason,
    ledger: &mut Ledger,
) {
    ledger.ingress(port);
    ledger.drop_frame(Punt::view(io.bytes(&frame)), reason, None);
    io.recycle(frame);
}

impl<Io: PacketIo, K: Kernel> Turns for Judge<Io, K> {
    type Io = Io;

    /// What follows the first packet of a connection does not come here, and whoever answers may be waiting for this
    /// very processor.
    const SPINS: u32 = 0;

    fn turn(&mut self, now: Millis) -> u64 {
        Self::turn(self, now)
    }

    fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }
}
