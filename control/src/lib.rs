//! Files to policy table: the policy's half of Portcullis.
//!
//! ```text
//! folder ─ watch ──> files ──> manifest ──> index ──> compile ──> publish ══> workers
//!          when       what       parse       one        │            │
//!                                           Cluster     └─ control ──┴──> Event, for logs and wiring
//! ```
//!
//! The set of files counts as a whole: an error in any of them refuses all of them, and the last table stays in
//! force. What is published depends on what the files say now, never on how they came to say it; where they say
//! what is in force already, nothing is published.
//!
//! One thread runs all of this, beside the one that waits for the kernel's file events. Old tables are freed
//! here: workers never free one.

mod files;
mod watch;
mod index;
mod publish;

pub use files::Source;
pub use index::{Files, Loaded, assemble, load, no_objects, read};
pub use manifest::{Diagnostic, Severity};
pub use publish::{Control, Event};
