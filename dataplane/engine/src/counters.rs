//! What a worker has done, for whoever wants to read it.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use flow::DropReason;

use crate::flows::Millis;
use crate::io::Slot;

const REASONS: usize = DropReason::ALL.len();

/// Frames counted by one worker. Conservation holds between turns:
/// `rx + handed_in + made == tx + handed_out + sum(dropped)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Frames received from ports.
    pub rx: u64,
    /// Frames taken over from other workers.
    pub handed_in: u64,
    /// Frames that the worker made itself: ICMP errors.
    pub made: u64,
    /// Frames given to a transmit ring.
    pub tx: u64,
    /// Frames handed to the workers that own their destination's port.
    pub handed_out: u64,
    /// Frames dropped, by [`DropReason`] in the order of [`DropReason::ALL`].
    pub dropped: [u64; REASONS],
    /// ICMP errors that were not made, because their port had its share.
    pub errors_withheld: u64,
    /// Connections that policy was asked about.
    pub judged: u64,
    /// Turns that handled at least one frame.
    pub turns: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            rx: 0,
            handed_in: 0,
            made: 0,
            tx: 0,
            handed_out: 0,
            dropped: [0; REASONS],
            errors_withheld: 0,
            judged: 0,
            turns: 0,
        }
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
        self.rx + self.handed_in + self.made == self.tx + self.handed_out + self.dropped_total()
    }

    /// Adds another worker's figures to these.
    pub fn add(&mut self, other: &Self) {
        self.rx += other.rx;
        self.handed_in += other.handed_in;
        self.made += other.made;
        self.tx += other.tx;
        self.handed_out += other.handed_out;
        self.errors_withheld += other.errors_withheld;
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
    cells: CachePadded<[AtomicU64; 8]>,
    dropped: CachePadded<Dropped>,
    /// Dropped frames by the slot of the port by which they came.
    ports: Box<[AtomicU64]>,
    displaced: AtomicU64,
    pulse: CachePadded<Pulse>,
}

#[derive(Debug, Default)]
struct Pulse {
    last_turn: AtomicU64,
    busy: AtomicU64,
}

#[derive(Debug)]
struct Dropped([AtomicU64; REASONS]);

impl Default for Dropped {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; REASONS])
    }
}

impl Counters {
    /// For a worker with so many ports.
    pub(crate) fn new(ports: usize) -> Self {
        Self { ports: (0..ports).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    /// Some more of what came by one port was dropped.
    pub(crate) fn add_drops(&self, slot: Slot, more: u64) {
        if more > 0 {
            let cell = &self.ports[slot.0];
            // This worker alone writes it.
            cell.store(cell.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        }
    }

    pub(crate) fn store(&self, tally: &Tally, displaced: u64) {
        self.displaced.store(displaced, Ordering::Relaxed);
        let Tally { rx, handed_in, made, tx, handed_out, dropped, errors_withheld, judged, turns } = tally;
        let plain = [rx, handed_in, made, tx, handed_out, errors_withheld, judged, turns];
        for (cell, value) in self.cells.iter().zip(plain) {
            cell.store(*value, Ordering::Relaxed);
        }
        for (cell, value) in self.dropped.0.iter().zip(dropped) {
            cell.store(*value, Ordering::Relaxed);
        }
    }

    /// A turn begins. The time since the last one was busy if that one `worked`: a worker sleeps only after turns
    /// without frames.
    pub(crate) fn beat(&self, now: Millis, worked: bool) {
        let Pulse { last_turn, busy } = &*self.pulse;
        if worked {
            let since = now.0.saturating_sub(last_turn.load(Ordering::Relaxed));
            busy.store(busy.load(Ordering::Relaxed) + since, Ordering::Relaxed);
        }
        last_turn.store(now.0, Ordering::Relaxed);
    }

    /// When the worker began its latest turn, on its own clock: it turns at least every few milliseconds, whether
    /// frames come or not.
    #[must_use]
    pub fn last_turn(&self) -> Millis {
        Millis(self.pulse.last_turn.load(Ordering::Relaxed))
    }

    /// Frames dropped of those that came by the port in this slot, whatever the reason.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    #[must_use]
    pub fn dropped_from(&self, slot: Slot) -> u64 {
        self.ports[slot.0].load(Ordering::Relaxed)
    }

    /// Fragmented datagrams that were forgotten for others, before they were old or whole.
    #[must_use]
    pub fn fragments_displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
    }

    /// Milliseconds in which the worker had frames to handle.
    #[must_use]
    pub fn busy_millis(&self) -> u64 {
        self.pulse.busy.load(Ordering::Relaxed)
    }

    /// The figures now.
    #[must_use]
    pub fn read(&self) -> Tally {
        let [rx, handed_in, made, tx, handed_out, errors_withheld, judged, turns] =
            std::array::from_fn(|i| self.cells[i].load(Ordering::Relaxed));
        let dropped = std::array::from_fn(|i| self.dropped.0[i].load(Ordering::Relaxed));
        Tally { rx, handed_in, made, tx, handed_out, dropped, errors_withheld, judged, turns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_turns_with_frames_are_busy() {
        let counters = Counters::default();
        for (now, worked) in [(10, false), (20, false), (25, true), (26, true), (40, false), (41, true)] {
            counters.beat(Millis(now), worked);
        }
        assert_eq!(counters.busy_millis(), 5 + 1 + 1);
        assert_eq!(counters.last_turn(), Millis(41));
    }
}
