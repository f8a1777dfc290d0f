//! A small generator of random numbers (SplitMix64): the same seed gives the same numbers, on every machine.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for one object, so that leaving out others changes nothing about it.
    #[must_use]
    pub const fn of(seed: u64, kind: u64, object: usize) -> Self {
        let mut mixed = Self(seed ^ kind.rotate_left(32));
        mixed.0 = mixed.bits().wrapping_add(object as u64);
        Self(mixed.bits())
    }

    /// Sixty-four random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`.
    ///
    /// # Panics
    ///
    /// When `end` is zero.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "no number is below zero");
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// Whether something that happens in `percent` of all cases happens.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// `count` different numbers below `end`, sorted; all of them when there are no more.
    pub fn distinct(&mut self, count: usize, end: usize) -> Vec<usize> {
        if count >= end {
            return (0..end).collect();
        }
        let mut chosen = std::collections::BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(self.below(end));
        }
        chosen.into_iter().collect()
    }

    /// Puts these in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_stream() {
        let stream = |seed| -> Vec<u64> {
            let mut random = Random::new(seed);
            (0..4).map(|_| random.bits()).collect()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
        assert_ne!(Random::of(7, 1, 2).bits(), Random::of(7, 2, 1).bits());
    }

    #[test]
    fn numbers_stay_below_and_reach_every_value() {
        let mut random = Random::new(1);
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[random.below(5)] += 1);
        assert!(seen.iter().all(|&times| times > 100), "{seen:?}");
        let mut chosen = random.distinct(3, 10);
        assert!(chosen.len() == 3 && chosen.is_sorted() && chosen.iter().all(|&number| number < 10));
        chosen.dedup();
        assert_eq!(chosen.len(), 3);
        assert_eq!(random.distinct(5, 2), [0, 1]);
    }
}
