//! From a hash to the slot of a connection: buckets of one cache line each, of which a connection has two.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// Entries in a bucket.
const CELLS: usize = 16;

/// With fewer free cells in its first bucket, a connection goes to the emptier one.
const SPARE: u32 = 4;

/// One cache line: sixteen tags, and the slots that they stand for. A tag of zero is an empty cell.
///
/// Readers need no lock: what they find by a tag is only a hint, and the slot says whose it is. Only who holds
/// the shard's lock writes.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    tags: [AtomicU64; CELLS / 4],
    slots: [AtomicU16; CELLS],
}

/// The buckets of one shard. No entry ever moves, and no search looks at more than two buckets.
#[derive(Debug)]
pub(super) struct Index {
    buckets: Box<[Bucket]>,
}

/// Where one hash may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    tag: u64,
    first: usize,
    second: usize,
}

const LANES: u64 = 0x0001_0001_0001_0001;
const TOPS: u64 = 0x8000_8000_8000_8000;

/// The top bit of each lane that is zero.
#[inline]
const fn zeros(word: u64) -> u64 {
    !((word & !TOPS).wrapping_add(!TOPS) | word | !TOPS)
}

impl Bucket {
    /// The cells with this tag.
    #[inline]
    fn matching(&self, tag: u64) -> impl Iterator<Item = usize> {
        self.tags.iter().enumerate().flat_map(move |(word, tags)| {
            let differing = tags.load(Ordering::Acquire) ^ tag.wrapping_mul(LANES);
            Lanes(zeros(differing)).map(move |lane| word * 4 + lane)
        })
    }

    fn free(&self) -> u32 {
        self.tags.iter().map(|tags| zeros(tags.load(Ordering::Relaxed)).count_ones()).sum()
    }

    fn tag(&self, cell: usize) -> u64 {
        self.tags[cell / 4].load(Ordering::Relaxed) >> (cell % 4 * 16) & 0xffff
    }

    fn set_tag(&self, cell: usize, tag: u64) {
        let (word, shift) = (&self.tags[cell / 4], cell % 4 * 16);
        let others = word.load(Ordering::Relaxed) & !(0xffff << shift);
        word.store(others | tag << shift, Ordering::Release);
    }
}

/// The sixteen-bit lanes whose top bit is set.
struct Lanes(u64);

impl Iterator for Lanes {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize / 16;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

impl Index {
    /// An index for so many slots: between a third and two thirds full when all are taken, so that two choices
    /// of sixteen cells are as good as never both full.
    pub(super) fn new(slots: usize) -> Self {
        let buckets = (slots * 2 / 21 + 1).next_power_of_two().max(2);
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect() }
    }

    #[inline]
    pub(super) const fn place(&self, hash: u64) -> Place {
        let mask = self.buckets.len() - 1;
        let tag = if hash & 0xffff == 0 { 1 } else { hash & 0xffff };
        let first = (hash >> 16) as usize & mask;
        let second = (hash >> 32) as usize & mask;
        Place { tag, first, second: if second == first { second ^ 1 } else { second } }
    }

    /// The first of the slots that may hold what has this hash, of which `is_it` says that it does.
    #[inline]
    pub(super) fn find<T>(&self, place: Place, is_it: impl Fn(u16) -> Option<T>) -> Option<T> {
        for bucket in [place.first, place.second] {
            let bucket = &self.buckets[bucket];
            for (tags, slots) in bucket.tags.iter().zip(bucket.slots.chunks_exact(4)) {
                let mut equal = zeros(tags.load(Ordering::Acquire) ^ place.tag.wrapping_mul(LANES));
                while equal != 0 {
                    let slot = slots[equal.trailing_zeros() as usize / 16].load(Ordering::Relaxed);
                    if let Some(found) = is_it(slot) {
                        return Some(found);
                    }
                    equal &= equal - 1;
                }
            }
        }
        None
    }

    /// Loads the bucket in which a search begins.
    #[inline]
    pub(super) fn glance(&self, place: Place) -> u64 {
        self.buckets[place.first].tags[0].load(Ordering::Relaxed)
    }

    /// The first slot that may hold what has this hash.
    #[inline]
    pub(super) fn likely(&self, place: Place) -> Option<u16> {
        self.find(place, Some)
    }

    /// All slots that share the two buckets with this hash.
    pub(super) fn neighbours(&self, place: Place) -> impl Iterator<Item = u16> {
        [place.first, place.second].into_iter().flat_map(move |bucket| {
            let bucket = &self.buckets[bucket];
            let taken = (0..CELLS).filter(|cell| bucket.tag(*cell) != 0);
            taken.map(|cell| bucket.slots[cell].load(Ordering::Relaxed))
        })
    }

    /// Whether both buckets of this hash are full.
    pub(super) fn is_full(&self, place: Place) -> bool {
        self.buckets[place.first].free() + self.buckets[place.second].free() == 0
    }

    /// Enters a slot, in the emptier of its two buckets. False when both are full.
    pub(super) fn enter(&self, place: Place, slot: u16) -> bool {
        let (first, second) = (&self.buckets[place.first], &self.buckets[place.second]);
        // Mostly the first, so that a search mostly ends there.
        let bucket = if first.free() < SPARE && second.free() > first.free() { second } else { first };
        let Some(cell) = bucket.matching(0).next() else { return false };
        bucket.slots[cell].store(slot, Ordering::Relaxed);
        bucket.set_tag(cell, place.tag);
        true
    }

    /// Takes a slot out.
    pub(super) fn leave(&self, place: Place, slot: u16) {
        for bucket in [&self.buckets[place.first], &self.buckets[place.second]] {
            let holds = |cell: &usize| bucket.slots[*cell].load(Ordering::Relaxed) == slot;
            let cell = bucket.matching(place.tag).find(holds);
            if let Some(cell) = cell {
                bucket.set_tag(cell, 0);
                return;
            }
        }
        debug_assert!(false, "slot {slot} is not in the index");
    }

    /// The memory that it takes, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_zero_or_not_whatever_lies_below_it() {
        for (word, expected) in [
            (0, TOPS),
            (0x0001_0000_0001_0000, 0x0000_8000_0000_8000),
            (0x8000_ffff_0000_7fff, 0x0000_0000_8000_0000),
            (u64::MAX, 0),
        ] {
            assert_eq!(zeros(word), expected, "{word:#x}");
        }
    }

    #[test]
    fn what_enters_is_found_until_it_leaves() {
        let index = Index::new(1000);
        let hash = |slot: u16| (u64::from(slot) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let finds =
            |slot| index.find(index.place(hash(slot)), |found| (found == slot).then_some(())).is_some();
        for slot in 0..1000 {
            assert!(!finds(slot));
            assert!(index.enter(index.place(hash(slot)), slot));
            assert!(finds(slot));
        }
        assert!((0..1000).all(finds));
        for slot in (0..1000).step_by(2) {
            index.leave(index.place(hash(slot)), slot);
        }
        assert!((0..1000).all(|slot| finds(slot) == (slot % 2 == 1)));
    }

    #[test]
    fn equal_hashes_fill_two_buckets_and_no_more() {
        let index = Index::new(1000);
        let place = index.place(0x1234_5678_9abc_0000);
        for slot in 0..32 {
            assert!(index.enter(place, slot));
        }
        assert!(!index.enter(place, 32));
        let found = std::cell::RefCell::new(Vec::new());
        let none = index.find(place, |slot| {
            found.borrow_mut().push(slot);
            None::<()>
        });
        let mut found = found.into_inner();
        found.sort_unstable();
        assert_eq!((none, found), (None, (0..32).collect::<Vec<_>>()));
        assert_eq!(index.neighbours(place).count(), 32);
        index.leave(place, 7);
        assert!(index.enter(place, 32));
    }
}
