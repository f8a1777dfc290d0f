//! Tests that people write for their own policies.
//!
//! ```text
//! file ── format ──> what is written, with positions
//!                        └─ executor ──> who answers: the compiled table, or packets in the lab
//! ```

pub mod format;
pub mod executor;
pub mod on_lab;
