//! Inline mode: a local pod's address counts only on packets that came by that pod's port. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inline_node;
mod veth;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use bpf::inline::CachedFlow;
use flow::{FlowKey, Protocol};
use inline_node::{ELSEWHERE, FRIEND, Node, OURS, POD, POD_PORT, THEIRS, UDP, flow};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use nix::time::{ClockId, clock_gettime};
use veth::frames::{IPV4, ethernet, ipv4, udp};
use veth::{Tap, in_netns};

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

/// Over IPv6 any process may do so, over IPv4 those with CAP_NET_ADMIN.
#[test]
fn a_process_of_the_node_speaks_for_no_pod() {
    in_netns(|| {
        let mut node = Node::punting(8);
        // Otherwise the kernel takes the source away.
        veth::ip("link set lo up");
        // The pod answers: its own end is known to be true.
        let mut answer = udp(1);
        answer[..4].copy_from_slice(&[0x20, 0, 0x10, 0]);
        node.pod.send(&ethernet(THEIRS, OURS, IPV4, &ipv4(POD, FRIEND, UDP, &answer)));
        node.counts(POD_PORT, "the answer", |counted| counted.hit == 1);
        // A connection that is known, one that is not, and the pod's own.
        let pretended = [((FRIEND, 0x1000), POD), ((FRIEND, 0x1001), POD), ((POD, 0x1000), ELSEWHERE)];
        let mut refused = 0;
        for round in ["before anybody has spoken", "after the friend has", "again"] {
            for ((address, port), to) in pretended {
                send_as(SocketAddrV4::new(address, port), to);
                refused += 1;
                node.counts(POD_PORT, round, |counted| counted.spoofed == refused);
            }
            assert!(node.forwards(|n| &n.friend, FRIEND, POD, |n| &n.pod), "the friend itself");
        }
    });
}

/// Sends a datagram from this machine under an address that is not its own.
fn send_as(source: SocketAddrV4, to: Ipv4Addr) {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None).unwrap();
    setsockopt(&socket, sockopt::IpTransparent, &true).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::from(source)).unwrap();
    UdpSocket::from(socket).send_to(&[7; 30], (to, 0x2000)).unwrap();
}

/// What was found about an entry's addresses is found out again once they have other owners.
#[test]
fn an_address_that_changes_hands_counts_by_its_new_port_from_then_on() {
    in_netns(|| {
        let mut node = Node::new();
        let mut cache = node.programs.cache().unwrap();
        assert_eq!(cache.enter(&[flow(ELSEWHERE, false)]), 0);
        let to_the_pod =
            |node: &mut Node, by: fn(&Node) -> &Tap, src| node.forwards(by, src, POD, |n| &n.pod);
        let set = |node: &mut Node, interface, addresses: &[_]| {
            node.programs.set_pod_addresses(if_nametoindex(interface).unwrap(), addresses).unwrap();
        };
        for round in ["first", "known"] {
            assert!(to_the_pod(&mut node, |n| &n.outside, ELSEWHERE), "the outside, {round}");
            assert!(to_the_pod(&mut node, |n| &n.friend, FRIEND), "the friend, {round}");
        }
        set(&mut node, "friend", &[FRIEND.into(), ELSEWHERE.into()]);
        assert!(!to_the_pod(&mut node, |n| &n.outside, ELSEWHERE), "what is the friend's now, from outside");
        assert!(to_the_pod(&mut node, |n| &n.friend, ELSEWHERE), "the friend under its second address");
        set(&mut node, "friend", &[FRIEND.into()]);
        assert!(to_the_pod(&mut node, |n| &n.outside, ELSEWHERE), "the outside, whose it is again");
        set(&mut node, "pod", &[]);
        assert!(!to_the_pod(&mut node, |n| &n.friend, FRIEND), "to a pod that has given its address up");
    });
}

/// Who is behind an address of the node may change when connection tracking has forgotten: what opens a connection, or
/// comes after a pause, is asked about.
#[test]
fn a_verdict_about_whom_the_node_hides_counts_without_a_pause_and_for_nothing_that_opens() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    in_netns(|| {
        let mut node = Node::new();
        let enter = |node: &Node, hidden, since: Duration| {
            let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap());
            let last_seen = now.saturating_sub(since).as_nanos() as u64;
            let flow = flow(ELSEWHERE, false);
            let key = FlowKey { protocol: Protocol::TCP, ..flow.key };
            node.programs.cache().unwrap().enter(&[CachedFlow { key, hidden, last_seen, ..flow }]);
        };
        let hour = Duration::from_secs(3600);
        for (hidden, flags, since, passes) in [
            (false, SYN, hour, true),
            (false, ACK, hour, true),
            (true, SYN, Duration::ZERO, false),
            (true, ACK, hour, false),
        ] {
            enter(&node, hidden, since);
            assert_eq!(node.forwards_segment(ELSEWHERE, flags), passes, "{hidden} {flags} {since:?}");
        }
        // A machine may be slow, but not each time.
        let passes = (0..20).any(|_| {
            enter(&node, true, Duration::ZERO);
            node.forwards_segment(ELSEWHERE, ACK)
        });
        assert!(passes, "without a pause");
    });
}
