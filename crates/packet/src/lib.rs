//! Bytes to a checked view with a flow key, or the reason why not.
//!
//! This crate is the security boundary of the packet's path: a pod chooses every byte that arrives here. It
//! is pure: no allocation, no input or output, and no panic on any bytes. Whatever it cannot prove to be a
//! layer-4 header never becomes a [`Packet`].
//!
//! ```text
//! frame ── fast.rs: plain IPv4 or IPv6 with TCP, UDP, SCTP, whole and right ────────────────────── Packet
//!            └ all else ── the slow lane, by etherparse:
//!             ┌ 0x0800 ─ ipv4.rs ─┐              ┌ TCP, UDP, SCTP ── ports ────────────────────── Packet
//!          ethertype              ├─ whole, or ──┼ echo ──────────── identifier
//!             ├ 0x86dd ─ ipv6.rs ─┘  the first   └ error ─────────── key of the quote
//!             │           │          fragment
//!             │           └ a later fragment ── FragmentUnmatched, and on the cold path LaterFragment
//!             ├ tagged, LLC, anything else ── DropReason
//!             └ ARP ── UnknownEthertype, and on the cold path neighbour.rs ── Arp
//! ```
//!
//! Cost tiers, fastest first:
//!
//! 1. The fast lane: constant offsets, no loop, no call.
//! 2. The slow lane: etherparse reads each header; IPv4 options and IPv6 extension headers are walked, the
//!    latter in the order of RFC 8200, section 4.1, which bounds the walk. It says of every frame what the fast
//!    lane says of those that it takes; fuzzing holds the two against each other.
//! 3. ICMP errors: the slow lane's layer 3 once more on the packet that they quote.
//!
//! [`rewrite`] holds the changes that forwarding makes in place, [`icmp_error`] what a router says of a packet that
//! it cannot forward; [`neighbour`] reads ARP and neighbour discovery, for the port guard and for learning the MAC
//! address of a pod.
//!
//! Deliberately absent: reassembly, and the memory of first fragments that later ones follow (the engine's);
//! TCP options; and any judgement of addresses beyond "no IPv4-mapped address travels on a wire": whether a
//! source may enter through a port is the port guard's question, which [`flow::Address`] helps to ask.

mod parse;
mod fast;
mod ethernet;
mod ipv4;
mod ipv6;
mod icmp;
mod later;
mod packet;
mod fragment;
mod checksum;

pub mod icmp_error;
pub mod neighbour;
pub mod rewrite;

pub use checksum::l4_checksum_ok;
pub use fragment::{Datagram, Fragment};
pub use later::LaterFragment;
pub use packet::{Kind, Packet, TcpFlags};
