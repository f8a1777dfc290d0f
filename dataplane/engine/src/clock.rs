//! Time, as the engine counts it: an argument, read once per turn.

/// Milliseconds on a monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The same moment in coarse time.
    #[must_use]
    pub const fn ticks(self) -> Ticks {
        Ticks((self.0 / TICK) as u32)
    }
}

/// How long one tick is, in milliseconds.
pub const TICK: u64 = 256;

/// Coarse time: what a connection remembers of its last packet. It wraps around after 34 years, so two moments
/// are only ever compared by their distance, which no connection lives long enough to make ambiguous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks(pub u32);

impl Ticks {
    /// How many ticks ago `earlier` was; zero if it lies ahead, as it may by another worker's clock.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        let distance = self.0.wrapping_sub(earlier.0);
        if distance > u32::MAX / 2 { 0 } else { distance }
    }

    /// Whether at least `timeout` has passed since `earlier`. Never early; late by two ticks at most.
    #[must_use]
    pub const fn expired(self, earlier: Self, timeout: Span) -> bool {
        self.since(earlier) > timeout.0
    }
}

/// A length of time in ticks, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub u32);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u32) -> Self {
        Self((seconds as u64 * 1000).div_ceil(TICK) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_early_and_at_most_two_ticks_late() {
        let timeout = Span::seconds(10);
        for start in (0..3000).chain(u64::from(u32::MAX) * TICK..u64::from(u32::MAX) * TICK + 3000) {
            let seen = Millis(start).ticks();
            assert!(!Millis(start + 10_000 - 1).ticks().expired(seen, timeout), "early from {start}");
            assert!(Millis(start + 10_000 + 2 * TICK).ticks().expired(seen, timeout), "late from {start}");
        }
    }

    #[test]
    fn ticks_wrap_around() {
        let before = Ticks(u32::MAX);
        let after = Ticks(2);
        assert_eq!(after.since(before), 3);
        assert_eq!(before.since(after), 0, "a moment ahead is not long ago");
        assert_eq!(Millis((u64::from(u32::MAX) + 1) * TICK).ticks(), Ticks(0));
    }
}
