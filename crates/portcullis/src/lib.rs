//! The agent: configuration, what it finds on the node, and the wiring of the two planes.
//!
//! ```text
//! config -> preflight -> instance -> interlock -> links ──> engine's wiring
//!                                                             cleanup undoes all of it
//! ```
//!
//! A start goes through these in order. Nothing on the machine is touched before [`preflight`] has passed and
//! [`instance`] holds the state directory and the interfaces; [`interlock`] is in force before the first program
//! is attached, so that at no moment the kernel forwards what nobody judged.

pub mod exit;
pub mod interface;
pub mod config;
pub mod preflight;
pub mod instance;
pub mod interlock;
pub mod links;
pub mod cleanup;
