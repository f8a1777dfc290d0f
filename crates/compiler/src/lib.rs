//! Cluster to policy table.
//!
//! ```text
//! Cluster ──> Population         population.rs: who owns which address, with which labels, on which node
//!    │            │
//!    │ policies   │ selectors become addresses, port names become numbers
//!    └────────────┴──> resolve   resolve.rs: one rule -> pieces {peers, ports}
//!                         │
//!                         └──> compile   compile.rs: one row for each direction of each local pod -> PolicyTable
//! ```
//!
//! The same cluster gives the same table, in whatever order its objects come. Pods that the same policies select
//! share their rows; only ingress rules with named ports, which depend on the pod, keep pods apart.
//!
//! Deliberately absent: meaning. What a policy means is said by [`policy::evaluate`]; this crate must agree with
//! it, and `tests/oracle.rs` holds them together.

mod population;
mod resolve;
mod compile;

pub use compile::{Scope, compile};
