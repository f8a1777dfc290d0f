//! The compiled immutable answer, its lookup and its publication.
//!
//! ```text
//! compiler ──> Draft ──freeze──> PolicyTable ──> Publisher ══swap══> Reader ──> one per worker
//!              one page at        │
//!              a time    FlowKey ─┼─ classify   Allow | Deny, a burst at a time, nothing allocated
//!                        FlowKey ─┼─ why        which rule, or which policies isolate: the cold path
//!                        Address ─┴─ epoch_of   until when a cached verdict holds
//! ```
//!
//! Addresses that every policy treats alike are of one class. A judged pod has a row for each direction; a row has
//! a cell for each class, and a cell is a set of ports. Lowered to that, nothing is left of rules, selectors and
//! tiers: a verdict is one bit, whoever put it there.
//!
//! A table never changes. The next one is written beside it, page by page, and shares all pages that it leaves
//! alone; it takes over the epochs of the pods about which it says the same, and is published whole.
//!
//! An address that belongs to no judged pod is everybody else: nothing is asked on its side, and rows of judged
//! pods still know its class.
//!
//! Deliberately absent: what a selector or a policy means (`policy`), and how one becomes cells (`compiler`).

// What a table is made of.
mod paged;
mod ids;
mod entry;
mod v4;
mod v6;
mod rules;
mod interned;
mod sets;
mod rows;
mod layout;
// How one is written.
mod draft;
mod epochs;
// What it answers.
mod lookup;
mod why;
mod canonical;
// How workers get it.
mod publish;

pub use draft::Draft;
pub use ids::{ClassId, NodeId, PodId, RowId};
pub use layout::{LocalPod, PolicyTable, Sizes};
pub use publish::{Publisher, Reader};
pub use rules::{
    Name, NamedPort, PeerId, PolicyId, PolicyInfo, PortRange, RuleId, RuleInfo, RulePeers, RulePorts,
    Signature,
};
pub use sets::SetId;
pub use why::{Explanation, Side};
