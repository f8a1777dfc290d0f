//! Bursts of frames through parse, port guard, connection table, policy table and forwarding.
//!
//! ```text
//!  RX ring ─ receive ─ admit ─────── judge ───────────────────────── follow ─────── forward ─ TX ring
//!             io.rs    guard.rs      flows.rs                        fragments.rs   wiring.rs
//!                      parse, who    cache.rs: known, goes on        later ones     next hop, TTL,
//!                      may speak     connections: known, goes on     their first    checksums, MACs
//!                                    new: asked of the policy table
//!                         │              │                              │              │
//!                         └──────────────┴───── DropReason, counted ────┴──────────────┘   counters.rs
//!                                               an ICMP error, in some cases                icmp_errors.rs
//! ```
//!
//! Read in this order: [`io`] says where frames come from, [`wiring`] which port leads where,
//! [`worker::Worker::turn`] is the loop, `burst.rs` its stages, `departure.rs` the last of them; [`inline`] is the loop
//! of inline mode, which judges in the same way and gives frames back. The engine is generic over [`io::PacketIo`]: on a
//! node that is AF_XDP, in tests it is [`loopback`]. It knows nothing of Kubernetes, and its
//! time is an argument.

pub mod io;
pub mod loopback;
pub mod wiring;
pub mod worker;
pub mod inline;
mod burst;
mod departure;
mod ends;
mod icmp_errors;
mod fragments;
pub mod shared;
mod guard;
pub mod cache;
pub mod flows;
pub mod connections;
pub mod state;
mod segment;
pub mod clock;
pub mod handoff;
pub mod counters;
pub mod records;
mod ledger;
pub mod events;
pub mod errands;
pub mod polling;
