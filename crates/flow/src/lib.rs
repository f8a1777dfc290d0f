//! The words of one connection.
//!
//! Every other crate speaks of packets and policies in these terms, and they depend on nothing but `core`:
//!
//! ```text
//! FlowKey ── (Address, Address, Protocol, port, port)     what a packet is part of
//! Direction ── Ingress | Egress                           from which side a policy looks at it
//! Verdict ── Allow | Deny                                 what a policy table answers
//! DropReason                                              why a frame went no further; closed, counted, documented
//! Epoch                                                   until when a cached verdict holds
//! MacAddr                                                 the link layer's name for a port or a pod
//! ```

mod address;
mod mac;
mod protocol;
mod key;
mod verdict;
mod drop_reason;
mod epoch;

pub use address::Address;
pub use drop_reason::DropReason;
pub use epoch::Epoch;
pub use key::{Endpoint, FlowKey};
pub use mac::{MacAddr, MacAddrParseError};
pub use protocol::Protocol;
pub use verdict::{Direction, Verdict};
