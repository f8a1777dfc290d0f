//! What a worker has done, for whoever wants to read it.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use flow::DropReason;

const REASONS: usize = DropReason::ALL.len();

/// Frames counted by one worker. Conservation holds between turns:
/// `rx + handed_in == tx + handed_out + sum(dropped)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Frames received from ports.
    pub rx: u64,
    /// Frames taken over from other workers.
    pub handed_in: u64,
    /// Frames given to a transmit ring.
    pub tx: u64,
    /// Frames handed to the workers that own their destination's port.
    pub handed_out: u64,
    /// Frames dropped, by [`DropReason`] in the order of [`DropReason::ALL`].
    pub dropped: [u64; REASONS],
    /// Connections that policy was asked about.
    pub judged: u64,
    /// Turns that handled at least one frame.
    pub turns: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self { rx: 0, handed_in: 0, tx: 0, handed_out: 0, dropped: [0; REASONS], judged: 0, turns: 0 }
    }
}

impl Tally {
    pub(crate) const fn drop_one(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    /// Frames dropped for one reason.
    #[must_use]
    pub const fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Frames dropped, whatever the reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether every frame that came has gone somewhere.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.rx + self.handed_in == self.tx + self.handed_out + self.dropped_total()
    }

    /// Adds another worker's figures to these.
    pub fn add(&mut self, other: &Self) {
        self.rx += other.rx;
        self.handed_in += other.handed_in;
        self.tx += other.tx;
        self.handed_out += other.handed_out;
        self.judged += other.judged;
        self.turns += other.turns;
        for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
            *mine += theirs;
        }
    }
}

/// A worker's [`Tally`] as other threads see it. The worker stores it once per turn; a reader may meet one
/// half stored, so figures of one moment can differ by one turn.
#[derive(Debug, Default)]
pub struct Counters {
    cells: CachePadded<[AtomicU64; 6]>,
    dropped: CachePadded<Dropped>,
}

#[derive(Debug)]
struct Dropped([AtomicU64; REASONS]);

impl Default for Dropped {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; REASONS])
    }
}

impl Counters {
    pub(crate) fn store(&self, tally: &Tally) {
        let Tally { rx, handed_in, tx, handed_out, dropped, judged, turns } = tally;
        let plain = [rx, handed_in, tx, handed_out, judged, turns];
        for (cell, value) in self.cells.iter().zip(plain) {
            cell.store(*value, Ordering::Relaxed);
        }
        for (cell, value) in self.dropped.0.iter().zip(dropped) {
            cell.store(*value, Ordering::Relaxed);
        }
    }

    /// The figures now.
    #[must_use]
    pub fn read(&self) -> Tally {
        let [rx, handed_in, tx, handed_out, judged, turns] =
            std::array::from_fn(|i| self.cells[i].load(Ordering::Relaxed));
        let dropped = std::array::from_fn(|i| self.dropped.0[i].load(Ordering::Relaxed));
        Tally { rx, handed_in, tx, handed_out, dropped, judged, turns }
    }
}
