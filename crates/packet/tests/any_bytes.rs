//! What holds for every frame: no panic, no packet without its whole layer-4 header, and the same key that
//! etherparse reads.

#[path = "lanes/mod.rs"]
mod lanes;

use etherparse::{InternetSlice, SlicedPacket, TransportSlice};
use flow::{FlowKey, Protocol};
use packet::rewrite::{complete_checksum, decrement_ttl};
use packet::{Packet, l4_checksum_ok};
use proptest::prelude::*;
use std::net::IpAddr;
use testkit::frames::{FrameBuilder, POD_MAC, arp_request, frame, neighbour_solicitation};

/// Everything that anybody does with a frame from a pod, checked.
fn handle(frame: &[u8]) -> Option<Packet> {
    if let Some(mended) = lanes::mended(frame) {
        let _ = lanes::check(&mended);
    }
    lanes::check(frame).ok()
}

/// One valid frame of each kind.
fn one_of_each() -> Vec<Vec<u8>> {
    let mut frames = vec![
        arp_request(POD_MAC, "10.0.0.1", "10.0.0.254"),
        neighbour_solicitation(POD_MAC, "fd00::1", "fd00::ff"),
        frame().ip("10.0.0.1", "10.0.0.2").options(&[148, 4, 0, 0, 1, 1, 1, 0]).tcp(1, 2).syn().build(),
        frame().ip("fd00::1", "fd00::2").extension(0, &[1, 4]).extension(60, &[1, 12]).udp(1, 2).build(),
        frame().ip("fd00::1", "fd00::2").extension(43, &[4, 0]).extension(51, &[0; 14]).tcp(1, 2).build(),
        frame().ip("fd00::1", "fd00::2").extension(44, &[0; 6]).udp(1, 2).build(),
    ];
    for (src, dst, unreachable) in [("10.0.0.1", "10.0.0.2", 3), ("fd00::1", "fd00::2", 1)] {
        let ip = || frame().ip(src, dst);
        let udp = ip().udp(4242, 53).payload(b"question").build();
        frames.extend([
            udp.clone(),
            ip().tcp(4242, 80).syn().build(),
            ip().tcp(4242, 80).ack().payload(b"data").partial_checksum().build(),
            ip().sctp(4242, 7).chunk(1).build(),
            ip().ping(7).build(),
            frame().ip(dst, src).icmp_error(unreachable, 3, &udp).build(),
            ip().protocol(47).payload(&[0; 8]).build(),
        ]);
    }
    frames
}

#[test]
fn a_cut_frame_is_never_a_packet() {
    for whole in one_of_each() {
        for length in 0..whole.len() {
            assert_eq!(handle(&whole[..length]), None, "{length} of {} bytes: {whole:02x?}", whole.len());
        }
    }
}

/// Cuts the frame and makes the IP header believe it, so that only the layer-4 checks are left.
#[test]
fn a_packet_that_ends_early_is_never_less_than_its_headers() {
    for whole in one_of_each() {
        let v4 = match whole[12..14] {
            [0x08, 0x00] => true,
            [0x86, 0xdd] => false,
            _ => continue,
        };
        for length in 14..whole.len() {
            let mut bytes = whole[..length].to_vec();
            if v4 && length >= 34 {
                bytes[16..18].copy_from_slice(&(length as u16 - 14).to_be_bytes());
                bytes[24..26].copy_from_slice(&[0, 0]);
                let header = 14 + usize::from(bytes[14] & 0x0f) * 4;
                let sum =
                    etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[14..header.min(length)]);
                bytes[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
            } else if !v4 && length >= 54 {
                bytes[18..20].copy_from_slice(&(length as u16 - 54).to_be_bytes());
            }
            handle(&bytes);
        }
    }
}

fn sentence() -> impl Strategy<Value = (FrameBuilder, FlowKey)> {
    let addresses = prop_oneof![
        any::<(u32, u32)>()
            .prop_map(|(src, dst)| (IpAddr::from(src.to_be_bytes()), IpAddr::from(dst.to_be_bytes()))),
        any::<(u128, u128)>()
            .prop_filter("mapped addresses do not travel", |(src, dst)| src >> 32 != 0xffff
                && dst >> 32 != 0xffff)
            .prop_map(|(src, dst)| (IpAddr::from(src.to_be_bytes()), IpAddr::from(dst.to_be_bytes()))),
    ];
    let payload = proptest::collection::vec(any::<u8>(), 0..64);
    (addresses, 0..5u8, any::<(u16, u16, u8)>(), payload, 0..20usize, 0..10usize).prop_map(
        |((src, dst), which, (src_port, dst_port, ttl), payload, padding, words)| {
            let mut sentence = frame().ip(&src.to_string(), &dst.to_string()).ttl(ttl).padding(padding);
            sentence = match src {
                IpAddr::V4(_) => sentence.options(&vec![1; words * 4]),
                IpAddr::V6(_) if words % 2 == 0 => sentence,
                IpAddr::V6(_) => sentence.extension(60, &vec![0; words]),
            };
            let icmp = if src.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
            let (sentence, protocol, src_port, dst_port) = match which {
                0 => (sentence.tcp(src_port, dst_port).ack(), Protocol::TCP, src_port, dst_port),
                1 => (sentence.udp(src_port, dst_port), Protocol::UDP, src_port, dst_port),
                2 => (sentence.sctp(src_port, dst_port), Protocol::SCTP, src_port, dst_port),
                3 => (sentence.ping(src_port), icmp, src_port, src_port),
                // Never empty: etherparse takes the padding of an empty IPv6 packet for its payload.
                _ => (sentence.protocol(47).payload(&[0; 4]), Protocol(47), 0, 0),
            };
            (sentence.payload(&payload), FlowKey::new(protocol, (src, src_port), (dst, dst_port)))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        handle(&bytes);
    }

    /// Random bytes seldom get past an ethertype: begin with what parses, and bend it.
    #[test]
    fn bent_frames(
        which in any::<prop::sample::Index>(),
        bends in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let frames = one_of_each();
        let mut bytes = which.get(&frames).clone();
        for (at, value) in bends {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        handle(&bytes);
    }

    #[test]
    fn bytes_behind_an_ip_header(v4: bool, mut bytes in proptest::collection::vec(any::<u8>(), 80..160), next in 0..60u8) {
        let length = bytes.len() as u16;
        if v4 {
            bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
            bytes[16..18].copy_from_slice(&(length - 14).to_be_bytes());
            bytes[20..22].copy_from_slice(&[0, 0]);
            bytes[23] = [1, 6, 17, 132][usize::from(next % 4)];
            bytes[24..26].copy_from_slice(&[0, 0]);
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        } else {
            bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            bytes[18..20].copy_from_slice(&(length - 54).to_be_bytes());
            bytes[20] = [0, 6, 17, 43, 51, 58, 60, 132][usize::from(next % 8)];
        }
        handle(&bytes);
    }

    #[test]
    fn etherparse_reads_the_same((sentence, key) in sentence()) {
        let bytes = sentence.build();
        let packet = handle(&bytes).expect("a valid frame");
        prop_assert_eq!(packet.key, key);
        prop_assert!(l4_checksum_ok(&bytes, &packet));

        let theirs = SlicedPacket::from_ethernet(&bytes).unwrap();
        let (src, dst, ttl, header_len) = match theirs.net.as_ref().unwrap() {
            InternetSlice::Ipv4(ip) => {
                let header = ip.header();
                let length = header.slice().len();
                (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()), header.ttl(), length)
            }
            InternetSlice::Ipv6(ip) => {
                let header = ip.header();
                let length = header.slice().len() + ip.extensions().slice().len();
                let (src, dst) = (header.source_addr(), header.destination_addr());
                (IpAddr::V6(src), IpAddr::V6(dst), header.hop_limit(), length)
            }
            other => panic!("{other:?}"),
        };
        prop_assert_eq!((packet.key.src.address.ip(), packet.key.dst.address.ip()), (src, dst));
        prop_assert_eq!((packet.ttl, usize::from(packet.l4_offset)), (ttl, 14 + header_len));
        let payload = theirs.ip_payload().unwrap();
        prop_assert_eq!(packet.l4_range().len(), payload.payload.len());
        prop_assert_eq!(packet.key.protocol, Protocol(payload.ip_number.0));
        let ports = match theirs.transport {
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            _ => None,
        };
        if let Some(ports) = ports {
            prop_assert_eq!((packet.key.src.port, packet.key.dst.port), ports);
        }
    }

    #[test]
    fn forwarding_leaves_a_packet_that_was_sent_with_one_hop_less((sentence, key) in sentence()) {
        let mut bytes = sentence.build();
        let packet = Packet::parse(&bytes).unwrap();
        prop_assume!(packet.ttl > 0);
        decrement_ttl(&mut bytes, &packet);
        complete_checksum(&mut bytes, &packet);
        prop_assert_eq!(&bytes, &sentence.ttl(packet.ttl - 1).build());
        prop_assert_eq!(Packet::parse(&bytes).unwrap().key, key);
    }
}
