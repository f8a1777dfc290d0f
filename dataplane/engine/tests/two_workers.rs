//! Two workers, each with ports of its own: frames cross between them, state is shared.

mod bed;

use std::sync::Arc;

use bed::*;
use engine::flows::Millis;
use engine::io::{PacketIo, Slot};
use engine::loopback::Loopback;
use engine::shared::{Owner, Shared};
use engine::worker::Worker;
use flow::DropReason;
use table::Publisher;

#[test]
fn frames_cross_and_connections_are_known_to_both() {
    // Worker 0 owns pods a and b, worker 1 pod c and the uplink.
    let owner = |worker, slot| Owner { worker, slot: Slot(slot) };
    let shared = Arc::new(Shared::new(vec![owner(0, 0), owner(0, 1), owner(1, 0), owner(1, 1)], 64));
    let (mut tables, mut wirings) = (Publisher::new(), Publisher::new());
    tables.publish(table(b_accepts(&[80])));
    wirings.publish(wiring());
    let mut workers: Vec<_> = (0..2)
        .map(|me| {
            let io = Loopback::new(2, 32, 32);
            Worker::new(me, io, Arc::clone(&shared), tables.reader(), wirings.reader(), 0)
        })
        .collect();
    let turn_both = |workers: &mut Vec<Worker<Loopback>>| {
        for worker in workers.iter_mut() {
            worker.turn(Millis(1));
            assert!(worker.tally().balances() && worker.io().census().balances(), "{:?}", worker.tally());
        }
    };

    // c (worker 1) asks b (worker 0), and b answers.
    assert!(workers[1].io_mut().inject(Slot(0), &from_pod(2).ip(C, B).tcp(4000, 80).syn().build()));
    turn_both(&mut workers);
    turn_both(&mut workers);
    assert_eq!(workers[0].io_mut().sent(Slot(1), |bytes| bytes[..6].to_vec()), Some(pod_mac(1).0.to_vec()));
    assert!(workers[0].io_mut().inject(Slot(1), &from_pod(1).ip(B, C).tcp(80, 4000).syn().ack().build()));
    turn_both(&mut workers);
    assert_eq!(workers[1].io_mut().sent(Slot(0), |bytes| bytes[..6].to_vec()), Some(pod_mac(2).0.to_vec()));

    let [first, second] = [*workers[0].tally(), *workers[1].tally()];
    assert_eq!((first.handed_in, first.handed_out, first.tx), (1, 1, 1));
    assert_eq!((second.handed_in, second.handed_out, second.tx), (1, 1, 1));
}

#[test]
fn a_worker_that_does_not_keep_up_costs_drops_and_no_frames() {
    let owner = |worker, slot| Owner { worker, slot: Slot(slot) };
    let shared = Arc::new(Shared::new(vec![owner(0, 0), owner(1, 0), owner(0, 1), owner(0, 2)], 4096));
    let (mut tables, mut wirings) = (Publisher::new(), Publisher::new());
    tables.publish(table(b_accepts(&[80])));
    wirings.publish(wiring());
    let mut reader = || (tables.reader(), wirings.reader());
    let mut first = Worker::new(0, Loopback::new(3, 64, 64), Arc::clone(&shared), reader().0, reader().1, 0);
    let mut second = Worker::new(1, Loopback::new(1, 16, 64), Arc::clone(&shared), reader().0, reader().1, 0);
    for port in 0..2000u16 {
        assert!(first.io_mut().inject(Slot(0), &from_pod(0).ip(A, B).udp(port, 80).build()));
        first.turn(Millis(1));
    }
    let tally = *first.tally();
    assert!(tally.balances());
    assert_eq!((tally.handed_out, tally.dropped_for(DropReason::HandoffFull)), (1024, 976));
    // The second has sixteen frames of packet memory; what it cannot copy it drops by name.
    while second.turn(Millis(2)) > 0 {}
    let tally = *second.tally();
    assert!(tally.balances() && second.io().census().balances());
    assert_eq!((tally.handed_in, tally.tx, tally.dropped_for(DropReason::NoFrame)), (1024, 16, 1008));
}
