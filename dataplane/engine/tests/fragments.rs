//! Datagrams in pieces: what of them reaches a pod, and what does not.

mod bed;

use std::ops::Range;

use bed::*;
use engine::io::Slot;
use flow::{DropReason, MacAddr};
use packet::{LaterFragment, Packet, l4_checksum_ok};
use testkit::frames::FrameBuilder;

/// From a to b, 4000 bytes to this port: three frames of at most 1500 bytes.
fn datagram(port: u16) -> FrameBuilder {
    from_pod(0).ip(A, B).udp(4000, port).payload(&[7; 4000])
}

/// The fates of these frames, one turn each.
fn fates(bed: &mut Bed, port: usize, frames: &[Vec<u8>]) -> Vec<Result<usize, DropReason>> {
    let fate = |bed: &mut Bed, frame: &Vec<u8>| match bed.fate(port, frame) {
        Fate::Sent { port, .. } => Ok(port),
        Fate::Dropped(reason) => Err(reason),
    };
    frames.iter().map(|frame| fate(bed, frame)).collect()
}

/// What its receiver puts together from these frames, if it can: the datagram behind the IP header.
fn put_together(frames: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut parts: Vec<(Range<usize>, bool, &[u8])> = Vec::new();
    for bytes in frames {
        let (fragment, data) = match Packet::parse(bytes) {
            Ok(packet) => (packet.fragment?, &bytes[packet.l4_range()]),
            Err(_) => {
                let later = LaterFragment::parse(bytes)?;
                let packet = later.following(later.bare_key())?;
                (later.fragment, &bytes[packet.l4_range()])
            }
        };
        parts.push((usize::from(fragment.offset)..usize::from(fragment.end), fragment.more, data));
    }
    parts.sort_by_key(|(range, ..)| range.start);
    let mut whole = Vec::new();
    for (range, more, data) in &parts {
        if range.start != whole.len() || (!more && *range != parts.last()?.0) {
            return None;
        }
        whole.extend(*data);
    }
    parts.last().is_some_and(|(_, more, _)| !more).then_some(whole)
}

#[test]
fn an_allowed_datagram_arrives_whole_and_a_denied_one_not_at_all() {
    for (src, dst) in [(A, B), (A6, B6)] {
        let mut bed = Bed::new();
        let to = |port| from_pod(0).ip(src, dst).udp(4000, port).payload(&[7; 4000]);
        let frames = to(80).fragments(7, 1448);
        assert_eq!(frames.len(), 3);
        for frame in &frames {
            bed.inject(0, frame);
        }
        assert_eq!(bed.turn(), 3, "all in one burst");
        let mut arrived = Vec::new();
        while let Some(bytes) = bed.worker.io_mut().sent(Slot(1), <[u8]>::to_vec) {
            assert_eq!((&bytes[..6], &bytes[6..12]), (&pod_mac(1).0[..], &port_mac(1).0[..]));
            arrived.push(bytes);
        }
        let sent = to(80).build();
        let data = sent.len() - 4008;
        assert_eq!(put_together(&arrived).as_deref(), Some(&sent[data..]), "{src}: checksum included");

        // One a turn, the later ones out of order.
        let mut frames = to(80).fragments(8, 1448);
        frames.swap(1, 2);
        assert_eq!(fates(&mut bed, 0, &frames), [Ok(1), Ok(1), Ok(1)]);

        let denied = fates(&mut bed, 0, &to(81).fragments(9, 1448));
        let unmatched = Err(DropReason::FragmentUnmatched);
        assert_eq!(denied, [Err(DropReason::DefaultDeny), unmatched, unmatched]);
        assert_eq!(bed.shared.flows.len(), 1, "a denied datagram leaves no state");
    }
}

#[test]
fn answers_may_come_in_fragments_too() {
    let mut bed = Bed::new();
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(4000, 80)), 1);
    let answer = from_pod(1).ip(B, A).udp(80, 4000).payload(&[1; 3000]).fragments(1, 1480);
    assert_eq!(fates(&mut bed, 1, &answer), [Ok(0), Ok(0), Ok(0)]);
    let ping = from_pod(1).ip(B, A).ping(5).payload(&[1; 3000]).fragments(2, 1480);
    assert_eq!(fates(&mut bed, 1, &ping), [Ok(0), Ok(0), Ok(0)]);
    let stray = from_pod(1).ip(B, A).tcp(80, 4000).ack().payload(&[1; 3000]).fragments(3, 1480);
    let unmatched = Err(DropReason::FragmentUnmatched);
    assert_eq!(fates(&mut bed, 1, &stray), [Err(DropReason::NoFlow), unmatched, unmatched]);
}

#[test]
fn later_fragments_alone_go_nowhere() {
    let mut bed = Bed::new();
    let frames = datagram(80).fragments(7, 1480);
    let later = bed.fate(0, &frames[1]);
    assert_eq!(later, Fate::Dropped(DropReason::FragmentUnmatched), "before the first");
    assert_eq!(fates(&mut bed, 0, &frames[..1]), [Ok(1)]);
    for (what, frame) in [
        ("another id", datagram(80).piece(8, 1480..2960, true)),
        (
            "another protocol",
            from_pod(0).ip(A, B).tcp(4000, 80).payload(&[7; 4000]).piece(7, 1480..2960, true),
        ),
        (
            "another destination",
            from_pod(0).ip(A, C).udp(4000, 80).payload(&[7; 4000]).piece(7, 1480..2960, true),
        ),
        (
            "another source",
            from_pod(2).to(port_mac(2)).ip(C, B).udp(4000, 80).payload(&[7; 4000]).piece(7, 1480..2960, true),
        ),
    ] {
        let port = if frame[11] == 2 { 2 } else { 0 };
        assert_eq!(bed.fate(port, &frame), Fate::Dropped(DropReason::FragmentUnmatched), "{what}");
    }
    assert_eq!(fates(&mut bed, 0, &frames[1..]), [Ok(1), Ok(1)], "its own are let through all the same");
}

#[test]
fn the_port_guard_stands_before_fragments_too() {
    let mut bed = Bed::new();
    assert_eq!(fates(&mut bed, 0, &datagram(80).fragments(7, 1480)[..1]), [Ok(1)]);
    let forged =
        |sentence: FrameBuilder| sentence.udp(4000, 80).payload(&[7; 4000]).piece(7, 1480..2960, true);
    let everybody = MacAddr([0xff; 6]);
    for (what, port, frame, reason) in [
        ("from another pod", 2, forged(from_pod(2).ip(A, B)), DropReason::SpoofedSource),
        ("with another MAC", 0, forged(from_pod(2).to(port_mac(0)).ip(A, B)), DropReason::SpoofedSource),
        ("from outside", UPLINK, forged(from_outside().ip(A, B)), DropReason::SpoofedSource),
        ("to another MAC", 0, forged(from_pod(0).to(pod_mac(1)).ip(A, B)), DropReason::NotForUs),
        ("to all MACs", 0, forged(from_pod(0).to(everybody).ip(A, B)), DropReason::Multicast),
        ("to a group", 0, forged(from_pod(0).ip(A, "224.0.0.251")), DropReason::Multicast),
    ] {
        assert_eq!(bed.fate(port, &frame), Fate::Dropped(reason), "{what}");
    }
    // None of them has touched what was remembered.
    assert_eq!(fates(&mut bed, 0, &datagram(80).fragments(7, 1480)[1..]), [Ok(1), Ok(1)]);
}

/// F22: the attacks that fragments are known for. The port that is denied never comes together at the receiver.
#[test]
fn no_trick_with_fragments_reaches_a_denied_port() {
    use DropReason::{FragmentInvalid, FragmentOverlap, FragmentTiny, FragmentUnmatched};
    let (allowed, denied) = (datagram(80), datagram(81));
    let tcp = |port| from_pod(0).ip(A, B).tcp(4000, port).syn().payload(&[7; 4000]);
    type Row = (&'static str, Vec<Vec<u8>>, Vec<Result<usize, DropReason>>);
    let rows: Vec<Row> = vec![
        (
            "a tiny first one (RFC 1858)",
            vec![tcp(80).piece(7, 0..8, true), tcp(81).piece(7, 8..1480, false)],
            vec![Err(FragmentTiny), Err(FragmentTiny)],
        ),
        (
            "ports written over (RFC 1858)",
            vec![
                allowed.piece(7, 0..1480, true),
                denied.piece(7, 0..1480, true),
                denied.piece(7, 8..1480, true),
            ],
            vec![Ok(1), Err(DropReason::DefaultDeny), Err(FragmentTiny)],
        ),
        (
            "a second, allowed beginning",
            vec![
                allowed.piece(7, 0..1480, true),
                from_pod(0).ip(A, B).udp(4001, 80).payload(&[7; 4000]).piece(7, 0..1488, true),
                allowed.piece(7, 1480..2960, true),
            ],
            vec![Ok(1), Err(FragmentOverlap), Err(FragmentOverlap)],
        ),
        (
            "teardrop",
            vec![
                allowed.piece(7, 0..1480, true),
                allowed.piece(7, 1440..1448, false),
                allowed.piece(7, 1472..1488, false),
                allowed.piece(7, 1480..2960, true),
            ],
            vec![Ok(1), Err(FragmentOverlap), Err(FragmentOverlap), Err(FragmentOverlap)],
        ),
        (
            "the ping of death",
            vec![allowed.piece(7, 0..1480, true), allowed.piece(7, 65528..65600, false)],
            vec![Ok(1), Err(FragmentInvalid)],
        ),
        (
            "a later one under the id of an allowed one, of a denied datagram",
            vec![
                allowed.piece(7, 0..1480, true),
                denied.piece(8, 1480..2960, true),
                denied.piece(8, 0..1480, true),
            ],
            vec![Ok(1), Err(FragmentUnmatched), Err(DropReason::DefaultDeny)],
        ),
    ];
    for (what, frames, expected) in rows {
        let mut bed = Bed::new();
        assert_eq!(fates(&mut bed, 0, &frames), expected, "{what}, one a turn");
        let mut bed = Bed::new();
        for frame in &frames {
            bed.inject(0, frame);
        }
        bed.turn();
        let passed = expected.iter().filter(|fate| fate.is_ok()).count() as u64;
        assert_eq!(bed.worker.tally().tx, passed, "{what}, in one burst");
    }
}

#[test]
fn what_a_new_policy_denies_stops_in_mid_datagram() {
    let [first, next] = tables([b_accepts(&[80]), b_accepts(&[81])]);
    let mut bed = Bed::with(first);
    let (to_b, to_c) = (
        datagram(80).fragments(7, 1480),
        from_pod(0).ip(A, C).udp(1, 2).payload(&[0; 2000]).fragments(8, 1480),
    );
    assert_eq!(fates(&mut bed, 0, &[to_b[0].clone(), to_c[0].clone()]), [Ok(1), Ok(2)]);
    bed.tables.publish(next);
    assert_eq!(fates(&mut bed, 0, &to_b[1..2]), [Err(DropReason::FragmentUnmatched)]);
    assert_eq!(fates(&mut bed, 0, &to_c[1..2]), [Ok(2)], "c's epoch is the same");
    assert_eq!(fates(&mut bed, 0, &to_b[..1]), [Err(DropReason::DefaultDeny)]);
}

#[test]
fn a_first_fragment_is_forgotten_after_a_while() {
    let mut bed = Bed::new();
    let frames = datagram(80).fragments(7, 1480);
    assert_eq!(fates(&mut bed, 0, &frames[..2]), [Ok(1), Ok(1)]);
    bed.now += 15_000;
    assert_eq!(fates(&mut bed, 0, &frames[2..]), [Err(DropReason::FragmentUnmatched)]);
}

#[test]
fn fragments_leave_as_a_router_sends_them() {
    let mut bed = Bed::new();
    let sentence = from_pod(0).ip(A, B).ttl(9).udp(4000, 80).payload(&[0; 2000]);
    let expected = sentence.clone().ttl(8).from(port_mac(1)).to(pod_mac(1)).fragments(7, 1480);
    for (frame, expected) in sentence.fragments(7, 1480).iter().zip(expected) {
        assert_eq!(bed.fate(0, frame), Fate::Sent { port: 1, bytes: expected }, "all else is the same");
    }
    let hops = from_pod(0).ip(A, B).ttl(1).udp(4000, 80).payload(&[0; 2000]).fragments(8, 1480);
    assert_eq!(fates(&mut bed, 0, &hops), [Err(DropReason::TtlExpired); 2]);
    let jumbo = from_pod(0).ip(A, B).udp(4000, 80).payload(&[0; 4000]).fragments(9, 1488);
    assert_eq!(fates(&mut bed, 0, &jumbo)[..2], [Err(DropReason::TooBig); 2]);
    let atomic = from_pod(0).ip(A6, B6).extension(44, &[0; 6]).tcp(4000, 80).syn().build();
    let Fate::Sent { port: 1, bytes } = bed.fate(0, &atomic) else { panic!("an atomic fragment is whole") };
    assert!(l4_checksum_ok(&bytes, &Packet::parse(&bytes).unwrap()));
}

#[test]
fn without_a_table_fragments_drop_like_everything() {
    let mut bed = Bed::bare();
    bed.wirings.publish(wiring());
    let frames = datagram(80).fragments(7, 1480);
    assert_eq!(fates(&mut bed, 0, &frames), [Err(DropReason::NoTable); 3]);
}
