//! `portcullis status`: what the agent says of itself, as JSON or for people.

mod view;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::admin::client;
use crate::cli::Format;
use crate::exit::{self, Failure, system};

pub(crate) use view::span;
pub use view::{Numbers, render};

/// `portcullis status`.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  portcullis status
  portcullis status -o json | jq .drops")]
pub struct StatusArgs {
    /// The form of the output; JSON is of the schema portcullis.status/v1.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// The state directory of the agent.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", default_value = "/run/portcullis", value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// Asks the agent and prints its answer.
///
/// # Errors
///
/// No agent runs, or it does not answer, or not us (exit code 3).
pub fn run(args: &StatusArgs) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let path = "/v1/status";
    let text = match args.output {
        Format::Table => {
            let status = runtime.block_on(client::read(&args.state_dir, path)).map_err(system)?;
            render(&status, Numbers { grouped: io::stdout().is_terminal() })
        }
        Format::Json => {
            // As it came: an agent of a later version may say more than we know.
            let status: Value = runtime.block_on(client::read(&args.state_dir, path)).map_err(system)?;
            format!("{status:#}\n")
        }
    };
    io::stdout().write_all(text.as_bytes()).map_err(system)?;
    Ok(exit::OK)
}
