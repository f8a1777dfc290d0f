//! The worker loop allocates nothing: not for a known connection, a new one, a denied one, a fragment, an ICMP error,
//! or a hostile frame.

mod bed;

use bed::*;
use engine::io::Slot;
use engine::wiring::PriorityTags;

#[test]
fn a_turn_allocates_nothing() {
    turns_allocate_nothing(Bed::new());
}

#[test]
fn nor_does_one_of_which_records_are_kept() {
    let bed = Bed::new();
    let records = bed.worker.records();
    records.ask_for(u16::MAX);
    turns_allocate_nothing(bed);
    assert!(std::iter::from_fn(|| records.take()).count() > 4 * 64, "they were kept");
}

fn turns_allocate_nothing(mut bed: Bed) {
    bed.wirings.publish(wiring().with_priority_tags(PriorityTags::Stripped));
    let known = from_pod(0).ip(A, B).udp(1, 80).build();
    let datagram = from_pod(0).ip(A, B).udp(1, 80).payload(&[0; 2000]);
    let frames = [
        ("known", vec![known; 64]),
        ("new", (1000..1064).map(|port| from_pod(0).ip(A, B).udp(port, 80).build()).collect()),
        ("denied", (1000..1064).map(|port| from_pod(0).ip(A6, B6).udp(port, 81).build()).collect()),
        (
            "outbound",
            (1000..1064).map(|port| from_pod(0).ip(A, OUTSIDE).tcp(port, 443).syn().build()).collect(),
        ),
        ("spoofed", vec![from_pod(0).ip(C, B).udp(1, 80).build(); 64]),
        ("slow lane", vec![from_pod(0).ip(A, B).options(&[1, 1, 1, 0]).udp(1, 80).build(); 64]),
        ("fragments", (1..33).flat_map(|id| datagram.fragments(id, 1480)).collect()),
        (
            "on their last hop",
            (1..65).map(|port| from_pod(0).ip(A, B).ttl(1).udp(port, 80).build()).collect(),
        ),
        ("priority-tagged", vec![from_pod(0).ip(A, B).udp(1, 80).vlan(0).build(); 64]),
        ("truncated", vec![vec![0; 9]; 64]),
    ];
    // The first turn of a thread that finds a new table sets up arc-swap's slot for that thread.
    bed.turn();
    for (what, burst) in frames {
        for frame in &burst {
            bed.inject(0, frame);
        }
        bed.now += 1;
        let now = engine::flows::Millis(bed.now);
        let mut handled = 0;
        let allocations = allocation_counter::measure(|| handled = bed.worker.turn(now));
        assert_eq!(handled, 64, "{what}");
        assert_eq!(allocations.count_total, 0, "{what}: {allocations:?}");
        for slot in 0..4 {
            while bed.worker.io_mut().sent(Slot(slot), |_| ()).is_some() {}
        }
    }
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(counted.count_total, 1, "the counter counts");
}
