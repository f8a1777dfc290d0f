//! Readable packets, clusters and truth tables for tests.
//!
//! ```text
//! frames     packets, byte by byte, as a pod or an uplink would send them
//! cluster    cluster().pod("x/a", "10.0.1.1", "app=web").policy(policy("x/web").ingress([rule().on("TCP/80")]))
//! truth      who reaches whom, drawn as a table
//! arbitrary  random clusters in which things collide, and connections that hit what is in them
//! ```

pub mod arbitrary;
pub mod cluster;
pub mod frames;
pub mod truth;
