//! How long a cached verdict holds.

use core::num::NonZeroU32;

/// The version of what the table says about one pod.
///
/// A verdict that was read under an epoch holds while the pod's epoch is the same. Epochs are only ever
/// compared for equality: they wrap around after 2^32 - 1 changes, and then skip zero, which means
/// "no pod of this node has that address" (`None` where an `Option<Epoch>` is kept).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(NonZeroU32);

impl Epoch {
    /// The epoch of a first table.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The epoch that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(next) => Self(next),
            None => Self::FIRST,
        }
    }

    /// The epoch with this number; `None` for zero.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number, never zero.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_epoch_wraps_to_the_first() {
        let last = Epoch::from_number(u32::MAX).unwrap();
        assert_eq!(last.next(), Epoch::FIRST);
        assert_ne!(last.next(), last);
        assert_eq!(Epoch::FIRST.next().number(), 2);
        assert_eq!(Epoch::from_number(0), None);
    }
}
