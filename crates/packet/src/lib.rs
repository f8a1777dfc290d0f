//! Bytes to a checked view with a flow key, or the reason why not.
//!
//! This crate is the security boundary of the packet's path: a pod chooses every byte that arrives here. It
//! is pure: no allocation, no input or output, and no panic on any bytes. Whatever it cannot prove to be a
//! layer-4 header never becomes a [`Packet`].
//!
//! ```text
//!             ┌ 0x0800 ─ ipv4.rs ─┐                ┌ TCP, UDP, SCTP ── ports
//! frame ── ethertype              ├─ layer4 ───────┼ echo ──────────── identifier      ── Packet
//!             ├ 0x86dd ─ ipv6.rs ─┘                └ error ─────────── key of the quote
//!             ├ tagged, LLC, anything else ── DropReason
//!             └ ARP ── UnknownEthertype, and on the cold path neighbour.rs ── Arp
//! ```
//!
//! Cost tiers, fastest first:
//!
//! 1. IPv4 without options and IPv6 without extension headers: constant offsets, no loop.
//! 2. IPv4 options and IPv6 extension headers: etherparse reads each header, a walk bounded by the order of
//!    RFC 8200, section 4.1 decides.
//! 3. ICMP errors: tier 1 or 2 once more on the packet that they quote.
//!
//! [`rewrite`] holds the changes that forwarding makes in place; [`neighbour`] reads ARP and neighbour
//! discovery, for the port guard and for learning the MAC address of a pod.
//!
//! Deliberately absent: reassembly (every fragment is a [`DropReason::Fragment`](flow::DropReason)), TCP
//! options, and any judgement of addresses beyond "no IPv4-mapped address travels on a wire": whether a
//! source may enter through a port is the port guard's question, which [`flow::Address`] helps to ask.

mod packet;
mod ipv4;
mod ipv6;
mod icmp;
mod checksum;

pub mod neighbour;
pub mod rewrite;

pub use checksum::l4_checksum_ok;
pub use packet::{Kind, Packet, TcpFlags};
