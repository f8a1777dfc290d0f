//! Inline mode: how much a port may punt, and how long a frame may be that is punted. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inline_node;
mod veth;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bpf::inline::{CachedFlow, Counted, Hook, Settings, Tap as PortOf};
use flow::MacAddr;
use inline_node::{ELSEWHERE, FRIEND, Node, OURS, POD, POD_PORT, SETTINGS, THEIRS, UDP, UPLINK, flow};
use nix::net::if_::if_nametoindex;
use veth::frames::{IPV4, MORE_FRAGMENTS, ethernet, ipv4, ipv4_piece, udp};
use veth::{Tap, in_netns, veth_named};

const BURST: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// A node that punts, eight times at once for each way of a port.
fn limited() -> Node {
    let mut node = Node::new();
    veth_named("punt0", "punt1");
    settings(&mut node, BURST, SETTINGS.longest);
    let mac = Some(MacAddr(THEIRS));
    let tap = PortOf { id: POD_PORT, mac, gateway: MacAddr(OURS), uplink: false };
    node.programs.set_tap(if_nametoindex("pod").unwrap(), &tap).unwrap();
    node.programs.attach("pod", Hook::PodIn).unwrap();
    node
}

fn settings(node: &mut Node, punt_rate: u32, longest: u32) {
    let punt_ifindex = if_nametoindex("punt0").unwrap();
    // A bucket that nobody has used is filled with what the time since the machine's start gives, a second's at most.
    let settings = Settings { punt_ifindex, punt_rate, punt_burst: BURST, longest, ..SETTINGS };
    node.programs.set_settings(&settings).unwrap();
}

fn send(by: &Tap, src: Ipv4Addr, dst: Ipv4Addr, count: u32) {
    for number in 0..count {
        by.send(&ethernet(THEIRS, OURS, IPV4, &ipv4(src, dst, UDP, &udp(number))));
    }
}

/// Waits until a figure of a port is as wanted.
#[track_caller]
fn counts(node: &Node, port: u16, what: &str, wanted: impl Fn(&Counted) -> bool) -> Counted {
    let start = Instant::now();
    loop {
        let counted = node.programs.counted(port).unwrap();
        if wanted(&counted) {
            return counted;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {counted:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn no_way_of_a_port_takes_the_punts_of_another() {
    in_netns(|| {
        let mut node = limited();
        node.programs.cache().unwrap().enter(&[CachedFlow { provisional: true, ..flow(ELSEWHERE, true) }]);
        // The buckets are filled once, and then no more.
        for by in [(&node.outside, ELSEWHERE, POD), (&node.pod, POD, FRIEND), (&node.pod, POD, ELSEWHERE)] {
            send(by.0, by.1, by.2, 1);
        }
        counts(&node, POD_PORT, "both ways", |counted| counted.punted == 2);
        counts(&node, UPLINK, "what leaves", |counted| counted.punted == 1);
        settings(&mut node, 0, SETTINGS.longest);

        send(&node.outside, ELSEWHERE, POD, 20);
        let toward = counts(&node, POD_PORT, "what comes", |counted| counted.punted + counted.limited == 22);
        assert!(toward.limited >= 20 - u64::from(BURST), "{toward:?}");
        send(&node.pod, POD, FRIEND, 1);
        let sent = counts(&node, POD_PORT, "what it sends", |counted| counted.punted > toward.punted);
        assert_eq!(sent.limited, toward.limited);

        send(&node.pod, POD, FRIEND, 20);
        let sent = counts(&node, POD_PORT, "a flood", |counted| counted.punted + counted.limited == 43);
        assert!(sent.limited > toward.limited, "{sent:?}");
        send(&node.pod, POD, ELSEWHERE, 1);
        counts(&node, UPLINK, "what leaves", |counted| counted.punted == 2);
    });
}

#[test]
fn what_the_pair_cannot_carry_is_dropped_and_counted() {
    in_netns(|| {
        let mut node = limited();
        settings(&mut node, 1000, 60);
        send(&node.pod, POD, FRIEND, 1);
        counts(&node, POD_PORT, "a frame of 60 bytes", |counted| counted.punted == 1);
        settings(&mut node, 1000, 59);
        send(&node.pod, POD, FRIEND, 1);
        let counted = counts(&node, POD_PORT, "one byte less", |counted| counted.too_long == 1);
        assert_eq!(counted.punted, 1);
        // What has a verdict is not punted.
        assert!(node.forwards(|n| &n.pod, POD, ELSEWHERE, |n| &n.outside));
    });
}

#[test]
fn fragments_of_what_is_provisional_are_judged_where_they_leave() {
    for provisional in [false, true] {
        in_netns(|| {
            let mut node = limited();
            settings(&mut node, 1000, SETTINGS.longest);
            node.programs.cache().unwrap().enter(&[CachedFlow { provisional, ..flow(ELSEWHERE, true) }]);
            let mut first = udp(1);
            first.resize(80, 0);
            for (place, payload) in [(MORE_FRAGMENTS, &first), (80 / 8, &vec![9; 40])] {
                let packet = ipv4_piece(POD, ELSEWHERE, UDP, place, payload);
                node.pod.send(&ethernet(THEIRS, OURS, IPV4, &packet));
            }
            let punted = if provisional { 2 } else { 0 };
            let hits = counts(&node, POD_PORT, "both pass the pod's port", |counted| counted.hit == 2);
            counts(&node, UPLINK, "the uplink", |counted| counted.punted == punted);
            assert_eq!(hits.missed, 0);
            let seen = std::iter::from_fn(|| node.outside.receive(Duration::from_millis(300)));
            assert_eq!(seen.count(), if provisional { 0 } else { 2 });
        });
    }
}
