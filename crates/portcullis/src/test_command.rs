//! `portcullis test`: do my policies do what I say they do?

use std::io::{self, Write};

use anyhow::anyhow;
use lab::RulesOf;

use crate::cli::{By, TestArgs, TestOutput};
use crate::config::Mode;
use crate::exit::{self, Failure, system, usage};
use crate::policy_test::on_lab::OnLab;
use crate::policy_test::paper::Paper;
use crate::policy_test::{Outcome, Refused, Suite, report};

/// Faults that are shown; more are counted.
const SHOWN: usize = 50;

/// Runs the tests; the exit code: 0 only if every verdict is the expected one.
///
/// # Errors
///
/// Files that cannot be read, or that do not fit together (exit code 2); a lab that cannot be built (3).
pub fn run(args: &TestArgs) -> Result<u8, Failure> {
    let suite = Suite::load(&args.files).map_err(|refused| usage(anyhow!(render(&refused))))?;
    for warning in suite.warnings() {
        tracing::warn!("{warning}");
    }
    let told = |outcome: &Outcome| match args.output {
        TestOutput::Text => {
            let mut out = io::stdout().lock();
            out.write_all(report::text(outcome).as_bytes()).and_then(|()| out.flush()).map_err(system)
        }
        TestOutput::Json | TestOutput::Junit => Ok(()),
    };
    let outcomes = if args.lab {
        let mut lab = on_lab(args)?;
        let outcomes = suite.run(&mut lab, told);
        let down = lab.down();
        let outcomes = outcomes?;
        down?;
        outcomes
    } else {
        suite.run(&mut Paper::default(), told)?
    };
    let end = match args.output {
        TestOutput::Text => report::summary(&outcomes),
        TestOutput::Json => report::json(&outcomes, if args.lab { "lab" } else { "table" }),
        TestOutput::Junit => report::junit(&outcomes),
    };
    io::stdout().lock().write_all(end.as_bytes()).map_err(system)?;
    Ok(if outcomes.iter().all(Outcome::passed) { exit::OK } else { exit::FINDINGS })
}

fn on_lab(args: &TestArgs) -> Result<OnLab, Failure> {
    let binary = std::env::current_exe().map_err(system)?;
    match (args.by, args.mode) {
        (By::Address, mode) => Ok(OnLab::new(&binary, mode)),
        (By::ClusterIp, Mode::Inline) => Ok(OnLab::by_cluster_ip(&binary, RulesOf::Nftables)),
        (By::ClusterIp, mode) => {
            let why = format!("no cluster IP is translated in mode {mode}: add `--mode inline`");
            Err(usage(anyhow!(why)))
        }
    }
}

/// The faults, with the lines that they are about.
fn render(refused: &Refused) -> String {
    let mut text = String::new();
    for error in refused.errors.iter().take(SHOWN) {
        let source = refused.sources.iter().find(|source| *source.name == *error.source);
        let written = source.map_or_else(Default::default, |source| String::from_utf8_lossy(&source.bytes));
        text += &error.render(&written);
        text.push('\n');
    }
    if refused.errors.len() > SHOWN {
        text += &format!("and {} more\n", refused.errors.len() - SHOWN);
    }
    text.trim_end().to_owned()
}
