//! What holds for every frame, whatever its bytes: shared by the tests and the fuzz target.

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpSlice, TcpSlice, UdpHeaderSlice, UdpSlice};
use flow::{Address, DropReason, Protocol};
use packet::neighbour::{Arp, NeighbourDiscovery, pinning_claim};
use packet::rewrite::{complete_checksum, decrement_ttl, rewrite_macs};
use packet::{Fragment, Kind, LaterFragment, Packet, l4_checksum_ok};

const ETHERNET: usize = 14;

/// Does everything that anybody does with a frame from a pod, and checks what must hold of it.
///
/// # Panics
///
/// When it does not.
pub(crate) fn check(frame: &[u8]) -> Result<Packet, DropReason> {
    let parsed = Packet::parse(frame);
    assert_eq!(parsed, Packet::parse_slowly(frame), "the two lanes differ: {frame:02x?}");
    let _ = (Arp::parse(frame), NeighbourDiscovery::parse(frame), pinning_claim(frame));
    let later = LaterFragment::parse(frame);
    assert_eq!(later.is_some(), parsed == Err(DropReason::FragmentUnmatched), "{parsed:?}: {frame:02x?}");
    let following = later.map(|later| later.following(later.bare_key()).expect("its own addresses"));
    if let Some(packet) = parsed.ok().or(following) {
        is_within(frame, &packet);
        can_be_forwarded(frame, &packet);
    }
    match parsed {
        Ok(packet) => {
            is_complete(&packet);
            etherparse_agrees(frame, &packet);
        }
        Err(reason) => assert!(!etherparse_finds_it_plain(frame), "{reason}: {frame:02x?}"),
    }
    parsed
}

/// The same frame with what hides the rest from random bytes put right: lengths and the IPv4 header checksum.
pub(crate) fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let mut frame = frame.to_vec();
    let l3_len = u16::try_from(frame.len().checked_sub(ETHERNET)?).ok()?;
    match (frame.get(12..14)?, frame.len()) {
        ([0x08, 0x00], 34..) => {
            frame[16..18].copy_from_slice(&l3_len.to_be_bytes());
            frame[24..26].copy_from_slice(&[0, 0]);
            let end = (ETHERNET + usize::from(frame[14] & 0x0f) * 4).min(frame.len());
            let sum = Sum16BitWords::new().add_slice(&frame[ETHERNET..end]);
            frame[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        }
        ([0x86, 0xdd], 54..) => frame[18..20].copy_from_slice(&(l3_len - 40).to_be_bytes()),
        _ => return None,
    }
    Some(frame)
}

fn is_within(frame: &[u8], packet: &Packet) {
    let l4 = packet.l4_range();
    assert!(l4.start <= l4.end && l4.end <= frame.len(), "{packet:?} reaches beyond {} bytes", frame.len());
    if let Some(Fragment { offset, end, .. }) = packet.fragment {
        // Extension headers behind the fragment header are data of the fragment.
        assert!(offset < end && l4.len() <= usize::from(end - offset), "{packet:?}");
    }
}

/// Nothing is a packet whose layer-4 header is not all there.
fn is_complete(packet: &Packet) {
    let needed = match packet.kind {
        Kind::Tcp(_) => 20,
        Kind::Sctp { .. } => 12,
        Kind::IcmpError { .. } if packet.key.src.address.is_v4() => 8 + 20 + 8,
        Kind::IcmpError { .. } => 8 + 40 + 8,
        Kind::Udp | Kind::IcmpEcho { .. } | Kind::IcmpOther | Kind::NeighbourDiscovery => 8,
        Kind::Other => 0,
    };
    assert!(packet.l4_range().len() >= needed, "{packet:?}");
    assert!(packet.fragment.is_none_or(|fragment| fragment.is_first() && fragment.end >= 80), "{packet:?}");
}

/// What forwarding does works, and is what it says: one hop less, and the same connection.
fn can_be_forwarded(frame: &[u8], packet: &Packet) {
    let mut bytes = frame.to_vec();
    let _ = l4_checksum_ok(&bytes, packet);
    decrement_ttl(&mut bytes, packet);
    complete_checksum(&mut bytes, packet);
    rewrite_macs(&mut bytes, packet.eth_src, packet.eth_dst);
    let sent = match LaterFragment::parse(&bytes) {
        Some(later) => later.following(packet.key),
        None => Packet::parse(&bytes).ok(),
    };
    let (eth_src, eth_dst) = (packet.eth_dst, packet.eth_src);
    let expected = Packet { ttl: packet.ttl.saturating_sub(1), eth_src, eth_dst, ..*packet };
    assert_eq!(sent, Some(expected), "{frame:02x?}");
    if l4_checksum_ok(frame, packet) {
        assert!(l4_checksum_ok(&bytes, &expected), "a right checksum stays right: {frame:02x?}");
    }
}

/// etherparse, asked for the whole packet, sees the same.
fn etherparse_agrees(frame: &[u8], packet: &Packet) {
    // It takes the authentication header for a part of IPv4's own; for policy that is a protocol like others.
    if packet.key.src.address.is_v4() && packet.key.protocol == Protocol(51) {
        return;
    }
    let ip = IpSlice::from_slice(&frame[ETHERNET..]).expect("etherparse reads it");
    let (src, dst) = (ip.source_addr(), ip.destination_addr());
    assert_eq!((packet.key.src.address, packet.key.dst.address), (src.into(), dst.into()), "{frame:02x?}");
    assert_eq!(packet.fragment.is_some(), ip.is_fragmenting_payload(), "{frame:02x?}");
    let (ttl, header_len, without_length) = match &ip {
        IpSlice::Ipv4(ip) => (ip.header().ttl(), ip.header().slice().len(), false),
        IpSlice::Ipv6(ip) => {
            let header = ip.header();
            (header.hop_limit(), 40 + ip.extensions().slice().len(), header.payload_length() == 0)
        }
    };
    assert_eq!((packet.ttl, usize::from(packet.l4_offset)), (ttl, ETHERNET + header_len), "{frame:02x?}");
    let payload = ip.payload();
    assert_eq!(packet.key.protocol, Protocol(payload.ip_number.0), "{frame:02x?}");
    // It takes the padding behind an IPv6 packet without payload for one.
    if without_length {
        return;
    }
    assert_eq!(packet.l4_range().len(), payload.payload.len(), "{frame:02x?}");
    let ports = match packet.kind {
        Kind::Tcp(flags) => {
            let tcp = TcpSlice::from_slice(payload.payload).expect("etherparse reads it");
            assert_eq!(
                (flags.syn(), flags.ack(), flags.fin(), flags.rst()),
                (tcp.syn(), tcp.ack(), tcp.fin(), tcp.rst())
            );
            (tcp.source_port(), tcp.destination_port())
        }
        Kind::Udp if packet.fragment.is_some() => {
            let udp = UdpHeaderSlice::from_slice(payload.payload).expect("etherparse reads it");
            (udp.source_port(), udp.destination_port())
        }
        Kind::Udp => {
            let udp = UdpSlice::from_slice(payload.payload).expect("etherparse reads it");
            (udp.source_port(), udp.destination_port())
        }
        _ => return,
    };
    assert_eq!((packet.key.src.port, packet.key.dst.port), ports, "{frame:02x?}");
}

/// Whether etherparse finds nothing in a frame that could be refused: plain IP with TCP or UDP.
fn etherparse_finds_it_plain(frame: &[u8]) -> bool {
    if !matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) {
        return false;
    }
    let Ok(ip) = IpSlice::from_slice(&frame[ETHERNET..]) else { return false };
    let plain = match &ip {
        IpSlice::Ipv4(ip) => {
            let sum = Sum16BitWords::new().add_slice(ip.header().slice()).ones_complement();
            frame[12..14] == [0x08, 0x00]
                && ip.header().options().is_empty()
                && ip.extensions().auth.is_none()
                && sum == 0
        }
        IpSlice::Ipv6(ip) => {
            let mapped = |octets| Address::v6(octets).is_v4();
            let header = ip.header();
            let speaks_for_v4 = mapped(header.source()) || mapped(header.destination());
            frame[12..14] == [0x86, 0xdd]
                && ip.extensions().is_empty()
                && header.payload_length() != 0
                && !speaks_for_v4
        }
    };
    let payload = ip.payload();
    let readable = match Protocol(payload.ip_number.0) {
        Protocol::TCP => TcpSlice::from_slice(payload.payload).is_ok(),
        Protocol::UDP => UdpSlice::from_slice(payload.payload).is_ok_and(|udp| udp.length() != 0),
        _ => false,
    };
    plain && readable && !payload.fragmented
}
