//! How lookups are timed.
//!
//! Hot: one trace over and over, so keys, pages of the table and branches are known. Cold: each run has keys of its
//! own, and before each run a buffer larger than the last-level cache is written from end to end, so that nothing
//! of the table is left in any cache or in the TLB. The keys of the run are then read once, untimed: whoever asks
//! has just parsed them from packets.

use std::hint::black_box;
use std::time::{Duration, Instant};

use flow::{FlowKey, Verdict};
use table::PolicyTable;

use crate::machine;

/// Keys of a call, as many as the worker passes at once.
pub const BATCH: usize = 32;
/// How long one repetition of a hot measurement takes at least, where nothing else is said.
pub const REPETITION: Duration = Duration::from_millis(20);

/// A buffer larger than the last-level cache.
pub struct Sweep {
    words: Vec<u64>,
}

/// Nanoseconds that a key of a hot trace takes, `batch` keys a call: the mean of a repetition of at least `lasting`.
///
/// # Panics
///
/// When there are no keys, or `batch` is zero.
#[must_use]
pub fn hot(table: &PolicyTable, keys: &[FlowKey], batch: usize, lasting: Duration) -> f64 {
    let mut verdicts = vec![Verdict::Deny; keys.len()];
    let mut rounds = 1;
    loop {
        let started = Instant::now();
        for _ in 0..rounds {
            classify(table, black_box(keys), &mut verdicts, batch);
            black_box(&mut verdicts);
        }
        let took = started.elapsed();
        if took >= lasting {
            return took.as_nanos() as f64 / (rounds * keys.len()) as f64;
        }
        rounds *= 2;
    }
}

/// Nanoseconds that a key takes when nothing of the table is in a cache: the mean of one run over `keys`, after a
/// sweep.
///
/// # Panics
///
/// When there are no keys, or `batch` is zero.
#[must_use]
pub fn cold(table: &PolicyTable, keys: &[FlowKey], batch: usize, sweep: &mut Sweep) -> f64 {
    let mut verdicts = vec![Verdict::Deny; keys.len()];
    sweep.run();
    black_box(keys.iter().fold(0, |sum, key| sum ^ key.src.port ^ key.dst.port));
    black_box(&mut verdicts).fill(Verdict::Deny);
    let started = Instant::now();
    classify(table, black_box(keys), &mut verdicts, batch);
    black_box(&mut verdicts);
    started.elapsed().as_nanos() as f64 / keys.len() as f64
}

/// The share of keys that a table allows.
#[must_use]
pub fn allowed(table: &PolicyTable, keys: &[FlowKey]) -> f64 {
    let mut verdicts = vec![Verdict::Deny; keys.len()];
    classify(table, keys, &mut verdicts, BATCH);
    let allowed = verdicts.iter().filter(|&&verdict| verdict == Verdict::Allow).count();
    (allowed as f64 / keys.len() as f64 * 100.0).round() / 100.0
}

fn classify(table: &PolicyTable, keys: &[FlowKey], verdicts: &mut [Verdict], batch: usize) {
    for (keys, verdicts) in keys.chunks(batch).zip(verdicts.chunks_mut(batch)) {
        table.classify(keys, verdicts);
    }
}

impl Sweep {
    /// A buffer a quarter larger than the last-level cache.
    #[must_use]
    pub fn new() -> Self {
        Self { words: vec![1; machine::last_level_cache() / 8 * 5 / 4] }
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Writes a word in each cache line.
    pub fn run(&mut self) {
        for line in black_box(&mut self.words).chunks_mut(8) {
            line[0] = line[0].wrapping_add(1);
        }
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self::new()
    }
}
