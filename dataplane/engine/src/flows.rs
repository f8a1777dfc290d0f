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

/// Milliseconds on a monotonic clock. Time is an argument, read once per burst.
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
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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
            // The error must return to whom it quotes (RFC 5508, section 4, speaks of the same care).
            return match packet.key.dst.address == quoted.src.address && !denied {
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
fn stranger(packet: &Packet, recovering: bool) -> Standing {
    let key = packet.key;
    match packet.kind {
        Kind::IcmpEcho { request: false } => Standing::Drop(DropReason::NoFlow),
        Kind::Tcp(_) | Kind::Sctp { .. } if !opens(packet) => match packet.kind {
            _ if !recovering => Standing::Drop(DropReason::NoFlow),
            Kind::Tcp(flags) if flags.rst() => Standing::Drop(DropReason::NoFlow),
            // Only the answer to a SYN carries both flags, so its direction is known.
            Kind::Tcp(flags) if flags.syn() => {
                Standing::Judge(Question { key: key.reversed(), effect: Effect::Open })
            }
            _ => Standing::Judge(Question { key, effect: Effect::Recover }),
        },
        _ => Standing::Judge(Question { key, effect: Effect::Open }),
    }
}

/// Whether only somebody who opens a connection sends this packet.
fn opens(packet: &Packet) -> bool {
    match packet.kind {
        Kind::Tcp(flags) => flags.syn() && !flags.ack(),
        Kind::Sctp { init } => init,
        Kind::IcmpEcho { request } => request,
        _ => false,
    }
}
