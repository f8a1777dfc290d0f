//! The ICMP and ICMPv6 errors that a router makes about packets that it cannot forward (RFC 1812, section 4.3; RFC
//! 4443).
//!
//! [`may_be_told`] says whom an error may be about; [`IcmpError::write`] makes it, with as much of the packet in it
//! as fits. How often, and from which of a router's addresses, is the caller's to decide.

use flow::{Address, MacAddr, Protocol};

use crate::checksum::{fold, sum};
use crate::packet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};

/// The longest frame that [`IcmpError::write`] makes.
pub const LONGEST: usize = ETHERNET + LONGEST_V6;

/// RFC 1812, section 4.3.2.3: "as much of the original datagram as possible without the length of the ICMP
/// datagram exceeding 576 bytes".
const LONGEST_V4: usize = 576;
/// RFC 4443, section 3: as much as fits "without the ICMPv6 packet exceeding the minimum IPv6 MTU".
const LONGEST_V6: usize = 1280;

const IPV4: usize = 20;
const IPV6: usize = 40;
const ICMP: usize = 8;

/// Why a packet cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Its TTL or hop limit ends here: type 11 code 0 (RFC 792), ICMPv6 type 3 code 0 (RFC 4443, section 3.3).
    TimeExceeded,
    /// It is longer than the next link takes: type 3 code 4 (RFC 1191, section 4), ICMPv6 type 2 (RFC 4443,
    /// section 3.2).
    TooBig {
        /// The longest IP packet that the next link takes, in bytes.
        mtu: u32,
    },
}

/// Whether anybody may be told that this packet went no further.
///
/// RFC 1812, section 4.3.2.7, and RFC 4443, section 2.4(e): never about an ICMP error, a later fragment, what was
/// sent to a group, or what comes from no single host. Messages whose type is unknown count as errors: two routers
/// that complain of each other would never end.
///
#[must_use]
pub fn may_be_told(frame: &[u8], packet: &Packet) -> bool {
    let (src, dst) = (packet.key.src.address, packet.key.dst.address);
    let later = packet.fragment.is_some_and(|fragment| !fragment.is_first());
    // It would go to every station of the link that it came by.
    let from_group = packet.eth_src.is_group();
    let to_group = packet.eth_dst.is_group() || dst.is_multicast() || dst.is_broadcast();
    let kind = frame.get(usize::from(packet.l4_offset)).copied();
    let asks = match packet.key.protocol {
        // Echo, router discovery, timestamp, information and mask requests and their answers.
        Protocol::ICMP if src.is_v4() => matches!(kind, Some(0 | 8..=10 | 13..=18)),
        // RFC 4443, section 2.1: "error messages have message types from 0 to 127". A redirect is as bad.
        Protocol::ICMPV6 if src.is_v6() => matches!(kind, Some(128..=136 | 138..)),
        _ => true,
    };
    src.may_be_source() && !from_group && !to_group && !later && asks
}

impl IcmpError {
    /// Writes the error about the packet in `frame` into `out`: from `address`, an address of our own of the
    /// packet's family, to the packet's source; on the link from `mac` to whom the frame came from.
    ///
    /// # Panics
    ///
    /// When `packet` was parsed from another frame, or `address` is of the other family.
    pub fn write<'o>(
        self,
        (mac, address): (MacAddr, Address),
        frame: &[u8],
        packet: &Packet,
        out: &'o mut [u8; LONGEST],
    ) -> &'o [u8] {
        let v4 = packet.key.src.address.is_v4();
        assert_eq!(address.is_v4(), v4, "an error about {packet:?} from {address:?}");
        let l3 = usize::from(packet.l3_offset);
        let whole = &frame[l3..l3 + packet.ip_len as usize];
        let (header, longest) = if v4 { (IPV4, LONGEST_V4) } else { (IPV6, LONGEST_V6) };
        let quote = &whole[..whole.len().min(longest - header - ICMP)];

        let icmp = ETHERNET + header;
        let end = icmp + ICMP + quote.len();
        out[..6].copy_from_slice(&packet.eth_src.0);
        out[6..12].copy_from_slice(&mac.0);
        out[icmp..icmp + ICMP].copy_from_slice(&self.header(v4));
        out[icmp + ICMP..end].copy_from_slice(quote);
        let covered = sum(&out[icmp..end]);
        let length = (ICMP + quote.len()) as u16;
        let checksum = if v4 {
            let ip = ipv4_header(length, address, packet.key.src.address);
            out[12..ETHERNET].copy_from_slice(&ETHERTYPE_IPV4);
            out[ETHERNET..icmp].copy_from_slice(&ip);
            !fold(covered)
        } else {
            let ip = ipv6_header(length, address, packet.key.src.address);
            out[12..ETHERNET].copy_from_slice(&ETHERTYPE_IPV6);
            out[ETHERNET..icmp].copy_from_slice(&ip);
            // RFC 8200, section 8.1: addresses, length and protocol are summed as well.
            let [high, low] = length.to_be_bytes();
            !fold(covered + sum(&ip[8..]) + sum(&[high, low, 0, Protocol::ICMPV6.0]))
        };
        out[icmp + 2..icmp + 4].copy_from_slice(&checksum.to_ne_bytes());
        &out[..end]
    }

    /// The ICMP header, its checksum zero.
    fn header(self, v4: bool) -> [u8; ICMP] {
        let (kind, code, mtu) = match self {
            Self::TimeExceeded => (if v4 { 11 } else { 3 }, 0, 0),
            // RFC 1191, section 4: the next hop's MTU in the lower half of what was unused.
            Self::TooBig { mtu } if v4 => (3, 4, mtu.min(u32::from(u16::MAX))),
            Self::TooBig { mtu } => (2, 0, mtu),
        };
        let [a, b, c, d] = mtu.to_be_bytes();
        [kind, code, 0, 0, a, b, c, d]
    }
}

const TTL: u8 = 64;

fn ipv4_header(length: u16, src: Address, dst: Address) -> [u8; IPV4] {
    // RFC 1812, section 4.3.2.5: precedence 6, internetwork control.
    const PRECEDENCE: u8 = 0xc0;
    // RFC 6864, section 4.1: what may not be fragmented needs no identification.
    const DONT_FRAGMENT: u8 = 0x40;
    let [high, low] = (length + IPV4 as u16).to_be_bytes();
    let mut header = [0; IPV4];
    header[..10].copy_from_slice(&[
        0x45,
        PRECEDENCE,
        high,
        low,
        0,
        0,
        DONT_FRAGMENT,
        0,
        TTL,
        Protocol::ICMP.0,
    ]);
    header[12..16].copy_from_slice(&src.octets()[12..]);
    header[16..].copy_from_slice(&dst.octets()[12..]);
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
    header
}

fn ipv6_header(length: u16, src: Address, dst: Address) -> [u8; IPV6] {
    let [high, low] = length.to_be_bytes();
    let mut header = [0; IPV6];
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, high, low, Protocol::ICMPV6.0, TTL]);
    header[8..24].copy_from_slice(&src.octets());
    header[24..].copy_from_slice(&dst.octets());
    header
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4, icmpv6};
    use proptest::prelude::*;
    use testkit::frames::{FrameBuilder, frame};

    use super::*;
    use crate::{Kind, LaterFragment, l4_checksum_ok};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const FAMILIES: [(&str, &str); 2] = [("10.0.0.1", "198.51.100.2"), ("fd00::1", "2001:db8::2")];

    fn own(v4: bool) -> Address {
        if v4 {
            Address::v4([192, 0, 2, 1])
        } else {
            "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().into()
        }
    }

    fn error(error: IcmpError, about: &[u8]) -> Vec<u8> {
        let packet = Packet::parse(about).unwrap();
        let mut out = [0xee; LONGEST];
        error.write((MAC, own(packet.key.src.address.is_v4())), about, &packet, &mut out).to_vec()
    }

    fn told(sentence: &FrameBuilder) -> bool {
        let bytes = sentence.build();
        may_be_told(&bytes, &Packet::parse(&bytes).unwrap())
    }

    #[test]
    fn it_goes_back_to_who_sent_the_packet() {
        for (src, dst) in FAMILIES {
            let about = frame().ip(src, dst).ttl(1).udp(4242, 33434).padding(7).build();
            let bytes = error(IcmpError::TimeExceeded, &about);
            let (packet, offender) = (Packet::parse(&bytes).unwrap(), Packet::parse(&about).unwrap());
            assert_eq!((packet.eth_src, packet.eth_dst), (MAC, offender.eth_src));
            assert_eq!(packet.kind, Kind::IcmpError { quoted: offender.key });
            assert_eq!(packet.key.src.address, own(src.contains('.')));
            assert_eq!(packet.key.dst.address, offender.key.src.address);
            assert!(bytes.ends_with(&about[14..about.len() - 7]), "the packet is quoted, its padding is not");
        }
    }

    #[test]
    fn an_mtu_has_the_width_of_its_field() {
        for (mtu, in_v4) in [(1300, 1300), (65_535, 65_535), (70_000, 65_535)] {
            for (src, dst) in FAMILIES {
                let bytes = error(IcmpError::TooBig { mtu }, &frame().ip(src, dst).udp(1, 2).build());
                match SlicedPacket::from_ethernet(&bytes).unwrap().transport.unwrap() {
                    TransportSlice::Icmpv4(icmp) => assert_eq!(
                        icmp.icmp_type(),
                        Icmpv4Type::DestinationUnreachable(
                            icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: in_v4 }
                        )
                    ),
                    TransportSlice::Icmpv6(icmp) => {
                        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu });
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn some_things_are_suffered_in_silence() {
        for (src, dst) in FAMILIES {
            let v4 = src.contains('.');
            let ip = || frame().ip(src, dst);
            let udp = frame().ip(dst, src).udp(1, 2).build();
            for (what, sentence, expected) in [
                ("UDP", ip().udp(1, 2), true),
                ("a protocol of its own", ip().protocol(47).payload(&[3; 8]), true),
                ("a header and nothing else", ip().protocol(47), true),
                ("a question", ip().ping(7), true),
                ("an answer", ip().pong(7), true),
                ("an error", ip().icmp_error(if v4 { 3 } else { 1 }, 1, &udp), false),
                ("a source quench", ip().icmp(4, 0, [0; 4]).payload(&udp[14..]), false),
                ("an unknown message", ip().icmp(if v4 { 77 } else { 100 }, 0, [0; 4]), false),
                ("to a group of the link", ip().to(MacAddr([0x33, 0x33, 0, 0, 0, 1])).udp(1, 2), false),
                ("from a group of the link", ip().from(MacAddr([255; 6])).udp(1, 2), false),
                ("to a group", frame().ip(src, if v4 { "224.0.0.9" } else { "ff02::9" }).udp(1, 2), false),
                ("from a group", frame().ip(if v4 { "224.0.0.9" } else { "ff02::9" }, dst).udp(1, 2), false),
                ("from nobody", frame().ip(if v4 { "0.0.0.0" } else { "::" }, dst).udp(1, 2), false),
                ("from a loopback", frame().ip(if v4 { "127.0.0.1" } else { "::1" }, dst).udp(1, 2), false),
            ] {
                assert_eq!(told(&sentence), expected, "{what}, {src}");
            }
            if v4 {
                assert!(!told(&ip().icmp(5, 0, [0; 4]).payload(&udp[14..])), "a redirect");
                assert!(!told(&frame().ip("255.255.255.255", dst).udp(1, 2)), "from everybody");
            }
            let pieces = ip().udp(1, 2).payload(&[7; 1000]).fragments(9, 400);
            assert!(may_be_told(&pieces[0], &Packet::parse(&pieces[0]).unwrap()), "a first fragment");
            let later = LaterFragment::parse(&pieces[1]).unwrap();
            let key = Packet::parse(&pieces[0]).unwrap().key;
            assert!(!may_be_told(&pieces[1], &later.following(key).unwrap()), "a later one");
        }
    }

    proptest! {
        #[test]
        fn etherparse_reads_what_was_written(
            v4: bool, too_big: bool, ttl: u8, mtu in 68_u32..65_536,
            options in 0_usize..10, payload in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            let (src, dst) = FAMILIES[usize::from(!v4)];
            let sentence = frame().ip(src, dst).ttl(ttl).udp(4242, 80).payload(&payload);
            let sentence = if v4 { sentence.options(&vec![1; options * 4]) } else { sentence };
            let about = sentence.build();
            let what = if too_big { IcmpError::TooBig { mtu } } else { IcmpError::TimeExceeded };
            let bytes = error(what, &about);

            let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
            let longest = if v4 { 576 } else { 1280 };
            prop_assert!(bytes.len() - 14 <= longest);
            let quote = match (sliced.net.unwrap(), sliced.transport.unwrap()) {
                (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
                    let header = ip.header().to_header();
                    prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                    let expected = match what {
                        IcmpError::TimeExceeded => {
                            Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
                        }
                        IcmpError::TooBig { mtu } => Icmpv4Type::DestinationUnreachable(
                            icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu as u16 },
                        ),
                    };
                    prop_assert_eq!(icmp.icmp_type(), expected);
                    icmp.payload().to_vec()
                }
                (NetSlice::Ipv6(_), TransportSlice::Icmpv6(icmp)) => {
                    let expected = match what {
                        IcmpError::TimeExceeded => {
                            Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)
                        }
                        IcmpError::TooBig { mtu } => Icmpv6Type::PacketTooBig { mtu },
                    };
                    prop_assert_eq!(icmp.icmp_type(), expected);
                    icmp.payload().to_vec()
                }
                other => panic!("{other:?}"),
            };
            prop_assert!(about[14..].starts_with(&quote));
            let room = longest - if v4 { 28 } else { 48 };
            prop_assert_eq!(quote.len(), (about.len() - 14).min(room));
            prop_assert!(l4_checksum_ok(&bytes, &Packet::parse(&bytes).unwrap()));
        }
    }
}
