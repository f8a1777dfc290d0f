//! Draws the plot of a record: `bench-table-plot RECORD.jsonl PLOT.svg`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use bench::plot;
use bench::record::Row;
use clap::Parser;

/// Draws how the cost of the policy table grows.
#[derive(Parser)]
struct Arguments {
    /// The `table.jsonl` of a run.
    record: PathBuf,
    /// Where the plot goes.
    plot: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Arguments { record, plot } = Arguments::parse();
    let text = fs::read_to_string(&record).with_context(|| format!("cannot read {}", record.display()))?;
    let rows: Vec<Row> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    fs::write(&plot, plot::svg(&rows)).with_context(|| format!("cannot write {}", plot.display()))
}
