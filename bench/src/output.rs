//! Where rows go: to the screen and to the record.

#![allow(clippy::print_stdout, reason = "the output of programs that print a table")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::machine;
use crate::record::Row;

/// The record of one run in the making.
#[derive(Debug)]
pub struct Output {
    bench: String,
    folder: PathBuf,
    file: File,
    rows: Vec<Row>,
    before: Value,
}

impl Output {
    /// An empty record in `folder`: `BENCH.jsonl`, with the machine in `BENCH-machine.json`.
    ///
    /// # Errors
    ///
    /// When the files cannot be written.
    pub fn create(folder: &Path, bench: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{bench}.jsonl"));
        let file = File::create(&path)?;
        println!("The record: {}", path.display());
        let (bench, folder) = (bench.to_owned(), folder.to_owned());
        Ok(Self { bench, folder, file, rows: Vec::new(), before: machine::describe() })
    }

    /// Prints a row and writes it down, as one of this benchmark.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn row(&mut self, mut row: Row) -> anyhow::Result<()> {
        row.bench.clone_from(&self.bench);
        println!("{row}");
        writeln!(self.file, "{}", row.line())?;
        self.rows.push(row);
        Ok(())
    }

    /// Says what takes time.
    pub fn progress(&self, what: &str) {
        println!("    {what}");
    }

    /// Prints the table of targets and describes the machine. How many targets were missed.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn finish(self) -> anyhow::Result<usize> {
        let about = json!({ "before": self.before, "after": machine::describe() });
        fs::write(self.folder.join(format!("{}-machine.json", self.bench)), format!("{about:#}\n"))?;
        let with_target: Vec<_> = self.rows.iter().filter(|row| row.target.is_some()).collect();
        println!("\n=== targets");
        with_target.iter().for_each(|row| println!("{row}"));
        let count = |met| with_target.iter().filter(|row| row.met == met).count();
        let (met, missed, open) = (count(Some(true)), count(Some(false)), count(None));
        println!("\n{met} targets met, {missed} missed, {open} not measured");
        Ok(missed)
    }
}
