//! Frames, good and bad, and what parse says of each.

use flow::{DropReason, FlowKey, Protocol};
use packet::neighbour::NeighbourDiscovery;
use packet::{Datagram, Fragment, Kind, LaterFragment, Packet, TcpFlags};
use testkit::frames::{
    AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, FrameBuilder, HOP_BY_HOP, POD_MAC, PORT_MAC, ROUTING,
    arp_request, frame, neighbour_solicitation,
};

const V4: (&str, &str) = ("10.0.0.1", "10.0.0.2");
const V6: (&str, &str) = ("fd00::1", "fd00::2");

fn v4() -> FrameBuilder {
    frame().ip(V4.0, V4.1)
}

fn v6() -> FrameBuilder {
    frame().ip(V6.0, V6.1)
}

fn key((src, dst): (&str, &str), protocol: Protocol, src_port: u16, dst_port: u16) -> FlowKey {
    let ip = |text: &str| text.parse::<std::net::IpAddr>().expect("an address");
    FlowKey::new(protocol, (ip(src), src_port), (ip(dst), dst_port))
}

/// A correct frame with one byte of it changed, and the IPv4 header checksum made right again.
fn bent(sentence: FrameBuilder, at: usize, value: u8) -> Vec<u8> {
    let mut bytes = sentence.build();
    assert_ne!(bytes[at], value, "nothing is bent");
    bytes[at] = value;
    if bytes[12..14] == [0x08, 0x00] {
        let length = usize::from(bytes[14] & 0x0f).max(5) * 4;
        bytes[24..26].copy_from_slice(&[0, 0]);
        let end = bytes.len().min(14 + length);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[14..end]);
        bytes[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    }
    bytes
}

#[test]
fn every_kind_of_packet_in_both_families() {
    for (addresses, icmp, l4) in [(V4, Protocol::ICMP, 34), (V6, Protocol::ICMPV6, 54)] {
        let ip = || frame().ip(addresses.0, addresses.1);
        let flags = |bits| Kind::Tcp(TcpFlags(bits));
        for (what, sentence, expected_key, expected_kind) in [
            ("SYN", ip().tcp(4242, 80).syn(), key(addresses, Protocol::TCP, 4242, 80), flags(0x02)),
            ("SYN-ACK", ip().tcp(80, 1).syn().ack(), key(addresses, Protocol::TCP, 80, 1), flags(0x12)),
            ("data", ip().tcp(80, 1).ack().payload(b"x"), key(addresses, Protocol::TCP, 80, 1), flags(0x10)),
            ("FIN", ip().tcp(80, 1).fin().ack(), key(addresses, Protocol::TCP, 80, 1), flags(0x11)),
            ("RST", ip().tcp(80, 1).rst(), key(addresses, Protocol::TCP, 80, 1), flags(0x04)),
            ("UDP", ip().udp(53, 65535).payload(b"dns"), key(addresses, Protocol::UDP, 53, 65535), Kind::Udp),
            (
                "INIT",
                ip().sctp(5, 6).chunk(1),
                key(addresses, Protocol::SCTP, 5, 6),
                Kind::Sctp { init: true },
            ),
            (
                "DATA",
                ip().sctp(5, 6).chunk(0),
                key(addresses, Protocol::SCTP, 5, 6),
                Kind::Sctp { init: false },
            ),
            ("no chunk", ip().sctp(5, 6), key(addresses, Protocol::SCTP, 5, 6), Kind::Sctp { init: false }),
            ("ping", ip().ping(77), key(addresses, icmp, 77, 77), Kind::IcmpEcho { request: true }),
            ("pong", ip().pong(77), key(addresses, icmp, 77, 77), Kind::IcmpEcho { request: false }),
            ("timestamp", ip().icmp(13, 0, [0; 4]), key(addresses, icmp, 0, 0), Kind::IcmpOther),
            ("a private ping", ip().icmp(8, 1, [0; 4]), key(addresses, icmp, 0, 0), Kind::IcmpOther),
            ("GRE", ip().protocol(47).payload(&[0; 4]), key(addresses, Protocol(47), 0, 0), Kind::Other),
            ("ESP", ip().protocol(50).payload(&[1; 24]), key(addresses, Protocol(50), 0, 0), Kind::Other),
            ("an empty payload", ip().protocol(47), key(addresses, Protocol(47), 0, 0), Kind::Other),
        ] {
            let unpadded = sentence.build().len();
            let packet = Packet::parse(&sentence.ttl(9).padding(11).build()).expect(what);
            assert_eq!((packet.key, packet.kind), (expected_key, expected_kind), "{what}");
            assert_eq!((packet.eth_src, packet.eth_dst, packet.ttl), (POD_MAC, PORT_MAC, 9), "{what}");
            assert_eq!((packet.l3_offset, packet.l4_offset), (14, l4), "{what}");
            assert_eq!(packet.ip_len as usize, unpadded - 14, "{what}: padding is not part of the packet");
            assert_eq!(packet.l4_range(), usize::from(l4)..unpadded, "{what}");
        }
    }
}

#[test]
fn the_other_familys_icmp_is_an_unknown_protocol() {
    let ping = [8, 0, 0, 0, 0, 7, 0, 1];
    let packet = Packet::parse(&v6().protocol(1).payload(&ping).build()).unwrap();
    assert_eq!((packet.kind, packet.key), (Kind::Other, key(V6, Protocol::ICMP, 0, 0)));
    let packet = Packet::parse(&v4().protocol(58).payload(&ping).build()).unwrap();
    assert_eq!((packet.kind, packet.key), (Kind::Other, key(V4, Protocol::ICMPV6, 0, 0)));
}

#[test]
fn neighbour_discovery_is_its_own_kind() {
    let solicitation = neighbour_solicitation(POD_MAC, V6.0, V6.1);
    assert_eq!(Packet::parse(&solicitation).unwrap().kind, Kind::NeighbourDiscovery);
    for (kind, expected) in [
        (132, Kind::IcmpOther),
        (133, Kind::NeighbourDiscovery),
        (134, Kind::NeighbourDiscovery),
        (137, Kind::NeighbourDiscovery),
        (138, Kind::IcmpOther),
    ] {
        assert_eq!(Packet::parse(&v6().icmp(kind, 0, [0; 4]).build()).unwrap().kind, expected, "{kind}");
    }
}

#[test]
fn only_a_lone_syn_opens() {
    for bits in 0..=255 {
        let flags = TcpFlags(bits);
        assert_eq!(flags.opens(), flags.syn() && !flags.ack() && !flags.fin() && !flags.rst(), "{bits:#x}");
    }
    assert!(TcpFlags(0xc2).opens(), "ECN bits do not matter (RFC 3168, section 6.1.1)");
}

#[test]
fn link_layers_that_could_hide_a_packet() {
    let udp = || v4().udp(1, 2);
    for (what, bytes, reason) in [
        ("priority tag", udp().vlan(0).build(), DropReason::VlanTagged),
        ("VLAN 5", udp().vlan(5).build(), DropReason::VlanTagged),
        ("QinQ", udp().tag(0x88a8, 1).vlan(0).build(), DropReason::VlanTagged),
        ("three tags", udp().tag(0x9100, 1).vlan(0).vlan(0).build(), DropReason::VlanTagged),
        ("LLC/SNAP of 46 bytes", bent_type(udp(), 46), DropReason::UnknownEthertype),
        ("the longest 802.3 length", bent_type(udp(), 0x05ff), DropReason::UnknownEthertype),
        ("length zero", bent_type(udp(), 0), DropReason::UnknownEthertype),
        ("EAPOL", bent_type(udp(), 0x888e), DropReason::UnknownEthertype),
        ("MACsec", bent_type(udp(), 0x88e5), DropReason::UnknownEthertype),
        ("ARP", arp_request(POD_MAC, V4.0, V4.1), DropReason::UnknownEthertype),
        ("IPv6 in an IPv4 frame", bent_type(v6().udp(1, 2), 0x0800), DropReason::IpInvalid),
        ("IPv4 in an IPv6 frame", bent_type(udp().payload(&[0; 40]), 0x86dd), DropReason::IpInvalid),
        ("nothing", vec![], DropReason::Truncated),
        ("a header alone", udp().build()[..14].to_vec(), DropReason::Truncated),
    ] {
        assert_eq!(Packet::parse(&bytes), Err(reason), "{what}");
    }
}

fn bent_type(sentence: FrameBuilder, ethertype: u16) -> Vec<u8> {
    let mut bytes = sentence.build();
    bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
    bytes
}

#[test]
fn ip_headers_that_contradict_themselves() {
    let udp = || v4().udp(1, 2).payload(&[0; 30]);
    let udp6 = || v6().udp(1, 2).payload(&[0; 30]);
    let wrong_checksum = {
        let mut bytes = udp().build();
        bytes[24] ^= 1;
        bytes
    };
    let wrong_checksum_with_options = {
        let mut bytes = udp().options(&[1, 1, 1, 0]).build();
        bytes[24] ^= 1;
        bytes
    };
    for (what, bytes) in [
        ("version 5", bent(udp(), 14, 0x55)),
        ("IHL 0", bent(udp(), 14, 0x40)),
        ("IHL 4", bent(udp(), 14, 0x44)),
        ("IHL beyond the packet", bent(v4().protocol(47), 14, 0x4f)),
        ("total length below the header", bent(udp(), 17, 19)),
        ("total length below the options", bent(udp().options(&[1; 8]), 17, 27)),
        ("total length beyond the frame", bent(udp(), 17, 59)),
        ("total length of 65 thousand", bent(udp(), 16, 0xff)),
        ("header checksum", wrong_checksum),
        ("header checksum over options", wrong_checksum_with_options),
        ("IPv6 version 4", bent(udp6(), 14, 0x40)),
        ("payload beyond the frame", bent(udp6(), 19, 39)),
        ("payload length of 65 thousand", bent(udp6(), 18, 0xff)),
        ("mapped source", bent_mapped(udp6(), 22)),
        ("mapped destination", bent_mapped(udp6(), 38)),
    ] {
        assert_eq!(Packet::parse(&bytes), Err(DropReason::IpInvalid), "{what}");
    }
}

fn bent_mapped(sentence: FrameBuilder, at: usize) -> Vec<u8> {
    let mut bytes = sentence.build();
    bytes[at..at + 16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
    bytes
}

#[test]
fn ipv4_options() {
    for (what, options, expected) in [
        ("no-operations", &[1, 1, 1, 1][..], Ok(())),
        ("end of list, then anything", &[0, 131, 3, 4], Ok(())),
        ("router alert", &[148, 4, 0, 0], Ok(())),
        ("record route", &[7, 7, 4, 0, 0, 0, 0, 0], Ok(())),
        ("timestamp as the last", &[1, 1, 68, 6, 5, 0, 0, 0], Ok(())),
        ("forty bytes", &[1; 40], Ok(())),
        ("loose source route", &[131, 7, 4, 10, 0, 0, 9, 0], Err(DropReason::IpInvalid)),
        ("strict source route", &[1, 137, 7, 4, 10, 0, 0, 9], Err(DropReason::IpInvalid)),
        ("length zero", &[7, 0, 0, 0], Err(DropReason::IpInvalid)),
        ("length one", &[7, 1, 0, 0], Err(DropReason::IpInvalid)),
        ("beyond the header", &[7, 5, 0, 0], Err(DropReason::IpInvalid)),
        ("no length", &[1, 1, 1, 7], Err(DropReason::IpInvalid)),
    ] {
        let parsed = Packet::parse(&v4().options(options).tcp(4242, 80).syn().build());
        assert_eq!(parsed.map(|_| ()), expected, "{what}");
        if let Ok(packet) = parsed {
            assert_eq!(packet.key, key(V4, Protocol::TCP, 4242, 80), "{what}");
            assert_eq!(usize::from(packet.l4_offset), 34 + options.len(), "{what}");
        }
    }
}

#[test]
fn first_fragments_are_packets() {
    for (addresses, icmp, l4) in [(V4, Protocol::ICMP, 34), (V6, Protocol::ICMPV6, 62)] {
        let ip = || frame().ip(addresses.0, addresses.1);
        for (what, sentence, key, kind) in [
            (
                "TCP",
                ip().tcp(4242, 80).ack(),
                key(addresses, Protocol::TCP, 4242, 80),
                Kind::Tcp(TcpFlags(0x10)),
            ),
            ("UDP", ip().udp(4242, 53), key(addresses, Protocol::UDP, 4242, 53), Kind::Udp),
            (
                "SCTP",
                ip().sctp(5, 6).chunk(1),
                key(addresses, Protocol::SCTP, 5, 6),
                Kind::Sctp { init: true },
            ),
            ("ping", ip().ping(77), key(addresses, icmp, 77, 77), Kind::IcmpEcho { request: true }),
            ("GRE", ip().protocol(47), key(addresses, Protocol(47), 0, 0), Kind::Other),
        ] {
            let sentence = sentence.payload(&[0; 4000]).padding(3);
            for (size, id) in [(80, 7), (1480, 0xabcd)] {
                let first = &sentence.fragments(id, size)[0];
                let packet = Packet::parse(first).expect(what);
                assert_eq!((packet.key, packet.kind, packet.l4_offset), (key, kind, l4), "{what}");
                assert_eq!(packet.l4_range().len(), size, "{what}");
                let expected = Fragment { id, offset: 0, end: size as u16, more: true };
                assert_eq!(packet.fragment, Some(expected), "{what}");
                let protocol = if addresses == V4 { key.protocol } else { Protocol(44) };
                let (src, dst) = (key.src.address, key.dst.address);
                assert_eq!(packet.datagram(), Some(Datagram { src, dst, id, protocol }), "{what}");
                assert_eq!(LaterFragment::parse(first), None, "{what}");
                assert!(packet::l4_checksum_ok(first, &packet), "{what}: nobody can tell");
                let mut same = first.clone();
                packet::rewrite::complete_checksum(&mut same, &packet);
                assert_eq!(same, *first, "{what}");
            }
        }
    }
}

#[test]
fn later_fragments_follow_their_first() {
    for addresses in [V4, V6] {
        let ip = || frame().ip(addresses.0, addresses.1).ttl(9);
        for sentence in [
            ip().tcp(4242, 80).syn().fin().payload(&[0; 4000]),
            ip().udp(4242, 80).payload(&[0; 4000]),
            ip().sctp(4242, 80).chunk(1).payload(&[0; 4000]),
            ip().ping(77).payload(&[0; 4000]),
            ip().protocol(47).payload(&[0; 4000]),
        ] {
            let pieces = sentence.fragments(0x1_0007, 1480);
            let first = Packet::parse(&pieces[0]).expect("a first fragment");
            for (index, piece) in pieces.iter().enumerate().skip(1) {
                assert_eq!(Packet::parse(piece), Err(DropReason::FragmentUnmatched), "{first:?}");
                let later = LaterFragment::parse(piece).expect("a later fragment");
                assert_eq!((later.eth_src, later.eth_dst), (POD_MAC, PORT_MAC));
                assert_eq!(Some(later.datagram), first.datagram());
                assert_eq!(usize::from(later.fragment.offset), index * 1480);
                assert_eq!(later.fragment.more, index + 1 < pieces.len());

                let packet = later.following(first.key).expect("of the same datagram");
                assert_eq!((packet.key, packet.fragment, packet.ttl), (first.key, Some(later.fragment), 9));
                assert_eq!(packet.l4_range().end, piece.len());
                assert_eq!(packet.l4_range().len(), usize::from(later.fragment.end - later.fragment.offset));
                assert_eq!(packet.kind, Kind::Other, "it neither opens nor ends a connection");
                let mut same = piece.clone();
                packet::rewrite::complete_checksum(&mut same, &packet);
                assert_eq!(same, *piece, "no checksum is at the place of one");
                assert_eq!(later.following(first.key.reversed()), None);
            }
        }
    }
    let later = LaterFragment::parse(&v4().udp(1, 2).piece(7, 80..88, false)).unwrap();
    assert_eq!(later.following(key(V4, Protocol::TCP, 1, 2)), None, "another protocol");
}

#[test]
fn fragments_that_hide_something() {
    use DropReason::{FragmentInvalid, FragmentTiny, Ipv6ExtInvalid, L4Truncated};
    const PAD: &[u8] = &[1, 4, 0, 0, 0, 0];
    let families = [(v4(), frame().ip(V4.1, V4.0), 3, 65515), (v6(), frame().ip(V6.1, V6.0), 1, 65535)];
    for (ip, back, kind, longest) in families {
        let udp = ip.clone().udp(1, 2).payload(&[0; 4000]);
        let tcp = ip.clone().tcp(1, 2).syn().payload(&[0; 100]);
        let about = back.udp(1, 2).payload(&[0; 90]).build();
        let error = ip.clone().icmp_error(kind, 4, &about);
        for (what, bytes, reason) in [
            ("8 bytes of TCP", tcp.piece(7, 0..8, true), FragmentTiny),
            ("16 bytes of TCP", tcp.piece(7, 0..16, true), FragmentTiny),
            ("a first one of 72 bytes", udp.piece(7, 0..72, true), FragmentTiny),
            ("flags written over", tcp.piece(7, 8..120, false), FragmentTiny),
            ("a later one at 72", udp.piece(7, 72..1000, true), FragmentTiny),
            ("a first one without data", udp.piece(7, 0..0, true), FragmentInvalid),
            ("a last one without data", udp.piece(7, 1480..1480, false), FragmentInvalid),
            ("half a block", udp.piece(7, 0..1479, true), FragmentInvalid),
            ("half a block in the middle", udp.piece(7, 1480..2959, true), FragmentInvalid),
            ("beyond the longest datagram", udp.piece(7, 65528..65544, false), FragmentInvalid),
            ("an ICMP error", error.piece(7, 0..80, true), FragmentInvalid),
        ] {
            assert_eq!(Packet::parse(&bytes), Err(reason), "{what}: {bytes:02x?}");
            assert_eq!(LaterFragment::parse(&bytes), None, "{what}");
        }
        let last = udp.piece(7, 65000..longest, false);
        assert_eq!(LaterFragment::parse(&last).map(|later| usize::from(later.fragment.end)), Some(longest));
        assert_eq!(Packet::parse(&udp.piece(7, 65000..longest + 1, false)), Err(FragmentInvalid));
    }
    let behind = |number, body: &[u8]| v6().extension(number, body).tcp(1, 2).syn().payload(&[0; 99]);
    let mut options_cut = behind(DESTINATION_OPTIONS, &[0; 22]).piece(7, 0..80, true);
    options_cut[62 + 24 + 12] = 0xf0;
    let solicitation = v6().ttl(255).icmp(135, 0, [0; 4]).payload(&[0; 100]);
    let twice = behind(FRAGMENT, &[0; 6]).extension(FRAGMENT, &[0; 6]);
    for (what, bytes, reason) in [
        ("TCP options in the next one", options_cut, L4Truncated),
        ("half a TCP header", behind(DESTINATION_OPTIONS, &[0; 70]).piece(7, 0..88, true), L4Truncated),
        ("a chain that goes on", behind(DESTINATION_OPTIONS, &[0; 86]).piece(7, 0..80, true), Ipv6ExtInvalid),
        ("neighbour discovery", solicitation.piece(7, 0..80, true), FragmentInvalid),
        ("two fragment headers", behind(FRAGMENT, &[0; 6]).piece(7, 0..80, true), Ipv6ExtInvalid),
        ("two, in a later one", behind(FRAGMENT, &[0; 6]).piece(7, 80..88, true), Ipv6ExtInvalid),
        ("two in a whole packet", twice.build(), Ipv6ExtInvalid),
        ("hop-by-hop behind it", behind(HOP_BY_HOP, PAD).piece(7, 0..80, true), Ipv6ExtInvalid),
        ("hop-by-hop in a later one", behind(HOP_BY_HOP, PAD).piece(7, 80..88, true), Ipv6ExtInvalid),
        ("routing behind it", behind(ROUTING, &[4, 0, 0, 0, 0, 0]).piece(7, 0..80, true), Ipv6ExtInvalid),
        ("no next header", v6().protocol(59).piece(7, 80..88, true), Ipv6ExtInvalid),
    ] {
        assert_eq!(Packet::parse(&bytes), Err(reason), "{what}: {bytes:02x?}");
        assert_eq!(LaterFragment::parse(&bytes), None, "{what}");
    }
}

#[test]
fn whole_packets_that_look_like_fragments() {
    let whole = Packet::parse(&bent(v4().udp(1, 2), 20, 0x80)).unwrap();
    assert_eq!((whole.kind, whole.fragment), (Kind::Udp, None), "the reserved flag makes no fragment");
    // RFC 6946: an atomic fragment is a whole packet.
    let atomic = v6().extension(HOP_BY_HOP, &[1, 4]).extension(FRAGMENT, &[0, 0, 0, 0, 0, 7]).tcp(1, 2).syn();
    let packet = Packet::parse(&atomic.build()).unwrap();
    assert_eq!((packet.key, packet.fragment), (key(V6, Protocol::TCP, 1, 2), None));
    assert_eq!(packet.l4_offset, 54 + 16);
    let solicitation =
        v6().ttl(255).extension(FRAGMENT, &[0; 6]).icmp(135, 0, [0; 4]).payload(&[0; 16]).build();
    assert_eq!(NeighbourDiscovery::parse(&solicitation), None, "RFC 6980 includes atomic fragments");
}

#[test]
fn chains_of_extension_headers() {
    const PAD: &[u8] = &[1, 4, 0, 0, 0, 0];
    const AUTH: &[u8] = &[0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4];
    const ARRIVED: &[u8] = &[4, 0, 0, 0, 0, 0];
    type Chain<'a> = &'a [(u8, &'a [u8])];
    let good: &[(&str, Chain<'_>)] = &[
        ("hop-by-hop", &[(HOP_BY_HOP, PAD)]),
        ("destination options", &[(DESTINATION_OPTIONS, PAD)]),
        ("long destination options", &[(DESTINATION_OPTIONS, &[1, 252])]),
        ("authentication", &[(AUTHENTICATION, AUTH)]),
        ("mobile routing, arrived", &[(ROUTING, &[2, 0, 0, 0, 0, 0])]),
        ("segment routing, arrived", &[(ROUTING, ARRIVED)]),
        ("options before and after routing", &[(60, PAD), (ROUTING, ARRIVED), (60, PAD)]),
        ("atomic fragment", &[(FRAGMENT, &[0; 6])]),
        (
            "all in order",
            &[
                (HOP_BY_HOP, PAD),
                (DESTINATION_OPTIONS, PAD),
                (ROUTING, ARRIVED),
                (FRAGMENT, &[0; 6]),
                (AUTHENTICATION, AUTH),
                (DESTINATION_OPTIONS, PAD),
            ],
        ),
    ];
    for (what, chain) in good {
        let sentence = chain.iter().fold(v6(), |sentence, (number, body)| sentence.extension(*number, body));
        let bytes = sentence.tcp(4242, 80).syn().build();
        let packet = Packet::parse(&bytes).expect(what);
        assert_eq!(packet.key, key(V6, Protocol::TCP, 4242, 80), "{what}");
        assert_eq!(usize::from(packet.l4_offset), bytes.len() - 20, "{what}");
        assert!(packet::l4_checksum_ok(&bytes, &packet), "{what}");
    }
    let bad: &[(&str, Chain<'_>)] = &[
        ("hop-by-hop twice", &[(HOP_BY_HOP, PAD), (HOP_BY_HOP, PAD)]),
        ("hop-by-hop late", &[(DESTINATION_OPTIONS, PAD), (HOP_BY_HOP, PAD)]),
        ("destination options twice", &[(60, PAD), (60, PAD)]),
        ("destination options three times", &[(60, PAD), (ROUTING, ARRIVED), (60, PAD), (60, PAD)]),
        ("routing twice", &[(ROUTING, ARRIVED), (ROUTING, ARRIVED)]),
        ("routing after authentication", &[(AUTHENTICATION, AUTH), (ROUTING, ARRIVED)]),
        ("authentication twice", &[(AUTHENTICATION, AUTH), (AUTHENTICATION, AUTH)]),
        ("routing type 0", &[(ROUTING, &[0, 0, 0, 0, 0, 0])]),
        ("routing type 1", &[(ROUTING, &[1, 0, 0, 0, 0, 0])]),
        ("routing with a segment left", &[(ROUTING, &[4, 1, 0, 0, 0, 0])]),
        ("mobility", &[(135, PAD)]),
        ("host identity", &[(139, PAD)]),
        ("shim6", &[(140, PAD)]),
        ("unassigned", &[(200, PAD)]),
        ("experimental", &[(253, PAD)]),
        ("reserved", &[(255, PAD)]),
        ("no next header", &[(59, PAD)]),
        ("no next header behind options", &[(60, PAD), (59, PAD)]),
        ("jumbogram", &[(HOP_BY_HOP, &[194, 4, 0, 1, 0, 0])]),
        ("jumbogram behind padding", &[(HOP_BY_HOP, &[1, 2, 0, 0, 0, 194, 4, 0, 1, 0, 0])]),
        ("hop-by-hop options that do not add up", &[(HOP_BY_HOP, &[1, 5, 0, 0, 0, 0])]),
        ("half a hop-by-hop option", &[(HOP_BY_HOP, &[1, 3, 0, 0, 0, 5])]),
        ("fragment before routing", &[(FRAGMENT, &[0; 6]), (ROUTING, ARRIVED)]),
    ];
    for (what, chain) in bad {
        let sentence = chain.iter().fold(v6(), |sentence, (number, body)| sentence.extension(*number, body));
        let bytes = sentence.tcp(4242, 80).syn().build();
        assert_eq!(Packet::parse(&bytes), Err(DropReason::Ipv6ExtInvalid), "{what}");
    }
    let jumbo = bent(v6().extension(HOP_BY_HOP, &[194, 4, 0, 1, 0, 0]).udp(1, 2), 19, 0);
    assert_eq!(Packet::parse(&jumbo), Err(DropReason::Ipv6ExtInvalid), "a jumbogram without a length");
    for count in 2..=20 {
        let chain = (0..count).fold(v6(), |sentence, _| sentence.extension(DESTINATION_OPTIONS, PAD));
        assert_eq!(Packet::parse(&chain.udp(1, 2).build()), Err(DropReason::Ipv6ExtInvalid), "{count}");
    }
}

#[test]
fn extension_headers_that_are_cut() {
    // The header says 8 + 255 * 8 bytes, and 16 + 8 are there.
    let long = bent(v6().extension(DESTINATION_OPTIONS, &[1, 12]).udp(1, 2), 55, 255);
    assert_eq!(Packet::parse(&long), Err(DropReason::Ipv6ExtInvalid));
    for number in [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS] {
        for length in 1..8 {
            let bytes = v6().protocol(number).payload(&[17; 8][..length]).build();
            assert_eq!(Packet::parse(&bytes), Err(DropReason::Ipv6ExtInvalid), "{number}, {length} bytes");
        }
    }
    // RFC 4302, section 2.2: no authentication header is shorter than twelve bytes.
    let short = v6().protocol(AUTHENTICATION).payload(&[17, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0]);
    assert_eq!(Packet::parse(&short.build()), Err(DropReason::Ipv6ExtInvalid));
}

#[test]
fn layer_4_headers_that_are_not_whole() {
    for (ip, l4) in [(v4(), 34), (v6(), 54)] {
        let ip = || ip.clone();
        for (what, bytes) in [
            ("TCP of 19 bytes", ip().protocol(6).payload(&[0x50; 19]).build()),
            ("TCP data offset 4", bent(ip().tcp(1, 2).syn(), l4 + 12, 0x40)),
            ("TCP data offset 0", bent(ip().tcp(1, 2).syn(), l4 + 12, 0)),
            ("TCP options beyond the packet", bent(ip().tcp(1, 2).syn(), l4 + 12, 0x60)),
            ("TCP options in the padding", bent(ip().tcp(1, 2).syn().padding(40), l4 + 12, 0xf0)),
            ("UDP of 7 bytes", ip().protocol(17).payload(&[0; 7]).build()),
            ("UDP length 7", bent(ip().udp(1, 2), l4 + 5, 7)),
            ("UDP length 0", bent(ip().udp(1, 2), l4 + 5, 0)),
            ("UDP length beyond the packet", bent(ip().udp(1, 2), l4 + 5, 9)),
            ("UDP length into the padding", bent(ip().udp(1, 2).padding(9), l4 + 5, 9)),
            ("SCTP of 11 bytes", ip().protocol(132).payload(&[0; 11]).build()),
            ("ping of 7 bytes", ip().protocol(if l4 == 34 { 1 } else { 58 }).payload(&[8; 7]).build()),
            ("nothing", ip().protocol(6).build()),
            ("headers in the padding", ip().protocol(6).padding(40).build()),
        ] {
            assert_eq!(Packet::parse(&bytes), Err(DropReason::L4Truncated), "{what} at {l4}");
        }
        let slack = Packet::parse(&bent(ip().udp(1, 2).payload(&[0; 4]), l4 + 5, 8)).unwrap();
        assert_eq!(slack.kind, Kind::Udp, "UDP may be shorter than the packet (RFC 768 says nothing else)");
    }
}

#[test]
fn icmp_errors_name_the_connection_they_are_about() {
    for (addresses, icmp, kinds) in
        [(V4, Protocol::ICMP, &[3, 11, 12][..]), (V6, Protocol::ICMPV6, &[1, 2, 3, 4])]
    {
        let router = if addresses == V4 { "192.0.2.1" } else { "2001:db8::1" };
        let ours = || frame().ip(addresses.0, addresses.1);
        for kind in kinds {
            let error = |about: &[u8]| frame().ip(router, addresses.0).icmp_error(*kind, 4, about).build();
            for (what, about, quoted) in [
                ("TCP", ours().tcp(4242, 80).ack(), key(addresses, Protocol::TCP, 4242, 80)),
                ("UDP", ours().udp(4242, 53), key(addresses, Protocol::UDP, 4242, 53)),
                ("SCTP", ours().sctp(4242, 7).chunk(1), key(addresses, Protocol::SCTP, 4242, 7)),
                ("ping", ours().ping(77), key(addresses, icmp, 77, 77)),
                ("pong", ours().pong(77), key(addresses, icmp, 77, 77)),
                ("GRE", ours().protocol(47).payload(&[0; 8]), key(addresses, Protocol(47), 0, 0)),
            ] {
                let packet = Packet::parse(&error(&about.build())).expect(what);
                assert_eq!(packet.kind, Kind::IcmpError { quoted }, "{what}, type {kind}");
                let outer = key((router, addresses.0), icmp, 0, 0);
                assert_eq!(packet.key, outer, "{what}, type {kind}");
            }
            // Ports and all, but a byte less than the 64 bits of RFC 792.
            let about = ours().udp(4242, 53).build();
            assert_eq!(Packet::parse(&error(&about[..about.len() - 1])), Err(DropReason::L4Truncated));
            assert_eq!(Packet::parse(&error(&about[..14])), Err(DropReason::L4Truncated));
            // Somebody else's packet.
            let stranger = frame().ip(addresses.1, addresses.0).udp(53, 4242).build();
            assert_eq!(Packet::parse(&error(&stranger)), Err(DropReason::IcmpUnrelated));
            // The other version, or none.
            let mut about = about;
            about[14] = 0;
            assert_eq!(Packet::parse(&error(&about)), Err(DropReason::IcmpUnrelated));
        }
    }
    let redirect = frame().ip("192.0.2.1", V4.0).icmp_error(5, 1, &v4().udp(1, 2).build()).build();
    assert_eq!(Packet::parse(&redirect).unwrap().kind, Kind::IcmpOther);
}

#[test]
fn quotes_with_options_extension_headers_and_fragments() {
    let about_v4 = |about: FrameBuilder| {
        let about = about.udp(4242, 53).payload(&[0; 8]).build();
        Packet::parse(&frame().ip("192.0.2.1", V4.0).icmp_error(11, 0, &about).build())
    };
    let quoted = Kind::IcmpError { quoted: key(V4, Protocol::UDP, 4242, 53) };
    assert_eq!(about_v4(v4().options(&[7, 7, 4, 0, 0, 0, 0, 0])).unwrap().kind, quoted);
    assert_eq!(about_v4(v4().fragment(0, true)).unwrap().kind, quoted, "a first fragment has its ports");
    assert_eq!(about_v4(v4().fragment(1, true)), Err(DropReason::IcmpUnrelated));

    let about_v6 = |about: FrameBuilder| {
        let about = about.udp(4242, 53).build();
        Packet::parse(&frame().ip("2001:db8::1", V6.0).icmp_error(2, 0, &about).build())
    };
    let quoted = Kind::IcmpError { quoted: key(V6, Protocol::UDP, 4242, 53) };
    assert_eq!(about_v6(v6().extension(DESTINATION_OPTIONS, &[1, 4])).unwrap().kind, quoted);
    assert_eq!(about_v6(v6().extension(ROUTING, &[0; 6])), Err(DropReason::IcmpUnrelated));
    assert_eq!(about_v6(v6().extension(FRAGMENT, &[0, 1, 0, 0, 0, 7])).unwrap().kind, quoted, "the first");
    assert_eq!(about_v6(v6().extension(FRAGMENT, &[0, 9, 0, 0, 0, 7])), Err(DropReason::IcmpUnrelated));
}
