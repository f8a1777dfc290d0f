//! The interlock on real packets: two pods, and a node between them that forwards. Needs root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod space;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use portcullis::interface::{InterfaceName, InterfacePattern};
use portcullis::interlock::{Forwards, Interlock};
use space::Space;

struct Rig {
    node: Space,
    a: Space,
    b: Space,
}

/// Pods `a` (10.0.1.2, fd00:1::2) and `b` (10.0.2.2, fd00:2::2) behind the node's interfaces `pod-a` and `pod-b`.
fn rig() -> Rig {
    let rig = Rig { node: Space::new(), a: Space::new(), b: Space::new() };
    for (name, n, pod) in [("pod-a", 1, &rig.a), ("pod-b", 2, &rig.b)] {
        rig.node.sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {thread}
             ip addr add 10.0.{n}.1/24 dev {name}
             ip addr add fd00:{n}::1/64 dev {name} nodad
             ip link set {name} up",
            thread = pod.thread()
        ));
        pod.sh(&format!(
            "ip addr add 10.0.{n}.2/24 dev eth0
             ip addr add fd00:{n}::2/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via 10.0.{n}.1
             ip route add default via fd00:{n}::1"
        ));
    }
    // /proc/sys/net belongs to the namespace of whoever opens it.
    rig.node.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    rig
}

fn bind(space: &Space, address: &'static str) -> UdpSocket {
    bind_to(space, address, 0)
}

fn bind_to(space: &Space, address: &'static str, port: u16) -> UdpSocket {
    let socket = space.run(move || UdpSocket::bind((address, port)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Whether at least one of five datagrams arrives.
fn reaches(from: &Space, source: &'static str, to: &Space, target: &'static str) -> bool {
    reaches_port(from, source, to, target, 0)
}

fn reaches_port(from: &Space, source: &'static str, to: &Space, target: &'static str, port: u16) -> bool {
    let (sender, receiver) = (bind(from, source), bind_to(to, target, port));
    for _ in 0..5 {
        // An unreachable answer to an earlier one may show here; the receiver's word counts.
        drop(sender.send_to(b"denied", receiver.local_addr().unwrap()));
        match receiver.recv(&mut [0; 16]) {
            Ok(_) => return true,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}")
            }
        }
    }
    false
}

fn interlock() -> Interlock {
    Interlock::of("/run/portcullis".as_ref())
}

fn names(list: &[&str]) -> Vec<InterfaceName> {
    list.iter().map(|name| name.parse().unwrap()).collect()
}

fn apply(node: &Space, ports: &[&str], hold: &[&str]) {
    apply_as(node, interlock(), ports, hold);
}

fn apply_as(node: &Space, interlock: Interlock, ports: &[&str], hold: &[&str]) {
    let (ports, hold) =
        (names(ports), hold.iter().map(|p| p.parse::<InterfacePattern>().unwrap()).collect::<Vec<_>>());
    node.run(move || {
        // Those that are there now; one that takes a name later is not ready.
        let ready = ports.iter().filter_map(|name| if_nametoindex(name.as_str()).ok());
        interlock.apply(&ports, &ready.collect(), &hold).unwrap();
    });
}

#[test]
fn the_kernel_forwards_nothing_to_or_from_a_pod() {
    let rig = rig();
    let pairs = [("10.0.1.2", "10.0.2.2"), ("fd00:1::2", "fd00:2::2")];
    for (from, to) in pairs {
        assert!(
            reaches(&rig.a, from, &rig.b, to),
            "without the interlock the kernel forwards: {from} -> {to}"
        );
    }
    // One of the two is enough, in either direction.
    for ports in [["pod-a"], ["pod-b"]] {
        apply(&rig.node, &ports, &[]);
        for (a, b) in pairs {
            assert!(!reaches(&rig.a, a, &rig.b, b), "{ports:?}: {a} -> {b}");
            assert!(!reaches(&rig.b, b, &rig.a, a), "{ports:?}: {b} -> {a}");
        }
    }
    // The node and its pods speak with each other.
    for (pod, node) in [("10.0.1.2", "10.0.1.1"), ("fd00:1::2", "fd00:1::1")] {
        assert!(reaches(&rig.node, node, &rig.a, pod), "{node} -> {pod}");
        assert!(reaches(&rig.a, pod, &rig.node, node), "{pod} -> {node}");
    }
}

#[test]
fn held_interfaces_are_closed_until_they_are_claimed() {
    let rig = rig();
    assert!(reaches(&rig.a, "10.0.1.2", &rig.b, "10.0.2.2"));
    apply(&rig.node, &["pod-a"], &["pod-*"]);
    assert!(!reaches(&rig.a, "10.0.1.2", &rig.b, "10.0.2.2"));
    assert!(!reaches(&rig.b, "10.0.2.2", &rig.node, "10.0.2.1"), "a held pod does not even reach its node");
    assert!(reaches(&rig.a, "10.0.1.2", &rig.node, "10.0.1.1"), "a claimed one does");
    apply(&rig.node, &["pod-a", "pod-b"], &["pod-*"]);
    assert!(reaches(&rig.b, "10.0.2.2", &rig.node, "10.0.2.1"), "claimed");
    // The same name with another interface is closed from its first packet on, listed by name or not.
    for listed in [&["pod-a"][..], &["pod-a", "pod-b"]] {
        apply(&rig.node, listed, &["pod-*"]);
        anew(&rig);
        assert!(!reaches(&rig.b, "10.0.2.2", &rig.node, "10.0.2.1"), "{listed:?}");
    }
    apply(&rig.node, &["pod-a", "pod-b"], &["pod-*"]);
    assert!(reaches(&rig.b, "10.0.2.2", &rig.node, "10.0.2.1"), "its index is listed now");
}

/// Where the kernel carries what userspace has judged: between ports that are ready, and nothing else of a port.
#[test]
fn a_kernel_that_forwards_does_so_between_ready_ports_alone() {
    const VXLAN: u16 = 4789;
    let rig = rig();
    let forwarding =
        |ports: &[&str]| apply_as(&rig.node, interlock().forwarding(Forwards::default()), ports, &["pod-*"]);
    forwarding(&["pod-a", "pod-b"]);
    for (from, to) in [("10.0.1.2", "10.0.2.2"), ("fd00:1::2", "fd00:2::2")] {
        assert!(reaches(&rig.a, from, &rig.b, to), "{from} -> {to}");
        assert!(reaches_port(&rig.a, from, &rig.b, to, VXLAN), "{from} -> {to}: a pod's own tunnel");
    }
    for (pod, node) in [("10.0.1.2", "10.0.1.1"), ("fd00:1::2", "fd00:1::1")] {
        assert!(reaches(&rig.a, pod, &rig.node, node), "{pod} -> {node}");
        assert!(!reaches_port(&rig.a, pod, &rig.node, node, VXLAN), "{pod} -> {node}: a tunnel of the node");
    }
    let cut_off = |case: &str| {
        assert!(!reaches(&rig.b, "10.0.2.2", &rig.node, "10.0.2.1"), "{case}: to its node");
        assert!(!reaches(&rig.b, "10.0.2.2", &rig.a, "10.0.1.2"), "{case}: to a pod");
        assert!(!reaches(&rig.a, "10.0.1.2", &rig.b, "10.0.2.2"), "{case}: from a pod");
        assert!(reaches(&rig.a, "10.0.1.2", &rig.node, "10.0.1.1"), "{case}: the other pod");
    };
    anew(&rig);
    cut_off("the name of a port, but another interface");
    forwarding(&["pod-a"]);
    cut_off("held");
}

/// Deletes and makes the veth pair of pod `b` again.
fn anew(rig: &Rig) {
    rig.node.sh(&format!(
        "ip link del pod-b
         ip link add pod-b type veth peer name eth0 netns {}
         ip addr add 10.0.2.1/24 dev pod-b && ip link set pod-b up",
        rig.b.thread()
    ));
    rig.b.sh("ip addr add 10.0.2.2/24 dev eth0 && ip link set eth0 up");
}

#[test]
fn it_can_be_asked_for_and_removed_and_spares_other_tables() {
    let rig = rig();
    let node = &rig.node;
    node.sh("nft add table inet other && nft add table ip portcullis");
    let present = || node.run(|| interlock().present().unwrap());
    let remove = || node.run(|| interlock().remove().unwrap());
    assert!(!present() && !remove());
    apply(node, &["pod-a", "pod-b"], &[]);
    assert!(present());

    let release = |list: &[&str]| {
        let list = names(list);
        node.run(move || interlock().release(&list).unwrap());
    };
    release(&["pod-a", "never-there"]);
    let set = node.sh("nft list set inet portcullis ports");
    assert!(set.contains("pod-b") && !set.contains("pod-a") && !set.contains("never-there"), "{set}");
    assert!(!reaches(&rig.a, "10.0.1.2", &rig.b, "10.0.2.2"), "pod-b is still a port");
    release(&["pod-b"]);
    assert!(reaches(&rig.a, "10.0.1.2", &rig.b, "10.0.2.2"));

    assert!(remove() && !present() && !remove());
    release(&["pod-a"]);
    assert_eq!(node.sh("nft list tables").trim(), "table inet other\ntable ip portcullis");
}

#[test]
fn applying_again_leaves_no_gap() {
    let rig = rig();
    let receiver = bind(&rig.b, "10.0.2.2");
    let target = receiver.local_addr().unwrap();
    let sender = bind(&rig.a, "10.0.1.2");
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let stream = std::thread::spawn({
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        move || {
            // About 20,000 datagrams a second; bounded by the deadline whatever happens.
            let deadline = Instant::now() + Duration::from_secs(20);
            while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                drop(sender.send_to(b"denied", target));
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    });
    assert!(receiver.recv(&mut [0; 16]).is_ok(), "the stream arrives before the interlock");
    apply(&rig.node, &["pod-a", "pod-b"], &[]);
    // What was on its way when the rules came may still be queued.
    while receiver.recv(&mut [0; 16]).is_ok() {}
    let before = sent.load(Ordering::Relaxed);
    for round in 0..50 {
        let ports: &[&str] = if round % 2 == 0 { &["pod-a"] } else { &["pod-b", "pod-a"] };
        apply(&rig.node, ports, if round % 3 == 0 { &["tap*"] } else { &[] });
    }
    let during = sent.load(Ordering::Relaxed) - before;
    let leaked = receiver.recv(&mut [0; 16]).is_ok();
    stop.store(true, Ordering::Relaxed);
    stream.join().unwrap();
    assert!(!leaked, "a denied datagram arrived while the rules were replaced");
    assert!(during > 1000, "only {during} datagrams tried it");
}

#[test]
fn an_older_table_of_ours_gives_way() {
    let rig = rig();
    rig.node.sh("nft add table inet portcullis
         nft 'add map inet portcullis ports { type ifname : verdict; }'
         nft 'add chain inet portcullis forward { type filter hook forward priority 7; policy drop; }'");
    assert!(!reaches(&rig.a, "10.0.1.2", &rig.b, "10.0.2.2"));
    apply(&rig.node, &["tap0"], &[]);
    assert!(rig.node.sh("nft list table inet portcullis").contains("set ports"));
    assert!(reaches(&rig.a, "10.0.1.2", &rig.b, "10.0.2.2"), "neither pod is a port in the new table");
}
