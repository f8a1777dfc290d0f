//! The conformance cases, run by the runner of `portcullis test`, whoever answers.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use portcullis::config::Mode;
use portcullis::policy_test::executor::Executor;
use portcullis::policy_test::on_lab::OnLab;
use portcullis::policy_test::{Outcome, Suite};

/// The folders of cases, and how many there are in each.
pub(crate) const FOLDERS: [(&str, usize); 2] = [("e2e", 48), ("extra", 74)];

/// Connections of external addresses that no host can have; the tables alone decide them.
const ON_PAPER_ONLY: [&str; 5] = [
    "ipb-01: x/a -> 0.0.0.1",
    "ipb-01: x/a -> 255.255.255.254",
    "ipb-02: x/a -> fe80::1",
    "ipb-10: x/a -> 127.255.255.255",
    "ipb-10: x/a -> 255.1.1.1",
];

/// The test files of a folder, in the order of their names.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(folder);
    let entries = fs::read_dir(folder).expect("a folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// Runs all cases, prints a line for each folder, and fails where anything is not as expected.
#[expect(clippy::print_stdout, reason = "a line of counts for each folder is what people look for")]
pub(crate) fn all(way: &str, executor: &mut dyn Executor) -> Vec<(&'static str, Vec<Outcome>)> {
    let mut folders = Vec::new();
    let mut wrong = Vec::new();
    for (folder, count) in FOLDERS {
        let start = Instant::now();
        let suite = Suite::load(&files(folder)).unwrap_or_else(|refused| panic!("{}", refused.errors[0]));
        let outcomes = suite.run(executor, |_| Ok(())).unwrap_or_else(|failure| panic!("{failure}"));
        let sum = |number: fn(&Outcome) -> usize| outcomes.iter().map(number).sum::<usize>();
        println!(
            "{folder:<6} {way}: {} of {} cases passed, {} expectations, {} connections, {} of them not tried, in {:.1?}",
            outcomes.iter().filter(|outcome| outcome.passed()).count(),
            outcomes.len(),
            sum(|outcome| outcome.expectations),
            sum(|outcome| outcome.connections),
            sum(|outcome| outcome.not_tried),
            start.elapsed(),
        );
        assert_eq!(outcomes.len(), count, "cases of {folder}");
        wrong.extend(outcomes.iter().flat_map(|outcome| &outcome.failures).map(|unmet| format!("{unmet:?}")));
        folders.push((folder, outcomes));
    }
    assert!(
        wrong.is_empty(),
        "{} verdicts are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    folders
}

/// The binary that enforces in a lab.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_portcullis"))
}

/// Runs all cases on packets; what no host can send or answer is told apart.
pub(crate) fn on_real_packets(mode: Mode) {
    let mut on_lab = OnLab::new(binary(), mode);
    let folders = all(&format!("on real packets ({mode})"), &mut on_lab);
    on_lab.down().expect("nothing stays");
    are_untried_on_paper(&folders);
}

/// What was not tried on packets is what no host can send or answer.
#[expect(clippy::print_stdout, reason = "what was not tried is said")]
pub(crate) fn are_untried_on_paper(folders: &[(&str, Vec<Outcome>)]) {
    let mut untried = Vec::new();
    for outcome in folders.iter().flat_map(|(_, outcomes)| outcomes) {
        for (question, why) in &outcome.untried {
            let line = format!("{}: {} -> {}", outcome.name, question.from, question.to);
            println!("on paper only: {line} ({why})");
            untried.push(line);
        }
    }
    assert_eq!(untried, ON_PAPER_ONLY);
}
