//! Exit codes: the same for every command.

/// Allowed, clean, no difference.
pub const OK: u8 = 0;
/// Denied, findings in a file that could be read, a difference, a failed test.
pub const FINDINGS: u8 = 1;
/// Wrong usage or configuration, or input that cannot be read or parsed.
pub const USAGE: u8 = 2;
/// The system, the agent or the API refuses or cannot be reached.
pub const SYSTEM: u8 = 3;
/// A partial result, where one was asked for.
pub const PARTIAL: u8 = 4;
/// The time allowed ran out.
pub const TIMEOUT: u8 = 5;
