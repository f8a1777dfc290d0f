//! A worker's own cache: where the next packet of a connection goes, without asking anybody else.
//!
//! A line answers for one direction of one connection. It was filled from the connection table, under one policy
//! table and one wiring, and is good while these three are what they were: the line's version is the worker's
//! (another table or wiring begins another version), and the connection's generation is the line's. What is no
//! longer good is not searched for and not removed: it is asked for again, and the connection table compares the
//! epochs of the connection's pods.
//!
//! Only packets that cannot change their connection are answered here, and only a connection's second such packet
//! finds its line, so that a flood of new connections displaces nothing.

use flow::{FlowKey, MacAddr};

use crate::clock::Span;
use crate::connections::ConnectionId;
use crate::connections::hash::Words;
use crate::state::Sender;
use crate::wiring::{Hop, PortId};

/// What the cache knows of one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where its packets go.
    pub hop: Hop,
    /// The connection.
    pub id: ConnectionId,
    /// The generation of the connection for which this is true.
    pub generation: u32,
    /// Which end sends packets in this direction.
    pub sender: Sender,
    /// After what time without a packet the connection is over.
    pub timeout: Span,
}

/// One cache line. All zero, it answers nothing: no version is zero.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line {
    src: (u64, u64),
    dst: (u64, u64),
    /// Ports and protocol, and above them the timeout in ticks.
    service: u64,
    version: u32,
    generation: u32,
    id: ConnectionId,
    port: u16,
    mac: [u8; 6],
    sender: Sender,
}

const EMPTY: Line = Line {
    src: (0, 0),
    dst: (0, 0),
    service: 0,
    version: 0,
    generation: 0,
    id: ConnectionId::NONE,
    port: 0,
    mac: [0; 6],
    sender: Sender::Initiator,
};

/// The most lines that a cache has: 128 MiB.
const LARGEST: usize = 1 << 21;

/// The cache of one worker. A connection's line is one of two.
#[derive(Debug)]
pub struct Cache {
    pairs: Box<[[Line; 2]]>,
    version: u32,
    /// Where the policy table and the wiring of this version are in memory.
    under: [usize; 2],
}

impl Cache {
    /// A cache for both directions of so many connections, rounded down to a power of two and within bounds: a
    /// full table is rare, and what finds no line asks the table. Its memory is taken here and now.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        let pairs = 1 << connections.clamp(1, LARGEST / 2).ilog2();
        Self { pairs: vec![[EMPTY; 2]; pairs].into(), version: 1, under: [0; 2] }
    }

    /// Begins a new version if the policy table or the wiring is another than before.
    ///
    /// `under` tells them by their addresses. That is safe only because the caller still held the old ones when
    /// it got the new ones, as a [`Reader`](table::Reader) does: so they are not in the same place.
    pub fn begin(&mut self, under: [usize; 2]) {
        if self.under == under {
            return;
        }
        self.under = under;
        self.version = self.version.wrapping_add(1);
        if self.version == 0 {
            // Once in 2^32 versions: lines of the first could be taken for new ones.
            self.pairs.fill([EMPTY; 2]);
            self.version = 1;
        }
    }

    /// Loads what a search for this key will look at. Of several keys all are loaded at once, if no search waits
    /// for one in between.
    #[inline]
    pub fn warm(&self, key: &FlowKey, hash: u64) {
        self.load(&Words::of(key), hash);
    }

    #[inline]
    pub(crate) fn load(&self, words: &Words, hash: u64) {
        std::hint::black_box(self.pairs[self.pair(words, hash)][0].version);
    }

    /// The answer for packets with this key, whose [`hash`](crate::connections::Connections::hash) is given.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &FlowKey, hash: u64) -> Option<Answer> {
        self.find(&Words::of(key), hash)
    }

    #[inline]
    pub(crate) fn find(&self, words: &Words, hash: u64) -> Option<Answer> {
        let pair = &self.pairs[self.pair(words, hash)];
        pair.iter().find(|line| line.is(words) && line.version == self.version).map(Line::answer)
    }

    /// Enters an answer, in place of an old one if there is one, else of another.
    pub fn put(&mut self, key: &FlowKey, hash: u64, answer: Answer) {
        let words = Words::of(key);
        let version = self.version;
        let pair = &mut self.pairs[self.pair(&words, hash)];
        let free = |line: &Line| line.is(&words) || line.version != version;
        let other = hash as usize & 1;
        let at = pair.iter().position(|line| line.is(&words)).or_else(|| pair.iter().position(free));
        pair[at.unwrap_or(other)] = Line {
            src: words.src,
            dst: words.dst,
            service: words.service | u64::from(answer.timeout.0) << 40,
            version,
            generation: answer.generation,
            id: answer.id,
            port: answer.hop.port.0,
            mac: answer.hop.mac.0,
            sender: answer.sender,
        };
    }

    /// The two directions of a connection have one hash, and lie side by side.
    #[inline]
    fn pair(&self, words: &Words, hash: u64) -> usize {
        ((hash >> 20) as usize ^ usize::from(words.src < words.dst)) & (self.pairs.len() - 1)
    }
}

impl Line {
    #[inline]
    fn is(&self, words: &Words) -> bool {
        self.src == words.src && self.dst == words.dst && self.service << 24 == words.service << 24
    }

    #[inline]
    const fn answer(&self) -> Answer {
        Answer {
            hop: Hop { port: PortId(self.port), mac: MacAddr(self.mac) },
            id: self.id,
            generation: self.generation,
            sender: self.sender,
            timeout: Span((self.service >> 40) as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use flow::{Address, Protocol};

    use super::*;
    use crate::connections::Connections;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(Protocol::UDP, (Address::v4([10, 0, 0, 1]), port), (Address::v4([10, 0, 0, 2]), 80))
    }

    fn answer(port: u16) -> Answer {
        Answer {
            hop: Hop { port: PortId(port), mac: MacAddr([2, 0, 0, 0, 0, 9]) },
            id: ConnectionId::NONE,
            generation: 4,
            sender: Sender::Responder,
            timeout: Span::seconds(7440),
        }
    }

    #[test]
    fn a_line_is_a_cache_line() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }

    #[test]
    fn the_spare_room_of_a_table_does_not_double_it() {
        let pairs = |connections| Cache::new(connections).pairs.len();
        assert_eq!([0, 1, 63, 64].map(pairs), [1, 1, 32, 64]);
        assert_eq!(pairs(Connections::new(262_144, 2).capacity()), 262_144, "32 MiB");
    }

    #[test]
    fn each_direction_has_its_own_answer() {
        let (table, mut cache) = (Connections::new(16, 1), Cache::new(16));
        let there = key(1);
        let (back, hash) = (there.reversed(), table.hash(&there));
        cache.put(&there, hash, answer(1));
        assert_eq!((cache.get(&there, hash), cache.get(&back, hash)), (Some(answer(1)), None));
        cache.put(&back, hash, answer(2));
        assert_eq!((cache.get(&there, hash), cache.get(&back, hash)), (Some(answer(1)), Some(answer(2))));
        let other = FlowKey { protocol: Protocol::TCP, ..there };
        assert_eq!(cache.get(&other, hash), None, "the hash alone answers nothing");
    }

    #[test]
    fn another_table_or_wiring_ends_all_answers() {
        let (table, mut cache) = (Connections::new(16, 1), Cache::new(16));
        let hash = table.hash(&key(1));
        cache.begin([1, 2]);
        cache.put(&key(1), hash, answer(1));
        cache.begin([1, 2]);
        assert_eq!(cache.get(&key(1), hash), Some(answer(1)));
        cache.begin([3, 2]);
        assert_eq!(cache.get(&key(1), hash), None);
        cache.put(&key(1), hash, answer(1));
        cache.begin([3, 4]);
        assert_eq!(cache.get(&key(1), hash), None);
        cache.begin([3, 2]);
        assert_eq!(cache.get(&key(1), hash), None, "nor do they come back");
    }

    #[test]
    fn versions_wrap_around() {
        let (table, mut cache) = (Connections::new(16, 1), Cache::new(16));
        let hash = table.hash(&key(1));
        cache.put(&key(1), hash, answer(1));
        cache.version = u32::MAX;
        cache.put(&key(2), table.hash(&key(2)), answer(2));
        cache.begin([1, 1]);
        assert_eq!(cache.version, 1);
        assert_eq!(cache.get(&key(1), hash), None, "an answer of the first version is not one of this");
    }

    #[test]
    fn it_is_bounded_and_keeps_what_it_can() {
        let (table, mut cache) = (Connections::new(16, 1), Cache::new(64));
        for port in 0..1000 {
            cache.put(&key(port), table.hash(&key(port)), answer(port));
            assert_eq!(cache.get(&key(port), table.hash(&key(port))), Some(answer(port)));
        }
        let kept = (0..1000).filter(|port| cache.get(&key(*port), table.hash(&key(*port))).is_some()).count();
        assert!((64..=128).contains(&kept), "{kept}");
    }
}
