//! Cluster to policy table: deterministic, incremental, bounded.
//!
//! ```text
//! Change | Cluster ──> intake ──> records of namespaces, pods, nodes, policies; marks what they touch
//!                                    │
//!   what is marked follows, in this order, and nothing else:
//!                                    │
//!   subjects    claims -> owners of addresses -> judged pods -> their policies -> rows
//!   liveness    policies with rows -> live peers -> identities that they select, intervals that they cover
//!   addresses   (peers of the identity, peers of the interval, named ports) -> class of each address
//!   cells       row x class -> union of the ports of all matching rules
//!                                    │
//!                                    └──> table::Draft ──freeze──> PolicyTable
//! ```
//!
//! Everything that is compared often is kept once and has a number (`intern`): words, selectors, identities, peers,
//! sorted lists of peers, classes, rows. Numbers are counted references, so that what a
//! table says depends on the cluster and not on its history.
//!
//! Only what judged pods need is compiled. A policy is live when it isolates a judged pod; its peers are live then.
//! A peer that is not live refines no class, however many pods it selects.
//!
//! A change that needs more than the [`Budget`] is taken back by the steps that made it.
//!
//! Deliberately absent: meaning. What a policy means is said by [`policy::evaluate`]; this crate must agree with
//! it, and `tests/oracle.rs` holds them together.

// What is remembered.
mod intern;
mod words;
mod ranges;
mod ports;
mod population;
mod peers;
mod policies;
mod hosts;
mod classes;
mod cover;
mod rows;
mod dirty;
mod scope;
mod state;
// What happens.
mod intake;
mod subjects;
mod liveness;
mod addresses;
mod cells;
mod budget;
mod compiler;

pub use budget::{Budget, Footprint, OverBudget};
pub use compiler::{Change, Compiler, compile};
pub use scope::Scope;
