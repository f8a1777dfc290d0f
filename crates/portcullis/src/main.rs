//! The portcullis binary: what was typed, what is done, and with which code it ends.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use portcullis::cleanup::Cleanup;
use portcullis::cli::{CleanupArgs, Cli, Command, LabCommand};
use portcullis::exit::{self, Failure};
use portcullis::{broker, demo, huge_pages, instance, lab_command, run, status, test_command};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    let outcome = match &cli.command {
        Command::Run(args) => {
            huge_pages::ask_for();
            run::run(args).map(|()| exit::OK)
        }
        Command::Test(args) => test_command::run(args),
        Command::Explain(args) => portcullis::explain::run(args),
        Command::Reach(args) => portcullis::reach::run(args, cli.quiet),
        Command::Flows(args) => portcullis::flows::run(args, cli.quiet),
        Command::Status(args) => status::run(args),
        Command::Doctor(args) => portcullis::doctor::run(args),
        Command::Top(args) => portcullis::top::run(args),
        Command::Lab(LabCommand::Up { manifests, lab }) => lab_command::up(manifests, lab),
        Command::Lab(LabCommand::Run { lab, place, command }) => lab_command::enter(lab, place, command),
        Command::Lab(LabCommand::Down { lab }) => lab_command::down(lab),
        Command::Lab(LabCommand::Demo { examples, mode }) => demo::run(examples, *mode),
        Command::Cleanup(args) => cleanup(args),
        Command::Broker => broker::serve().map(|()| exit::OK),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            match cli.command {
                Command::Run(_) => tracing::error!("{failure}"),
                // To a person at a terminal, not into a log.
                _ => drop(writeln!(io::stderr(), "error: {failure}")),
            }
            ExitCode::from(failure.code)
        }
    }
}

fn cleanup(args: &CleanupArgs) -> Result<u8, Failure> {
    let interfaces: Result<_, _> = args.interfaces.iter().map(|name| name.parse()).collect();
    let cleanup = Cleanup {
        state_dir: args.state_dir.clone(),
        claims_dir: instance::CLAIMS.into(),
        interfaces: interfaces.map_err(exit::usage)?,
        force: args.force,
    };
    let outcome = cleanup.run().map_err(exit::system)?;
    let mut out = io::stdout().lock();
    for what in &outcome.removed {
        writeln!(out, "removed {what}").map_err(exit::system)?;
    }
    if outcome.removed.is_empty() && outcome.failed.is_empty() {
        writeln!(out, "nothing of ours is here").map_err(exit::system)?;
    }
    if let Some(warning) = &outcome.warning {
        tracing::warn!("{warning}");
    }
    for what in &outcome.failed {
        tracing::error!("{what}");
    }
    Ok(if outcome.failed.is_empty() { exit::OK } else { exit::SYSTEM })
}

/// Messages go to stderr, and results to stdout.
fn log(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "warn",
        (_, 0) => "info",
        // aya tells every relocation.
        (_, 1) => "debug,aya=info,aya_obj=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    if cli.log_json {
        builder.json().init();
    } else {
        let color = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(color).init();
    }
}
