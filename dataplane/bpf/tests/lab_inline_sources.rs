//! Inline mode: a local pod's address counts only on packets that came by that pod's port. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inline_node;
mod veth;

use inline_node::{ELSEWHERE, FRIEND, Node, POD, POD_PORT};
use veth::in_netns;

#[test]
fn a_pods_address_counts_by_its_own_port_alone() {
    in_netns(|| {
        let mut node = Node::new();
        assert!(node.forwards(|n| &n.friend, FRIEND, POD, |n| &n.pod), "the friend itself");
        assert!(node.forwards(|n| &n.pod, POD, ELSEWHERE, |n| &n.outside), "the pod itself");
        let spoofed = |node: &Node| node.programs.counted(POD_PORT).unwrap().spoofed;
        assert_eq!(spoofed(&node), 0);
        assert!(!node.forwards(|n| &n.outside, FRIEND, POD, |n| &n.pod), "a neighbour as the friend");
        assert_eq!(spoofed(&node), 1);
        // An answer to it would be let in.
        assert!(!node.forwards(|n| &n.outside, POD, ELSEWHERE, |n| &n.outside), "a neighbour as the pod");
        assert!(!node.forwards(|n| &n.friend, POD, ELSEWHERE, |n| &n.outside), "the friend as the pod");
        assert_eq!(spoofed(&node), 3);
    });
}
