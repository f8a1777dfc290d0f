//! Bursts of frames through parse, port guard, flow table, policy table and forwarding.

pub mod io;
pub mod wiring;
