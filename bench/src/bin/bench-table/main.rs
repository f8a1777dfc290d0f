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

mod lookup;
mod peer;
mod updates;
mod memory;
mod scaling;
mod adversaries;
mod publication;

use std::process::ExitCode;

use bench::cluster::Shape;
use bench::machine;
use bench::sections::{Section, Wanted};
use clap::Parser;

/// Measures the policy table: targets, rte_acl beside it, scaling, memory. The sections are lookup, peer, updates,
/// memory, scaling, adversaries and publication; `--quick` takes a tenth of the cluster.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    wanted: Wanted,
}

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

const SECTIONS: [(&str, Section<Plan>); 7] = [
    ("lookup", |plan, output| lookup::run(plan, output)),
    ("peer", |plan, output| peer::run(plan, output)),
    ("updates", |plan, output| updates::run(plan, output)),
    ("memory", |plan, output| memory::run(plan, output)),
    ("scaling", |plan, output| scaling::run(plan, output)),
    ("adversaries", |plan, output| adversaries::run(plan, output)),
    ("publication", |plan, output| publication::run(plan, output)),
];

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { wanted } = Arguments::parse();
    wanted.run("table", &SECTIONS, || {
        let core = machine::pin_to_last_core()?;
        Ok(if wanted.quick {
            let shape = Shape { namespaces: 50, pods: 10_000, policies: 1000, ..Shape::LARGE };
            Plan { quick: true, shape, core, repetitions: 5, sweeps: 5, events: 50 }
        } else {
            Plan { quick: false, shape: Shape::LARGE, core, repetitions: 15, sweeps: 60, events: 400 }
        })
    })
}
