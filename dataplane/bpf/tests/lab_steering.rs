//! Which frames each program gives to the kernel, rule by rule, on a veth pair. Needs root.
//!
//! No socket is bound: what would go to one gets the fallback, and counts as dropped. What goes to the
//! kernel is seen by a raw socket behind XDP, and counts as passed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod veth;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bpf::{Counters, Fallback, Kind, PortEntry, Steering};
use flow::{Address, MacAddr};
use veth::frames::{ARP, BROADCAST, IPV4, IPV6, Mac, arp, ethernet, ipv4, ipv6, neighbour, option, udp};
use veth::{FAR, NEAR, Pins, Tap, in_netns};

const BASE: u32 = 5;
const POD: Mac = [2, 0, 0, 0, 0, 0x10];
const HOST: Mac = [2, 0, 0, 0, 0, 0x20];
const OTHER: Mac = [2, 0, 0, 0, 0, 0x66];
const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ANY_V4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
const POD_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10);
const HOST_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
const ANY_V6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

const ICMP6: u8 = 58;
const UDP: u8 = 17;

struct Port {
    steering: Steering,
    ifindex: u32,
    far: Tap,
    near: Tap,
    _pins: Pins,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Kernel,
    Socket,
}

impl Port {
    fn attach(kind: Kind, entry: PortEntry) -> Self {
        veth::veth();
        let pins = Pins::new();
        let mut steering = Steering::load().unwrap();
        let attached = steering.attach(NEAR, kind, pins.dir()).unwrap();
        assert!(!attached.taken_over);
        let ifindex = attached.ifindex;
        steering.set_port(ifindex, entry).unwrap();
        steering.set_pod_addresses(ifindex, &[POD_V4.into(), POD_V6.into()]).unwrap();
        steering.set_local_addresses(&[POD_V4.into(), POD_V6.into()]).unwrap();
        steering.set_node_addresses(&[NODE_V4.into(), NODE_V6.into()]).unwrap();
        Self { steering, ifindex, far: Tap::open(FAR), near: Tap::open(NEAR), _pins: pins }
    }

    fn counted(&self) -> Counters {
        self.steering.counters(BASE).unwrap()
    }

    /// Sends one frame from the far end, and says where it went.
    fn probe(&self, frame: &[u8]) -> To {
        self.probe_seen_as(frame, frame)
    }

    /// The same for a frame that the kernel shows without its tag.
    fn probe_seen_as(&self, frame: &[u8], shown: &[u8]) -> To {
        let before = self.counted();
        self.far.send(frame);
        // Native XDP runs in the NAPI poll that the send schedules, on this CPU or another.
        for _ in 0..200 {
            let now = self.counted();
            if now != before {
                let passed = now.passed - before.passed == 1;
                assert_eq!(now.dropped - before.dropped, u64::from(!passed));
                let seen = self.near.sees(shown, Duration::from_millis(if passed { 1000 } else { 10 }));
                assert_eq!(seen, passed, "counted {now:?} after {before:?}");
                return if passed { To::Kernel } else { To::Socket };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the program did not see the frame");
    }

    fn expect(&self, cases: &[(To, &str, Vec<u8>)]) {
        for (to, what, frame) in cases {
            assert_eq!(self.probe(frame), *to, "{what}");
        }
    }
}

const fn pod_entry() -> PortEntry {
    PortEntry {
        base: BASE,
        queues: 1,
        mac: Some(MacAddr(POD)),
        fallback: Fallback::Drop,
        strips_priority_tags: false,
    }
}

#[test]
fn arp_speaks_only_for_the_pod_itself() {
    use To::{Kernel, Socket};
    let frame = |src: Mac, packet: Vec<u8>| ethernet(src, BROADCAST, ARP, &packet);
    let request = |mac, ip, target| arp(1, (mac, ip), ([0; 6], target));
    let mut cut = frame(POD, request(POD, POD_V4, NODE_V4));
    cut.truncate(14 + 27);
    let mut token_ring = frame(POD, request(POD, POD_V4, NODE_V4));
    token_ring[15] = 6;
    let cases = [
        (Kernel, "own request", frame(POD, request(POD, POD_V4, NODE_V4))),
        (Kernel, "own reply", frame(POD, arp(2, (POD, POD_V4), (HOST, NODE_V4)))),
        (Kernel, "announcement", frame(POD, request(POD, POD_V4, POD_V4))),
        (Kernel, "probe for the own address", frame(POD, request(POD, ANY_V4, POD_V4))),
        (Socket, "probe for another's address", frame(POD, request(POD, ANY_V4, OTHER_V4))),
        (Socket, "reply that looks like a probe", frame(POD, arp(2, (POD, ANY_V4), (HOST, POD_V4)))),
        (Socket, "another's address", frame(POD, request(POD, OTHER_V4, NODE_V4))),
        (Socket, "another's address, in a reply", frame(POD, arp(2, (POD, OTHER_V4), (HOST, NODE_V4)))),
        (Socket, "another's MAC in the packet", frame(POD, request(OTHER, POD_V4, NODE_V4))),
        (Socket, "another's MAC in the frame", frame(OTHER, request(POD, POD_V4, NODE_V4))),
        (Socket, "reverse ARP", frame(POD, arp(3, (POD, POD_V4), (HOST, NODE_V4)))),
        (Socket, "not Ethernet", token_ring),
        (Socket, "cut short", cut),
    ];
    in_netns(|| Port::attach(Kind::Pod, pod_entry()).expect(&cases));
}

#[test]
fn neighbour_discovery_speaks_only_for_the_pod_itself() {
    use To::{Kernel, Socket};
    let frame = |src: Mac, packet: Vec<u8>| ethernet(src, BROADCAST, IPV6, &packet);
    let nd = |src, dst, message: Vec<u8>| frame(POD, ipv6(src, dst, ICMP6, 255, &message));
    let own = option(1, POD);
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let ns = |src, options: &[u8]| nd(src, GROUP, neighbour(135, HOST_LL, options));
    let na = |dst, target, options: &[u8]| nd(POD_V6, dst, neighbour(136, target, options));
    let mut redirect = neighbour(137, OTHER_V6, &[]);
    redirect.extend(NODE_V6.octets());
    let mut odd_code = neighbour(135, HOST_LL, &own);
    odd_code[1] = 1;
    let mut overrun = ns(POD_V6, &own);
    overrun[14 + 5] += 8;
    let many = option(1, POD).repeat(5);
    let cases = [
        (Kernel, "solicitation", ns(POD_V6, &own)),
        (Kernel, "solicitation from link-local", ns(POD_LL, &own)),
        (Kernel, "unicast solicitation", nd(POD_V6, NODE_V6, neighbour(135, NODE_V6, &own))),
        (Kernel, "duplicate address detection", nd(ANY_V6, GROUP, neighbour(135, POD_V6, &nonce))),
        (Kernel, "the same for link-local", nd(ANY_V6, GROUP, neighbour(135, POD_LL, &[]))),
        (Kernel, "advertisement", na(NODE_V6, POD_V6, &option(2, POD))),
        (Kernel, "advertisement of link-local", na(HOST_LL, POD_LL, &option(2, POD))),
        (Kernel, "router solicitation", nd(POD_LL, GROUP, [&[133, 0, 0, 0, 0, 0, 0, 0], &own[..]].concat())),
        (Socket, "another's source", ns(OTHER_V6, &own)),
        (Socket, "another's address claimed", na(NODE_V6, OTHER_V6, &option(2, POD))),
        (Socket, "another's address probed", nd(ANY_V6, GROUP, neighbour(135, OTHER_V6, &[]))),
        (Socket, "another's MAC as option", ns(POD_V6, &option(1, OTHER))),
        (Socket, "another's MAC as second option", ns(POD_V6, &[&nonce[..], &option(1, OTHER)].concat())),
        (Socket, "another's MAC as target option", na(NODE_V6, POD_V6, &option(2, OTHER))),
        (Socket, "an option of no length", ns(POD_V6, &[1, 0, 0, 0, 0, 0, 0, 0])),
        (Socket, "an option that runs over the end", ns(POD_V6, &[14, 2, 0, 0, 0, 0, 0, 0])),
        (Socket, "a long option with a MAC", ns(POD_V6, &[&[1, 2], &POD[..], &[0; 8]].concat())),
        (Socket, "more options than are read", ns(POD_V6, &many)),
        (Socket, "a payload that runs over the end", overrun),
        (Socket, "a trailing octet", ns(POD_V6, &[0])),
        (Socket, "a code that is not zero", nd(POD_V6, GROUP, odd_code)),
        (
            Socket,
            "hop limit 254",
            frame(POD, ipv6(POD_V6, GROUP, ICMP6, 254, &neighbour(135, HOST_LL, &own))),
        ),
        (Socket, "to somewhere beyond the node", nd(POD_V6, OTHER_V6, neighbour(135, OTHER_V6, &own))),
        (
            Socket,
            "router advertisement",
            nd(POD_LL, GROUP, vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (Socket, "router advertisement to the node", nd(POD_V6, NODE_V6, vec![134, 0, 0, 0, 64, 0, 7, 8])),
        (Socket, "redirect", nd(POD_V6, NODE_V6, redirect)),
        (Socket, "another's MAC in the frame", {
            frame(OTHER, ipv6(POD_V6, GROUP, ICMP6, 255, &neighbour(135, HOST_LL, &own)))
        }),
        (Socket, "hidden in a fragment", {
            let inner = [&[ICMP6, 0, 0, 0, 0, 0, 0, 1], &neighbour(136, OTHER_V6, &[])[..]].concat();
            frame(POD, ipv6(POD_V6, NODE_V6, 44, 255, &inner))
        }),
    ];
    in_netns(|| Port::attach(Kind::Pod, pod_entry()).expect(&cases));
}

#[test]
fn multicast_listener_reports_pass() {
    use To::{Kernel, Socket};
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let hop_by_hop = |next: u8, inner: &[u8]| [&[next, 0, 5, 2, 0, 0, 1, 0], inner].concat();
    let report = |kind: u8| hop_by_hop(ICMP6, &[kind, 0, 0, 0, 0, 0, 0, 0]);
    let mld = |src, dst, payload: &[u8]| ethernet(POD, BROADCAST, IPV6, &ipv6(src, dst, 0, 1, payload));
    let cases = [
        (Kernel, "version 2 report", mld(POD_LL, routers, &report(143))),
        (Kernel, "version 2 report without an address yet", mld(ANY_V6, routers, &report(143))),
        (Kernel, "version 1 report", mld(POD_LL, GROUP, &report(131))),
        (Kernel, "version 1 done", mld(POD_LL, routers, &report(132))),
        (Socket, "from the pod's address", mld(POD_V6, routers, &report(143))),
        (Socket, "to one address", mld(POD_LL, NODE_V6, &report(143))),
        (
            Socket,
            "to a group beyond the link",
            mld(POD_LL, Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1), &report(143)),
        ),
        (Socket, "an echo in its place", mld(POD_LL, routers, &report(128))),
        (Socket, "UDP in its place", mld(POD_LL, routers, &hop_by_hop(UDP, &udp(1)))),
    ];
    in_netns(|| Port::attach(Kind::Pod, pod_entry()).expect(&cases));
}

#[test]
fn packets_to_the_own_node_pass_and_no_others() {
    use To::{Kernel, Socket};
    let v4 = |mac, src, dst| ethernet(mac, HOST, IPV4, &ipv4(src, dst, UDP, &udp(1)));
    let v6 = |mac, src, dst| ethernet(mac, HOST, IPV6, &ipv6(src, dst, UDP, 64, &udp(1)));
    let extended =
        |next: u8| ethernet(POD, HOST, IPV6, &ipv6(POD_V6, NODE_V6, next, 64, &[UDP, 0, 0, 0, 0, 0, 0, 0]));
    let mut options = v4(POD, POD_V4, NODE_V4);
    options[14] = 0x46;
    let mut version = v4(POD, POD_V4, NODE_V4);
    version[14] = 0x65;
    let mut tagged = v4(POD, POD_V4, NODE_V4);
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    let mut cut = v4(POD, POD_V4, NODE_V4);
    cut.truncate(14 + 19);
    let mapped = |ip: Ipv4Addr| ip.to_ipv6_mapped();
    let cases = [
        (Kernel, "IPv4 to the node", v4(POD, POD_V4, NODE_V4)),
        (Kernel, "IPv6 to the node", v6(POD, POD_V6, NODE_V6)),
        (
            Kernel,
            "echo to the node",
            ethernet(POD, HOST, IPV6, &ipv6(POD_V6, NODE_V6, ICMP6, 64, &[128, 0, 0, 0, 0, 1, 0, 1])),
        ),
        (Kernel, "a fragment to the node", extended(44)),
        (Socket, "IPv4 to another pod", v4(POD, POD_V4, OTHER_V4)),
        (Socket, "IPv6 to another pod", v6(POD, POD_V6, OTHER_V6)),
        (Socket, "spoofed IPv4 source", v4(POD, OTHER_V4, NODE_V4)),
        (Socket, "spoofed IPv6 source", v6(POD, OTHER_V6, NODE_V6)),
        (Socket, "the node's own address as source", v4(POD, NODE_V4, NODE_V4)),
        (Socket, "spoofed MAC", v4(OTHER, POD_V4, NODE_V4)),
        (Socket, "IPv4 in the clothes of IPv6", v6(POD, mapped(POD_V4), mapped(NODE_V4))),
        (Socket, "IPv4 options", options),
        (Socket, "a version that is not the ethertype's", version),
        (Socket, "a routing header", extended(43)),
        (Socket, "destination options", extended(60)),
        (Socket, "a VLAN tag", tagged),
        (Socket, "an IPv4 header cut short", cut),
        (Socket, "an 802.3 length", ethernet(POD, HOST, 46, &[0xaa; 46])),
        (Socket, "an ethertype nobody knows", ethernet(POD, HOST, 0x88b5, &[0; 46])),
    ];
    in_netns(|| Port::attach(Kind::Pod, pod_entry()).expect(&cases));
}

/// Puts tags around a frame, the outermost first.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|(ethertype, control)| [ethertype.to_be_bytes(), control.to_be_bytes()]);
    let mut bytes = frame.to_vec();
    bytes.splice(12..12, tags.flatten());
    bytes
}

#[test]
fn a_priority_tag_hides_nothing_where_it_is_taken_off() {
    use To::{Kernel, Socket};
    let arp_of = |ip| ethernet(POD, BROADCAST, ARP, &arp(1, (POD, ip), ([0; 6], NODE_V4)));
    let solicitation = |target| {
        let message = neighbour(135, target, &option(1, POD));
        ethernet(POD, BROADCAST, IPV6, &ipv6(POD_V6, GROUP, ICMP6, 255, &message))
    };
    let forged = neighbour(136, OTHER_V6, &option(2, POD));
    let v4 = |src, dst| ethernet(POD, HOST, IPV4, &ipv4(src, dst, UDP, &udp(1)));
    let v6 = |src, dst| ethernet(POD, HOST, IPV6, &ipv6(src, dst, UDP, 64, &udp(1)));
    let cases = [
        (Kernel, "own ARP", arp_of(POD_V4)),
        (Socket, "another's ARP", arp_of(OTHER_V4)),
        (Kernel, "own solicitation", solicitation(HOST_LL)),
        (
            Socket,
            "another's advertisement",
            ethernet(POD, HOST, IPV6, &ipv6(POD_V6, HOST_LL, ICMP6, 255, &forged)),
        ),
        (Kernel, "IPv4 to the node", v4(POD_V4, NODE_V4)),
        (Socket, "another's IPv4 to the node", v4(OTHER_V4, NODE_V4)),
        (Socket, "IPv4 to another pod", v4(POD_V4, OTHER_V4)),
        (Kernel, "IPv6 to the node", v6(POD_V6, NODE_V6)),
        (Socket, "IPv6 to another pod", v6(POD_V6, OTHER_V6)),
    ];
    in_netns(|| {
        let mut port = Port::attach(Kind::Pod, pod_entry());
        for (_, what, frame) in &cases {
            assert_eq!(
                port.probe(&tagged(frame, &[(0x8100, 0)])),
                Socket,
                "{what}, with a tag that is refused"
            );
        }
        let strips = PortEntry { strips_priority_tags: true, ..pod_entry() };
        port.steering.set_port(port.ifindex, strips).unwrap();
        for (to, what, frame) in &cases {
            for priority in [0, 0xe000] {
                let tagged = tagged(frame, &[(0x8100, priority)]);
                assert_eq!(port.probe_seen_as(&tagged, frame), *to, "{what}, with priority {priority:x}");
            }
            for tags in
                [&[(0x8100, 5)][..], &[(0x88a8, 0)], &[(0x8100, 0), (0x8100, 0)], &[(0x8100, 0), (0x8100, 5)]]
            {
                assert_eq!(port.probe(&tagged(frame, tags)), Socket, "{what}, {tags:x?}");
            }
        }
    });
}

#[test]
fn before_the_mac_is_known_nothing_goes_to_the_kernel() {
    in_netns(|| {
        let mut port = Port::attach(Kind::Pod, PortEntry { mac: None, ..pod_entry() });
        let request = ethernet(POD, BROADCAST, ARP, &arp(1, (POD, POD_V4), ([0; 6], NODE_V4)));
        let packet = ethernet(POD, HOST, IPV4, &ipv4(POD_V4, NODE_V4, UDP, &udp(1)));
        port.expect(&[(To::Socket, "ARP", request.clone()), (To::Socket, "IPv4", packet.clone())]);
        port.steering.set_port(port.ifindex, pod_entry()).unwrap();
        port.expect(&[(To::Kernel, "ARP", request), (To::Kernel, "IPv4", packet)]);
    });
}

#[test]
fn the_fallback_can_be_flipped_while_running_and_holds_for_every_queue() {
    in_netns(|| {
        let mut port = Port::attach(Kind::Pod, pod_entry());
        let foreign = ethernet(OTHER, HOST, IPV4, &ipv4(OTHER_V4, NODE_V4, UDP, &udp(1)));
        assert_eq!(port.probe(&foreign), To::Socket);
        port.steering.set_port(port.ifindex, PortEntry { fallback: Fallback::Pass, ..pod_entry() }).unwrap();
        assert_eq!(port.probe(&foreign), To::Kernel);
        // Queue 0 is beyond a port without queues, and has no share in the map.
        port.steering.set_port(port.ifindex, PortEntry { queues: 0, ..pod_entry() }).unwrap();
        assert_eq!(port.probe(&foreign), To::Socket);
    });
}

#[test]
fn addresses_follow_what_is_set() {
    in_netns(|| {
        let mut port = Port::attach(Kind::Pod, pod_entry());
        let from = |src| ethernet(POD, HOST, IPV4, &ipv4(src, NODE_V4, UDP, &udp(1)));
        let index = port.ifindex;
        let set = |port: &mut Port, all: &[Address]| port.steering.set_pod_addresses(index, all).unwrap();
        // Another port's addresses are its own.
        port.steering.set_pod_addresses(index + 1, &[OTHER_V4.into()]).unwrap();
        assert_eq!((port.probe(&from(POD_V4)), port.probe(&from(OTHER_V4))), (To::Kernel, To::Socket));
        set(&mut port, &[OTHER_V4.into()]);
        assert_eq!((port.probe(&from(POD_V4)), port.probe(&from(OTHER_V4))), (To::Socket, To::Kernel));
        port.steering.set_node_addresses(&[]).unwrap();
        assert_eq!(port.probe(&from(OTHER_V4)), To::Socket);
        // A port that nobody knows drops, and counts nothing.
        port.steering.remove_port(index).unwrap();
        let before = port.counted();
        port.far.send(&from(OTHER_V4));
        assert!(!port.near.sees(&from(OTHER_V4), Duration::from_millis(50)));
        assert_eq!(port.counted(), before);
        port.steering.remove_port(index).unwrap();
    });
}

#[test]
fn an_uplink_redirects_what_is_from_or_to_a_local_pod() {
    use To::{Kernel, Socket};
    let v4 = |src, dst| ethernet(OTHER, HOST, IPV4, &ipv4(src, dst, UDP, &udp(1)));
    let v6 = |src, dst| ethernet(OTHER, HOST, IPV6, &ipv6(src, dst, UDP, 64, &udp(1)));
    let to_pod = v4(OTHER_V4, POD_V4);
    let cases = [
        (Socket, "priority-tagged", tagged(&to_pod, &[(0x8100, 0)])),
        (
            Socket,
            "priority-tagged four times",
            tagged(&to_pod, &[(0x88a8, 0), (0x8100, 0), (0x8100, 0), (0x8100, 0)]),
        ),
        (
            Socket,
            "more priority tags than anybody sends, from a pod's address to the node",
            tagged(&v4(POD_V4, NODE_V4), &[(0x8100, 0); 5]),
        ),
        (Socket, "IPv6, priority-tagged", tagged(&v6(OTHER_V6, POD_V6), &[(0x8100, 0x2000)])),
        (Socket, "IPv4 to a pod", v4(OTHER_V4, POD_V4)),
        (Socket, "IPv6 to a pod", v6(OTHER_V6, POD_V6)),
        (Socket, "a pod's IPv4 address as source", v4(POD_V4, NODE_V4)),
        (Socket, "a pod's IPv6 address as source", v6(POD_V6, NODE_V6)),
        (Kernel, "IPv4 to the node", v4(OTHER_V4, NODE_V4)),
        (Kernel, "IPv6 to the node", v6(OTHER_V6, NODE_V6)),
    ];
    // Not counted: they are none of the port's business.
    let passed = [
        ethernet(OTHER, BROADCAST, ARP, &arp(1, (OTHER, OTHER_V4), ([0; 6], POD_V4))),
        ethernet(OTHER, BROADCAST, 0x88cc, &[0; 46]),
        tagged(&to_pod, &[(0x8100, 5)]),
    ];
    in_netns(|| {
        let mut port = Port::attach(Kind::Uplink, PortEntry { mac: None, ..pod_entry() });
        port.expect(&cases);
        for frame in &passed[..2] {
            port.far.send(frame);
            assert!(port.near.sees(frame, Duration::from_secs(1)), "{frame:?}");
        }
        let before = port.counted();
        port.far.send(&passed[2]);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(port.counted(), before, "a tagged frame is the kernel's");

        // Without an entry the node stays reachable, and pods stay closed.
        port.steering.remove_port(port.ifindex).unwrap();
        port.far.send(&v4(OTHER_V4, NODE_V4));
        assert!(port.near.sees(&v4(OTHER_V4, NODE_V4), Duration::from_secs(1)));
        port.far.send(&v4(OTHER_V4, POD_V4));
        assert!(!port.near.sees(&v4(OTHER_V4, POD_V4), Duration::from_millis(50)));
    });
}
