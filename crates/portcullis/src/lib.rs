//! The binary's library: the agent, and what a person tries it with.
//!
//! ```text
//! run ─ config ─ links ─ preflight ─ instance ─ admin ─ broker ─ plane: load ─ privileges ─ plane: start
//!                                                     (interlock)  programs                 sockets, workers
//!
//! then: control thread ─ policy table ─┐
//!                              links ──┴─ rewire ─ engine's wiring, the programs' maps
//!                                                            cleanup undoes all of it
//! ```
//!
//! A start goes through the first line in order. Nothing on the machine is touched before [`preflight`] has
//! passed and [`instance`] holds the state directory and the interfaces; [`interlock`] is in force before the
//! first program is attached, so that at no moment the kernel forwards what nobody judged. The [`broker`] is the
//! process that runs `nft` for the agent, which by then has given up its [`privileges`]. [`run`] puts the two
//! planes together, with [`rewire`] and a [`plane`] below it: [`router`] in router mode, [`inline`] in its own.
//! Both have [`workers`]. Who asks a running agent comes to [`admin`]: [`status`], [`top`] and [`flows`] do.

pub mod cli;
pub mod exit;
pub mod huge_pages;
pub mod descriptors;
pub mod run;
pub mod interface;
pub mod config;
pub mod preflight;
pub mod instance;
pub mod interlock;
pub mod broker;
pub mod privileges;
pub mod links;
pub mod workers;
pub mod plane;
pub mod router;
pub mod service;
pub mod watchdog;
pub mod inline;
pub mod rewire;
pub mod in_force;
pub mod metrics;
pub mod admin;
pub mod flows;
pub mod status;
pub mod top;
pub mod cleanup;
pub mod doctor;
pub mod lab_agent;
pub mod lab_command;
pub mod demo;
pub mod policy_test;
pub mod test_command;
pub mod offline;
pub mod explain;
pub mod reach;
