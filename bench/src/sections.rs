//! A program of several sections: which of them are wanted, where their record goes, and what a section that fails
//! costs.

#![allow(clippy::print_stdout, reason = "the output of programs that print a table")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::machine;
use crate::output::Output;
use crate::record::Row;

/// Measures something on `Bed`, and writes its rows down.
pub type Section<Bed> = fn(&mut Bed, &mut Output) -> Result<()>;

/// How much of a program is wanted.
#[derive(Debug, Args)]
pub struct Wanted {
    /// Less of everything: to try the program, not to quote.
    #[arg(long)]
    pub quick: bool,
    /// Exit with 1 when a target is missed.
    #[arg(long)]
    strict: bool,
    /// Where the folder of this run goes.
    #[arg(long, default_value = "bench/runs")]
    runs: PathBuf,
    /// Only these sections, with commas between them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

impl Wanted {
    /// Measures what is wanted of `sections`, in their order, on what `prepare` makes; the record is called `bench`.
    ///
    /// # Errors
    ///
    /// For a section that there is not, when nothing can be prepared, and when the record cannot be written.
    pub fn run<Bed>(
        &self,
        bench: &str,
        sections: &[(&str, Section<Bed>)],
        prepare: impl FnOnce() -> Result<Bed>,
    ) -> Result<ExitCode> {
        if let Some(unknown) = self.only.iter().find(|only| sections.iter().all(|(name, _)| name != only)) {
            let names: Vec<_> = sections.iter().map(|(name, _)| *name).collect();
            anyhow::bail!("no section '{unknown}': there are {}", names.join(", "));
        }
        let mut output = Output::create(&self.folder(), bench)?;
        let started = Instant::now();
        let mut bed = prepare()?;
        let mut failed = false;
        for (name, section) in sections {
            if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
                continue;
            }
            println!("=== {name} (at {} s)", started.elapsed().as_secs());
            // The other sections are worth having all the same.
            if let Err(error) = section(&mut bed, &mut output) {
                failed = true;
                output.row(Row::new(name, "", json!({})).note(format!("failed: {error:#}")))?;
            }
        }
        let missed = output.finish()?;
        println!("=== done in {} s", started.elapsed().as_secs());
        Ok(if failed || (self.strict && missed > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Nothing but a whole run replaces the record of a whole run.
    fn folder(&self) -> PathBuf {
        let whole = match (self.quick, self.only.is_empty()) {
            (true, _) => "-quick",
            (false, true) => "",
            (false, false) => "-part",
        };
        self.runs.join(machine::run_name() + whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        wanted: Wanted,
    }

    const SECTIONS: [(&str, Section<Vec<&str>>); 3] = [
        ("one", |seen, _| {
            seen.push("one");
            Ok(())
        }),
        ("two", |_, _| anyhow::bail!("a peer is missing")),
        ("three", |seen, output| {
            seen.push("three");
            output.row(Row::new("seen", "", json!({ "sections": seen })))
        }),
    ];

    /// What became of a run with these arguments, and its record.
    fn run(arguments: &[&str]) -> (Result<ExitCode>, String, String) {
        let runs = tempfile::tempdir().unwrap();
        let path = runs.path().to_str().unwrap();
        let program = Program::parse_from(["bench", "--runs", path].iter().chain(arguments));
        let code = program.wanted.run("tried", &SECTIONS, || Ok(Vec::new()));
        let folder = std::fs::read_dir(runs.path()).unwrap().next();
        let folder = folder.map(|folder| folder.unwrap().path()).unwrap_or_default();
        let record = std::fs::read_to_string(folder.join("tried.jsonl")).unwrap_or_default();
        (code, folder.to_string_lossy().into_owned(), record)
    }

    #[test]
    fn a_section_that_fails_is_told_and_takes_no_other_with_it() {
        let (code, folder, record) = run(&[]);
        assert_eq!(code.unwrap(), ExitCode::FAILURE);
        assert!(folder.ends_with("cpu"), "{folder}");
        assert!(record.contains("failed: a peer is missing"), "{record}");
        assert!(record.contains(r#"["one","three"]"#), "{record}");
    }

    #[test]
    fn a_part_has_a_folder_of_its_own() {
        let (code, folder, record) = run(&["--only", "three"]);
        assert_eq!(code.unwrap(), ExitCode::SUCCESS);
        assert!(folder.ends_with("-part") && record.contains(r#"["three"]"#), "{folder}: {record}");
        let (_, folder, _) = run(&["--only", "three", "--quick"]);
        assert!(folder.ends_with("-quick"), "{folder}");
        let error = run(&["--only", "four"]).0.unwrap_err().to_string();
        assert!(error.contains("'four'") && error.contains("one, two, three"), "{error}");
    }
}
