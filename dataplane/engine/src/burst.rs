//! The stages that a burst of frames goes through, in order.

use flow::{DropReason, FlowKey, Verdict};
use packet::icmp_error::IcmpError;
use packet::{LaterFragment, Packet};
use table::PolicyTable;

use crate::cache::Cache;
use crate::connections::hash::Words;
use crate::departure::{depart, next_hop};
use crate::ends::{Way, discard};
use crate::events::{Event, Events};
use crate::flows::{Effect, Flows, Millis, Pass, Question, Standing, is_steady};
use crate::fragments::Fragments;
use crate::guard::{self, Admission};
use crate::icmp_errors::IcmpErrors;
use crate::io::{PacketIo, Slot};
use crate::ledger::Ledger;
use crate::segment::{Arrival, Numbers};
use crate::wiring::{Hop, PortId, PriorityTags, Wiring};

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
    icmp_errors: IcmpErrors,
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
            icmp_errors: IcmpErrors::new(ports.len()),
        }
    }

    /// How many datagrams lost their place to others, before they were old or whole.
    pub(crate) const fn fragments_displaced(&self) -> u64 {
        self.fragments.displaced()
    }

    /// Takes what has arrived on one port.
    pub(crate) fn receive<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        slot: Slot,
        ledger: &mut Ledger,
    ) {
        io.receive(slot, &mut self.arrived);
        ledger.tally.rx += self.arrived.len() as u64;
    }

    /// Parses every frame and asks the port guard.
    pub(crate) fn admit<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        id: PortId,
        wiring: Option<&Wiring>,
        events: &Events,
        ledger: &mut Ledger,
    ) {
        for mut frame in self.arrived.drain(..) {
            let admission = match wiring.map(|wiring| (wiring, wiring.port(id))) {
                None => Admission::Refused(DropReason::NoTable),
                Some((_, None)) => Admission::Refused(DropReason::UnknownPod),
                Some((wiring, Some(port))) => {
                    if wiring.priority_tags() == PriorityTags::Stripped
                        && let Some(left) = packet::rewrite::strip_priority_tag(io.bytes_mut(&mut frame))
                    {
                        io.truncate(&mut frame, left);
                    }
                    guard::admit(io.bytes(&frame), port, wiring)
                }
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
            discard(io, frame, reason, ledger);
        }
    }

    /// Sends on what this worker knows by itself: packets that cannot change their connection, while it, the
    /// policy table and the wiring are what they were. The rest is left to be judged.
    ///
    /// In three steps over the whole burst, so that memory is waited for once and not once for each packet.
    pub(crate) fn pass_known<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        way: Option<Way<'_>>,
        cache: &Cache,
        ledger: &mut Ledger,
    ) {
        let Some(way) = way else { return };
        let (connections, now) = (way.shared.flows.connections(), way.now.ticks());
        let Self { admitted, packets, unknown, sought, hops, icmp_errors, .. } = self;
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
                Some(hop) => depart(io, frame, packet, *hop, way, icmp_errors, ledger),
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
        ledger: &mut Ledger,
    ) {
        let (Some(table), Some(wiring)) = (table, wiring) else {
            for (frame, _) in self.unknown.drain(..) {
                discard(io, frame, DropReason::NoTable, ledger);
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
                Standing::Drop(reason) => discard(io, frame, reason, ledger),
            }
        }

        self.verdicts.clear();
        self.verdicts.resize(self.keys.len(), Verdict::Deny);
        table.classify(&self.keys, &mut self.verdicts);
        ledger.tally.judged += self.keys.len() as u64;
        self.keys.clear();

        for ((frame, packet, mut question), verdict) in self.asked.drain(..).zip(&self.verdicts) {
            let bytes = io.bytes(&frame);
            let arrival = Arrival::of(id, bytes, &packet);
            let settled = settle(&packet, arrival, &mut question, *verdict, table, flows, now);
            let Question { key, effect, .. } = question;
            match settled {
                Ok(()) => {
                    let egress = || wiring.next_hop(packet.key.dst.address).ok().map(|hop| hop.port);
                    ledger.allow(key, effect, egress, bytes);
                    self.allowed.push((frame, packet));
                }
                Err(reason) => {
                    ledger.deny(key, effect, reason, bytes);
                    io.recycle(frame);
                }
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
        ledger: &mut Ledger,
    ) {
        if !std::mem::take(&mut self.fragmented) {
            return;
        }
        let Self { allowed, later, fragments, .. } = self;
        let Some(table) = table else {
            for (frame, _) in later.drain(..) {
                discard(io, frame, DropReason::NoTable, ledger);
            }
            return;
        };
        let epochs = |src, dst| [table.epoch_of(src), table.epoch_of(dst)];
        let mut refused = |packet: &Packet| {
            let (src, dst) = (packet.key.src.address, packet.key.dst.address);
            packet.fragment.is_some() && fragments.remember(port, packet, epochs(src, dst), now).is_err()
        };
        for (frame, _) in allowed.extract_if(.., |(_, packet)| refused(packet)) {
            discard(io, frame, DropReason::FragmentOverlap, ledger);
        }
        for (frame, later) in later.drain(..) {
            let epochs = epochs(later.datagram.src, later.datagram.dst);
            match fragments.follow(port, &later, epochs, now) {
                Ok(packet) => allowed.push((frame, packet)),
                Err(reason) => discard(io, frame, reason, ledger),
            }
        }
    }

    /// Sends every allowed packet on its way.
    pub(crate) fn forward<Io: PacketIo<Frame = Frame>>(
        &mut self,
        io: &mut Io,
        way: Option<Way<'_>>,
        ledger: &mut Ledger,
    ) {
        let Some(way) = way else { return };
        let Self { allowed, icmp_errors, .. } = self;
        for (frame, packet) in allowed.drain(..) {
            // A packet on its last hop asks for no neighbour.
            if packet.ttl <= 1 {
                icmp_errors.refuse(io, frame, &packet, (IcmpError::TimeExceeded, None), way, ledger);
                continue;
            }
            match next_hop(&packet, way.wiring, &way.shared.events) {
                Ok(hop) => depart(io, frame, &packet, hop, way, icmp_errors, ledger),
                Err(reason) => discard(io, frame, reason, ledger),
            }
        }
    }
}

/// Turns a verdict into connection state. `question` is left with the direction that was asked about last.
pub(crate) fn settle(
    packet: &Packet,
    arrival: Arrival,
    question: &mut Question,
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
        Verdict::Allow => flows.allowed(packet, arrival, question, table, now),
        Verdict::Deny => {
            flows.denied(question, table, now);
            Err(DropReason::DefaultDeny)
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
