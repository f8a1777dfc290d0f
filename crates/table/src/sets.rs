//! Sets of ports, each stored once, and the bit that is the verdict.

use std::collections::HashMap;

use flow::Protocol;

use crate::interned::{Interned, Marks};
use crate::paged::Paged;
use crate::rules::PortRange;

/// A set of ports of a [`Draft`](crate::Draft). Holds until the draft is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub(crate) u32);

impl SetId {
    /// No port of any protocol.
    pub const NONE: Self = Self(0);
    /// All ports of all protocols, also of those that have none.
    pub const EVERY: Self = Self(1);
}

/// Ports of a block, and blocks of a protocol.
const BLOCK: usize = 1024;
const BLOCKS: usize = (1 << 16) / BLOCK;
const WORDS: usize = BLOCK / 64;

/// Sets, made of blocks of bits. Equal sets and equal blocks are stored once.
#[derive(Clone, Debug)]
pub(crate) struct Sets {
    sets: Paged<Parts, 16>,
    blocks: Paged<[u64; WORDS], 128>,
}

/// For TCP, UDP, SCTP and all others: where the bits of each block of ports are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parts([[u32; BLOCKS]; 4]);

impl Default for Parts {
    fn default() -> Self {
        Self([[0; BLOCKS]; 4])
    }
}

/// Which part of a set speaks of a protocol.
#[inline]
pub(crate) const fn part(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 0,
        Protocol::UDP => 1,
        Protocol::SCTP => 2,
        _ => 3,
    }
}

/// The bit of `port` in its word: one or zero.
#[inline]
pub(crate) const fn bit(word: u64, port: u16) -> u64 {
    word >> (port % 64) & 1
}

impl Sets {
    /// Where it stands in which block `port` is, of one [`part`] of a set.
    #[inline]
    pub(crate) fn block(&self, set: u32, part: usize, port: u16) -> &u32 {
        &self.sets.at(set).0[part & 3][port as usize / BLOCK]
    }

    /// Where the bit of `port` stands in its block.
    #[inline]
    pub(crate) fn word(&self, block: u32, port: u16) -> &u64 {
        &self.blocks.at(block)[port as usize % BLOCK / 64]
    }

    /// What a set holds, each part as its 65,536 bits: for comparing sets of different tables.
    pub(crate) fn bits(&self, set: u32) -> impl Iterator<Item = u64> {
        self.sets.at(set).0.iter().flatten().flat_map(|&block| *self.blocks.at(block))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.sets.bytes() + self.blocks.bytes()
    }
}

/// Sets, and how to find the one that exists already.
#[derive(Debug)]
pub(crate) struct SetStore {
    sets: Sets,
    by_ranges: HashMap<Box<[PortRange]>, u32>,
    /// How many ranges its keys have.
    ranges: usize,
    parts: Interned<Parts>,
    blocks: Interned<[u64; WORDS]>,
}

impl SetStore {
    /// [`SetId::NONE`] and [`SetId::EVERY`].
    pub(crate) fn new() -> Self {
        let sets = Sets { sets: Paged::new(), blocks: Paged::new() };
        let mut store = Self {
            sets,
            by_ranges: HashMap::new(),
            ranges: 0,
            parts: Interned::new(),
            blocks: Interned::new(),
        };
        for bits in [0, u64::MAX] {
            let block = store.block([bits; WORDS]);
            store.set(Parts([[block; BLOCKS]; 4]));
        }
        store
    }

    /// The set of these ranges, in any order.
    pub(crate) fn of(&mut self, ranges: &[PortRange]) -> SetId {
        let ranges = merged(ranges);
        if let Some(&set) = self.by_ranges.get(&*ranges) {
            return SetId(set);
        }
        let mut parts = Parts::default();
        for of_one in ranges.chunk_by(|a, b| a.protocol == b.protocol) {
            parts.0[part(of_one[0].protocol)] = self.blocks_of(of_one);
        }
        let set = self.set(parts);
        self.ranges += ranges.len();
        self.by_ranges.insert(ranges, set);
        SetId(set)
    }

    /// The sets as they are, for a table.
    pub(crate) fn shared(&self) -> Sets {
        self.sets.clone()
    }

    /// Frees all sets but these, and the two that always are.
    pub(crate) fn sweep(&mut self, mut used: Marks) {
        let mut blocks = Marks::default();
        used.mark(SetId::NONE.0);
        used.mark(SetId::EVERY.0);
        for set in used.iter() {
            self.sets.sets.at(set).0.iter().flatten().for_each(|&block| _ = blocks.mark(block));
        }
        self.by_ranges.retain(|_, &mut set| used.has(set));
        self.ranges = self.by_ranges.keys().map(|ranges| ranges.len()).sum();
        self.parts.sweep(&used);
        self.blocks.sweep(&blocks);
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// What the sets, and finding one, cost.
    pub(crate) fn bytes(&self) -> usize {
        let ranges = self.by_ranges.capacity() * 48 + self.ranges * size_of::<PortRange>();
        ranges + self.sets.bytes() + self.parts.bytes() + self.blocks.bytes()
    }

    /// The blocks of sorted ranges of one protocol.
    fn blocks_of(&mut self, ranges: &[PortRange]) -> [u32; BLOCKS] {
        let mut blocks = [[0_u64; WORDS]; BLOCKS];
        for range in ranges {
            for word in range.first / 64..=range.last / 64 {
                let from = range.first.max(word * 64) % 64;
                let to = range.last.min(word * 64 + 63) % 64;
                let bits = u64::MAX >> (63 - (to - from)) << from;
                blocks[word as usize / WORDS][word as usize % WORDS] |= bits;
            }
        }
        blocks.map(|block| self.block(block))
    }

    fn set(&mut self, parts: Parts) -> u32 {
        self.parts.id(parts, |id, parts| *self.sets.sets.at_mut(id) = parts.clone())
    }

    fn block(&mut self, block: [u64; WORDS]) -> u32 {
        self.blocks.id(block, |id, block| *self.sets.blocks.at_mut(id) = *block)
    }
}

/// Sorted, without overlaps, neighbours joined.
fn merged(ranges: &[PortRange]) -> Box<[PortRange]> {
    let mut sorted = ranges.to_vec();
    sorted.retain(|range| range.first <= range.last && range.protocol.has_ports());
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if last.protocol == range.protocol && range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(store: &SetStore, set: SetId, protocol: Protocol, port: u16) -> bool {
        let sets = &store.sets;
        bit(*sets.word(*sets.block(set.0, part(protocol), port), port), port) == 1
    }

    const fn tcp(first: u16, last: u16) -> PortRange {
        PortRange { protocol: Protocol::TCP, first, last }
    }

    #[test]
    fn a_set_holds_its_ranges_and_nothing_else() {
        let mut store = SetStore::new();
        let udp = PortRange { protocol: Protocol::UDP, first: 0, last: 0 };
        let set = store.of(&[tcp(63, 64), tcp(511, 1024), tcp(65535, 65535), udp]);
        let holds = |protocol, port| holds(&store, set, protocol, port);
        let held: Vec<_> = (0..=u16::MAX).filter(|&port| holds(Protocol::TCP, port)).collect();
        assert_eq!(held, Vec::from_iter([63, 64].into_iter().chain(511..=1024).chain([65535])));
        assert_eq!((0..=u16::MAX).filter(|&port| holds(Protocol::UDP, port)).collect::<Vec<_>>(), [0]);
        assert!(!(0..=u16::MAX).any(|port| holds(Protocol::SCTP, port) || holds(Protocol::ICMP, port)));
    }

    #[test]
    fn equal_sets_are_one() {
        let mut store = SetStore::new();
        assert_eq!(store.of(&[]), SetId::NONE);
        let one = store.of(&[tcp(80, 90), tcp(85, 95)]);
        assert_eq!(store.of(&[tcp(91, 95), tcp(80, 90), tcp(80, 80)]), one);
        assert_ne!(store.of(&[tcp(80, 94)]), one);
        // All ports of the three are still not every protocol.
        let all = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].map(|protocol| PortRange {
            protocol,
            first: 0,
            last: u16::MAX,
        });
        let all = store.of(&all);
        assert_ne!(all, SetId::EVERY);
        assert!(holds(&store, all, Protocol::SCTP, 7) && !holds(&store, all, Protocol::ICMP, 7));
        assert!(holds(&store, SetId::EVERY, Protocol::ICMP, 7));
    }

    #[test]
    fn what_is_swept_makes_room() {
        let mut store = SetStore::new();
        let kept = store.of(&[tcp(80, 80)]);
        for port in 1000..2000 {
            store.of(&[tcp(port, port)]);
            let mut used = Marks::default();
            used.mark(kept.0);
            store.sweep(used);
        }
        assert_eq!(store.len(), 3);
        assert_eq!(store.sets.sets.iter().count(), 16);
        assert_eq!(store.of(&[tcp(80, 80)]), kept);
        assert!(holds(&store, kept, Protocol::TCP, 80) && !holds(&store, kept, Protocol::TCP, 1999));
    }
}
