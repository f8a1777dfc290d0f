//! Flows as lines: for people, or as they came.

use std::io::{self, Write};

use clap::ValueEnum;

use super::record::{Flow, Line};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line each, in columns.
    Table,
    /// One JSON object each, schema portcullis.flow/v1.
    Jsonl,
}

/// Prints lines to somewhere, and counts.
pub struct Printer<W: Write> {
    out: W,
    format: Format,
    /// Of the columns from and to: the widest so far.
    widths: (usize, usize),
    /// What has gone by.
    pub summary: Summary,
}

/// What has gone by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that the agent has looked at.
    pub seen: u64,
    /// Those that were shown.
    pub shown: u64,
    /// Those that were lost on the way.
    pub lost: u64,
}

impl<W: Write> Printer<W> {
    /// Prints to `out`.
    pub fn new(out: W, format: Format) -> Self {
        Self { out, format, widths: (8, 8), summary: Summary::default() }
    }

    /// Prints a line of the agent's, which `text` is word for word.
    ///
    /// # Errors
    ///
    /// What writing meets.
    pub fn line(&mut self, line: &Line, text: &[u8]) -> io::Result<()> {
        match line {
            Line::Flow(flow) => {
                self.summary.shown += 1;
                if self.format == Format::Table { self.row(flow) } else { self.same(text) }
            }
            Line::Passed(passed) => {
                self.summary.seen += passed.seen;
                self.summary.lost += passed.lost;
                let lost = passed.lost > 0;
                if lost && self.format == Format::Jsonl { self.same(text) } else { Ok(()) }
            }
        }
    }

    /// Sees to it that everything can be read.
    ///
    /// # Errors
    ///
    /// What writing meets.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn same(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.write_all(text)?;
        self.out.write_all(b"\n")
    }

    fn row(&mut self, flow: &Flow) -> io::Result<()> {
        let (from, to) = (flow.from.to_string(), flow.to.to_string());
        self.widths = (self.widths.0.max(from.len()), self.widths.1.max(to.len()));
        let (from_width, to_width) = self.widths;
        let (verdict, reason) = (flow.verdict.word(), flow.reason.as_deref().unwrap_or("-"));
        let line = format!(
            "{:.3}  {verdict:5}  {from:from_width$} -> {to:to_width$}  {:8}  {reason:12}  {}",
            flow.time,
            flow.service(),
            flow.deciders(),
        );
        writeln!(self.out, "{}", line.trim_end())
    }
}
