//! Inline mode: what packets and frames carry with them counts only if it is ours. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inline_node;
mod veth;

use std::process::Command;

use bpf::inline::{Approval, CachedFlow, Hook};
use inline_node::{ELSEWHERE, FRIEND, Node, OURS, POD, POD_PORT, SETTINGS, THEIRS, UDP, UPLINK, flow};
use veth::frames::{IPV4, ethernet, ipv4, udp};
use veth::{Tap, in_netns};

const BURST: u32 = 1000;

fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A node that gives what leaves it another source.
fn masquerading() -> Node {
    run("nft 'add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; \
         add rule ip nat post oifname uplink snat to 192.0.2.7'");
    Node::punting(BURST)
}

/// Has another program write something into packets, as a tc filter does with the class that it gives them.
fn classify(interface: &str, side: &str, class: u16) {
    run(&format!(
        "(tc qdisc show dev {interface} | grep -q clsact || tc qdisc add dev {interface} clsact) && \
         tc filter replace dev {interface} {side} pref 9 handle 800::800 protocol ip u32 match u32 0 0 flowid 1:{class:x}"
    ));
}

fn leaves(node: &mut Node) -> bool {
    node.forwards(|n| &n.pod, POD, ELSEWHERE, |n| &n.outside)
}

/// The number of the uplink and of the pod's own port, and what `pod_in` itself writes.
const CLASSES: [u16; 4] = [UPLINK, POD_PORT, 0x5400 | POD_PORT, 0xd400 | POD_PORT];

#[test]
fn what_a_pod_has_written_into_its_packets_says_nothing() {
    in_netns(|| {
        let mut node = masquerading();
        for class in CLASSES {
            classify("pod-far", "egress", class);
            assert!(leaves(&mut node), "judged for good: {class:x}");
        }
        assert_eq!(node.programs.counted(UPLINK).unwrap().punted, 0);
        node.programs.cache().unwrap().enter(&[CachedFlow { provisional: true, ..flow(ELSEWHERE, true) }]);
        for (class, punted) in CLASSES.into_iter().zip(1..) {
            classify("pod-far", "egress", class);
            assert!(!leaves(&mut node), "to be judged once more: {class:x}");
            node.counts(UPLINK, "that is asked for", |counted| counted.punted == punted);
        }
    });
}

#[test]
fn what_another_program_has_overwritten_is_judged_once_more() {
    for provisional in [true, false] {
        in_netns(|| {
            let mut node = masquerading();
            node.programs.cache().unwrap().enter(&[CachedFlow { provisional, ..flow(ELSEWHERE, true) }]);
            for (class, punted) in [0, POD_PORT, UPLINK, 0xffff].into_iter().zip(1..) {
                classify("pod", "ingress", class);
                assert!(!leaves(&mut node), "{class:x}");
                node.counts(UPLINK, "that is asked for", |counted| counted.punted == punted);
            }
        });
    }
}

#[test]
fn an_approval_counts_once_however_many_come_after_it() {
    in_netns(|| {
        let mut node = Node::punting(BURST);
        node.programs.begin_approvals().unwrap();
        node.programs.attach("punt0", Hook::Reinject).unwrap();
        let far = Tap::open("punt1");
        let tag = POD_PORT << 1;
        let show = |number, approved: u16, key| {
            let tagged =
                [&tag.to_be_bytes()[..], &IPV4.to_be_bytes(), &ipv4(POD, FRIEND, UDP, &udp(1))].concat();
            let approval = Approval { number, tag: approved, provisional: false }.to_bytes(key);
            far.send(&[&ethernet(THEIRS, OURS, 0x8100, &tagged)[..], &approval].concat());
        };
        let seen = |node: &Node| {
            let [taken, forged] = [POD_PORT, 0].map(|id| node.programs.counted(id).unwrap());
            (taken.reinjected, forged.forged)
        };
        // Each number, and whether it counts.
        let far_ahead = u64::from(u32::MAX) + 5;
        let numbers = [
            (1, true),
            (1, false),
            (3, true),
            (2, false),
            (1 << 31, true),
            (3, false),
            (far_ahead, true),
            // As 32 bits would count them, those were ahead of it.
            (1 << 31, false),
            (1 << 20, false),
            (far_ahead, false),
            (far_ahead + 1, true),
        ];
        let (mut taken, mut forged) = (0, 0);
        for (number, counts) in numbers {
            show(number, tag, SETTINGS.key);
            if counts {
                taken += 1
            } else {
                forged += 1
            }
            let all = |node: &Node| seen(node).0 + seen(node).1;
            node.counts(0, "it is seen", |_| all(&node) == taken + forged);
            assert_eq!(seen(&node), (taken, forged), "{number}");
        }
        for (approved, key) in [(tag + 2, SETTINGS.key), (tag, [1, 3])] {
            show(far_ahead + 2, approved, key);
            forged += 1;
            node.counts(0, "it is seen", |counted| counted.forged == forged);
        }
        show(far_ahead + 2, tag, SETTINGS.key);
        node.counts(POD_PORT, "the true one", |counted| counted.reinjected == taken + 1);
    });
}
