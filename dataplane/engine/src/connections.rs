//! The connection table: what both directions of a connection must know, shared by all workers.
//!
//! ```text
//! hash ── shard ── index ── slot, mark          searched without a lock
//!           │      two buckets of one cache line, then the connection's own
//!           └───── ledger                       changed under the shard's lock
//!                  free slots, queues by timeout, what each port has opened
//! ```
//!
//! All memory is taken when the table is made: 64 bytes a slot, 8 for its mark, 6 to 12 for its place in the
//! index and 2 in the ledger. Slots never move. A search looks at two buckets at most, whatever somebody sends:
//! the hash is seeded. A slot is read between two looks at its mark, which says whether it changed meanwhile.
//!
//! When there is no room, what is over and what nobody has answered is given up, oldest first; established
//! connections never are. No port may open more than half of the table.

pub(crate) mod hash;
mod index;
mod ledger;
mod shard;
mod slot;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use flow::FlowKey;

use crate::clock::{Span, Ticks};
use crate::connections::hash::{Seed, Words};
use crate::connections::shard::Shard;
pub use crate::connections::slot::{Entry, Epochs};
use crate::connections::slot::{Mark, Slot};
use crate::state::Sender;

/// Which connection of the table: its shard and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u32);

impl ConnectionId {
    /// A number that stands for no connection as long as nobody has found one by it.
    pub(crate) const NONE: Self = Self(0);
}

/// One connection, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where it is.
    pub id: ConnectionId,
    /// Changes whenever the connection does. Odd never.
    pub generation: u32,
    /// When its last packet was noted.
    pub seen: Ticks,
    /// Which end sends packets with the key that it was found by.
    pub sender: Sender,
    /// What is known of it.
    pub entry: Entry,
}

impl Connection {
    /// Whether it has not outlived its timeout.
    #[must_use]
    pub const fn is_live(&self, now: Ticks) -> bool {
        !now.expired(self.seen, self.entry.state.timeout())
    }
}

/// Why a connection found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The table is full of connections that live.
    Table,
    /// The port has opened its share of the table.
    Port,
}

/// The connection table.
#[derive(Debug)]
pub struct Connections {
    seed: Seed,
    shards: Box<[CachePadded<Shard>]>,
    given_up: AtomicU64,
}

/// A shard has so many slots at least before there are two.
const SMALLEST: usize = 4096;
const LARGEST: usize = 32_768;
/// As many shards as collide rarely between the workers of a large machine.
const SHARDS: usize = 64;

impl Connections {
    /// A table for `capacity` connections that `ports` ports open, whose memory is taken here and now.
    ///
    /// Beyond 4096 it holds up to a sixteenth more, since connections spread unevenly over its shards.
    ///
    /// # Panics
    ///
    /// When `capacity` exceeds 2^31.
    #[must_use]
    pub fn new(capacity: usize, ports: usize) -> Self {
        assert!(capacity <= 1 << 31, "a connection's number has 32 bits");
        let shards =
            (capacity / SMALLEST).clamp(1, SHARDS).max(capacity.div_ceil(LARGEST)).next_power_of_two();
        let slots = capacity.div_ceil(shards);
        let slots = if shards == 1 { slots } else { slots + slots / 16 };
        let shards = (0..shards).map(|_| CachePadded::new(Shard::new(slots as u16, ports))).collect();
        Self { seed: Seed::random(), shards, given_up: AtomicU64::new(0) }
    }

    /// The hash of a connection, the same for both directions.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.seed.hash(key)
    }

    #[inline]
    pub(crate) fn hash_words(&self, words: &Words) -> u64 {
        self.seed.hash_words(words)
    }

    /// How many connections the table has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| shard.slots.len()).sum()
    }

    /// How many connections the table holds, expired ones that nobody has met included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.count.load(Ordering::Relaxed) as usize).sum()
    }

    /// Whether the table holds no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many connections were given up for others.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The memory that the table takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes()).sum()
    }

    /// The connection to which a packet with this key belongs, live or not. `hash` is that of the key.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &FlowKey, hash: u64) -> Option<Connection> {
        let number = self.shard_of(hash);
        let (slot, generation, seen, sender, entry) = self.shards[number].find(&Words::of(key), hash)?;
        let id = ConnectionId((number as u32) << 16 | u32::from(slot));
        Some(Connection { id, generation, seen, sender, entry })
    }

    /// Loads what the searches for these hashes will look at, all at once instead of one after the other: no
    /// load waits for what another has brought. Worth it when there are several, and memory is far away.
    pub fn warm(&self, hashes: &[u64]) {
        let mut some = [(0, 0); 32];
        for hashes in hashes.chunks(some.len()) {
            for hash in hashes {
                let shard = &self.shards[self.shard_of(*hash)];
                black_box(shard.index.glance(shard.index.place(*hash)));
            }
            for (some, hash) in some.iter_mut().zip(hashes) {
                let shard = self.shard_of(*hash);
                let index = &self.shards[shard].index;
                *some = (shard, usize::from(index.likely(index.place(*hash)).unwrap_or_default()));
            }
            for (shard, slot) in &some[..hashes.len()] {
                let shard = &self.shards[*shard];
                black_box((shard.marks.get(*slot).map(Mark::load), shard.slots.get(*slot).map(Slot::chain)));
            }
        }
    }

    /// Whether a connection is what it was at `generation`, and has not outlived its timeout; then a packet of
    /// it is noted. `Some(true)` if it is the first one of this tick.
    #[inline]
    #[must_use]
    pub fn hold(&self, id: ConnectionId, generation: u32, timeout: Span, now: Ticks) -> Option<bool> {
        let (current, seen) = self.mark(id).load();
        if current != generation || now.expired(seen, timeout) {
            return None;
        }
        if now.since(seen) == 0 {
            return Some(false);
        }
        self.mark(id).touch(generation, now).then_some(true)
    }

    /// Notes a packet of a connection. False when the connection is no longer what it was at `generation`.
    #[inline]
    pub fn touch(&self, id: ConnectionId, generation: u32, now: Ticks) -> bool {
        self.mark(id).touch(generation, now)
    }

    /// Notes what one end of a connection has acknowledged.
    #[inline]
    pub fn acknowledge(&self, id: ConnectionId, sender: Sender, number: u32) {
        let shard = &self.shards[(id.0 >> 16) as usize];
        shard.slots[(id.0 & 0xffff) as usize].acknowledge(sender, number);
    }

    /// Enters or changes the connection with this key, in its original direction. `decide` sees what is there,
    /// its [`sender`](Connection::sender) by this key, and says what shall be; `None` leaves it.
    ///
    /// # Errors
    ///
    /// When a new connection finds no room.
    pub fn put(
        &self,
        key: &FlowKey,
        hash: u64,
        now: Ticks,
        decide: impl FnOnce(Option<&Connection>) -> Option<Entry>,
    ) -> Result<(), Full> {
        let number = self.shard_of(hash);
        let shard = &self.shards[number];
        let words = Words::of(key);
        let mut ledger = shard.lock();
        let found = shard.find(&words, hash).map(|(slot, generation, seen, sender, entry)| {
            let id = ConnectionId((number as u32) << 16 | u32::from(slot));
            (slot, Connection { id, generation, seen, sender, entry })
        });
        let Some(entry) = decide(found.as_ref().map(|(_, connection)| connection)) else { return Ok(()) };
        if let Some((slot, connection)) = found {
            shard.change(&mut ledger, slot, &connection.entry, &words, &entry, now);
            return Ok(());
        }
        let given_up = shard.insert(&mut ledger, hash, &words, &entry, now, &self.seed)?;
        if given_up > 0 {
            self.given_up.fetch_add(u64::from(given_up), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Removes expired connections of one shard, the next at each call: `steps` looks at most. Nothing if the
    /// shard is in use.
    pub fn expire(&self, now: Ticks, cursor: &mut usize, steps: usize) {
        *cursor = (*cursor + 1) & (self.shards.len() - 1);
        let shard = &self.shards[*cursor];
        // A shard without connections is passed over without its lock.
        if shard.count.load(Ordering::Relaxed) > 0
            && let Some(mut ledger) = shard.try_lock()
        {
            shard.expire(&mut ledger, now, steps, &self.seed);
        }
    }

    /// Removes all expired connections. Holds one shard's lock at a time, and not for long.
    pub fn sweep(&self, now: Ticks) {
        const STEPS: usize = 256;
        for shard in &self.shards {
            while shard.expire(&mut shard.lock(), now, STEPS, &self.seed) == STEPS {}
        }
    }

    const fn shard_of(&self, hash: u64) -> usize {
        (hash >> 48) as usize & (self.shards.len() - 1)
    }

    #[inline]
    fn mark(&self, id: ConnectionId) -> &Mark {
        &self.shards[(id.0 >> 16) as usize].marks[(id.0 & 0xffff) as usize]
    }
}
