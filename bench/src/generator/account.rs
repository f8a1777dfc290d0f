//! What arrived, number by number, in a window of bits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Numbers that are remembered behind the highest: 128 KiB of bits.
const WINDOW: u64 = 1 << 20;
const WORDS: usize = (WINDOW / 64) as usize;
/// The longest latency that is told from longer ones.
const LONGEST: u64 = 60_000_000_000;

/// What became of the frames of one load.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Different numbers that arrived.
    pub received: u64,
    /// Frames whose number had arrived before.
    pub duplicates: u64,
    /// Frames whose number was lower than one that had arrived before (RFC 4737, section 3).
    pub reordered: u64,
    /// Frames more than 2^20 numbers behind the highest: nobody remembers whether they had arrived before. They count
    /// neither as received nor as duplicates.
    pub too_late: u64,
    /// The highest number that arrived.
    pub last: Option<u64>,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
    /// From the sender's stamp to the arrival at the receiver's interface, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Frames of whatever kind that the receiver itself was too slow for: no loss of the path.
    pub missed: u64,
}

impl Receipt {
    /// Frames that were lost on the way, of `sent`; what the receiver missed is not counted against the path.
    #[must_use]
    pub const fn lost(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.received + self.too_late + self.missed)
    }

    /// The latency that this share of the frames did not exceed, from 0 to 1.
    #[must_use]
    pub fn latency_at(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(share))
    }
}

/// Keeps the account. Its size does not depend on how many frames there are.
#[derive(Debug)]
pub struct Account {
    receipt: Receipt,
    /// Bit `number % WINDOW`, of the numbers from `next - WINDOW` to `next - 1`.
    seen: Box<[u64; WORDS]>,
    /// One more than the highest number.
    next: u64,
    latest: Option<Duration>,
}

impl Account {
    /// Nothing has arrived.
    ///
    /// # Errors
    ///
    /// Never: the histogram's bounds are constants that make sense.
    pub fn new() -> anyhow::Result<Self> {
        let receipt = Receipt {
            received: 0,
            duplicates: 0,
            reordered: 0,
            too_late: 0,
            last: None,
            longest_gap: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, LONGEST, 2)?,
            missed: 0,
        };
        Ok(Self { receipt, seen: Box::new([0; WORDS]), next: 0, latest: None })
    }

    /// Frame `number`, sent and arrived at these times of one clock.
    pub fn note(&mut self, number: u64, sent: Duration, arrived: Duration) {
        let receipt = &mut self.receipt;
        if number >= self.next {
            // The bits that the window moves over belonged to numbers it leaves behind.
            if number - self.next >= WINDOW {
                self.seen.fill(0);
            } else {
                (self.next..number).for_each(|skipped| self.seen[word(skipped)] &= !bit(skipped));
            }
            self.next = number + 1;
            receipt.last = Some(number);
        } else if self.next - number > WINDOW {
            receipt.reordered += 1;
            receipt.too_late += 1;
            return;
        } else if self.seen[word(number)] & bit(number) != 0 {
            receipt.duplicates += 1;
            return;
        } else {
            receipt.reordered += 1;
        }
        self.seen[word(number)] |= bit(number);
        receipt.received += 1;
        receipt.latency.saturating_record((arrived.saturating_sub(sent)).as_nanos() as u64);
        if let Some(latest) = self.latest {
            receipt.longest_gap = receipt.longest_gap.max(arrived.saturating_sub(latest));
        }
        self.latest = Some(arrived);
    }

    /// The receiver was too slow for that many frames so far.
    pub const fn missed(&mut self, frames: u64) {
        self.receipt.missed = frames;
    }

    /// How it stands.
    #[must_use]
    pub const fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}

const fn word(number: u64) -> usize {
    (number % WINDOW / 64) as usize
}

const fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(numbers: impl IntoIterator<Item = u64>) -> Receipt {
        let mut account = Account::new().unwrap();
        for (turn, number) in (1..).zip(numbers) {
            account.note(number, Duration::from_millis(turn), Duration::from_millis(turn + number % 10));
        }
        account.receipt().clone()
    }

    #[test]
    fn lost_reordered_and_repeated_numbers_are_told_apart() {
        let receipt = account([0, 1, 2, 4, 3, 4, 7, 7, 9]);
        assert_eq!((receipt.received, receipt.duplicates, receipt.reordered), (7, 2, 1));
        assert_eq!((receipt.lost(10), receipt.last, receipt.too_late), (3, Some(9), 0));
    }

    #[test]
    fn what_the_receiver_missed_is_no_loss_of_the_path() {
        let mut account = Account::new().unwrap();
        account.note(0, Duration::ZERO, Duration::ZERO);
        account.missed(3);
        assert_eq!(account.receipt().lost(6), 2);
    }

    #[test]
    fn the_window_moves_over_a_hundred_million_numbers() {
        let mut account = Account::new().unwrap();
        let mut note = |number| account.note(number, Duration::ZERO, Duration::from_nanos(number));
        // Dense, then in jumps within the window, then over it.
        (0..3 * WINDOW).for_each(&mut note);
        (0..90).for_each(|jump| note(3 * WINDOW + jump * (WINDOW - 1)));
        note(100_000_000);
        note(100_000_000 - WINDOW + 1);
        note(100_000_000 - WINDOW);
        note(100_000_000 - WINDOW + 1);
        let receipt = account.receipt();
        assert_eq!(receipt.received, 3 * WINDOW + 90 + 2);
        assert_eq!((receipt.duplicates, receipt.too_late, receipt.reordered), (1, 1, 2));
        assert_eq!(receipt.last, Some(100_000_000));
    }

    #[test]
    fn numbers_a_window_apart_are_not_taken_for_each_other() {
        let receipt = account([5, 5 + WINDOW, 6, 6 + WINDOW, 7 + 3 * WINDOW, 7 + 2 * WINDOW + 1]);
        assert_eq!((receipt.received, receipt.duplicates, receipt.too_late), (6, 0, 0));
    }

    #[test]
    fn latency_and_gaps_are_of_the_arrivals() {
        let mut account = Account::new().unwrap();
        let at = Duration::from_millis;
        for (number, sent, arrived) in [(0, 0, 1), (1, 10, 11), (2, 20, 41), (2, 20, 90)] {
            account.note(number, at(sent), at(arrived));
        }
        let receipt = account.receipt();
        assert_eq!(receipt.longest_gap, at(30));
        let close = |share, wanted: Duration| {
            let found = receipt.latency_at(share);
            assert!(found >= wanted && found < wanted * 102 / 100, "{found:?} for {wanted:?}");
        };
        close(0.5, at(1));
        close(1.0, at(21));
    }
}
