//! Tests that people write for their own policies.
//!
//! ```text
//! file ── read ── format ──> what is written, with positions
//!                    └─ plan ── state ──> steps: changes of a cluster, and what is expected after each
//!                         └─ expand ──> questions: who, to whom, protocol, port, family
//!                              └─ run ── executor ──> answers ── report ──> text, JSON, JUnit
//!                                           ├─ paper     from the compiled table
//!                                           └─ on_lab    from packets between pods in network namespaces
//! ```
//!
//! Everything that is wrong with the files is found before the first question is asked: a test that fails has
//! met a verdict other than the expected one, and nothing else.

pub mod format;
mod read;
mod state;
mod plan;
mod expand;
pub mod executor;
pub mod paper;
pub mod on_lab;
mod run;
pub mod report;

use std::path::PathBuf;

use control::{Files, Source};
use manifest::Diagnostic;

pub use plan::Test;
pub use run::{Decided, Outcome, Unmet};

use crate::exit::Failure;
use executor::Executor;
use plan::Planner;

/// Tests that have been read and checked.
#[derive(Debug)]
pub struct Suite {
    tests: Vec<Test>,
    warnings: Vec<Diagnostic>,
}

/// What is wrong with the files, and the files themselves as far as they could be read.
#[derive(Debug)]
pub struct Refused {
    /// Each fault at its place.
    pub errors: Vec<Diagnostic>,
    /// The test files, to show the lines.
    pub sources: Vec<Source>,
}

impl Suite {
    /// Reads test files, the manifests that they name, and goes through their steps.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of them.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Refused> {
        let Files { sources, warnings } =
            control::read(paths).map_err(|errors| Refused { errors, sources: Vec::new() })?;
        let mut planner = Planner::default();
        planner.warn(warnings);
        let (mut tests, mut errors) = (Vec::new(), Vec::new());
        for source in &sources {
            match planner.file(source) {
                Ok(read) => tests.extend(read),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() {
            errors = run::check(&tests);
        }
        if errors.is_empty() {
            Ok(Self { tests, warnings: planner.warnings })
        } else {
            Err(Refused { errors, sources })
        }
    }

    /// The tests, in the order of the files.
    #[must_use]
    pub fn tests(&self) -> &[Test] {
        &self.tests
    }

    /// What the files say that is accepted but deserves a word.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Runs the tests one after the other, and tells of each as it ends.
    ///
    /// # Errors
    ///
    /// When the executor or `told` cannot go on.
    pub fn run(
        &self,
        executor: &mut dyn Executor,
        mut told: impl FnMut(&Outcome) -> Result<(), Failure>,
    ) -> Result<Vec<Outcome>, Failure> {
        let mut outcomes = Vec::new();
        for test in &self.tests {
            let outcome = run::run(test, executor)?;
            told(&outcome)?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}
