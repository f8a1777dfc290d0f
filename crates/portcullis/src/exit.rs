//! Exit codes: the same for every command.

use std::fmt;

/// Why a command could not do its work, and with which exit code it ends.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What to tell the user.
    pub error: anyhow::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// A failure of usage, configuration or input.
pub fn usage(error: impl Into<anyhow::Error>) -> Failure {
    Failure { code: USAGE, error: error.into() }
}

/// A refusal of the system.
pub fn system(error: impl Into<anyhow::Error>) -> Failure {
    Failure { code: SYSTEM, error: error.into() }
}

/// Allowed, clean, no difference.
pub const OK: u8 = 0;
/// Denied, findings in a file that could be read, a difference, a failed test.
pub const FINDINGS: u8 = 1;
/// Wrong usage or configuration, or input that cannot be read or parsed.
pub const USAGE: u8 = 2;
/// The system, the agent or the API refuses or cannot be reached.
pub const SYSTEM: u8 = 3;
/// What was waited for did not come in time.
pub const TIMEOUT: u8 = 5;
/// Somebody pressed Ctrl-C.
pub const INTERRUPTED: u8 = 130;
