//! The Internet checksum (RFC 1071).
//!
//! Sums are kept in the machine's own byte order: RFC 1071, section 2(B) shows that swapping the result is
//! enough.

use flow::Protocol;

use crate::packet::Packet;

/// Adds up `bytes` as 16-bit words in native order, the last one filled with zero. Not folded: sums of
/// several pieces of even length may be added before.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    // Four independent lanes of 32-bit words in 64 bits: no carry is lost below 16 GiB, and the compiler
    // has nothing to wait for.
    let mut lanes = [0u64; 4];
    let mut wide = bytes.chunks_exact(16);
    for chunk in &mut wide {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            *lane += word4(word);
        }
    }
    let mut words = wide.remainder().chunks_exact(4);
    let mut sum: u64 = lanes.iter().sum();
    for word in &mut words {
        sum += word4(word);
    }
    sum + match *words.remainder() {
        [a] => word(a, 0),
        [a, b] => word(a, b),
        [a, b, c] => word(a, b) + word(c, 0),
        _ => 0,
    }
}

#[inline]
fn word4(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |four| u64::from(u32::from_ne_bytes(*four)))
}

#[inline]
const fn word(high: u8, low: u8) -> u64 {
    u16::from_ne_bytes([high, low]) as u64
}

/// The one's complement sum in 16 bits, in native order.
#[inline]
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) of a packet whose layer 4
/// is `l4_len` bytes long.
#[inline]
pub(crate) fn pseudo_header(frame: &[u8], packet: &Packet, l4_len: usize) -> u64 {
    let l3 = usize::from(packet.l3_offset);
    let addresses = if packet.key.src.address.is_v4() { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 };
    let [.., a, b, c, d] = (l4_len as u64).to_be_bytes();
    sum(&frame[addresses]) + word(a, b) + word(c, d) + word(0, packet.key.protocol.0)
}

/// Whether the layer-4 checksum of a TCP, UDP, ICMP or ICMPv6 packet is right.
///
/// True for UDP over IPv4 without one (RFC 768), for protocols that carry no Internet checksum, and for
/// fragments, whose checksum covers what other frames hold.
///
/// # Panics
///
/// When `packet` was parsed from another frame.
#[must_use]
pub fn l4_checksum_ok(frame: &[u8], packet: &Packet) -> bool {
    if packet.fragment.is_some() {
        return true;
    }
    let l4 = &frame[packet.l4_range()];
    let v4 = packet.key.src.address.is_v4();
    let l4 = match packet.key.protocol {
        Protocol::UDP if v4 && l4[6..8] == [0, 0] => return true,
        // RFC 8200, section 8.1: "the default behavior [...] the UDP checksum is not optional".
        Protocol::UDP if l4[6..8] == [0, 0] => return false,
        Protocol::UDP => udp_datagram(l4),
        Protocol::TCP | Protocol::ICMPV6 => l4,
        Protocol::ICMP if v4 => return fold(sum(l4)) == 0xffff,
        _ => return true,
    };
    fold(pseudo_header(frame, packet, l4.len()) + sum(l4)) == 0xffff
}

/// The part of `l4` that the UDP length field covers.
#[inline]
pub(crate) fn udp_datagram(l4: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([l4[4], l4[5]]));
    &l4[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;
    use testkit::frames::frame;

    #[test]
    fn the_example_of_rfc_1071() {
        let folded = fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]));
        assert_eq!(folded.to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn one_wrong_bit_is_seen() {
        let sentences = [
            frame().ip("10.0.0.1", "10.0.0.2").tcp(1, 2).syn().payload(b"odd"),
            frame().ip("fd00::1", "fd00::2").tcp(1, 2).syn(),
            frame().ip("10.0.0.1", "10.0.0.2").udp(1, 2).payload(b"abc"),
            frame().ip("fd00::1", "fd00::2").udp(1, 2).payload(b"abc"),
            frame().ip("10.0.0.1", "10.0.0.2").ping(7).payload(b"abc"),
            frame().ip("fd00::1", "fd00::2").ping(7),
        ];
        for sentence in sentences {
            let mut bytes = sentence.padding(3).build();
            let packet = Packet::parse(&bytes).unwrap();
            assert!(l4_checksum_ok(&bytes, &packet), "{packet:?}");
            bytes[packet.l4_range().end - 1] ^= 0x10;
            assert!(!l4_checksum_ok(&bytes, &packet), "{packet:?}");
        }
    }

    #[test]
    fn only_udp_over_ipv4_may_go_without() {
        for (src, dst, ok) in [("10.0.0.1", "10.0.0.2", true), ("fd00::1", "fd00::2", false)] {
            let bytes = frame().ip(src, dst).udp(1, 2).no_checksum().build();
            assert_eq!(l4_checksum_ok(&bytes, &Packet::parse(&bytes).unwrap()), ok, "{src}");
        }
    }

    proptest! {
        #[test]
        fn etherparse_sums_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let theirs = Sum16BitWords::new().add_slice(&bytes).ones_complement();
            prop_assert_eq!((!fold(sum(&bytes))).to_ne_bytes(), theirs.to_ne_bytes());
        }
    }
}
