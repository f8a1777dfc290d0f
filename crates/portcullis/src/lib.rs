//! The binary's library: the agent, and what a person tries it with.
//!
//! ```text
//! run ─ config ─ preflight ─ instance ─ interlock ─ links ─┐
//!                                                          ├─ rewire ─ engine's wiring, XDP's maps
//!       control thread ─ policy table ─────────────────────┘
//!       dataplane ─ XDP programs, sockets, workers ─ metrics
//!                                                            cleanup undoes all of it
//! ```
//!
//! A start goes through the first line in order. Nothing on the machine is touched before [`preflight`] has
//! passed and [`instance`] holds the state directory and the interfaces; [`interlock`] is in force before the
//! first program is attached, so that at no moment the kernel forwards what nobody judged. [`run`] is the only
//! place that sees both planes.

pub mod cli;
pub mod exit;
pub mod huge_pages;
pub mod run;
pub mod interface;
pub mod config;
pub mod preflight;
pub mod instance;
pub mod interlock;
pub mod links;
pub mod dataplane;
pub mod rewire;
pub mod metrics;
pub mod cleanup;
pub mod lab_agent;
pub mod lab_command;
pub mod demo;
pub mod policy_test;
pub mod test_command;
pub mod offline;
pub mod explain;
pub mod reach;
