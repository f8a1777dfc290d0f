//! The heap of one workload's table: counted by an allocator that counts, in a process of its own, so that the
//! timed program does not pay for it.
//!
//! Prints one object: bytes at each point, and what the structures themselves say they hold. A vector that grows
//! counts twice while it is copied, since this allocator never grows one in place: the peak is an upper bound.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use bench::cluster::Shape;
use clap::Parser;
use compiler::{Budget, Compiler};
use peak_alloc::PeakAlloc;
use serde_json::{Map, Value, json};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Counts the heap of one workload.
#[derive(Parser)]
struct Arguments {
    /// Namespaces.
    #[arg(long)]
    namespaces: usize,
    /// Pods.
    #[arg(long)]
    pods: usize,
    /// Policies.
    #[arg(long)]
    policies: usize,
    /// Pods of this node.
    #[arg(long)]
    local: usize,
}

fn main() -> anyhow::Result<()> {
    let Arguments { namespaces, pods, policies, local } = Arguments::parse();
    let workload = Shape { namespaces, pods, policies, local, ..Shape::LARGE }.workload();
    let scope = workload.scope();

    // One full compile; the compiler is gone when it returns.
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let table = bench::compiled(&workload.cluster, &scope)?;
    let peak = HEAP.peak_usage() - before;
    let held = HEAP.current_usage() - before;
    let structures = named(table.bytes());
    drop(table);

    // A compiler that is kept for the next change, and its table.
    let before = HEAP.current_usage();
    let mut compiler = Compiler::new(scope, Budget::default());
    let table = compiler.update(&workload.cluster)?;
    let kept = HEAP.current_usage() - before;
    let footprint = named(compiler.footprint().parts());
    drop(table);
    let without_table = HEAP.current_usage() - before;

    let facts = json!({
        "compiled_rules": workload.compiled_rules(),
        "pod_addresses": workload.pod_addresses(),
        "table": held,
        "compile_peak": peak,
        "compiler_and_table": kept,
        "compiler_without_its_last_table": without_table,
        "structures": structures,
        "footprint": footprint,
    });
    println!("{facts}");
    Ok(())
}

fn named(parts: impl IntoIterator<Item = (&'static str, usize)>) -> Map<String, Value> {
    parts.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect()
}
