//! `make bench-table`: the policy table against its targets, and beside rte_acl.
//!
//! ```text
//! lookup.rs        classify, hot and cold, in batches and one by one; flatness
//! peer.rs          the same trace through dpdk-test-acl
//! updates.rs       from a change to the published table
//! memory.rs        heap, by a second program with a counting allocator
//! scaling.rs       the same figures from 1 to 10,000 policies and from 100 to 100,000 pods
//! adversaries.rs   clusters that nobody would run
//! publication.rs   what a reader pays
//! ```
//!
//! Each row is printed, and appended to `table.jsonl`, as soon as it is measured.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

mod lookup;
mod peer;
mod updates;
mod memory;
mod scaling;
mod adversaries;
mod publication;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use bench::cluster::Shape;
use bench::machine;
use bench::output::Output;
use bench::record::Row;
use clap::Parser;
use serde_json::json;

/// Measures the policy table: targets, rte_acl beside it, scaling, memory.
#[derive(Parser)]
struct Arguments {
    /// A tenth of the cluster and few repetitions: to try the program, not to quote.
    #[arg(long)]
    quick: bool,
    /// Exit with 1 when a target is missed.
    #[arg(long)]
    strict: bool,
    /// Where the folder of this run goes.
    #[arg(long, default_value = "bench/runs")]
    runs: PathBuf,
    /// Only these sections: lookup, peer, updates, memory, scaling, adversaries, publication.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Measures something and writes its rows down.
type Section = fn(&Plan, &mut Output) -> anyhow::Result<()>;

/// How much is measured.
struct Plan {
    quick: bool,
    /// The large cluster.
    shape: Shape,
    /// The core on which everything runs.
    core: usize,
    /// Repetitions of what takes tens of milliseconds.
    repetitions: usize,
    /// Cold runs, each after a sweep.
    sweeps: usize,
    /// Single events of one kind.
    events: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let core = machine::pin_to_last_core()?;
    let plan = if arguments.quick {
        let shape = Shape { namespaces: 50, pods: 10_000, policies: 1000, ..Shape::LARGE };
        Plan { quick: true, shape, core, repetitions: 5, sweeps: 5, events: 50 }
    } else {
        Plan { quick: false, shape: Shape::LARGE, core, repetitions: 15, sweeps: 60, events: 400 }
    };
    // Nothing but a whole run replaces the record of a whole run.
    let whole = if arguments.quick {
        "-quick"
    } else if arguments.only.is_empty() {
        ""
    } else {
        "-part"
    };
    let folder = arguments.runs.join(machine::run_name() + whole);
    let sections: [(&str, Section); 7] = [
        ("lookup", lookup::run),
        ("peer", peer::run),
        ("updates", updates::run),
        ("memory", memory::run),
        ("scaling", scaling::run),
        ("adversaries", adversaries::run),
        ("publication", publication::run),
    ];
    if let Some(unknown) = arguments.only.iter().find(|only| sections.iter().all(|(name, _)| name != only)) {
        anyhow::bail!("no section '{unknown}'");
    }
    let mut output = Output::create(&folder, "table")?;
    let started = Instant::now();
    let mut failed = false;
    for (name, section) in sections {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            println!("=== {name} (at {} s)", started.elapsed().as_secs());
            // The other sections are worth having all the same.
            if let Err(error) = section(&plan, &mut output) {
                failed = true;
                output.row(Row::new(name, "", json!({})).note(format!("failed: {error:#}")))?;
            }
        }
    }
    let missed = output.finish()?;
    println!("=== done in {} s", started.elapsed().as_secs());
    Ok(if failed || (arguments.strict && missed > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
