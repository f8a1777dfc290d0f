//! What a reader pays for a published version: while nothing changes, when something has changed, and how long
//! after `publish` was called it sees it on another core.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bench::machine;
use bench::output::Output;
use bench::record::{Figures, Row};
use serde_json::json;
use table::Publisher;

use crate::Plan;

/// Versions that are published.
const VERSIONS: u64 = 2000;
/// Calls of one repetition.
const CALLS: usize = 1 << 20;

/// A version that knows when it was published.
struct Stamp {
    number: u64,
    at: Instant,
}

pub(crate) fn run(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    let mut publisher = Publisher::new();
    let mut reader = publisher.reader();
    drop(publisher.publish(0_u64));
    let unchanged: Vec<f64> = (0..plan.repetitions)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..CALLS {
                black_box(reader.get());
            }
            started.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .collect();
    let row =
        Row::new("publication_unchanged", "ns", json!({ "what": "one get() of a reader, nothing new" }));
    output.row(row.ours(Figures::of(&unchanged)))?;

    let changed: Vec<f64> = (0..VERSIONS)
        .map(|number| {
            drop(publisher.publish(number));
            let started = Instant::now();
            black_box(reader.get());
            started.elapsed().as_nanos() as f64
        })
        .collect();
    let what =
        "one get() of a reader on the publisher's core, with a new version; includes two clock readings";
    let row = Row::new("publication_changed", "ns", json!({ "what": what }));
    output.row(row.ours(Figures::of_events(&changed)).at_most(200.0))?;

    let row = Row::new(
        "publication_seen_on_another_core",
        "ns",
        json!({ "what": "from the call of publish() to a spinning reader that has the new version" }),
    );
    if machine::cores() < 2 {
        return output.row(row.note("needs a second core").target("<= 200 ns", None));
    }
    output.row(row.ours(Figures::of_events(&seen(plan.core)?)).at_most(200.0))
}

/// Nanoseconds from the call of `publish` until a reader on the first core has the version.
fn seen(core: usize) -> anyhow::Result<Vec<f64>> {
    let mut publisher = Publisher::<Stamp>::new();
    let mut reader = publisher.reader();
    let newest = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&newest);
    let spinning = thread::spawn(move || -> anyhow::Result<Vec<f64>> {
        machine::pin(usize::from(core == 0))?;
        let (mut last, mut delays) = (0, Vec::new());
        while last < VERSIONS {
            if let Some(stamp) = reader.get().filter(|stamp| stamp.number > last) {
                delays.push(stamp.at.elapsed().as_nanos() as f64);
                last = stamp.number;
                told.store(last, Ordering::Release);
            } else {
                spin_loop();
            }
        }
        Ok(delays)
    });
    for number in 1..=VERSIONS {
        drop(publisher.publish(Stamp { number, at: Instant::now() }));
        while newest.load(Ordering::Acquire) < number && !spinning.is_finished() {
            spin_loop();
        }
        // The reader spins on an unchanged version again before the next one comes.
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_micros(20) {
            spin_loop();
        }
    }
    spinning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
