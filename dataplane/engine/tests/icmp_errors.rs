//! What the node tells the senders of packets that it cannot forward, and when it keeps silent.

mod bed;

use bed::*;
use engine::wiring::{Port, Speaker, Wiring};
use flow::{DropReason, MacAddr};
use packet::{Kind, Packet, l4_checksum_ok};
use testkit::frames::FrameBuilder;

const FAMILIES: [(&str, &str, &str, &str); 2] = [(A, B, OUTSIDE, NODE), (A6, B6, "2001:db8:9::9", NODE6)];
/// The MTU of c's port.
const NARROW: u32 = 1300;
const C6: &str = "fd00::3";

/// A node whose ports are changed.
fn with_ports(change: impl Fn(usize, Port) -> Port) -> Bed {
    let mut bed = Bed::new();
    let ports = wiring().ports().iter().cloned().enumerate().map(|(port, old)| change(port, old)).collect();
    bed.wirings.publish(Wiring::new(ports, [address(NODE)], [], []));
    bed
}

fn with_a_narrow_port() -> Bed {
    with_ports(|port, old| Port { mtu: if port == 2 { NARROW } else { old.mtu }, ..old })
}

/// The one error that has left: by which port, and the frame.
fn only_error(bed: &mut Bed) -> (usize, Vec<u8>) {
    assert_eq!(bed.errors.len(), 1);
    bed.errors.remove(0)
}

/// Type, code and the second half of the header.
fn message(frame: &[u8]) -> (u8, u8, u32) {
    let packet = Packet::parse(frame).expect("a packet");
    assert!(l4_checksum_ok(frame, &packet));
    let [kind, code, _, _, a, b, c, d] = frame[packet.l4_range()][..8] else { panic!("{packet:?}") };
    (kind, code, u32::from_be_bytes([a, b, c, d]))
}

#[test]
fn who_sends_with_too_few_hops_is_told() {
    for (src, dst, outside, node) in FAMILIES {
        let expected = if src == A { (11, 0, 0) } else { (3, 0, 0) };
        // A hop limit of one or none ends here, at a new connection and at one that is known.
        for ttl in [0, 1] {
            let mut bed = Bed::new();
            let udp = from_pod(0).ip(src, dst).udp(33000, 80);
            for known in [false, true, true] {
                if known {
                    assert_eq!(bed.passes(0, &udp), 1);
                }
                let short = udp.clone().ttl(ttl);
                assert_eq!(bed.drops(0, &short), DropReason::TtlExpired);
                let (port, error) = only_error(&mut bed);
                let packet = Packet::parse(&error).expect("a packet");
                assert_eq!(port, 0, "back by the port that it came from");
                assert_eq!((packet.eth_src, packet.eth_dst), (port_mac(0), pod_mac(0)));
                let ends = (packet.key.src.address, packet.key.dst.address);
                assert_eq!(ends, (address(node), address(src)));
                assert_eq!(message(&error), expected, "{src}, TTL {ttl}");
                assert!(error.ends_with(&short.build()[14..]), "it quotes the packet as it came");
            }
            assert_eq!((bed.worker.tally().made, bed.worker.tally().errors_withheld), (3, 0));
        }
        if src == A {
            let mut bed = Bed::new();
            assert_eq!(
                bed.drops(UPLINK, &from_outside().ip(outside, dst).ttl(1).udp(1, 80)),
                DropReason::TtlExpired
            );
            let (port, error) = only_error(&mut bed);
            let packet = Packet::parse(&error).expect("a packet");
            assert_eq!((port, packet.eth_src, packet.eth_dst), (UPLINK, port_mac(UPLINK), GATEWAY));
        }
    }
}

#[test]
fn who_sends_too_much_is_told_how_much_fits() {
    for (src, dst, quoted) in [(A, C, 576), (A6, C6, 1280)] {
        let expected = if src == A { (3, 4, NARROW) } else { (2, 0, NARROW) };
        let header = if src == A { 28 } else { 48 };
        let sized = |bytes: usize| from_pod(0).ip(src, dst).udp(1, 80).payload(&vec![7; bytes - header]);
        let mut bed = with_a_narrow_port();
        assert_eq!(bed.passes(0, &sized(NARROW as usize)), 2, "what fits passes");
        let large = sized(NARROW as usize + 1);
        assert_eq!(bed.drops(0, &large), DropReason::TooBig);
        let (port, error) = only_error(&mut bed);
        assert_eq!((port, message(&error)), (0, expected));
        assert_eq!(error.len(), 14 + quoted, "as much of it as fits");
        let key = Packet::parse(&large.build()).expect("a packet").key;
        assert_eq!(Packet::parse(&error).expect("a packet").kind, Kind::IcmpError { quoted: key });
    }
}

#[test]
fn without_df_it_is_the_same_since_nobody_fragments_here() {
    let mut bytes = from_pod(0).ip(A, C).udp(1, 80).payload(&[7; 1400]).build();
    assert_eq!(bytes[20] & 0x40, 0x40, "DF");
    bytes[20] &= !0x40;
    // RFC 1624, the checksum of the changed header.
    let checksum = u32::from(u16::from_be_bytes([bytes[24], bytes[25]])) + 0x4000;
    let folded = (checksum & 0xffff) + (checksum >> 16);
    bytes[24..26].copy_from_slice(&(folded as u16).to_be_bytes());
    let mut bed = with_a_narrow_port();
    assert_eq!(bed.fate(0, &bytes), Fate::Dropped(DropReason::TooBig));
    assert_eq!(message(&only_error(&mut bed).1), (3, 4, NARROW));
}

/// RFC 1812, section 4.3.2.7; and nobody learns from an error that a policy denies something.
#[test]
fn some_are_told_nothing() {
    let silent = |bed: &mut Bed, port: usize, sentence: &FrameBuilder, reason| {
        assert_eq!(bed.drops(port, sentence), reason);
        assert_eq!(
            (bed.errors.len(), bed.worker.tally().made, bed.worker.tally().errors_withheld),
            (0, 0, 0)
        );
    };
    let mut bed = Bed::new();
    silent(&mut bed, 0, &from_pod(0).ip(A, B).ttl(1).udp(1, 81), DropReason::DefaultDeny);
    silent(&mut bed, 0, &from_pod(0).ip(C, B).ttl(1).udp(1, 80), DropReason::SpoofedSource);
    silent(
        &mut bed,
        0,
        &from_pod(0).to(MacAddr([0xff; 6])).ip(A, B).ttl(1).udp(1, 80),
        DropReason::Multicast,
    );

    let there = from_pod(1).ip(B, A).udp(80, 4000);
    assert_eq!(bed.passes(1, &there), 0);
    let error = from_pod(0).ip(A, B).ttl(1).icmp_error(3, 3, &there.build());
    silent(&mut bed, 0, &error, DropReason::TtlExpired);

    let datagram = from_pod(0).ip(A, B).udp(1, 80).payload(&[7; 1000]);
    assert!(matches!(bed.fate(0, &datagram.fragments(9, 400)[0]), Fate::Sent { port: 1, .. }));
    let later = &datagram.ttl(1).fragments(9, 400)[1];
    assert_eq!(bed.fate(0, later), Fate::Dropped(DropReason::TtlExpired));
    assert_eq!(bed.worker.tally().made, 0);
}

#[test]
fn a_node_without_an_address_of_the_family_keeps_silent() {
    let mut bed = with_ports(|_, old| Port { speaker: Speaker::default(), ..old });
    for (src, dst, ..) in FAMILIES {
        assert_eq!(bed.drops(0, &from_pod(0).ip(src, dst).ttl(1).udp(1, 80)), DropReason::TtlExpired);
    }
    assert_eq!((bed.worker.tally().made, bed.worker.tally().errors_withheld), (0, 0));
}

#[test]
fn errors_are_limited_for_each_port_and_the_rest_is_counted() {
    let mut bed = Bed::new();
    let short = |port: usize| from_pod(port).ip(if port == 0 { A } else { C }, B).ttl(1).udp(1, 80);
    for _ in 0..60 {
        assert_eq!(bed.drops(0, &short(0)), DropReason::TtlExpired);
    }
    // One each millisecond: fifty at once, and one more each ten milliseconds.
    let tally = *bed.worker.tally();
    assert_eq!((tally.made, tally.errors_withheld, tally.dropped_for(DropReason::TtlExpired)), (55, 5, 60));
    assert_eq!(bed.errors.len(), 55);
    assert_eq!(bed.drops(2, &short(2)), DropReason::TtlExpired);
    assert_eq!(bed.worker.tally().made, 56, "another port has its own share");
    bed.now += 1000;
    assert_eq!(bed.drops(0, &short(0)), DropReason::TtlExpired);
    assert_eq!(bed.worker.tally().made, 57);
}

#[test]
fn an_error_that_finds_no_room_is_dropped_and_counted() {
    let mut bed = Bed::new();
    // Sixty-four frames to a fill its ring: they are sent from b and stay there.
    for port in 0..64 {
        bed.inject(1, &from_pod(1).ip(B, A).udp(80, 1000 + port).build());
    }
    bed.turn();
    bed.inject(0, &from_pod(0).ip(A, B).ttl(1).udp(1, 80).build());
    bed.turn();
    let tally = bed.worker.tally();
    assert_eq!((tally.made, tally.tx), (1, 64));
    assert_eq!(tally.dropped_for(DropReason::TxRingFull), 1);
    assert_eq!(tally.dropped_for(DropReason::TtlExpired), 1);
}
