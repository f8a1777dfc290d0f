//! Inline mode: how much a port may punt, and how long a frame may be that is punted. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inline_node;
mod veth;

use std::net::Ipv4Addr;
use std::time::Duration;

use bpf::inline::{CachedFlow, Tap as PortOf};
use flow::MacAddr;
use inline_node::{ELSEWHERE, FRIEND, Node, OURS, POD, POD_PORT, SETTINGS, THEIRS, UDP, UPLINK, flow};
use nix::net::if_::if_nametoindex;
use veth::frames::{IPV4, MORE_FRAGMENTS, ethernet, ipv4, ipv4_piece, udp};
use veth::{Tap, in_netns};

const BURST: u32 = 8;
fn send(by: &Tap, src: Ipv4Addr, dst: Ipv4Addr, count: u32) {
    for number in 0..count {
        by.send(&ethernet(THEIRS, OURS, IPV4, &ipv4(src, dst, UDP, &udp(number))));
    }
}

#[test]
fn no_way_of_a_port_takes_the_punts_of_another() {
    in_netns(|| {
        let mut node = Node::punting(BURST);
        node.programs.cache().unwrap().enter(&[CachedFlow { provisional: true, ..flow(ELSEWHERE, true) }]);
        // The buckets are filled once, and then no more.
        for by in [(&node.outside, ELSEWHERE, POD), (&node.pod, POD, FRIEND), (&node.pod, POD, ELSEWHERE)] {
            send(by.0, by.1, by.2, 1);
        }
        node.counts(POD_PORT, "both ways", |counted| counted.punted == 2);
        node.counts(UPLINK, "what leaves", |counted| counted.punted == 1);
        node.set_punts(0, BURST, SETTINGS.longest);

        send(&node.outside, ELSEWHERE, POD, 20);
        let toward = node.counts(POD_PORT, "what comes", |counted| counted.punted + counted.limited == 22);
        assert!(toward.limited >= 20 - u64::from(BURST), "{toward:?}");
        send(&node.pod, POD, FRIEND, 1);
        let sent = node.counts(POD_PORT, "what it sends", |counted| counted.punted > toward.punted);
        assert_eq!(sent.limited, toward.limited);

        send(&node.pod, POD, FRIEND, 20);
        let sent = node.counts(POD_PORT, "a flood", |counted| counted.punted + counted.limited == 43);
        assert!(sent.limited > toward.limited, "{sent:?}");
        send(&node.pod, POD, ELSEWHERE, 1);
        node.counts(UPLINK, "what leaves", |counted| counted.punted == 2);
    });
}

/// Otherwise one pod could keep another from being asked for by anybody.
#[test]
fn what_a_pod_sends_to_another_takes_no_punts_of_that_one() {
    in_netns(|| {
        const FRIENDS: u16 = 3;
        let mut node = Node::punting(BURST);
        let tap = PortOf { id: FRIENDS, mac: None, gateway: MacAddr(OURS), uplink: false };
        node.programs.set_tap(if_nametoindex("friend").unwrap(), &tap).unwrap();
        // What is known of the friend's connection is not known any more.
        node.programs.set_epoch(POD_PORT, 1).unwrap();
        for by in [(&node.friend, FRIEND), (&node.outside, ELSEWHERE)] {
            send(by.0, by.1, POD, 1);
        }
        node.counts(POD_PORT, "both", |counted| counted.punted == 2);
        node.set_punts(0, BURST, SETTINGS.longest);

        send(&node.friend, FRIEND, POD, 20);
        let friends =
            node.counts(FRIENDS, "the friend's", |counted| counted.limited >= 20 - u64::from(BURST));
        let before = node.counts(POD_PORT, "what passed", |counted| counted.punted + friends.limited == 22);
        send(&node.outside, ELSEWHERE, POD, 1);
        let after = node.counts(POD_PORT, "the outside", |counted| counted.punted > before.punted);
        assert_eq!(after.limited, 0);
    });
}

#[test]
fn what_the_pair_cannot_carry_is_dropped_and_counted() {
    in_netns(|| {
        let mut node = Node::punting(BURST);
        node.set_punts(1000, BURST, 60);
        send(&node.pod, POD, FRIEND, 1);
        node.counts(POD_PORT, "a frame of 60 bytes", |counted| counted.punted == 1);
        node.set_punts(1000, BURST, 59);
        send(&node.pod, POD, FRIEND, 1);
        let counted = node.counts(POD_PORT, "one byte less", |counted| counted.too_long == 1);
        assert_eq!(counted.punted, 1);
        // What has a verdict is not punted.
        assert!(node.forwards(|n| &n.pod, POD, ELSEWHERE, |n| &n.outside));
    });
}

#[test]
fn fragments_of_what_is_provisional_are_judged_where_they_leave() {
    for provisional in [false, true] {
        in_netns(|| {
            let mut node = Node::punting(BURST);
            node.set_punts(1000, BURST, SETTINGS.longest);
            node.programs.cache().unwrap().enter(&[CachedFlow { provisional, ..flow(ELSEWHERE, true) }]);
            let mut first = udp(1);
            first.resize(80, 0);
            for (place, payload) in [(MORE_FRAGMENTS, &first), (80 / 8, &vec![9; 40])] {
                let packet = ipv4_piece(POD, ELSEWHERE, UDP, place, payload);
                node.pod.send(&ethernet(THEIRS, OURS, IPV4, &packet));
            }
            let punted = if provisional { 2 } else { 0 };
            let hits = node.counts(POD_PORT, "both pass the pod's port", |counted| counted.hit == 2);
            node.counts(UPLINK, "the uplink", |counted| counted.punted == punted);
            assert_eq!(hits.missed, 0);
            let seen = std::iter::from_fn(|| node.outside.receive(Duration::from_millis(300)));
            assert_eq!(seen.count(), if provisional { 0 } else { 2 });
        });
    }
}
