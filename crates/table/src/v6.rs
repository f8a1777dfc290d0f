//! IPv6 addresses: hosts in a table of buckets, everything else by intervals.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::entry::Entry;
use crate::paged::Paged;

/// Hosts by address. A host is in one of two buckets, and mostly in the first: the second is looked at only where
/// the first says that it sent one there.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    buckets: Paged<Bucket, 128>,
    /// How many buckets there are.
    size: u32,
    /// One for each half of an address. Both change at once: no half that somebody chose hashes badly for ever.
    seeds: [u64; 2],
    len: usize,
}

const SLOTS: usize = 5;

/// Two cache lines. A slot whose entry is no host is free.
#[derive(Clone, Debug)]
#[repr(align(128))]
pub(crate) struct Bucket {
    keys: [[u64; 2]; SLOTS],
    entries: [Entry; SLOTS],
    /// How many hosts of this bucket are in their second one.
    elsewhere: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { keys: [[0; 2]; SLOTS], entries: [Entry::default(); SLOTS], elsewhere: 0 }
    }
}

impl Bucket {
    /// Asks for both of its lines.
    #[inline]
    pub(crate) fn prefetch(&self) {
        cpu::prefetch(&self.keys);
        cpu::prefetch(&self.entries);
    }

    #[inline]
    fn slot(&self, key: [u64; 2]) -> Option<usize> {
        (0..SLOTS).find(|&slot| self.keys[slot] == key && self.entries[slot].is_host())
    }

    fn free(&self) -> Option<usize> {
        self.entries.iter().position(|entry| !entry.is_host())
    }
}

impl Hosts {
    pub(crate) fn new() -> Self {
        Self {
            buckets: Paged::new(),
            size: 32,
            seeds: [0x9e37_79b9_7f4a_7c15, 0xe703_7ed1_a0b4_28db],
            len: 0,
        }
    }

    /// The bucket that `bits` is looked for first.
    #[inline]
    pub(crate) fn bucket(&self, bits: u128) -> &Bucket {
        self.buckets.at(self.first(key(bits)))
    }

    /// The entry of the host `bits`, whose first bucket is `bucket`.
    #[inline]
    pub(crate) fn find(&self, bits: u128, bucket: &Bucket) -> Option<Entry> {
        let key = key(bits);
        match bucket.slot(key) {
            Some(slot) => Some(bucket.entries[slot]),
            None if bucket.elsewhere == 0 => None,
            None => {
                let second = self.buckets.at(self.second(key));
                second.slot(key).map(|slot| second.entries[slot])
            }
        }
    }

    /// Sets or replaces a host.
    pub(crate) fn set(&mut self, bits: u128, entry: Entry) {
        let key = key(bits);
        for bucket in [self.first(key), self.second(key)] {
            if let Some(slot) = self.buckets.at(bucket).slot(key) {
                self.buckets.at_mut(bucket).entries[slot] = entry;
                return;
            }
        }
        self.len += 1;
        while !self.place(key, entry) {
            self.rehash();
        }
    }

    /// Removes a host, if it is one.
    pub(crate) fn remove(&mut self, bits: u128) {
        let key = key(bits);
        let first = self.first(key);
        for bucket in [first, self.second(key)] {
            if let Some(slot) = self.buckets.at(bucket).slot(key) {
                self.len -= 1;
                self.buckets.at_mut(bucket).entries[slot] = Entry::default();
                if bucket != first {
                    self.buckets.at_mut(first).elsewhere -= 1;
                }
                return;
            }
        }
    }

    /// All hosts, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, Entry)> {
        let slots = |bucket: &Bucket| {
            std::array::from_fn::<_, SLOTS, _>(|slot| (number(bucket.keys[slot]), bucket.entries[slot]))
        };
        self.buckets.iter().flat_map(slots).filter(|(_, entry)| entry.is_host())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buckets.bytes()
    }

    fn place(&mut self, key: [u64; 2], entry: Entry) -> bool {
        let (first, second) = (self.first(key), self.second(key));
        let Some((bucket, slot)) =
            [first, second].into_iter().find_map(|bucket| Some((bucket, self.buckets.at(bucket).free()?)))
        else {
            return false;
        };
        let chosen = self.buckets.at_mut(bucket);
        (chosen.keys[slot], chosen.entries[slot]) = (key, entry);
        if bucket != first {
            self.buckets.at_mut(first).elsewhere += 1;
        }
        true
    }

    /// A quarter more buckets; or, where there are many for so few hosts, another seed: somebody chose the
    /// addresses.
    fn rehash(&mut self) {
        let all: Vec<_> = self.iter().collect();
        loop {
            if self.len > self.size as usize {
                self.size += self.size / 4;
            } else {
                self.seeds = self.seeds.map(|seed| seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1));
            }
            self.buckets = Paged::new();
            self.buckets.reserve(self.size as usize);
            if all.iter().all(|&(bits, entry)| self.place(key(bits), entry)) {
                return;
            }
        }
    }

    #[inline]
    fn first(&self, key: [u64; 2]) -> u32 {
        self.scaled((self.hash(key) >> 32) as u32)
    }

    #[inline]
    fn second(&self, key: [u64; 2]) -> u32 {
        self.scaled(self.hash(key) as u32)
    }

    /// A number of 32 bits as one below `size`.
    #[inline]
    fn scaled(&self, hash: u32) -> u32 {
        ((u64::from(hash) * u64::from(self.size)) >> 32) as u32
    }

    #[inline]
    fn hash(&self, key: [u64; 2]) -> u64 {
        let product = u128::from(key[0] ^ self.seeds[0]) * u128::from(key[1] ^ self.seeds[1]);
        (product >> 64) as u64 ^ product as u64
    }
}

const fn key(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

const fn number(key: [u64; 2]) -> u128 {
    (key[0] as u128) << 64 | key[1] as u128
}

/// Everything that is no host: intervals of equal class, searched in as many steps as their number has bits.
#[derive(Clone, Debug)]
pub(crate) struct Intervals {
    /// The first address of each; the first of all is zero.
    starts: Arc<[u128]>,
    classes: Arc<[u32]>,
}

impl Intervals {
    /// The class of an address.
    #[inline]
    pub(crate) fn find(&self, bits: u128) -> u32 {
        let (mut base, mut size) = (0, self.starts.len());
        while size > 1 {
            let half = size / 2;
            base = if self.starts[base + half] <= bits { base + half } else { base };
            size -= half;
        }
        self.classes[base]
    }

    /// All of them in order, by their first address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u32)> {
        self.starts.iter().copied().zip(self.classes.iter().copied())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.starts.len() * (size_of::<u128>() + size_of::<u32>())
    }
}

/// The intervals as they are painted. Neighbours differ.
#[derive(Debug)]
pub(crate) struct Canvas {
    starts: BTreeMap<u128, u32>,
    changed: bool,
}

impl Canvas {
    /// Everything in class zero.
    pub(crate) fn new() -> Self {
        Self { starts: BTreeMap::from([(0, 0)]), changed: false }
    }

    /// Paints the range from `first` to `last`, both included. `moved` hears of each class that some address has
    /// left.
    pub(crate) fn paint(&mut self, first: u128, last: u128, class: u32, moved: &mut impl FnMut(u32)) {
        let after = last.checked_add(1);
        if let Some(after) = after {
            let class = self.at(after);
            self.starts.entry(after).or_insert(class);
        }
        let before = self.at(first);
        self.starts.entry(first).or_insert(before);
        let painted: Vec<_> = self.starts.range(first..=last).map(|(&start, &old)| (start, old)).collect();
        for (start, old) in painted {
            if old != class {
                moved(old);
                self.changed = true;
            }
            self.starts.remove(&start);
        }
        if first == 0 || self.at(first - 1) != class {
            self.starts.insert(first, class);
        }
        if let Some(after) = after
            && self.starts[&after] == class
        {
            self.starts.remove(&after);
        }
    }

    /// The class of an address.
    pub(crate) fn at(&self, bits: u128) -> u32 {
        *self.starts.range(..=bits).next_back().expect("one starts at zero").1
    }

    pub(crate) fn intervals(&self) -> Intervals {
        Intervals {
            starts: self.starts.keys().copied().collect(),
            classes: self.starts.values().copied().collect(),
        }
    }

    /// Whether something was painted since the last time of asking.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.starts.len() * 2 * (size_of::<u128>() + size_of::<u32>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_and_go() {
        let mut hosts = Hosts::new();
        let all: Vec<u128> = (0..20_000).map(|n| 0xfd00 << 112 | (n % 7) << 64 | n).collect();
        for &bits in &all {
            hosts.set(bits, Entry::host(bits as u32 & 0xfff, 0, 0));
        }
        let find = |hosts: &Hosts, bits| hosts.find(bits, hosts.bucket(bits)).map(Entry::class);
        assert!(all.iter().all(|&bits| find(&hosts, bits) == Some(bits as u32 & 0xfff)));
        assert_eq!(find(&hosts, 1), None);
        for &bits in &all[..19_990] {
            hosts.remove(bits);
            hosts.remove(bits);
        }
        assert_eq!(hosts.len, 10);
        assert_eq!(hosts.iter().count(), 10);
        assert!(all[..19_990].iter().all(|&bits| find(&hosts, bits).is_none()));
        assert!(hosts.buckets.iter().map(|bucket| bucket.elsewhere).sum::<u64>() <= 10);
    }

    #[test]
    fn chosen_addresses_do_not_make_it_large() {
        let mut hosts = Hosts::new();
        let wanted = hosts.first(key(1));
        let same = (1_u128..).filter(|&bits| {
            hosts.first(key(bits)) == wanted && hosts.second(key(bits)) == hosts.second(key(1))
        });
        let same: Vec<u128> = same.take(2 * SLOTS + 1).collect();
        for &bits in &same {
            hosts.set(bits, Entry::host(1, 0, 0));
        }
        assert!(same.iter().all(|&bits| hosts.find(bits, hosts.bucket(bits)).is_some()));
        assert_eq!(hosts.size, 32);
        assert_ne!(hosts.seeds, Hosts::new().seeds);
    }

    #[test]
    fn a_half_that_meets_its_seed_is_no_trap() {
        for half in 0..2 {
            let mut hosts = Hosts::new();
            let [high, low] = std::array::from_fn(|at| if at == half { hosts.seeds[at] } else { 0 });
            let all = (0..100).map(|n| [high, low].map(|half| if half == 0 { n } else { half })).map(number);
            let all: Vec<u128> = all.collect();
            for &bits in &all {
                hosts.set(bits, Entry::host(1, 0, 0));
            }
            assert!(all.iter().all(|&bits| hosts.find(bits, hosts.bucket(bits)).is_some()));
            assert_eq!(hosts.iter().count(), all.len());
        }
    }

    #[test]
    fn painting_splits_and_joins() {
        let mut canvas = Canvas::new();
        let mut left = Vec::new();
        canvas.paint(10, 19, 1, &mut |class| left.push(class));
        canvas.paint(15, 29, 2, &mut |class| left.push(class));
        assert_eq!(left, [0, 1, 0]);
        assert_eq!(Vec::from_iter(canvas.intervals().iter()), [(0, 0), (10, 1), (15, 2), (30, 0)]);
        canvas.paint(10, 29, 0, &mut |_| ());
        canvas.paint(u128::MAX - 1, u128::MAX, 3, &mut |_| ());
        canvas.paint(0, 4, 3, &mut |_| ());
        let intervals = canvas.intervals();
        assert_eq!(Vec::from_iter(intervals.iter()), [(0, 3), (5, 0), (u128::MAX - 1, 3)]);
        for bits in [0, 4, 5, 10, u128::MAX - 2, u128::MAX - 1, u128::MAX] {
            assert_eq!(intervals.find(bits), canvas.at(bits), "{bits}");
        }
        assert!(canvas.take_changed() && !canvas.take_changed());
    }
}
