//! What forwarding changes in a frame, in place.
//!
//! Each function takes the [`Packet`] that was parsed from the same frame, and panics when given another's.

use flow::{MacAddr, Protocol};

use crate::checksum::{fold, pseudo_header, sum, udp_datagram};
use crate::packet::{ETHERTYPE_VLAN, Packet, VLAN_TAGS};

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

/// Takes a priority tag off the frame (IEEE 802.1Q, section 6.9: an 802.1Q tag that names no VLAN, its identifier
/// zero), and returns how many bytes of it are left. `None`, and nothing is changed, for a frame that does not begin
/// with one, or that carries a second tag behind it.
#[cold]
#[must_use]
pub fn strip_priority_tag(frame: &mut [u8]) -> Option<usize> {
    const TAG: usize = 4;
    let &[t0, t1, priority, id, i0, i1] = frame.get(12..)?.first_chunk()?;
    let stripped = frame.len() - TAG;
    let tagged = [t0, t1] == ETHERTYPE_VLAN && (priority & 0x0f, id) == (0, 0);
    if !tagged || VLAN_TAGS.contains(&[i0, i1]) {
        return None;
    }
    frame.copy_within(12 + TAG.., 12);
    Some(stripped)
}

/// Completes the checksum of a TCP or UDP packet that holds only the sum of its pseudo-header.
///
/// Linux sockets behind a veth leave it so (`CHECKSUM_PARTIAL`, Documentation/networking/checksum-offloads.rst)
/// and trust the device to finish it. A field that is the right checksum and looks unfinished by chance gets
/// the same value again; every other field stays as it is: UDP over IPv4 without a checksum (RFC 768), and a
/// wrong checksum, which the receiver shall see. A UDP checksum that comes out as zero is sent as 0xffff
/// (RFC 768; RFC 8200, section 8.1). Fragments stay as they are: who splits a packet has summed it before.
///
/// # Panics
///
/// When `packet` was parsed from another frame.
#[inline]
pub fn complete_checksum(frame: &mut [u8], packet: &Packet) {
    if packet.fragment.is_some() {
        return;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l4_checksum_ok;
    use proptest::prelude::*;
    use testkit::frames::{FrameBuilder, frame};

    const FAMILIES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

    fn completed(sentence: &FrameBuilder) -> Vec<u8> {
        let mut bytes = sentence.build();
        let packet = Packet::parse(&bytes).unwrap();
        complete_checksum(&mut bytes, &packet);
        bytes
    }

    #[test]
    fn the_next_hop_is_written_and_nothing_else() {
        let (dst, src) = (MacAddr([2, 0, 0, 0, 7, 7]), MacAddr([2, 0, 0, 0, 8, 8]));
        let sentence = frame().ip("10.0.0.1", "10.0.0.2").udp(1, 2);
        let mut bytes = sentence.build();
        rewrite_macs(&mut bytes, dst, src);
        assert_eq!(bytes, sentence.from(src).to(dst).build());
    }

    #[test]
    fn the_updated_header_is_the_one_with_the_smaller_ttl() {
        for (src, dst) in FAMILIES {
            let sentence = frame().ip(src, dst).udp(1, 2);
            for ttl in 1..=255 {
                let mut bytes = sentence.clone().ttl(ttl).build();
                let packet = Packet::parse(&bytes).unwrap();
                decrement_ttl(&mut bytes, &packet);
                assert_eq!(bytes, sentence.clone().ttl(ttl - 1).build(), "{src}, TTL {ttl}");
            }
        }
    }

    #[test]
    fn a_ttl_of_zero_stays() {
        for (src, dst) in FAMILIES {
            let sentence = frame().ip(src, dst).udp(1, 2).ttl(0);
            let mut bytes = sentence.build();
            let packet = Packet::parse(&bytes).unwrap();
            decrement_ttl(&mut bytes, &packet);
            assert_eq!(bytes, sentence.build(), "{src}");
        }
    }

    #[test]
    fn one_priority_tag_is_taken_off() {
        for (src, dst) in FAMILIES {
            let plain = frame().ip(src, dst).udp(1, 2);
            for priority in [0, 0x2000, 0xf000] {
                let mut bytes = plain.clone().vlan(priority).build();
                let left = strip_priority_tag(&mut bytes).unwrap();
                assert_eq!(bytes[..left], plain.build());
            }
            for other in [
                plain.clone(),
                plain.clone().vlan(5),
                plain.clone().vlan(0x2100),
                plain.clone().vlan(0).vlan(0),
                plain.clone().vlan(0).vlan(5),
                plain.clone().tag(0x88a8, 0),
                plain.clone().tag(0x88a8, 0).vlan(0),
            ] {
                let mut bytes = other.build();
                assert_eq!((strip_priority_tag(&mut bytes), bytes), (None, other.build()));
            }
            let tagged = plain.vlan(0).build();
            for length in 0..18 {
                assert_eq!(strip_priority_tag(&mut tagged[..length].to_vec()), None, "{length} bytes");
            }
        }
    }

    #[test]
    fn partial_checksums_are_completed_and_padding_is_not_summed() {
        for (src, dst) in FAMILIES {
            for sentence in [
                frame().ip(src, dst).tcp(4242, 80).syn(),
                frame().ip(src, dst).tcp(4242, 80).ack().payload(b"odd"),
                frame().ip(src, dst).udp(4242, 53),
                frame().ip(src, dst).udp(4242, 53).payload(&[0xff; 1471]).padding(5),
            ] {
                let partial = sentence.clone().partial_checksum();
                assert_ne!(partial.build(), sentence.build());
                assert_eq!(completed(&partial), sentence.build());
            }
        }
        let options = frame().ip("10.0.0.1", "10.0.0.2").options(&[1, 1, 1, 0]).udp(1, 2);
        assert_eq!(completed(&options.clone().partial_checksum()), options.build());
        let chain = frame().ip("fd00::1", "fd00::2").extension(60, &[1, 4]).tcp(1, 2).syn();
        assert_eq!(completed(&chain.clone().partial_checksum()), chain.build());
    }

    #[test]
    fn bytes_behind_the_udp_length_are_not_summed() {
        for (src, dst) in FAMILIES {
            let udp = frame().ip(src, dst).udp(4242, 53);
            let with_slack = |datagram: Vec<u8>| {
                let l4 = Packet::parse(&datagram).unwrap().l4_range();
                frame().ip(src, dst).protocol(17).payload(&datagram[l4]).payload(&[9; 5])
            };
            let expected = with_slack(udp.build()).build();
            assert_eq!(completed(&with_slack(udp.partial_checksum().build())), expected, "{src}");
            assert!(l4_checksum_ok(&expected, &Packet::parse(&expected).unwrap()), "{src}");
        }
    }

    #[test]
    fn what_is_not_partial_stays() {
        for (src, dst) in FAMILIES {
            for sentence in [
                frame().ip(src, dst).tcp(1, 2).syn(),
                frame().ip(src, dst).udp(1, 2),
                frame().ip(src, dst).udp(1, 2).no_checksum(),
                frame().ip(src, dst).sctp(1, 2).chunk(1),
                frame().ip(src, dst).ping(1),
                frame().ip(src, dst).protocol(47).payload(&[0; 32]),
            ] {
                assert_eq!(completed(&sentence), sentence.build());
            }
            let mut wrong = frame().ip(src, dst).tcp(1, 2).syn().build();
            let last = wrong.len() - 1;
            wrong[last] ^= 1;
            let before = wrong.clone();
            let packet = Packet::parse(&wrong).unwrap();
            complete_checksum(&mut wrong, &packet);
            assert_eq!(wrong, before, "a wrong checksum is the receiver's to see");
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
        for (src, dst) in FAMILIES {
            // The payload that makes everything sum up to 0xffff is the checksum of the same packet with
            // payload zero.
            let zero = frame().ip(src, dst).udp(1, 2).payload(&[0, 0]).build();
            let at = usize::from(Packet::parse(&zero).unwrap().l4_offset) + 6;
            let sentence = frame().ip(src, dst).udp(1, 2).payload(&zero[at..at + 2]).partial_checksum();
            let bytes = completed(&sentence);
            assert_eq!(bytes[at..at + 2], [0xff, 0xff], "{src}");
            assert!(l4_checksum_ok(&bytes, &Packet::parse(&bytes).unwrap()));
        }
    }

    proptest! {
        #[test]
        fn any_partial_packet_is_completed(
            v4: bool, tcp: bool, src: u16, dst: u16,
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            let sentence = if v4 { frame().ip("10.0.0.1", "192.0.2.7") } else { frame().ip("fd00::1", "2001:db8::7") };
            let sentence = if tcp { sentence.tcp(src, dst).ack() } else { sentence.udp(src, dst) };
            let sentence = sentence.payload(&payload);
            prop_assert_eq!(completed(&sentence.clone().partial_checksum()), sentence.build());
        }
    }
}
