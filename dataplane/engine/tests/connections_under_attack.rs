//! Floods, and connections that several workers know: what lives must notice nothing, what ends must end for all.

mod bed;

use std::sync::Arc;

use bed::*;
use engine::clock::{Millis, TICK};
use engine::io::{PacketIo, Slot};
use engine::loopback::Loopback;
use engine::shared::{Owner, Shared};
use engine::worker::Worker;
use flow::DropReason;
use table::{PolicyTable, Publisher};
use testkit::frames::FrameBuilder;

fn a_to_b(port: u16) -> FrameBuilder {
    from_pod(0).ip(A, B).tcp(port, 80)
}

fn b_to_a(port: u16) -> FrameBuilder {
    from_pod(1).ip(B, A).tcp(80, port)
}

fn establish(bed: &mut Bed, port: u16) {
    assert_eq!(bed.passes(0, &a_to_b(port).syn()), 1);
    assert_eq!(bed.passes(1, &b_to_a(port).syn().ack()), 0);
    for _ in 0..2 {
        assert_eq!(bed.passes(0, &a_to_b(port).ack()), 1);
        assert_eq!(bed.passes(1, &b_to_a(port).ack()), 0);
    }
}

#[test]
fn a_flood_of_openings_costs_the_established_nothing() {
    let mut bed = Bed::new();
    let capacity = bed.shared.flows.capacity();
    for port in 1..=100 {
        establish(&mut bed, port);
    }
    // From c and from outside, a hundred times what the table holds.
    let outside = ["198.51.100.1", "198.51.100.2"];
    for round in 0..800u16 {
        for number in 0..64u16 {
            let port = round * 64 + number;
            bed.inject(2, &from_pod(2).ip(C, B).tcp(port, 80).syn().build());
            let from = outside[usize::from(number % 2)];
            bed.inject(UPLINK, &from_outside().ip(from, B).tcp(port, 80).syn().build());
        }
        bed.turn();
        for slot in 0..4 {
            while bed.worker.io_mut().sent(Slot(slot), |_| ()).is_some() {}
        }
        assert!(bed.shared.flows.len() <= capacity);
    }
    assert!(bed.shared.flows.given_up() > 50_000, "the flood made its own room");
    let dropped = bed.worker.tally().dropped_total();
    for port in 1..=100 {
        assert_eq!(bed.passes(0, &a_to_b(port).ack()), 1);
        assert_eq!(bed.passes(1, &b_to_a(port).ack()), 0);
    }
    assert_eq!(bed.worker.tally().dropped_total(), dropped, "not one of theirs was lost");
    establish(&mut bed, 30_000);
    bed.now += 60_000;
    bed.turn();
    for _ in 0..capacity / 16 {
        bed.turn();
    }
    assert_eq!(bed.shared.flows.len(), 101, "what nobody answered is gone, a few at each turn");
}

#[test]
fn answers_do_not_make_a_flood_established() {
    let mut bed = Bed::new();
    assert_eq!(bed.passes(UPLINK, &from_outside().ip(OUTSIDE, B).tcp(4000, 80).syn()), 1);
    assert_eq!(bed.passes(1, &from_pod(1).ip(B, OUTSIDE).tcp(80, 4000).syn().ack()), UPLINK);
    bed.now += 31_000;
    assert_eq!(
        bed.drops(1, &from_pod(1).ip(B, OUTSIDE).tcp(80, 4000).ack()),
        DropReason::NoFlow,
        "whose address it is was never shown"
    );
}

#[test]
fn nobody_else_ends_a_connection() {
    let mut bed = Bed::new();
    establish(&mut bed, 4000);
    // The builder's segments all have sequence number 1000 and acknowledge 2000. What b sends next is 2000.
    let numbered = |frame: FrameBuilder, sequence: u32| {
        let mut bytes = frame.no_checksum().build();
        bytes[38..42].copy_from_slice(&sequence.to_be_bytes());
        bytes
    };
    for forged in [b_to_a(4000).rst(), b_to_a(4000).fin()] {
        for sequence in [2000 + (1 << 30), 2000u32.wrapping_sub(1 << 30)] {
            assert!(matches!(bed.fate(1, &numbered(forged.clone(), sequence)), Fate::Sent { .. }));
        }
    }
    bed.now += 3_600_000;
    assert_eq!(bed.passes(0, &a_to_b(4000).ack()), 1, "an hour later it still is");
    assert!(matches!(bed.fate(1, &numbered(b_to_a(4000).rst(), 2000)), Fate::Sent { .. }));
    bed.now += 11_000;
    assert_eq!(bed.drops(0, &a_to_b(4000).ack()), DropReason::NoFlow, "its own end's word counts");
}

#[test]
fn a_reset_is_not_believed_when_its_sender_goes_on() {
    let mut bed = Bed::new();
    establish(&mut bed, 4000);
    assert_eq!(bed.passes(1, &b_to_a(4000).rst()), 0);
    assert_eq!(bed.passes(1, &b_to_a(4000).ack()), 0);
    bed.now += 200_000;
    assert_eq!(bed.passes(0, &a_to_b(4000).ack()), 1);
}

#[test]
fn ticks_may_wrap_under_living_connections() {
    let mut bed = Bed::new();
    bed.now = u64::from(u32::MAX) * TICK - 5_000;
    establish(&mut bed, 4000);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, C).udp(1, 53)), 2);
    assert_eq!(bed.passes(2, &from_pod(2).ip(C, A).udp(53, 1)), 0);
    for _ in 0..20 {
        bed.now += 1_000;
        assert_eq!(bed.passes(2, &from_pod(2).ip(C, A).udp(53, 1)), 0);
        assert_eq!(bed.passes(1, &b_to_a(4000).ack()), 0);
    }
    assert_eq!(bed.shared.flows.len(), 2);
    bed.now += 121_000;
    assert_eq!(bed.passes(1, &b_to_a(4000).ack()), 0, "no mass expiry");
    bed.now += 8_000_000;
    bed.turn();
    assert_eq!(bed.drops(1, &b_to_a(4000).ack()), DropReason::NoFlow, "and no eternal life");
}

#[test]
fn what_is_known_follows_the_wiring() {
    let mut bed = Bed::new();
    establish(&mut bed, 4000);
    // b's interface is made anew, under another MAC.
    let ports = wiring().ports().to_vec();
    let renewed = ports.into_iter().enumerate().map(|(index, mut port)| {
        if index == 1
            && let engine::wiring::Role::Pod { mac, .. } = &mut port.role
        {
            *mac = Some(pod_mac(7));
        }
        port
    });
    bed.wirings.publish(engine::wiring::Wiring::new(renewed.collect(), [address(NODE)], [], []));
    let Fate::Sent { port: 1, bytes } = bed.fate(0, &a_to_b(4000).ack().build()) else { panic!("not to b") };
    assert_eq!(bytes[..6], pod_mac(7).0);
}

/// Worker 0 owns a, worker 1 owns b: each sees one direction.
fn two_workers(published: &mut Publisher<PolicyTable>) -> Vec<Worker<Loopback>> {
    let owner = |worker, slot| Owner { worker, slot: Slot(slot) };
    let shared = Arc::new(Shared::new(vec![owner(0, 0), owner(1, 0), owner(0, 1), owner(1, 1)], 64));
    let mut wirings = Publisher::new();
    wirings.publish(wiring());
    let workers = (0..2).map(|me| {
        let io = Loopback::new(2, 32, 32);
        Worker::new(me, io, Arc::clone(&shared), published.reader(), wirings.reader(), 0)
    });
    workers.collect()
}

#[test]
fn what_one_worker_ends_ends_for_the_other() {
    let mut published = Publisher::new();
    published.publish(table(b_accepts(&[80])));
    let mut workers = two_workers(&mut published);
    let mut now = 0;
    let mut send = |port: usize, frame: FrameBuilder, wait: u64| {
        now += wait;
        let worker = &mut workers[port];
        let before = *worker.tally();
        assert!(worker.io_mut().inject(Slot(0), &frame.build()));
        worker.turn(Millis(now));
        let after = *worker.tally();
        assert!(after.balances() && worker.io().census().balances());
        let dropped = DropReason::ALL
            .into_iter()
            .find(|reason| after.dropped_for(*reason) > before.dropped_for(*reason));
        dropped.map_or(Ok(()), Err)
    };
    assert_eq!(send(0, a_to_b(4000).syn(), 1), Ok(()));
    assert_eq!(send(1, b_to_a(4000).syn().ack(), 1), Ok(()));
    for _ in 0..3 {
        assert_eq!(send(0, a_to_b(4000).ack(), 1), Ok(()), "worker 0 knows it by itself");
        assert_eq!(send(1, b_to_a(4000).ack(), 1), Ok(()), "and so does worker 1");
    }
    // Each keeps it alive for both: for six hours only worker 0 hears of it.
    for _ in 0..6 {
        assert_eq!(send(0, a_to_b(4000).ack(), 3_600_000), Ok(()));
    }
    assert_eq!(send(1, b_to_a(4000).ack(), 1), Ok(()));

    assert_eq!(send(0, a_to_b(4000).rst(), 1), Ok(()));
    assert_eq!(send(1, b_to_a(4000).ack(), 1), Ok(()), "late segments");
    assert_eq!(send(1, b_to_a(4000).ack(), 11_000), Err(DropReason::NoFlow), "worker 1 has noticed");
}

#[test]
fn a_policy_cuts_what_every_worker_knows() {
    let [first, next] = tables([b_accepts(&[80]), b_accepts(&[81])]);
    let mut published = Publisher::new();
    published.publish(first);
    let mut workers = two_workers(&mut published);
    let (there, back) = (from_pod(0).ip(A, B).udp(1, 80).build(), from_pod(1).ip(B, A).udp(80, 1).build());
    for now in 1..4 {
        for (worker, frame) in [(0, &there), (1, &back)] {
            assert!(workers[worker].io_mut().inject(Slot(0), frame));
            workers[worker].turn(Millis(now));
            assert_eq!(workers[worker].tally().dropped_total(), 0);
        }
    }
    published.publish(next);
    // The reply comes first: it is judged as what it answers. Then both are cut.
    for (worker, frame) in [(1, &back), (0, &there)] {
        assert!(workers[worker].io_mut().inject(Slot(0), frame));
        workers[worker].turn(Millis(5));
        assert_eq!(workers[worker].tally().dropped_for(DropReason::DefaultDeny), 1, "worker {worker}");
    }
}
