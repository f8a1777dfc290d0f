//! What becomes of packets, step by step; after every step every frame is accounted for.

mod bed;

use bed::*;
use engine::events::Event;
use engine::io::Slot;
use engine::wiring::PortId;
use flow::{DropReason, MacAddr};
use packet::{Packet, l4_checksum_ok};
use testkit::cluster::cluster;
use testkit::frames::{arp_reply, arp_request, frame, neighbour_advertisement, neighbour_solicitation};

#[test]
fn before_the_first_table_everything_drops() {
    let mut bed = Bed::bare();
    let syn = from_pod(0).ip(A, B).tcp(4000, 80).syn();
    assert_eq!(bed.drops(0, &syn), DropReason::NoTable);
    bed.wirings.publish(wiring());
    assert_eq!(bed.drops(0, &syn), DropReason::NoTable);
    assert_eq!(bed.drops(UPLINK, &from_outside().ip(OUTSIDE, B).tcp(4000, 80).syn()), DropReason::NoTable);
    bed.tables.publish(table(b_accepts(&[80])));
    assert_eq!(bed.passes(0, &syn), 1);
}

#[test]
fn a_connection_is_allowed_as_a_whole_and_denied_as_a_whole() {
    let mut bed = Bed::new();
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).tcp(4000, 80).syn()), 1);
    assert_eq!(bed.passes(1, &from_pod(1).ip(B, A).tcp(80, 4000).syn().ack()), 0);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).tcp(4000, 80).ack().payload(b"GET /")), 1);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).tcp(4000, 81).syn()), DropReason::DefaultDeny);
    assert_eq!(bed.drops(1, &from_pod(1).ip(B, A).tcp(81, 4000).syn().ack()), DropReason::NoFlow);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A6, B6).udp(4000, 80)), 1);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A6, B6).udp(4000, 81)), DropReason::DefaultDeny);
    assert_eq!(bed.passes(1, &from_pod(1).ip(B6, A6).udp(80, 4000)), 0);
    assert_eq!(bed.passes(1, &from_pod(1).ip(B, A).ping(7)), 0);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).pong(7)), 1);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).ping(8)), DropReason::DefaultDeny);
}

#[test]
fn what_leaves_is_what_a_router_would_send() {
    let mut bed = Bed::new();
    let syn = from_pod(0).ip(A, B).ttl(9).tcp(4000, 80).syn().payload(b"odd").partial_checksum();
    let Fate::Sent { port: 1, bytes } = bed.fate(0, &syn.build()) else { panic!("not to b") };
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.eth_src, packet.eth_dst, packet.ttl), (port_mac(1), pod_mac(1), 8));
    assert!(l4_checksum_ok(&bytes, &packet), "a partial checksum is completed");

    let v6 = from_pod(0).ip(A6, B6).ttl(2).udp(4000, 80).payload(b"odd").partial_checksum();
    let Fate::Sent { port: 1, bytes } = bed.fate(0, &v6.build()) else { panic!("not to b") };
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.eth_src, packet.eth_dst, packet.ttl), (port_mac(1), pod_mac(1), 1));
    assert!(l4_checksum_ok(&bytes, &packet), "a partial checksum is completed");

    let far = from_pod(0).ip(A, OUTSIDE).udp(4000, 53);
    let Fate::Sent { port: UPLINK, bytes } = bed.fate(0, &far.build()) else { panic!("not to the uplink") };
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.eth_src, packet.eth_dst), (port_mac(UPLINK), GATEWAY));
}

#[test]
fn outside_is_judged_like_everybody() {
    let mut bed = Bed::new();
    assert_eq!(bed.passes(UPLINK, &from_outside().ip(OUTSIDE, B).tcp(4000, 80).syn()), 1);
    assert_eq!(bed.passes(1, &from_pod(1).ip(B, OUTSIDE).tcp(80, 4000).syn().ack()), UPLINK);
    assert_eq!(
        bed.drops(UPLINK, &from_outside().ip(OUTSIDE, B).tcp(4000, 81).syn()),
        DropReason::DefaultDeny
    );
}

#[test]
fn a_policy_that_changes_cuts_the_connection_and_only_that() {
    let [first, next] = tables([b_accepts(&[80]), b_accepts(&[81])]);
    let mut bed = Bed::with(first);
    let to_b = from_pod(0).ip(A, B).udp(4000, 80);
    let to_c = from_pod(0).ip(A, C).udp(4000, 80);
    assert_eq!((bed.passes(0, &to_b), bed.passes(0, &to_c)), (1, 2));
    let judged = bed.worker.tally().judged;

    bed.tables.publish(next);
    assert_eq!(bed.passes(0, &to_c), 2);
    assert_eq!(bed.worker.tally().judged, judged, "c's epoch has not changed: nothing is asked again");
    assert_eq!(bed.drops(0, &to_b), DropReason::DefaultDeny);
    assert_eq!(bed.drops(1, &from_pod(1).ip(B, A).udp(80, 4000)), DropReason::DefaultDeny);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(4000, 81)), 1);
}

#[test]
fn a_burst_is_judged_together_and_keeps_its_order() {
    let mut bed = Bed::new();
    for port in 0..100u16 {
        let dst = if port % 2 == 0 { 80 } else { 81 };
        bed.inject(0, &from_pod(0).ip(A, B).udp(1000 + port, dst).build());
    }
    assert_eq!(bed.turn() + bed.turn(), 100);
    assert_eq!(bed.worker.tally().dropped_for(DropReason::DefaultDeny), 50);
    let mut ports = Vec::new();
    while let Some(key) = bed.worker.io_mut().sent(Slot(1), |bytes| Packet::parse(bytes).unwrap().key) {
        ports.push(key.src.port);
    }
    let expected: Vec<u16> = (0..100).step_by(2).map(|port| 1000 + port).collect();
    assert_eq!(ports, expected);
}

#[test]
fn a_full_transmit_ring_drops_and_loses_no_frame() {
    let mut bed = Bed::new();
    for port in 0..100 {
        bed.inject(0, &from_pod(0).ip(A, B).udp(port, 80).build());
    }
    bed.turn();
    bed.turn();
    assert_eq!(bed.worker.tally().tx, 64);
    assert_eq!(bed.worker.tally().dropped_for(DropReason::TxRingFull), 36);
}

#[test]
fn the_pods_mac_is_pinned_by_what_speaks_for_the_pod() {
    let mut bed = Bed::bare();
    bed.wirings.publish(wiring_with_macs([false, true, true]));
    bed.tables.publish(table(b_accepts(&[80])));

    // Nothing passes yet, and what claims another's address pins nothing.
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).udp(1, 80)), DropReason::MacUnknown);
    for frame in [arp_request(pod_mac(0), B, NODE), neighbour_solicitation(pod_mac(0), B6, "fe80::1")] {
        assert_eq!(bed.fate(0, &frame), Fate::Dropped(DropReason::MacUnknown));
    }
    assert_eq!(bed.events(), []);

    for frame in [
        arp_request(pod_mac(0), A, NODE),
        arp_reply(pod_mac(0), A, port_mac(0), NODE),
        neighbour_solicitation(pod_mac(0), A6, "fe80::1"),
        neighbour_advertisement(pod_mac(0), A6, port_mac(0), "fe80::1"),
    ] {
        assert_eq!(bed.fate(0, &frame), Fate::Dropped(DropReason::MacUnknown));
        assert_eq!(bed.events(), [Event::MacSeen(PortId(0), pod_mac(0))]);
    }

    // Packets to it wait for its MAC, and say so.
    assert_eq!(bed.drops(2, &from_pod(2).ip(C, A).udp(1, 80)), DropReason::NoNeighbour);
    assert_eq!(bed.events(), [Event::Unresolved(PortId(0), address(A))]);
    bed.wirings.publish(wiring());
    assert_eq!(bed.passes(2, &from_pod(2).ip(C, A).udp(1, 80)), 0);
    assert_eq!(bed.passes(0, &from_pod(0).ip(A, B).udp(1, 80)), 1);
}

#[test]
fn a_neighbour_beyond_the_uplink_is_asked_for() {
    let mut bed = Bed::new();
    let empty = engine::wiring::Wiring::new(
        wiring().ports().to_vec(),
        [address(NODE)],
        [engine::wiring::Route {
            network: address("198.51.100.0"),
            length: 24,
            port: Some(PortId(UPLINK as u16)),
            via: None,
        }],
        [],
    );
    bed.wirings.publish(empty);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, OUTSIDE).udp(1, 53)), DropReason::NoNeighbour);
    assert_eq!(bed.events(), [Event::Unresolved(PortId(UPLINK as u16), address(OUTSIDE))]);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, "203.0.113.5").udp(1, 53)), DropReason::NoRoute);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, NODE).udp(1, 53)), DropReason::NoRoute);
}

#[test]
fn a_pod_without_policy_data_is_closed() {
    let [first, empty] = tables([b_accepts(&[80]), cluster().build()]);
    let mut bed = Bed::with(first);
    bed.tables.publish(empty);
    assert_eq!(bed.drops(0, &from_pod(0).ip(A, B).udp(1, 80)), DropReason::UnknownPod);
    assert_eq!(bed.drops(UPLINK, &from_outside().ip(OUTSIDE, B).udp(1, 80)), DropReason::UnknownPod);
}

#[test]
fn connections_of_before_a_restart_may_go_on_for_a_while() {
    let mut bed = Bed::with_recovery(10);
    bed.wirings.publish(wiring());
    bed.tables.publish(table(b_accepts(&[80])));
    let reply = |port| from_pod(1).ip(B, A).tcp(80, port).ack().payload(b"data");
    assert_eq!(bed.passes(1, &reply(4000)), 0);
    bed.now += 20;
    assert_eq!(bed.passes(1, &reply(4000)), 0, "known by now");
    assert_eq!(bed.drops(1, &reply(4001)), DropReason::NoFlow);
}

#[test]
fn a_frame_to_another_mac_is_not_ours() {
    let mut bed = Bed::new();
    let elsewhere = frame().from(pod_mac(0)).to(MacAddr([2, 9, 9, 9, 9, 9])).ip(A, B).udp(1, 80);
    assert_eq!(bed.drops(0, &elsewhere), DropReason::NotForUs);
}

#[test]
fn the_nodes_exemption_holds_only_where_the_node_truly_is() {
    let mut bed = Bed::new();
    let forged = from_outside().ip(NODE_PUBLIC, B).udp(1, 81);
    assert_eq!(bed.drops(UPLINK, &forged), DropReason::SpoofedSource);
    assert_eq!(bed.drops(1, &from_pod(1).ip(B, NODE_PUBLIC).udp(1, 81)), DropReason::NoRoute);
    assert_eq!(bed.passes(1, &from_pod(1).ip(B, "203.0.113.78").udp(1, 81)), UPLINK);
}
