//! What NetworkPolicy means: the model of networking.k8s.io/v1 after defaulting, and [`evaluate`], slow and
//! obviously right, against which everything fast is proved.
//!
//! ```text
//! Cluster ── namespaces, pods, nodes, policies             model.rs: what was written, nil and empty decided
//!    │
//!    ├─ Selector::matches(labels)                          selector.rs
//!    ├─ owners() ── Address -> pod                         ownership.rs: whose address it is
//!    └─ evaluate(cluster, connection) ── Decision          evaluate.rs: each line under the sentence it obeys
//! ```
//!
//! Deliberately absent: state. A [`Decision`] is about the first packet of a connection; replies of an allowed
//! connection pass, which is the engine's business.

pub mod model;
pub mod selector;
mod ownership;
mod evaluate;

pub use evaluate::{Connection, Decision, Side, evaluate};
pub use ownership::labels_of;
