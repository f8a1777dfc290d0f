//! Where rows go: to the screen and to the record.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bench::machine;
use bench::record::Row;
use serde_json::{Value, json};

/// The record of one run in the making.
pub(crate) struct Output {
    folder: PathBuf,
    file: File,
    rows: Vec<Row>,
    before: Value,
}

impl Output {
    /// An empty record in `folder`.
    pub(crate) fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = File::create(folder.join("table.jsonl"))?;
        println!("The record: {}", folder.join("table.jsonl").display());
        Ok(Self { folder: folder.into(), file, rows: Vec::new(), before: machine::describe() })
    }

    /// Prints a row and writes it down.
    pub(crate) fn row(&mut self, row: Row) -> anyhow::Result<()> {
        println!("{row}");
        writeln!(self.file, "{}", row.line())?;
        self.rows.push(row);
        Ok(())
    }

    /// Says what takes time.
    pub(crate) fn progress(&self, what: &str) {
        println!("    {what}");
    }

    /// Prints the table of targets and describes the machine. How many targets were missed.
    pub(crate) fn finish(self) -> anyhow::Result<usize> {
        let about = json!({ "before": self.before, "after": machine::describe() });
        fs::write(self.folder.join("machine.json"), format!("{about:#}\n"))?;
        let with_target: Vec<_> = self.rows.iter().filter(|row| row.target.is_some()).collect();
        println!("\n=== targets");
        with_target.iter().for_each(|row| println!("{row}"));
        let count = |met| with_target.iter().filter(|row| row.met == met).count();
        let (met, missed, open) = (count(Some(true)), count(Some(false)), count(None));
        println!("\n{met} targets met, {missed} missed, {open} not measured");
        Ok(missed)
    }
}
