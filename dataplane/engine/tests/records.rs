//! Records say what happened to connections and frames; nobody waits for them, and what is lost is counted.

mod bed;

use bed::*;
use engine::clock::TICK;
use engine::records::{HEAD, Occasion, RING, Record};
use engine::wiring::PortId;
use flow::{DropReason, FlowKey, Protocol, Verdict};

/// More than these tests let happen.
const PLENTY: u16 = u16::MAX;

/// A node whose records are asked for.
fn recorded() -> Bed {
    let bed = Bed::new();
    bed.worker.records().ask_for(PLENTY);
    bed
}

fn records(bed: &Bed) -> Vec<Record> {
    let records = bed.worker.records();
    std::iter::from_fn(|| records.take()).collect()
}

/// The only record there is.
fn record(bed: &Bed) -> Record {
    let records = records(bed);
    let [record] = records[..] else { panic!("not one: {records:#?}") };
    record
}

fn key(protocol: Protocol, src: (&str, u16), dst: (&str, u16)) -> FlowKey {
    FlowKey::new(protocol, (address(src.0), src.1), (address(dst.0), dst.1))
}

#[test]
fn a_new_connection_is_told_of_once_and_its_packets_are_not() {
    let mut bed = recorded();
    let syn = from_pod(0).ip(A, B).tcp(4000, 80).syn();
    assert_eq!(bed.passes(0, &syn), 1);
    let told = record(&bed);
    assert_eq!((told.occasion, told.verdict(), told.reason), (Occasion::NewConnection, Verdict::Allow, None));
    assert_eq!(told.key, Some(key(Protocol::TCP, (A, 4000), (B, 80))));
    assert_eq!((told.ingress, told.egress), (Some(PortId(0)), Some(PortId(1))));
    assert_eq!((told.at.0, told.generation), (bed.now, 1));
    let frame = syn.build();
    assert_eq!((told.length as usize, told.head.bytes()), (frame.len(), &frame[..]), "as it came");

    assert_eq!(bed.passes(1, &from_pod(1).ip(B, A).tcp(80, 4000).syn().ack()), 0);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).tcp(4000, 80).ack()), 1);
    assert_eq!(records(&bed), []);
}

#[test]
fn a_denied_connection_is_told_of_with_its_reason() {
    let mut bed = recorded();
    let syn = from_pod(0).ip(A6, B6).tcp(4000, 81).syn();
    assert_eq!(bed.drops(0, &syn), DropReason::DefaultDeny);
    let told = record(&bed);
    assert_eq!(told.occasion, Occasion::NewConnection);
    assert_eq!((told.verdict(), told.reason), (Verdict::Deny, Some(DropReason::DefaultDeny)));
    assert_eq!(told.key, Some(key(Protocol::TCP, (A6, 4000), (B6, 81))));
    assert_eq!((told.ingress, told.egress), (Some(PortId(0)), None));
}

#[test]
fn every_dropped_frame_is_told_of_as_far_as_it_can_be_read() {
    let mut bed = recorded();
    let spoofed = from_pod(0).ip(C, B).udp(1, 80);
    assert_eq!(bed.drops(0, &spoofed), DropReason::SpoofedSource);
    let told = record(&bed);
    assert_eq!((told.occasion, told.reason), (Occasion::Frame, Some(DropReason::SpoofedSource)));
    assert_eq!(told.key, Some(key(Protocol::UDP, (C, 1), (B, 80))));

    assert_eq!(bed.fate(2, &[7; 9]), Fate::Dropped(DropReason::Truncated));
    let told = record(&bed);
    assert_eq!((told.reason, told.key), (Some(DropReason::Truncated), None));
    assert_eq!((told.ingress, told.head.bytes()), (Some(PortId(2)), &[7; 9][..]));

    let fragments = from_pod(0).ip(A, B).udp(1, 80).payload(&[0; 2000]).fragments(9, 1480);
    assert_eq!(bed.fate(0, &fragments[1]), Fate::Dropped(DropReason::FragmentUnmatched));
    let told = record(&bed);
    assert_eq!(told.key, Some(key(Protocol::UDP, (A, 0), (B, 0))), "a later fragment has no ports");
    assert_eq!((told.length as usize, told.head.bytes().len()), (fragments[1].len(), HEAD));

    // A connection is allowed, and its packet cannot go on: two things to tell.
    let last_hop = from_pod(0).ip(A, B).ttl(1).udp(2, 80);
    assert_eq!(bed.drops(0, &last_hop), DropReason::TtlExpired);
    let told: Vec<_> = records(&bed).iter().map(|told| (told.occasion, told.reason)).collect();
    assert_eq!(told, [(Occasion::NewConnection, None), (Occasion::Frame, Some(DropReason::TtlExpired))]);
}

#[test]
fn a_change_of_policy_is_told_of_where_it_is_felt() {
    let [first, wider, narrower] = tables([b_accepts(&[80]), b_accepts(&[80, 81]), b_accepts(&[81])]);
    let mut bed = Bed::with(first);
    bed.worker.records().ask_for(PLENTY);
    let to_b = from_pod(0).ip(A, B).udp(4000, 80);
    assert_eq!(bed.passes(0, &to_b), 1);
    bed.tables.publish(wider);
    assert_eq!(bed.passes(0, &to_b), 1);
    bed.tables.publish(narrower);
    // Even when it is the other end that speaks, the connection is told of in its own direction.
    assert_eq!(bed.drops(1, &from_pod(1).ip(B, A).udp(80, 4000)), DropReason::DefaultDeny);
    assert_eq!(bed.drops(0, &to_b), DropReason::DefaultDeny);

    let told = records(&bed);
    let connection = Some(key(Protocol::UDP, (A, 4000), (B, 80)));
    assert!(told.iter().all(|told| told.key == connection), "{told:#?}");
    let denied = Some(DropReason::DefaultDeny);
    let told: Vec<_> = told.iter().map(|told| (told.occasion, told.reason, told.generation)).collect();
    assert_eq!(
        told,
        [
            (Occasion::NewConnection, None, 1),
            (Occasion::JudgedAgain, None, 2),
            (Occasion::JudgedAgain, denied, 3),
            (Occasion::Frame, denied, 3),
        ]
    );
}

#[test]
fn what_is_dropped_on_its_way_out_is_told_of_with_the_port() {
    let mut bed = recorded();
    for port in 0..65 {
        bed.inject(0, &from_pod(0).ip(A, B).udp(port, 80).build());
    }
    bed.turn();
    bed.turn();
    let told = *records(&bed).last().expect("many");
    assert_eq!((told.occasion, told.reason), (Occasion::Frame, Some(DropReason::TxRingFull)));
    assert_eq!((told.ingress, told.egress), (Some(PortId(0)), Some(PortId(1))));
}

#[test]
fn nothing_is_recorded_while_nobody_listens() {
    let mut bed = Bed::new();
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(1, 80)), 1);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).udp(1, 81)), DropReason::DefaultDeny);
    assert_eq!((records(&bed), bed.worker.records().lost()), (vec![], 0));

    bed.worker.records().ask_for(PLENTY);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).udp(1, 81)), DropReason::DefaultDeny);
    assert_eq!(record(&bed).reason, Some(DropReason::DefaultDeny));

    bed.worker.records().ask_for(0);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).udp(1, 81)), DropReason::DefaultDeny);
    assert_eq!((records(&bed), bed.worker.records().lost()), (vec![], 0));
}

#[test]
fn a_full_ring_loses_and_counts_and_packets_do_not_notice() {
    let mut bed = recorded();
    let bursts = RING as u64 / 64 + 3;
    for _ in 0..bursts {
        for _ in 0..64 {
            bed.inject(0, &from_pod(0).ip(A, B).udp(1, 81).build());
        }
        assert_eq!(bed.turn(), 64);
    }
    assert_eq!(bed.worker.tally().dropped_for(DropReason::DefaultDeny), bursts * 64);
    assert_eq!(bed.worker.records().lost(), 3 * 64);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(1, 80)), 1, "packets go on");
    assert_eq!(bed.worker.records().lost(), 3 * 64 + 1);

    assert_eq!(records(&bed).len(), RING);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(2, 80)), 1);
    assert_eq!(record(&bed).verdict(), Verdict::Allow, "and there is room again");
}

#[test]
fn a_flood_of_one_kind_hides_no_other() {
    let mut bed = Bed::new();
    bed.now = 4 * TICK;
    bed.worker.records().ask_for(5);
    for _ in 0..40 {
        bed.inject(0, &from_pod(0).ip(C, B).udp(1, 80).build());
    }
    bed.turn();
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).udp(1, 81)), DropReason::DefaultDeny);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(1, 80)), 1);
    let told: Vec<_> = records(&bed).iter().map(|told| told.reason).collect();
    let mut expected = vec![Some(DropReason::SpoofedSource); 5];
    expected.extend([Some(DropReason::DefaultDeny), None]);
    assert_eq!((told, bed.worker.records().lost()), (expected, 35));

    bed.now += TICK;
    assert_eq!(bed.drops(0, &from_pod(0).ip(C, B).udp(1, 80)), DropReason::SpoofedSource);
    assert_eq!(record(&bed).reason, Some(DropReason::SpoofedSource), "the next tick has its own");
}
