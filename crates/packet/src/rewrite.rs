//! What forwarding changes in a frame, in place.
//!
//! Each function takes the [`Packet`] that was parsed from the same frame, and panics when given another's.

use flow::{MacAddr, Protocol};

use crate::checksum::{fold, pseudo_header, sum, udp_datagram};
use crate::packet::Packet;

/// Addresses the frame to the next hop `dst`, from our own side `src` of the link (RFC 1812, section 5.2.4).
///
/// # Panics
///
/// When the frame has no Ethernet header.
#[inline]
pub fn rewrite_macs(frame: &mut [u8], dst: MacAddr, src: MacAddr) {
    frame[..6].copy_from_slice(&dst.0);
    frame[6..12].copy_from_slice(&src.0);
}

/// Takes one from the TTL (RFC 1812, section 5.3.1) or the hop limit (RFC 8200, section 3); zero stays.
///
/// The IPv4 header checksum follows by RFC 1624, equation 3.
///
/// # Panics
///
/// When `packet` was parsed from another frame.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], packet: &Packet) {
    let l3 = &mut frame[usize::from(packet.l3_offset)..];
    if packet.key.src.address.is_v6() {
        l3[7] = l3[7].saturating_sub(1);
        return;
    }
    let header = &mut l3[..20];
    let old = u16::from_be_bytes([header[8], header[9]]);
    header[8] = header[8].saturating_sub(1);
    let new = u16::from_be_bytes([header[8], header[9]]);
    let checksum = u16::from_be_bytes([header[10], header[11]]);
    // HC' = ~(~HC + ~m + m')
    let checksum = !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Completes the checksum of a TCP or UDP packet that holds only the sum of its pseudo-header.
///
/// Linux sockets behind a veth leave it so (`CHECKSUM_PARTIAL`, Documentation/networking/checksum-offloads.rst)
/// and trust the device to finish it. A field that is the right checksum and looks unfinished by chance gets
/// the same value again; every other field stays as it is: UDP over IPv4 without a checksum (RFC 768), and a
/// wrong checksum, which the receiver shall see. A UDP checksum that comes out as zero is sent as 0xffff
/// (RFC 768; RFC 8200, section 8.1).
///
/// # Panics
///
/// When `packet` was parsed from another frame.
#[inline]
pub fn complete_checksum(frame: &mut [u8], packet: &Packet) {
    let l4 = &frame[packet.l4_range()];
    let (covered, field) = match packet.key.protocol {
        Protocol::TCP => (l4, 16),
        Protocol::UDP => (udp_datagram(l4), 6),
        _ => return,
    };
    let found = u16::from_ne_bytes([covered[field], covered[field + 1]]);
    if found != fold(pseudo_header(frame, packet, covered.len())) {
        return;
    }
    // The field already holds the pseudo-header, so the sum over the rest includes it.
    let checksum = match !fold(sum(covered)) {
        0 if packet.key.protocol == Protocol::UDP => 0xffff,
        checksum => checksum,
    };
    let at = usize::from(packet.l4_offset) + field;
    frame[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
}
