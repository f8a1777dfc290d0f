//! Frames as attackers make them: whatever arrives, nothing leaves that was not allowed, and every frame is counted.

mod bed;

use std::collections::HashSet;

use bed::*;
use engine::events::Event;
use engine::io::Slot;
use engine::wiring::{PortId, PriorityTags};
use flow::{DropReason, Protocol};
use packet::{Datagram, Kind, LaterFragment, Packet};
use testkit::frames::{FrameBuilder, arp_request};

/// What leaves is a packet that is complete and that policy allows (b accepts TCP and UDP on port 80 only), or a later
/// fragment of one whose first has left.
fn drain(bed: &mut Bed, begun: &mut HashSet<Datagram>, what: &[u8]) {
    for slot in 0..4 {
        while let Some(bytes) = bed.worker.io_mut().sent(Slot(slot), <[u8]>::to_vec) {
            let packet = match Packet::parse(&bytes) {
                Ok(packet) => packet,
                Err(reason) => {
                    let later = LaterFragment::parse(&bytes).filter(|later| begun.contains(&later.datagram));
                    assert!(later.is_some(), "{reason} has left: {bytes:02x?}, one of {what:02x?}");
                    continue;
                }
            };
            let to_b = [B, B6].map(address).contains(&packet.key.dst.address);
            let allowed = matches!(packet.kind, Kind::Tcp(_) | Kind::Udp) && packet.key.dst.port == 80;
            assert!(!to_b || allowed, "{packet:?} has left, one of {what:02x?}");
            begun.extend(packet.datagram());
        }
    }
}

/// Whatever of it is cut or bent, with its lengths and its IPv4 checksum as they were or put right.
fn ways_to_spoil(whole: &[u8]) -> Vec<Vec<u8>> {
    let cut = (0..=whole.len()).map(|length| whole[..length].to_vec());
    let bent = (0..whole.len()).flat_map(|at| {
        [0x01, 0x10, 0x80, 0xff].map(|bits| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= bits;
            bytes
        })
    });
    let spoilt: Vec<Vec<u8>> = cut.chain(bent).collect();
    let mended = spoilt.iter().filter_map(|bytes| mended(bytes)).collect::<Vec<_>>();
    [spoilt, mended].concat()
}

fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let l3 = bytes.len().checked_sub(14)? as u16;
    if bytes[12..14] == [0x08, 0x00] && l3 >= 20 {
        bytes[16..18].copy_from_slice(&l3.to_be_bytes());
        bytes[24..26].copy_from_slice(&[0, 0]);
        let end = bytes.len().min(14 + usize::from(bytes[14] & 0x0f) * 4);
        let words = bytes[14..end]
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
        let sum = words.sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        bytes[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    } else if bytes[12..14] == [0x86, 0xdd] && l3 >= 40 {
        bytes[18..20].copy_from_slice(&(l3 - 40).to_be_bytes());
    } else {
        return None;
    }
    Some(bytes)
}

/// F21, F23: every truncation of what is allowed and what is denied, every byte bent, and lengths that lie.
#[test]
fn nothing_leaves_that_was_not_allowed_and_every_frame_is_counted() {
    let shapes = |src: &'static str, dst: &'static str| {
        let ip = move || from_pod(0).ip(src, dst);
        let udp = ip().udp(1, 80).build();
        let behind_options = match src {
            A => ip().options(&[7, 7, 4, 0, 0, 0, 0, 0]).tcp(1, 80).syn(),
            _ => ip().extension(0, &[1, 4]).extension(60, &[1, 4]).tcp(1, 80).syn(),
        };
        let mut frames: Vec<Vec<u8>> = [
            ip().tcp(1, 80).syn(),
            ip().udp(1, 80).payload(b"eight by"),
            ip().udp(1, 81).padding(9),
            ip().sctp(1, 80).chunk(1),
            ip().ping(7),
            ip().icmp_error(if src == A { 3 } else { 1 }, 3, &udp),
            ip().protocol(47).payload(&[0; 8]),
            behind_options,
        ]
        .iter()
        .map(FrameBuilder::build)
        .collect();
        frames.extend(ip().udp(1, 81).payload(&[0; 100]).fragments(7, 80));
        frames
    };
    let mut injected = 0;
    let (mut allowed, mut reasons) = (0, 0);
    for whole in [shapes(A, B), shapes(A6, B6)].concat() {
        let (mut bed, mut begun) = (Bed::new(), HashSet::new());
        let spoilt = ways_to_spoil(&whole);
        for burst in spoilt.chunks(32) {
            for frame in burst {
                bed.inject(0, frame);
            }
            assert_eq!(bed.turn(), burst.len() as u64);
            drain(&mut bed, &mut begun, &whole);
        }
        let tally = bed.worker.tally();
        assert_eq!(tally.tx + tally.dropped_total(), spoilt.len() as u64);
        injected += spoilt.len();
        allowed += tally.tx;
        reasons =
            reasons.max(DropReason::ALL.iter().filter(|reason| tally.dropped_for(**reason) > 0).count());
    }
    assert!(
        injected > 10_000 && allowed > 1000 && reasons > 8,
        "{injected} frames, {allowed} left, {reasons} reasons"
    );
}

/// F23: no chain of extension headers takes a packet past policy.
#[test]
fn extension_headers_hide_nothing() {
    use DropReason::{DefaultDeny, Ipv6ExtInvalid};
    const PAD: &[u8] = &[1, 4, 0, 0, 0, 0];
    let ip = || from_pod(0).ip(A6, B6);
    let tcp = |sentence: FrameBuilder, port| sentence.tcp(1, port).syn();
    for (what, sentence, to_80, to_81) in [
        ("none", ip(), Ok(1), Err(DefaultDeny)),
        ("hop-by-hop", ip().extension(0, PAD), Ok(1), Err(DefaultDeny)),
        ("arrived", ip().extension(43, &[4, 0, 0, 0, 0, 0]), Ok(1), Err(DefaultDeny)),
        ("an atomic fragment", ip().extension(44, &[0; 6]), Ok(1), Err(DefaultDeny)),
        ("authenticated", ip().extension(51, &[0; 14]), Ok(1), Err(DefaultDeny)),
        (
            "hop-by-hop late",
            ip().extension(60, PAD).extension(0, PAD),
            Err(Ipv6ExtInvalid),
            Err(Ipv6ExtInvalid),
        ),
        ("routing type 0", ip().extension(43, &[0; 6]), Err(Ipv6ExtInvalid), Err(Ipv6ExtInvalid)),
        ("jumbogram", ip().extension(0, &[194, 4, 0, 1, 0, 0]), Err(Ipv6ExtInvalid), Err(Ipv6ExtInvalid)),
        ("no next header", ip().extension(59, PAD), Err(Ipv6ExtInvalid), Err(Ipv6ExtInvalid)),
        ("an unknown one", ip().extension(200, PAD), Err(Ipv6ExtInvalid), Err(Ipv6ExtInvalid)),
        // To policy a protocol of its own, which no port rule allows.
        ("encrypted", ip().extension(50, PAD), Err(DefaultDeny), Err(DefaultDeny)),
    ] {
        for (port, expected) in [(80, to_80), (81, to_81)] {
            let mut bed = Bed::new();
            let got = match bed.fate(0, &tcp(sentence.clone(), port).build()) {
                Fate::Sent { port, .. } => Ok(port),
                Fate::Dropped(reason) => Err(reason),
            };
            assert_eq!(got, expected, "{what}, port {port}");
        }
    }
    for count in 2..=20 {
        let chain = (0..count).fold(ip(), |sentence, _| sentence.extension(60, PAD));
        assert_eq!(Bed::new().drops(0, &tcp(chain, 80)), Ipv6ExtInvalid, "{count} of them");
    }
}

/// F24: no tag and no LLC header takes a packet past policy, nor past the answer to it.
#[test]
fn link_layers_hide_nothing() {
    let tags: [(&str, &[u8], DropReason); 6] = [
        ("VLAN 0", &[0x81, 0, 0, 0], DropReason::VlanTagged),
        ("VLAN 5", &[0x81, 0, 0, 5], DropReason::VlanTagged),
        ("QinQ", &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 0], DropReason::VlanTagged),
        ("three tags", &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0], DropReason::VlanTagged),
        ("LLC/SNAP", &[0, 36, 0xaa, 0xaa, 3, 0, 0, 0], DropReason::UnknownEthertype),
        ("LLC/SNAP, VLAN 0", &[0, 40, 0xaa, 0xaa, 3, 0, 0, 0, 0x81, 0, 0, 0], DropReason::UnknownEthertype),
    ];
    for port in [80, 81] {
        let plain = from_pod(0).ip(A, B).udp(1, port);
        for (what, tag, reason) in tags {
            let mut bytes = plain.build();
            bytes.splice(12..12, tag.iter().copied());
            let mut bed = Bed::new();
            assert_eq!(bed.fate(0, &bytes), Fate::Dropped(reason), "{what}, port {port}");
            assert!(bed.shared.flows.is_empty(), "{what}");
        }
    }
    let answer = from_pod(1).ip(B, A).udp(80, 1);
    let mut bed = Bed::new();
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(1, 80)), 1);
    assert_eq!(bed.drops(1, &answer.clone().vlan(0)), DropReason::VlanTagged);
    assert_eq!(bed.passes(1, &answer), 0);
    assert_eq!(Protocol::UDP, Packet::parse(&answer.build()).expect("a packet").key.protocol);
}

/// F24 with `strip0`: a priority tag changes no verdict, and does not leave.
#[test]
fn a_priority_tag_changes_no_verdict_where_it_is_taken_off() {
    let stripping = || {
        let mut bed = Bed::new();
        bed.wirings.publish(wiring().with_priority_tags(PriorityTags::Stripped));
        bed
    };
    for (src, dst) in [(A, B), (A6, B6)] {
        for plain in [
            from_pod(0).ip(src, dst).udp(1, 80).payload(&[7; 1000]),
            from_pod(0).ip(src, dst).udp(1, 81),
            from_pod(0).ip(src, dst).tcp(1, 80),
            from_pod(0).ip(if src == A { C } else { B6 }, dst).udp(1, 80),
            from_pod(0).ip(src, dst).udp(1, 80).ttl(1),
        ] {
            let expected = stripping().fate(0, &plain.build());
            for priority in [0, 0xe000] {
                assert_eq!(stripping().fate(0, &plain.clone().vlan(priority).build()), expected, "{plain:?}");
            }
            for others in [
                plain.clone().vlan(5),
                plain.clone().tag(0x88a8, 0),
                plain.clone().vlan(0).vlan(0),
                plain.clone().vlan(0).vlan(5),
                plain.clone().tag(0x88a8, 5).vlan(0),
            ] {
                assert_eq!(stripping().drops(0, &others), DropReason::VlanTagged, "{others:?}");
            }
        }
    }
    let mut bed = Bed::bare();
    bed.wirings.publish(wiring_with_macs([false; 3]).with_priority_tags(PriorityTags::Stripped));
    bed.tables.publish(table(b_accepts(&[80])));
    let mut request = arp_request(pod_mac(0), A, NODE);
    request.splice(12..12, [0x81, 0, 0, 0]);
    assert_eq!(bed.fate(0, &request), Fate::Dropped(DropReason::MacUnknown));
    assert_eq!(bed.events(), [Event::MacSeen(PortId(0), pod_mac(0))], "nor does it hide who speaks");
}
