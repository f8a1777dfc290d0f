//! The connection table: what both directions of a connection must know, shared by all workers.
//!
//! It is the authority on who opened a connection. A reply passes because its connection was allowed, never
//! because a policy would allow it as a connection of its own; and a connection is judged again, in its
//! original direction, when the epoch of one of its pods has changed.

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use flow::{DropReason, Endpoint, Epoch, FlowKey, Protocol};
use packet::{Kind, Packet};
use table::PolicyTable;

use crate::state::{Sender, State};

/// Milliseconds on a monotonic clock. Time is an argument, read once per turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The epochs of the local pods at both ends of a connection, in its original direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epochs {
    src: Option<Epoch>,
    dst: Option<Epoch>,
}

impl Epochs {
    fn of(table: &PolicyTable, key: &FlowKey) -> Self {
        Self { src: table.epoch_of(key.src.address), dst: table.epoch_of(key.dst.address) }
    }
}

/// A five-tuple without its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pair {
    low: Endpoint,
    high: Endpoint,
    protocol: Protocol,
}

impl Pair {
    fn of(key: &FlowKey) -> Self {
        let (low, high) = if key.src <= key.dst { (key.src, key.dst) } else { (key.dst, key.src) };
        Self { low, high, protocol: key.protocol }
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    initiator: Endpoint,
    epochs: Epochs,
    state: State,
    last_seen: Millis,
}

impl Flow {
    fn sender(&self, key: &FlowKey) -> Sender {
        if key.src == self.initiator { Sender::Initiator } else { Sender::Responder }
    }

    /// The connection's key in its original direction, given a packet of either.
    fn original(&self, key: &FlowKey) -> FlowKey {
        if key.src == self.initiator { *key } else { key.reversed() }
    }

    const fn is_live(&self, now: Millis) -> bool {
        now.since(self.last_seen) < self.state.timeout()
    }
}

/// What the connection table says of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It belongs to a connection that was allowed and still is.
    Known,
    /// Policy must say.
    Judge(Question),
    /// It goes no further.
    Drop(DropReason),
}

/// What policy is asked about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The connection, in its original direction.
    pub(crate) key: FlowKey,
    /// Whether the answer makes or renews state.
    pub(crate) effect: Effect,
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

/// The connection table. Bounded: a full table refuses new connections and keeps the established.
#[derive(Debug)]
pub struct Flows {
    flows: DashMap<Pair, Flow>,
    count: AtomicUsize,
    capacity: usize,
}

impl Flows {
    /// A table for at most `capacity` connections, whose memory is taken here and now.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        // Connections spread unevenly over the shards; the margin keeps each from ever growing.
        let room = capacity + capacity / 4 + 64 * SHARDS;
        let flows = DashMap::with_capacity_and_shard_amount(room, SHARDS);
        Self { flows, count: AtomicUsize::new(0), capacity }
    }

    /// How many connections the table holds, expired ones that no sweep has met included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether the table holds no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes expired connections. Holds one shard's lock at a time.
    pub fn sweep(&self, now: Millis) {
        self.flows.retain(|_, flow| {
            let live = flow.is_live(now);
            if !live {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            live
        });
    }

    /// How a packet stands to the connections that are known.
    ///
    /// In order of cost: a packet of a known connection whose epochs hold (one look-up); one that must be
    /// judged, anew or again (left to the caller, so that all of a burst are judged together).
    /// `recovering`: mid-stream packets may open their connection again.
    pub(crate) fn standing(
        &self,
        packet: &Packet,
        table: &PolicyTable,
        now: Millis,
        recovering: bool,
    ) -> Standing {
        let quoted = match packet.kind {
            Kind::IcmpError { quoted } => Some(quoted),
            _ => None,
        };
        let key = quoted.unwrap_or(packet.key);
        let Some(mut flow) = self.flows.get_mut(&Pair::of(&key)).filter(|flow| flow.is_live(now)) else {
            return if quoted.is_some() {
                Standing::Drop(DropReason::IcmpUnrelated)
            } else {
                stranger(packet, recovering)
            };
        };
        let original = flow.original(&key);
        let stale = flow.epochs != Epochs::of(table, &original);
        let denied = flow.state == State::Denied;
        if let Some(quoted) = quoted {
            // The error must return to whom it quotes (RFC 5508, section 4, speaks of the same care). Any router
            // on the way may send it, but a pod is no router: it may only speak of what was sent to itself.
            let src = packet.key.src.address;
            let from_pod = table.epoch_of(src).is_some();
            let related =
                packet.key.dst.address == quoted.src.address && (!from_pod || src == quoted.dst.address);
            return match related && !denied {
                false => Standing::Drop(DropReason::IcmpUnrelated),
                true if stale => Standing::Judge(Question { key: original, effect: Effect::Quote }),
                true => Standing::Known,
            };
        }
        let sender = flow.sender(&key);
        if sender == Sender::Responder && opens(packet) {
            // The other end opens a connection of its own on the same ports: that is no reply.
            return Standing::Judge(Question { key, effect: Effect::Open });
        }
        if stale {
            return Standing::Judge(Question { key: original, effect: Effect::Renew });
        }
        if denied {
            return Standing::Drop(DropReason::DefaultDeny);
        }
        flow.state = flow.state.after(packet.kind, sender);
        flow.last_seen = now;
        Standing::Known
    }

    /// Enters an allowed answer.
    ///
    /// # Errors
    ///
    /// `FlowTableFull` when a new connection finds no room.
    pub(crate) fn allowed(
        &self,
        packet: &Packet,
        question: &Question,
        table: &PolicyTable,
        now: Millis,
    ) -> Result<(), DropReason> {
        if question.effect == Effect::Quote {
            return Ok(());
        }
        let key = &question.key;
        let sender = if packet.key.src == key.src { Sender::Initiator } else { Sender::Responder };
        let fresh = Flow {
            initiator: key.src,
            epochs: Epochs::of(table, key),
            state: State::opened_by(packet.kind),
            last_seen: now,
        };
        match self.flows.entry(Pair::of(key)) {
            Entry::Occupied(mut entry) => {
                let flow = entry.get_mut();
                let same = flow.initiator == key.src && flow.is_live(now);
                if same && flow.state != State::Denied {
                    flow.epochs = fresh.epochs;
                    flow.state = flow.state.after(packet.kind, sender);
                    flow.last_seen = now;
                } else if same || flow.state.is_over() || !flow.is_live(now) {
                    *flow = fresh;
                }
                // Else: the responder of a living connection opens one the other way on the same ports,
                // and may; the connection that lives keeps its direction.
                Ok(())
            }
            Entry::Vacant(entry) => {
                if self.count.fetch_add(1, Ordering::Relaxed) >= self.capacity {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    return Err(DropReason::FlowTableFull);
                }
                entry.insert(fresh);
                Ok(())
            }
        }
    }

    /// Enters a denied answer. A connection that was allowed before is remembered as denied, so that none
    /// of its packets can open it again from the other end.
    pub(crate) fn denied(&self, question: &Question, table: &PolicyTable, now: Millis) {
        if !matches!(question.effect, Effect::Renew | Effect::Quote) {
            return;
        }
        let known = self.flows.get_mut(&Pair::of(&question.key));
        if let Some(mut flow) = known.filter(|flow| flow.initiator == question.key.src) {
            flow.state = State::Denied;
            flow.epochs = Epochs::of(table, &question.key);
            flow.last_seen = now;
        }
    }
}

const SHARDS: usize = 64;

/// How a packet stands that belongs to no known connection.
const fn stranger(packet: &Packet, recovering: bool) -> Standing {
    let key = packet.key;
    match packet.kind {
        Kind::IcmpEcho { request: false } => Standing::Drop(DropReason::NoFlow),
        Kind::Tcp(_) | Kind::Sctp { .. } if !opens(packet) => match packet.kind {
            _ if !recovering => Standing::Drop(DropReason::NoFlow),
            Kind::Tcp(flags) if flags.rst() => Standing::Drop(DropReason::NoFlow),
            // Only the answer to a SYN carries both flags, so its direction is known.
            Kind::Tcp(flags) if flags.syn() && flags.ack() => {
                Standing::Judge(Question { key: key.reversed(), effect: Effect::Open })
            }
            _ => Standing::Judge(Question { key, effect: Effect::Recover }),
        },
        _ => Standing::Judge(Question { key, effect: Effect::Open }),
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

#[cfg(test)]
mod tests {
    use compiler::{Budget, Compiler, Scope};
    use flow::{Address, MacAddr, Verdict};
    use packet::TcpFlags;
    use policy::model::Cluster;
    use testkit::cluster::{cluster, policy, rule};

    use super::*;

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
        match flows.standing(packet, table, now, recovering) {
            Standing::Known => Ok(()),
            Standing::Drop(reason) => Err(reason),
            Standing::Judge(question) => {
                let mut verdict = [Verdict::Deny];
                table.classify(&[question.key], &mut verdict);
                crate::burst::settle(packet, question, verdict[0], table, flows, now)
            }
        }
    }

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
        assert_eq!(flows.standing(&udp(SERVER, CLIENT), &second, Millis(1), false), Standing::Known);
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
        assert_eq!(pass(&udp(SERVER, CLIENT), 119_999), Ok(()));
        assert_eq!(flows.standing(&udp(SERVER, CLIENT), &table, Millis(239_998), false), Standing::Known);
        flows.sweep(Millis(400_000));
        assert!(flows.is_empty());

        assert_eq!(pass(&tcp(SYN, CLIENT, SERVER), 0), Ok(()));
        assert_eq!(pass(&tcp(SYN | ACK, SERVER, CLIENT), 29_999), Ok(()));
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
        assert_eq!(pass(&tcp(ACK, CLIENT, SERVER), 215_000), Err(DropReason::NoFlow));
    }

    #[test]
    fn a_full_table_keeps_what_it_has() {
        let (flows, table) = (Flows::new(2), table_allowing(80));
        let pass = |port| pass(&flows, &table, &udp((A, port), SERVER), 0, false);
        assert_eq!((pass(1), pass(2)), (Ok(()), Ok(())));
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
