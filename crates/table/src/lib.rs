//! The compiled immutable answer, its lookup and its publication.
//!
//! ```text
//! compiler ──> TableBuilder ──build──> PolicyTable ──> Publisher ══swap══> Reader ──> one per worker
//!                                          │
//!              FlowKey ── classify ────────┤  Allow | Deny, a burst at a time, nothing allocated
//!              FlowKey ── why ─────────────┤  which rule, or which policies isolate: the cold path
//!              Address ── epoch_of ────────┘  until when a cached verdict holds
//! ```
//!
//! A table has a [`Row`] for each direction of each local pod; pods with the same policies share rows. A row
//! is resolved: selectors have become addresses, and named ports numbers. An address without a row is
//! everybody else: nothing is asked on its side, and rules of local pods still match it as a peer.
//!
//! A table never changes. A new one is built beside it, takes over the epochs of the pods about which it says
//! the same, and is published whole.
//!
//! Deliberately absent: what a selector or a policy means (`policy`), and how one becomes a row (`compiler`).

mod names;
mod row;
mod build;
mod lookup;
mod publish;

pub use build::TableBuilder;
pub use lookup::{Explanation, LocalPod, PolicyTable, Side, Sizes};
pub use names::{Name, PolicyId, PolicyInfo, RuleId, RuleInfo};
pub use publish::{Publisher, Reader};
pub use row::{Block, Peers, Piece, PortRange, Ports, Row, RowRule};
