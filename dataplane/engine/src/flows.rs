//! What every packet is to the connections that are known, and what a verdict makes of them.
//!
//! The connection table is the authority on who opened a connection. A reply passes because its connection was
//! allowed, never because a policy would allow it as a connection of its own; and a connection is judged again,
//! in its original direction, when the epoch of one of its pods has changed.

use flow::{Address, DropReason, Endpoint, FlowKey};
use packet::{Kind, Packet};
use table::PolicyTable;

use crate::cache::Answer;
pub use crate::clock::Millis;
use crate::clock::Span;
use crate::connections::{Connection, ConnectionId, Connections, Entry, Epochs, Full};
use crate::segment::Arrival;
pub use crate::state::Course;
use crate::state::{Sender, State};
use crate::wiring::{Hop, PortId};

/// What the connection table says of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It belongs to a connection that was allowed and still is.
    Known(Pass),
    /// Policy must say.
    Judge(Question),
    /// It goes no further.
    Drop(DropReason),
}

/// How long a packet's successors may pass as it does, without another look at the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Not at all: the next one may be another matter.
    Once,
    /// While the connection's generation is the same, and the policy table and the wiring are.
    While(Ticket),
}

/// What a worker's cache needs to know of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) id: ConnectionId,
    pub(crate) generation: u32,
    pub(crate) sender: Sender,
    pub(crate) timeout: Span,
}

impl Ticket {
    /// What the cache answers for the packets that follow, which take the same next hop.
    pub(crate) const fn leading(self, hop: Hop) -> Answer {
        let Self { id, generation, sender, timeout } = self;
        Answer { hop, id, generation, sender, timeout }
    }
}

/// What policy is asked about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The connection, in its original direction.
    pub(crate) key: FlowKey,
    /// Whether the answer makes or renews state.
    pub(crate) effect: Effect,
    /// Who opened it, where the key does not say.
    pub(crate) opener: Option<Address>,
}

impl Question {
    /// What policy is asked about: who truly opens the connection, and to whom.
    pub(crate) const fn judged(&self) -> FlowKey {
        match self.opener {
            Some(address) => FlowKey { src: Endpoint { address, port: self.key.src.port }, ..self.key },
            None => self.key,
        }
    }

    fn epochs(&self, table: &PolicyTable) -> Epochs {
        epochs(table, &self.judged())
    }
}

/// What an allowed answer does to the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A new connection opens.
    Open,
    /// A mid-stream packet opens its connection again after a restart; if this direction is denied, the
    /// other is asked once.
    Recover,
    /// A known connection lives on under the new epochs of its pods.
    Renew,
    /// None: the packet only quotes the connection.
    Quote,
}

/// The connections of a node. Bounded: when there is no room, new connections are refused and the established
/// live on.
#[derive(Debug)]
pub struct Flows {
    connections: Connections,
}

impl Flows {
    /// Room for at least `capacity` connections, taken here and now.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::opened_by(1, capacity)
    }

    /// The same, when so many ports open connections: none of several may take more than half of the room.
    #[must_use]
    pub fn opened_by(ports: usize, capacity: usize) -> Self {
        Self { connections: Connections::new(capacity, ports) }
    }

    /// How many connections there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.connections.capacity()
    }

    /// How many connections there are, expired ones that no sweep has met included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// How many connections that were over, or that nobody had answered, were given up for others.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.connections.given_up()
    }

    /// The memory that connections take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.connections.bytes()
    }

    /// Removes expired connections. Workers do so as they go; this is for those that sleep.
    pub fn sweep(&self, now: Millis) {
        self.connections.sweep(now.ticks());
    }

    pub(crate) const fn connections(&self) -> &Connections {
        &self.connections
    }

    /// How a packet stands to the connections that are known.
    ///
    /// In order of cost: a packet of a known connection whose epochs hold (one look-up); one that changes the
    /// state of its connection (its shard's lock as well); one that must be judged, anew or again (left to the
    /// caller, so that all of a burst are judged together). `recovering`: mid-stream packets may open their
    /// connection again.
    pub(crate) fn standing(
        &self,
        packet: &Packet,
        arrival: Arrival,
        table: &PolicyTable,
        now: Millis,
        recovering: bool,
    ) -> Standing {
        let quoted = match packet.kind {
            Kind::IcmpError { quoted } => Some(quoted),
            _ => None,
        };
        let key = quoted.unwrap_or(packet.key);
        let hash = self.connections.hash(&key);
        let found = self.connections.find(&key, hash).filter(|found| found.is_live(now.ticks()));
        let Some(found) = found else {
            return if quoted.is_some() {
                Standing::Drop(DropReason::IcmpUnrelated)
            } else {
                stranger(packet, arrival.opener, recovering)
            };
        };
        let original = if found.sender == Sender::Initiator { key } else { key.reversed() };
        let ask = |key, effect| Standing::Judge(Question { key, effect, opener: arrival.opener });
        let asked = Question { key: original, effect: Effect::Renew, opener: arrival.opener };
        // Whom an address of the node hides may be another than the last time.
        let stale = arrival.opener.is_some() || found.entry.epochs != asked.epochs(table);
        let denied = found.entry.state == State::Denied;
        if let Some(quoted) = quoted {
            // The error must return to whom it quotes (RFC 5508, section 4, speaks of the same care). Any router
            // on the way may send it, but a pod is no router: it may only speak of what was sent to itself.
            let src = packet.key.src.address;
            let from_pod = table.epoch_of(src).is_some();
            let related =
                packet.key.dst.address == quoted.src.address && (!from_pod || src == quoted.dst.address);
            return match related && !denied {
                false => Standing::Drop(DropReason::IcmpUnrelated),
                true if stale => ask(original, Effect::Quote),
                true => Standing::Known(Pass::Once),
            };
        }
        if found.sender == Sender::Responder && opens(packet) {
            // The other end opens a connection of its own on the same ports: that is no reply.
            return ask(key, Effect::Open);
        }
        if stale {
            return Standing::Judge(asked);
        }
        if denied {
            return Standing::Drop(DropReason::DefaultDeny);
        }
        Standing::Known(self.follow(&found, &original, hash, packet, arrival, now))
    }

    /// Whether there is a connection between these ends, whoever opened it, that is not known as denied.
    pub(crate) fn lives(&self, key: &FlowKey, now: Millis) -> bool {
        let found = self.connections.find(key, self.connections.hash(key));
        found.is_some_and(|found| found.is_live(now.ticks()) && found.entry.state != State::Denied)
    }

    /// Brings a connection's state up to date with one of its packets.
    fn follow(
        &self,
        found: &Connection,
        original: &FlowKey,
        hash: u64,
        packet: &Packet,
        arrival: Arrival,
        now: Millis,
    ) -> Pass {
        let numbers = arrival.numbers;
        let after = numbers.follow(&found.entry, packet.kind, found.sender);
        if after.state == found.entry.state {
            if let Some(number) = numbers.acknowledged(packet.kind) {
                self.connections.acknowledge(found.id, found.sender, number);
            }
            let timeout = found.entry.state.timeout();
            let Connection { id, generation, sender, .. } = *found;
            return match self.connections.touch(id, generation, now.ticks()) && is_steady(packet.kind) {
                // A fragment's successors have no ports.
                true if packet.fragment.is_some() => Pass::Once,
                true => Pass::While(Ticket { id, generation, sender, timeout }),
                false => Pass::Once,
            };
        }
        // Under the lock the connection is what it is now, which may be more than what was found.
        let entered = self.connections.put(original, hash, now.ticks(), |now| {
            let same = now.filter(|now| now.sender == Sender::Initiator)?;
            Some(numbers.follow(&same.entry, packet.kind, found.sender))
        });
        debug_assert!(entered.is_ok(), "a change takes no room");
        Pass::Once
    }

    /// Enters an allowed answer about a packet.
    ///
    /// # Errors
    ///
    /// `FlowTableFull` or `FlowQuota` when a new connection finds no room.
    pub(crate) fn allowed(
        &self,
        packet: &Packet,
        arrival: Arrival,
        question: &Question,
        table: &PolicyTable,
        now: Millis,
    ) -> Result<(), DropReason> {
        if question.effect == Effect::Quote {
            return Ok(());
        }
        let key = &question.key;
        let sender = if packet.key.src == key.src { Sender::Initiator } else { Sender::Responder };
        let epochs = question.epochs(table);
        let fresh = arrival.numbers.open(packet.kind, sender, epochs, arrival.port.0);
        let now = now.ticks();
        let entered = self.connections.put(key, self.connections.hash(key), now, |there| {
            let Some(there) = there else { return Some(fresh) };
            let same = there.sender == Sender::Initiator && there.is_live(now);
            if same && there.entry.state != State::Denied {
                Some(Entry { epochs, ..arrival.numbers.follow(&there.entry, packet.kind, sender) })
            } else if same || there.entry.state.is_over() || !there.is_live(now) {
                Some(fresh)
            } else {
                // The responder of a living connection opens one the other way on the same ports, and may; the
                // connection that lives keeps its direction.
                None
            }
        });
        entered.map_err(|full| match full {
            Full::Table => DropReason::FlowTableFull,
            Full::Port => DropReason::FlowQuota,
        })
    }

    /// Takes up a connection that the kernel carries, opened with `key` by whoever is behind `opener`, and seen by the
    /// kernel last at `seen`: it lives as long as the kernel's verdict and its own timeout after that, and one that is
    /// not known yet is judged as soon as it is asked about.
    pub fn carried(&self, key: &FlowKey, opener: PortId, course: Course, seen: Millis, now: Millis) {
        let (hash, seen, now) = (self.connections.hash(key), seen.ticks(), now.ticks());
        let told = State::carried(key.protocol, course);
        let entered = self.connections.put(key, hash, now, |there| match there {
            Some(there) if there.is_live(now) => {
                // What has been seen of it here says more than that nobody has answered.
                let state = if course == Course::Opened { there.entry.state } else { told };
                let is_news = state != there.entry.state || seen.since(there.seen) > 0;
                let may_be = there.sender == Sender::Initiator && there.entry.state != State::Denied;
                (is_news && may_be).then_some(Entry { state, ..there.entry })
            }
            _ => Some(Entry {
                state: told,
                epochs: Epochs { src: None, dst: None },
                acknowledged: [0; 2],
                opener: opener.0,
            }),
        });
        // Without room, its packets drop as those of no flow once the kernel asks about them.
        let _ = entered;
    }

    /// Enters a denied answer. A connection that was allowed before is remembered as denied, so that none
    /// of its packets can open it again from the other end.
    pub(crate) fn denied(&self, question: &Question, table: &PolicyTable, now: Millis) {
        if !matches!(question.effect, Effect::Renew | Effect::Quote) {
            return;
        }
        let key = &question.key;
        let epochs = question.epochs(table);
        let entered = self.connections.put(key, self.connections.hash(key), now.ticks(), |there| {
            let same = there.filter(|there| there.sender == Sender::Initiator)?;
            Some(Entry { state: State::Denied, epochs, ..same.entry })
        });
        debug_assert!(entered.is_ok(), "a change takes no room");
    }
}

fn epochs(table: &PolicyTable, key: &FlowKey) -> Epochs {
    Epochs { src: table.epoch_of(key.src.address), dst: table.epoch_of(key.dst.address) }
}

/// How a packet stands that belongs to no known connection.
fn stranger(packet: &Packet, opener: Option<Address>, recovering: bool) -> Standing {
    let key = packet.key;
    let judge = |key, effect| Standing::Judge(Question { key, effect, opener });
    match packet.kind {
        Kind::IcmpEcho { request: false } => Standing::Drop(DropReason::NoFlow),
        Kind::Tcp(_) | Kind::Sctp { .. } if !opens(packet) => match packet.kind {
            _ if !recovering => Standing::Drop(DropReason::NoFlow),
            Kind::Tcp(flags) if flags.rst() => Standing::Drop(DropReason::NoFlow),
            // Only the answer to a SYN carries both flags, so its direction is known.
            Kind::Tcp(flags) if flags.syn() && flags.ack() => judge(key.reversed(), Effect::Open),
            // It is known which way this one goes.
            _ if opener.is_some() => judge(key, Effect::Open),
            _ => judge(key, Effect::Recover),
        },
        _ => judge(key, Effect::Open),
    }
}

/// Whether only somebody who opens a connection sends this packet.
const fn opens(packet: &Packet) -> bool {
    match packet.kind {
        Kind::Tcp(flags) => flags.opens(),
        Kind::Sctp { init } => init,
        Kind::IcmpEcho { request } => request,
        _ => false,
    }
}

/// Whether a packet like this never changes a connection that is open at both ends.
pub(crate) const fn is_steady(kind: Kind) -> bool {
    match kind {
        Kind::Tcp(flags) => !(flags.syn() || flags.fin() || flags.rst()),
        Kind::Udp | Kind::Other | Kind::IcmpOther => true,
        Kind::Sctp { init } => !init,
        Kind::IcmpEcho { request } => !request,
        Kind::IcmpError { .. } | Kind::NeighbourDiscovery => false,
    }
}

#[cfg(test)]
mod tests {
    use compiler::{Budget, Compiler, Scope};
    use flow::{Address, MacAddr, Protocol, Verdict};
    use packet::TcpFlags;
    use policy::model::Cluster;
    use testkit::cluster::{cluster, policy, rule};

    use super::*;
    use crate::segment::Numbers;
    use crate::wiring::PortId;

    const A: Address = Address::v4([10, 0, 0, 1]);
    const B: Address = Address::v4([10, 0, 0, 2]);
    const C: Address = Address::v4([10, 0, 0, 3]);
    const SYN: u8 = TcpFlags::SYN;
    const ACK: u8 = TcpFlags::ACK;
    const FIN: u8 = TcpFlags::FIN;
    const RST: u8 = TcpFlags::RST;

    fn packet(kind: Kind, protocol: Protocol, src: (Address, u16), dst: (Address, u16)) -> Packet {
        Packet {
            eth_dst: MacAddr([2; 6]),
            eth_src: MacAddr([2; 6]),
            key: FlowKey::new(protocol, src, dst),
            kind,
            fragment: None,
            l3_offset: 14,
            l4_offset: 34,
            ip_len: 40,
            ttl: 64,
        }
    }

    fn tcp(flags: u8, src: (Address, u16), dst: (Address, u16)) -> Packet {
        packet(Kind::Tcp(TcpFlags(flags)), Protocol::TCP, src, dst)
    }

    fn udp(src: (Address, u16), dst: (Address, u16)) -> Packet {
        packet(Kind::Udp, Protocol::UDP, src, dst)
    }

    /// A, B and C are local pods. B accepts only what comes to `port`; what comes to the others, and what anybody sends, is open.
    fn b_accepts(port: u16) -> Cluster {
        let accepted = rule().on(&format!("TCP/{port}")).on(&format!("UDP/{port}"));
        cluster()
            .pod("x/a", "10.0.0.1", "")
            .pod("x/b", "10.0.0.2", "app=b")
            .pod("x/c", "10.0.0.3", "")
            .policy(policy("x/p").subjects("app=b").ingress([accepted]))
            .build()
    }

    /// Tables where B accepts what comes to these ports, each the successor of the one before.
    fn tables_allowing<const N: usize>(ports: [u16; N]) -> [PolicyTable; N] {
        let mut compiler = Compiler::new(Scope::AllPods, Budget::default());
        ports.map(|port| compiler.update(&b_accepts(port)).expect("within the budget"))
    }

    fn table_allowing(port: u16) -> PolicyTable {
        let [table] = tables_allowing([port]);
        table
    }

    /// What becomes of one packet, policy included.
    fn pass(
        flows: &Flows,
        table: &PolicyTable,
        packet: &Packet,
        now: u64,
        recovering: bool,
    ) -> Result<(), DropReason> {
        let now = Millis(now);
        match flows.standing(packet, ARRIVAL, table, now, recovering) {
            Standing::Known(_) => Ok(()),
            Standing::Drop(reason) => Err(reason),
            Standing::Judge(mut question) => {
                let mut verdict = [Verdict::Deny];
                table.classify(&[question.key], &mut verdict);
                crate::burst::settle(packet, ARRIVAL, &mut question, verdict[0], table, flows, now)
            }
        }
    }

    const ARRIVAL: Arrival =
        Arrival { port: PortId(0), numbers: Numbers { sequence: 1000, acknowledgment: 1001 }, opener: None };
    const CLIENT: (Address, u16) = (A, 40000);
    const SERVER: (Address, u16) = (B, 80);

    #[test]
    fn replies_pass_and_what_a_reply_would_allow_does_not() {
        let (flows, table) = (Flows::new(16), table_allowing(80));
        let pass = |packet: &Packet| pass(&flows, &table, packet, 0, false);
        assert_eq!(pass(&tcp(SYN, CLIENT, SERVER)), Ok(()));
        assert_eq!(pass(&tcp(SYN | ACK, SERVER, CLIENT)), Ok(()));
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER)), Ok(()));
        // To another port of B nothing is allowed, and answers to it are nobody's replies.
        assert_eq!(pass(&tcp(SYN, CLIENT, (B, 81))), Err(DropReason::DefaultDeny));
        assert_eq!(pass(&tcp(SYN | ACK, (B, 81), CLIENT)), Err(DropReason::NoFlow));
        assert_eq!(pass(&tcp(ACK, CLIENT, (B, 81))), Err(DropReason::NoFlow));
        assert_eq!(flows.len(), 1, "a denied connection leaves no state");
    }

    #[test]
    fn a_syn_from_the_responder_is_a_connection_of_its_own() {
        let (flows, table) = (Flows::new(16), table_allowing(80));
        let pass = |packet: &Packet| pass(&flows, &table, packet, 0, false);
        // B opens to A: allowed. A's replies pass, but A may not open to B's port, reply or not.
        let (b, a) = ((B, 50000), (A, 9));
        assert_eq!(pass(&tcp(SYN, b, a)), Ok(()));
        assert_eq!(pass(&tcp(SYN | ACK, a, b)), Ok(()));
        assert_eq!(pass(&tcp(SYN, a, b)), Err(DropReason::DefaultDeny));
        assert_eq!(pass(&tcp(ACK, b, a)), Ok(()), "and the attempt costs the connection nothing");
    }

    #[test]
    fn a_new_epoch_asks_again_in_the_original_direction() {
        let flows = Flows::new(16);
        let [first, second, third] = tables_allowing([80, 81, 80]);
        assert_eq!(pass(&flows, &first, &tcp(SYN, CLIENT, SERVER), 0, false), Ok(()));
        assert_eq!(pass(&flows, &first, &tcp(SYN | ACK, SERVER, CLIENT), 0, false), Ok(()));

        // B -> A would be allowed as a connection of its own; as a reply of a denied one it is not.
        assert_eq!(pass(&flows, &second, &tcp(ACK, SERVER, CLIENT), 1, true), Err(DropReason::DefaultDeny));
        assert_eq!(pass(&flows, &second, &tcp(ACK, SERVER, CLIENT), 2, true), Err(DropReason::DefaultDeny));
        assert_eq!(pass(&flows, &second, &tcp(ACK, CLIENT, SERVER), 3, true), Err(DropReason::DefaultDeny));

        assert_eq!(
            pass(&flows, &third, &tcp(ACK, SERVER, CLIENT), 4, false),
            Ok(()),
            "allowed again, it lives on"
        );
    }

    #[test]
    fn an_unchanged_table_asks_nothing_again() {
        let flows = Flows::new(16);
        let [first, second] = tables_allowing([80, 80]);
        assert_eq!(pass(&flows, &first, &udp(CLIENT, SERVER), 0, false), Ok(()));
        let standing = flows.standing(&udp(SERVER, CLIENT), ARRIVAL, &second, Millis(1), false);
        assert!(matches!(standing, Standing::Known(_)), "{standing:?}");
    }

    #[test]
    fn recovery_opens_in_whichever_direction_policy_allows() {
        let table = table_allowing(80);
        for (packet, recovering, expected) in [
            (tcp(ACK, CLIENT, SERVER), true, Ok(())),
            (tcp(ACK, SERVER, CLIENT), true, Ok(())),
            (tcp(SYN | ACK, SERVER, CLIENT), true, Ok(())),
            // The answer of a server that nobody may call; its direction is known.
            (tcp(SYN | ACK, (B, 81), CLIENT), true, Err(DropReason::DefaultDeny)),
            (tcp(RST, CLIENT, SERVER), true, Err(DropReason::NoFlow)),
            (tcp(ACK, CLIENT, SERVER), false, Err(DropReason::NoFlow)),
        ] {
            assert_eq!(pass(&Flows::new(16), &table, &packet, 0, recovering), expected, "{packet:?}");
        }
        // Recovered from a reply, the connection belongs to the end that may have opened it.
        let flows = Flows::new(16);
        let from_a = |flags| tcp(flags, CLIENT, (B, 81));
        assert_eq!(pass(&flows, &table, &from_a(ACK), 0, true), Ok(()), "B may have opened it");
        assert_eq!(pass(&flows, &table, &from_a(SYN), 1, true), Err(DropReason::DefaultDeny));
    }

    #[test]
    fn connections_end_by_timeout_and_by_reset() {
        let (flows, table) = (Flows::new(16), table_allowing(80));
        let pass = |packet: &Packet, now| pass(&flows, &table, packet, now, false);
        assert_eq!(pass(&udp(CLIENT, SERVER), 0), Ok(()));
        assert_eq!(pass(&udp(SERVER, CLIENT), 29_999), Ok(()));
        assert_eq!(pass(&udp(SERVER, CLIENT), 149_998), Ok(()), "answered, they may idle for longer");
        flows.sweep(Millis(400_000));
        assert!(flows.is_empty());

        assert_eq!(pass(&tcp(SYN, CLIENT, SERVER), 0), Ok(()));
        assert_eq!(pass(&tcp(SYN | ACK, SERVER, CLIENT), 29_999), Ok(()));
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER), 30_000), Ok(()));
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER), 7_000_000), Ok(()), "established connections may idle");
        assert_eq!(pass(&tcp(RST, SERVER, CLIENT), 7_000_001), Ok(()));
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER), 7_005_000), Ok(()), "late segments");
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER), 7_020_000), Err(DropReason::NoFlow));
        assert_eq!(pass(&tcp(SYN, CLIENT, SERVER), 7_030_000), Ok(()), "the ports may be used again");
    }

    #[test]
    fn both_ends_must_finish() {
        let (flows, table) = (Flows::new(16), table_allowing(80));
        let pass = |packet: &Packet, now| pass(&flows, &table, packet, now, false);
        assert_eq!(pass(&tcp(SYN, CLIENT, SERVER), 0), Ok(()));
        assert_eq!(pass(&tcp(SYN | ACK, SERVER, CLIENT), 0), Ok(()));
        assert_eq!(pass(&tcp(FIN | ACK, CLIENT, SERVER), 0), Ok(()));
        assert_eq!(pass(&tcp(ACK, SERVER, CLIENT), 200_000), Ok(()), "half closed, it still carries data");
        assert_eq!(pass(&tcp(FIN | ACK, SERVER, CLIENT), 200_000), Ok(()));
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER), 300_000), Ok(()), "late segments");
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER), 421_000), Err(DropReason::NoFlow));
    }

    #[test]
    fn a_full_table_keeps_what_it_has() {
        let (flows, table) = (Flows::new(2), table_allowing(80));
        let pass = |port| pass(&flows, &table, &udp((A, port), SERVER), 0, false);
        let reply = |port| self::pass(&flows, &table, &udp(SERVER, (A, port)), 0, false);
        assert_eq!((pass(1), pass(2)), (Ok(()), Ok(())));
        assert_eq!((reply(1), reply(2)), (Ok(()), Ok(())));
        assert_eq!(pass(3), Err(DropReason::FlowTableFull));
        assert_eq!((pass(1), flows.len()), (Ok(()), 2));
    }

    #[test]
    fn errors_belong_to_the_connection_that_they_quote() {
        let (flows, [table, closed]) = (Flows::new(16), tables_allowing([80, 81]));
        let error = |quoted, src, dst| packet(Kind::IcmpError { quoted }, Protocol::ICMP, (src, 0), (dst, 0));
        let request = udp(CLIENT, SERVER);
        let about = |dst| error(request.key, B, dst);
        assert_eq!(pass(&flows, &table, &about(A), 0, false), Err(DropReason::IcmpUnrelated));
        assert_eq!(pass(&flows, &table, &request, 0, false), Ok(()));
        assert_eq!(pass(&flows, &table, &about(A), 0, false), Ok(()));
        let router = Address::v4([192, 0, 2, 1]);
        assert_eq!(pass(&flows, &table, &error(request.key, router, A), 0, false), Ok(()));
        assert_eq!(pass(&flows, &table, &about(router), 0, false), Err(DropReason::IcmpUnrelated));
        // A pod that has no part in the connection could carry its own bytes in the quotation.
        let reply = request.key.reversed();
        assert_eq!(pass(&flows, &table, &error(reply, A, B), 0, false), Ok(()));
        for (quoted, stranger, to) in [(request.key, C, A), (reply, C, B)] {
            assert_eq!(
                pass(&flows, &table, &error(quoted, stranger, to), 0, false),
                Err(DropReason::IcmpUnrelated)
            );
        }

        assert_eq!(pass(&flows, &closed, &about(A), 1, false), Err(DropReason::DefaultDeny));
        assert_eq!(pass(&flows, &closed, &about(A), 2, false), Err(DropReason::IcmpUnrelated));
    }

    #[test]
    fn echo_replies_answer_requests_only() {
        let (flows, table) = (Flows::new(16), table_allowing(80));
        let echo = |request, src, dst| packet(Kind::IcmpEcho { request }, Protocol::ICMP, (src, 7), (dst, 7));
        assert_eq!(pass(&flows, &table, &echo(false, B, A), 0, false), Err(DropReason::NoFlow));
        assert_eq!(pass(&flows, &table, &echo(true, B, A), 0, false), Ok(()));
        assert_eq!(pass(&flows, &table, &echo(false, A, B), 0, false), Ok(()));
        assert_eq!(pass(&flows, &table, &echo(true, A, B), 0, false), Err(DropReason::DefaultDeny));
    }
}
