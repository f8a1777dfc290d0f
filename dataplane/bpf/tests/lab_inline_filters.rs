//! Inline mode as on kernels without tcx: filters of a clsact qdisc enforce, stay, are taken over, looked after and
//! removed. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inline_node;
mod veth;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bpf::inline::{Attach, By, Hook, Inline, held_by, remove_pins, unpin};
use inline_node::{ELSEWHERE, FRIEND, Node, POD, POD_PORT};
use veth::in_netns;

fn tc(arguments: &str) -> String {
    let output = Command::new("tc").args(arguments.split_whitespace()).output().expect("tc is installed");
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Our filters on the pod's and the uplink's egress.
fn filters() -> usize {
    let shown = ["pod", "uplink"].map(|interface| tc(&format!("filter show dev {interface} egress")));
    shown
        .iter()
        .map(|text| text.matches("name pod_out").count() + text.matches("name uplink_out").count())
        .sum()
}

/// What was allowed passes, a pretended source does not.
#[track_caller]
fn enforces(node: &mut Node) {
    assert!(node.forwards(|n| &n.friend, FRIEND, POD, |n| &n.pod), "what is allowed");
    assert!(node.forwards(|n| &n.pod, POD, ELSEWHERE, |n| &n.outside), "what leaves");
    assert!(!node.forwards(|n| &n.outside, FRIEND, POD, |n| &n.pod), "a pretended source");
    assert!(!node.forwards(|n| &n.friend, POD, ELSEWHERE, |n| &n.outside), "the friend as the pod");
}

/// The programs of another process with the same pins.
fn successor(node: &Node, attach: Attach) -> Inline {
    let mut programs = Inline::load(node.pins.dir(), 64).unwrap();
    programs.attach_by(attach);
    programs
}

const PLACES: [(&str, Hook); 2] = [("pod", Hook::PodOut), ("uplink", Hook::UplinkOut)];

/// Attaches once more; tells how often nothing of ours was there.
fn attach(programs: &mut Inline, by: By) -> usize {
    let placed = PLACES.map(|(interface, hook)| programs.attach(interface, hook).unwrap());
    assert!(placed.iter().all(|placed| placed.by == by), "{placed:?}");
    placed.iter().filter(|placed| placed.anew).count()
}

#[test]
fn filters_enforce_and_outlive_their_process() {
    in_netns(|| {
        let mut node = Node::attached(Attach::Clsact);
        enforces(&mut node);
        assert!(tc("qdisc show dev pod").contains("clsact"));
        assert_eq!(filters(), 2, "{}", tc("filter show dev pod egress"));
        // The predecessor's programs go on until the successor's replace them, in one step.
        node.programs = successor(&node, Attach::Clsact);
        enforces(&mut node);
        assert_eq!(attach(&mut node.programs, By::Filter), 0, "taken over");
        assert_eq!(filters(), 2, "one each");
        let before = node.programs.counted(POD_PORT).unwrap();
        enforces(&mut node);
        let after = node.programs.counted(POD_PORT).unwrap();
        assert_eq!(after.spoofed - before.spoofed, 2, "{after:?}");
    });
}

#[test]
fn no_packet_finds_the_place_empty_while_a_filter_is_replaced() {
    in_netns(|| {
        let mut node = Node::attached(Attach::Clsact);
        let (done, pins) = (AtomicBool::new(false), node.pins.dir().to_owned());
        thread::scope(|scope| {
            let replaced = scope.spawn(|| {
                let mut anew = 0;
                for _ in 0..10 {
                    let mut programs = Inline::load(&pins, 64).unwrap();
                    programs.attach_by(Attach::Clsact);
                    anew += attach(&mut programs, By::Filter);
                }
                done.store(true, Ordering::Relaxed);
                anew
            });
            let mut tries = 0;
            while !done.load(Ordering::Relaxed) && !replaced.is_finished() {
                assert_eq!(
                    node.forwarded(|n| &n.outside, FRIEND, POD, |n| &n.pod, 100),
                    0,
                    "a pretended source"
                );
                tries += 100;
            }
            assert_eq!(replaced.join().unwrap(), 0, "always taken over");
            assert!(tries >= 200, "{tries}");
        });
        assert_eq!(node.forwarded(|n| &n.friend, FRIEND, POD, |n| &n.pod, 100), 100, "what is allowed");
    });
}

#[test]
fn filters_that_an_administrator_removes_are_put_back() {
    in_netns(|| {
        let mut node = Node::attached(Attach::Clsact);
        assert_eq!(attach(&mut node.programs, By::Filter), 0, "all is as it was left");
        tc("qdisc del dev pod clsact");
        assert!(node.forwards(|n| &n.outside, FRIEND, POD, |n| &n.pod), "nobody is there");
        assert_eq!(attach(&mut node.programs, By::Filter), 1);
        enforces(&mut node);
        tc("filter del dev uplink egress");
        assert_eq!(attach(&mut node.programs, By::Filter), 1);
        enforces(&mut node);
        assert_eq!(attach(&mut node.programs, By::Filter), 0);
        assert_eq!(filters(), 2);
    });
}

#[test]
fn links_and_filters_give_way_to_each_other() {
    in_netns(|| {
        let mut node = Node::attached(Attach::Clsact);
        for (attach_by, by, left) in [(Attach::Tcx, By::Link, 0), (Attach::Clsact, By::Filter, 2)] {
            node.programs = successor(&node, attach_by);
            assert_eq!(attach(&mut node.programs, by), 2);
            assert_eq!(filters(), left);
            enforces(&mut node);
            assert_eq!(attach(&mut node.programs, by), 0);
        }
        let links = ["pod_out", "uplink_out"].map(|name| pin(&node, &format!("{name}-")));
        assert_eq!(links, [None, None]);
    });
}

/// The pin whose name begins so.
fn pin(node: &Node, name: &str) -> Option<String> {
    let entries = std::fs::read_dir(node.pins.dir()).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).find(|file| file.starts_with(name))
}

#[test]
fn a_cleanup_removes_filters_and_nothing_of_others() {
    in_netns(|| {
        let mut node = Node::attached(Attach::Clsact);
        let pins = node.pins.dir().to_owned();
        let of_pod = pin(&node, "pod_out_filter-").expect("a pin stands for the filter");
        std::fs::remove_file(pins.join(&of_pod)).unwrap();
        assert_eq!(node.programs.mend_pins().unwrap(), 1);
        assert_eq!(pin(&node, "pod_out_filter-"), Some(of_pod));
        tc("filter add dev pod egress pref 7 protocol ip u32 match u32 0 0 flowid 1:1");
        // As beside an agent, which would not want to be without them.
        unpin(&pins, &["pod"]).unwrap();
        assert_eq!((filters(), pin(&node, "pod_out_filter-")), (2, None));
        assert_eq!(node.programs.mend_pins().unwrap(), 1);
        // The process has gone.
        remove_pins(&pins, &["uplink"]).unwrap();
        assert_eq!((filters(), pin(&node, "uplink_out_filter-")), (1, None));
        assert!(node.forwards(|n| &n.friend, POD, ELSEWHERE, |n| &n.outside), "nobody is there");
        assert!(!node.forwards(|n| &n.outside, FRIEND, POD, |n| &n.pod), "the pod's filter is");
        remove_pins(&pins, &["pod"]).unwrap();
        assert_eq!(filters(), 0);
        assert!(tc("filter show dev pod egress").contains("pref 7"), "another's filter stays");
        assert!(node.forwards(|n| &n.outside, FRIEND, POD, |n| &n.pod), "nobody is there");
    });
}

#[test]
fn a_ports_programs_are_ours_while_their_filters_stand() {
    in_netns(|| {
        let mut node = Node::attached(Attach::Clsact);
        let (pins, index) = (node.pins.dir().to_owned(), nix::net::if_::if_nametoindex("pod").unwrap());
        assert_eq!(
            held_by(&pins, index, &[Hook::PodOut, Hook::PodIn]),
            None,
            "what the pod sends is not seen"
        );
        node.programs.attach("pod", Hook::PodIn).unwrap();
        assert_eq!(held_by(&pins, index, &[Hook::PodOut, Hook::PodIn]), Some(By::Filter));
        tc("qdisc del dev pod clsact");
        assert_eq!(held_by(&pins, index, &[Hook::PodOut, Hook::PodIn]), None, "pins hold nothing");
    });
}

#[test]
fn anothers_filter_in_our_place_is_named_and_left() {
    in_netns(|| {
        let mut node = Node::attached(Attach::Clsact);
        veth::veth_named("other", "other-far");
        node.programs.attach("other", Hook::PodIn).unwrap();
        let error = node.programs.attach("other", Hook::Reinject).unwrap_err().to_string();
        assert!(
            error.contains("pod_in") && error.contains("tc filter del dev other ingress pref 1"),
            "{error}"
        );
        assert!(tc("filter show dev other ingress").contains("pod_in"));
        // One of another kind.
        tc("filter add dev other egress pref 1 protocol all u32 match u32 0 0 flowid 1:1");
        let error = node.programs.attach("other", Hook::PodOut).unwrap_err().to_string();
        assert!(error.contains("tc filter del dev other egress pref 1"), "{error}");
        assert!(tc("filter show dev other egress").contains("u32"));
    });
}
