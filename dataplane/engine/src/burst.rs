//! The stages that a burst of frames goes through, in order.

use flow::{DropReason, FlowKey, Verdict};
use packet::{LaterFragment, Packet};
use table::PolicyTable;

use crate::cache::Cache;
use crate::connections::hash::Words;
use crate::counters::Tally;
use crate::events::{Event, Events};
use crate::flows::{Effect, Flows, Millis, Pass, Question, Standing, is_steady};
use crate::fragments::Fragments;
use crate::guard::{self, Admission};
use crate::io::{PacketIo, Slot};
use crate::segment::{Arrival, Numbers};
use crate::shared::Shared;
use crate::wiring::{Hop, Port, PortId, Wiring};

/// The most frames that are handled together.
pub(crate) const BURST: usize = 64;

/// The frames of one burst, by how far they have come. The room is taken once; no stage allocates.
#[derive(Debug)]
pub(crate) struct Burst<Frame> {
    arrived: Vec<Frame>,
    admitted: Vec<Frame>,
    /// Those that were admitted, beside their frames.
    packets: Vec<Packet>,
    unknown: Vec<(Frame, Packet)>,
    sought: Vec<(Words, u64)>,
    hops: Vec<Option<Hop>>,
    asked: Vec<(Frame, Packet, Question)>,
    keys: Vec<FlowKey>,
    verdicts: Vec<Verdict>,
    allowed: Vec<(Frame, Packet)>,
    later: Vec<(Frame, LaterFragment)>,
    /// Whether a fragment is among them.
    fragmented: bool,
    fragments: Fragments,
}

impl<Frame> Burst<Frame> {
    pub(crate) fn new(ports: &[PortId]) -> Self {
        Self {
            arrived: Vec::with_capacity(BURST),
            admitted: Vec::with_capacity(BURST),
            packets: Vec::with_capacity(BURST),
            unknown: Vec::with_capacity(BURST),
            sought: Vec::with_capacity(BURST),
            hops: Vec::with_capacity(BURST),
            asked: Vec::with_capacity(BURST),
            keys: Vec::with_capacity(BURST),
            verdicts: Vec::with_capacity(BURST),
            allowed: Vec::with_capacity(BURST),
            later: Vec::with_capacity(BURST),
            fragmented: false,
            fragments: Fragments::new(ports),
        }
    }

    /// Takes what has arrived on one port.
    pub(crate) fn receive<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        slot: Slot,
        tally: &mut Tally,
    ) {
        io.receive(slot, &mut self.arrived);
        tally.rx += self.arrived.len() as u64;
    }

    /// Parses every frame and asks the port guard.
    pub(crate) fn admit<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        id: PortId,
        wiring: Option<&Wiring>,
        events: &Events,
        tally: &mut Tally,
    ) {
        for frame in self.arrived.drain(..) {
            let admission = match wiring.map(|wiring| (wiring, wiring.port(id))) {
                None => Admission::Refused(DropReason::NoTable),
                Some((_, None)) => Admission::Refused(DropReason::UnknownPod),
                Some((wiring, Some(port))) => guard::admit(io.bytes(&frame), port, wiring),
            };
            let reason = match admission {
                Admission::Admitted(packet) => {
                    self.fragmented |= packet.fragment.is_some();
                    self.admitted.push(frame);
                    self.packets.push(packet);
                    continue;
                }
                Admission::Later(later) => {
                    self.fragmented = true;
                    self.later.push((frame, later));
                    continue;
                }
                Admission::Introduced(mac) => {
                    events.tell(Event::MacSeen(id, mac));
                    DropReason::MacUnknown
                }
                Admission::Refused(reason) => reason,
            };
            discard(io, frame, reason, tally);
        }
    }

    /// Sends on what this worker knows by itself: packets that cannot change their connection, while it, the
    /// policy table and the wiring are what they were. The rest is left to be judged.
    ///
    /// In three steps over the whole burst, so that memory is waited for once and not once for each packet.
    #[expect(clippy::too_many_arguments, reason = "the stage goes all the way from the cache to the ring")]
    pub(crate) fn pass_known<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        me: usize,
        wiring: Option<&Wiring>,
        cache: &Cache,
        shared: &Shared,
        now: Millis,
        tally: &mut Tally,
    ) {
        let (Some(wiring), connections, now) = (wiring, shared.flows.connections(), now.ticks()) else {
            return;
        };
        let Self { admitted, packets, unknown, sought, hops, .. } = self;
        sought.clear();
        for packet in &*packets {
            let words = Words::of(&packet.key);
            let hash = connections.hash_words(&words);
            cache.load(&words, hash);
            sought.push((words, hash));
        }
        hops.clear();
        for ((frame, packet), (words, hash)) in admitted.iter().zip(&*packets).zip(&*sought) {
            let steady = is_steady(packet.kind) && packet.fragment.is_none();
            let answer = cache.find(words, *hash).filter(|_| steady).filter(|answer| {
                let held = connections.hold(answer.id, answer.generation, answer.timeout, now);
                if held == Some(true)
                    && let Some(number) = Numbers::of(io.bytes(frame), packet).acknowledged(packet.kind)
                {
                    connections.acknowledge(answer.id, answer.sender, number);
                }
                held.is_some()
            });
            hops.push(answer.map(|answer| answer.hop));
        }
        for ((frame, packet), hop) in admitted.drain(..).zip(&*packets).zip(hops) {
            match hop {
                Some(hop) => depart(io, me, frame, packet, *hop, wiring, shared, tally),
                None => unknown.push((frame, *packet)),
            }
        }
        packets.clear();
    }

    /// Finds the connection of every packet, and asks policy about the rest together.
    #[expect(clippy::too_many_arguments, reason = "the stage reads everything that decides about a packet")]
    pub(crate) fn judge<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        table: Option<&PolicyTable>,
        wiring: Option<&Wiring>,
        cache: &mut Cache,
        flows: &Flows,
        id: PortId,
        now: Millis,
        recovering: bool,
        tally: &mut Tally,
    ) {
        let (Some(table), Some(wiring)) = (table, wiring) else {
            for (frame, _) in self.unknown.drain(..) {
                discard(io, frame, DropReason::NoTable, tally);
            }
            return;
        };
        for (frame, packet) in self.unknown.drain(..) {
            let standing = match detour(&packet.key, wiring, table) {
                Some(reason) => Standing::Drop(reason),
                None => {
                    let arrival = Arrival::of(id, io.bytes(&frame), &packet);
                    flows.standing(&packet, arrival, table, now, recovering)
                }
            };
            match standing {
                Standing::Known(pass) => {
                    if let (Pass::While(ticket), Ok(hop)) = (pass, wiring.next_hop(packet.key.dst.address)) {
                        cache.put(&packet.key, flows.connections().hash(&packet.key), ticket.leading(hop));
                    }
                    self.allowed.push((frame, packet));
                }
                Standing::Judge(question) => {
                    self.keys.push(question.key);
                    self.asked.push((frame, packet, question));
                }
                Standing::Drop(reason) => discard(io, frame, reason, tally),
            }
        }

        self.verdicts.clear();
        self.verdicts.resize(self.keys.len(), Verdict::Deny);
        table.classify(&self.keys, &mut self.verdicts);
        tally.judged += self.keys.len() as u64;
        self.keys.clear();

        for ((frame, packet, question), verdict) in self.asked.drain(..).zip(&self.verdicts) {
            let arrival = Arrival::of(id, io.bytes(&frame), &packet);
            match settle(&packet, arrival, question, *verdict, table, flows, now) {
                Ok(()) => self.allowed.push((frame, packet)),
                Err(reason) => discard(io, frame, reason, tally),
            }
        }
    }

    /// Remembers the first fragments that were allowed, and lets the later ones follow theirs.
    pub(crate) fn follow<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        port: PortId,
        table: Option<&PolicyTable>,
        now: Millis,
        tally: &mut Tally,
    ) {
        if !std::mem::take(&mut self.fragmented) {
            return;
        }
        let Self { allowed, later, fragments, .. } = self;
        let Some(table) = table else {
            for (frame, _) in later.drain(..) {
                discard(io, frame, DropReason::NoTable, tally);
            }
            return;
        };
        let epochs = |src, dst| [table.epoch_of(src), table.epoch_of(dst)];
        let mut refused = |packet: &Packet| {
            let (src, dst) = (packet.key.src.address, packet.key.dst.address);
            packet.fragment.is_some() && fragments.remember(port, packet, epochs(src, dst), now).is_err()
        };
        for (frame, _) in allowed.extract_if(.., |(_, packet)| refused(packet)) {
            discard(io, frame, DropReason::FragmentOverlap, tally);
        }
        for (frame, later) in later.drain(..) {
            let epochs = epochs(later.datagram.src, later.datagram.dst);
            match fragments.follow(port, &later, epochs, now) {
                Ok(packet) => allowed.push((frame, packet)),
                Err(reason) => discard(io, frame, reason, tally),
            }
        }
    }

    /// Sends every allowed packet on its way.
    pub(crate) fn forward<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        me: usize,
        wiring: Option<&Wiring>,
        shared: &Shared,
        tally: &mut Tally,
    ) {
        let Some(wiring) = wiring else { return };
        for (frame, packet) in self.allowed.drain(..) {
            match next_hop(&packet, wiring, &shared.events) {
                Ok(hop) => depart(io, me, frame, &packet, hop, wiring, shared, tally),
                Err(reason) => discard(io, frame, reason, tally),
            }
        }
    }
}

/// Turns a verdict into connection state.
pub(crate) fn settle(
    packet: &Packet,
    arrival: Arrival,
    mut question: Question,
    mut verdict: Verdict,
    table: &PolicyTable,
    flows: &Flows,
    now: Millis,
) -> Result<(), DropReason> {
    if verdict == Verdict::Deny && question.effect == Effect::Recover {
        // The packet may be a reply: its connection may have been opened by the other end.
        question.key = question.key.reversed();
        table.classify(&[question.key], std::slice::from_mut(&mut verdict));
    }
    match verdict {
        Verdict::Allow => flows.allowed(packet, arrival, &question, table, now),
        Verdict::Deny => {
            flows.denied(&question, table, now);
            Err(DropReason::DefaultDeny)
        }
    }
}

/// Where an allowed packet goes next.
fn next_hop(packet: &Packet, wiring: &Wiring, events: &Events) -> Result<Hop, DropReason> {
    // A packet on its last hop asks for no neighbour.
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let dst = packet.key.dst.address;
    wiring.next_hop(dst).inspect_err(|reason| {
        let uplink = wiring.route(dst).filter(|_| *reason == DropReason::NoNeighbour);
        let pod = wiring.pod_port(dst).map(|port| (port, dst));
        if let Some((port, neighbour)) = pod.or(uplink) {
            events.tell(Event::Unresolved(port, neighbour));
        }
    })
}

/// Why a packet cannot leave by a port, if it cannot.
const fn obstacle(packet: &Packet, port: &Port) -> Option<DropReason> {
    if packet.ttl <= 1 {
        Some(DropReason::TtlExpired)
    } else if packet.ip_len > port.mtu {
        Some(DropReason::TooBig)
    } else {
        None
    }
}

/// Makes a frame what a router sends, and hands it to its port.
#[expect(clippy::too_many_arguments, reason = "the step reads everything that decides about a frame's way")]
fn depart<Io: PacketIo>(
    io: &mut Io,
    me: usize,
    mut frame: Io::Frame,
    packet: &Packet,
    hop: Hop,
    wiring: &Wiring,
    shared: &Shared,
    tally: &mut Tally,
) {
    let Some(port) = wiring.port(hop.port) else {
        return discard(io, frame, DropReason::NoRoute, tally);
    };
    if let Some(reason) = obstacle(packet, port) {
        return discard(io, frame, reason, tally);
    }
    let bytes = io.bytes_mut(&mut frame);
    packet::rewrite::decrement_ttl(bytes, packet);
    packet::rewrite::complete_checksum(bytes, packet);
    packet::rewrite::rewrite_macs(bytes, hop.mac, port.mac);

    let owner = shared.owners[usize::from(hop.port.0)];
    if owner.worker == me {
        transmit(io, owner.slot, frame, tally);
    } else if shared.inboxes[owner.worker].post(hop.port, io.bytes(&frame)) {
        io.recycle(frame);
        tally.handed_out += 1;
    } else {
        discard(io, frame, DropReason::HandoffFull, tally);
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

/// Why a packet has no business here, whatever policy says of it.
fn detour(key: &FlowKey, wiring: &Wiring, table: &PolicyTable) -> Option<DropReason> {
    let (src, dst) = (key.src.address, key.dst.address);
    // A port whose pod the table does not know: no policy of it is known either.
    let unknown = |address| wiring.pod_port(address).is_some() && table.epoch_of(address).is_none();
    if unknown(src) || unknown(dst) {
        return Some(DropReason::UnknownPod);
    }
    // Between a pod and its node everything is allowed, and the kernel carries it. Here it comes from an uplink,
    // under an address that the node only goes by (a public one that is translated elsewhere), or would leave by
    // one.
    if table.between_pod_and_node(src, dst) {
        let from_pod = wiring.pod_port(src).is_some();
        return Some(if from_pod { DropReason::NoRoute } else { DropReason::SpoofedSource });
    }
    None
}

fn discard<Io: PacketIo>(io: &mut Io, frame: Io::Frame, reason: DropReason, tally: &mut Tally) {
    io.recycle(frame);
    tally.drop_one(reason);
}
