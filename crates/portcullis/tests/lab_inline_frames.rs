//! Inline mode: what becomes of each kind of frame at each hook, as docs/inline.md tells it. Needs root.

mod inline_kernel;
mod kinds;
mod scene;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use kinds::Cell::{Asked, Dropped, Never, Own, Refused, Unseen, Verdict};
use kinds::{Aim, Bench, CLOSED, Cell, MARK, OPEN, ROUNDS, STRAY, Way, pod_of};
use lab::{Family, Place, RawPort};
use nix::sys::socket::{setsockopt, sockopt};
use scene::*;
use testkit::frames::{DESTINATION_OPTIONS, arp_request, neighbour_solicitation};

const DENIED: Cell = Asked("default_deny");
/// More than the punt pair carries, and less than the links.
const JUMBO: usize = 5000;
/// What the punt pair carries.
const LONGEST: usize = 3504;

/// A kind of frame, and what becomes of it at `pod_in`, `pod_out` and `uplink_out`.
struct Row {
    name: &'static str,
    cells: [Cell; 3],
    try_it: Try,
}

enum Try {
    /// These frames, one connection or datagram, to a port that is open and to one that is not.
    Ports(fn(&Aim) -> Vec<Vec<u8>>),
    /// These frames, to somebody who is open to all and to somebody who is not.
    Addresses(fn(&Aim) -> Vec<Vec<u8>>),
    /// In its own way.
    Special(fn(&Bench, &Row, Way, Cell)),
    /// The same on all ways, at `steer` or `reinject`.
    Pair(fn(&Bench)),
}

const ROWS: &[Row] = &[
    Row {
        name: "TCP",
        cells: [Verdict; 3],
        try_it: Try::Ports(|aim| vec![aim.ip().tcp(aim.number, aim.port).syn().payload(MARK).build()]),
    },
    Row { name: "UDP", cells: [Verdict; 3], try_it: Try::Ports(|aim| vec![aim.udp(1).build()]) },
    Row {
        name: "SCTP",
        cells: [Verdict; 3],
        try_it: Try::Ports(|aim| {
            vec![aim.ip().sctp(aim.number, aim.port).payload(&[1, 0, 0, 20]).payload(&MARK.repeat(2)).build()]
        }),
    },
    Row {
        name: "UDP in one piece for many datagrams (UDP_SEGMENT)",
        cells: [Verdict; 3],
        try_it: Try::Special(segmented),
    },
    Row {
        name: "ICMP and ICMPv6 echo",
        cells: [Verdict; 3],
        try_it: Try::Addresses(|aim| vec![aim.ip().ping(aim.number).payload(MARK).build()]),
    },
    Row { name: "ICMP and ICMPv6 errors", cells: [Asked("icmp_unrelated"); 3], try_it: Try::Special(errors) },
    Row {
        name: "other protocols",
        cells: [Verdict; 3],
        try_it: Try::Addresses(|aim| vec![aim.ip().protocol(89).payload(MARK).build()]),
    },
    Row {
        name: "ARP and neighbour discovery of the pod and its node",
        cells: [Own, Own, Never],
        try_it: Try::Special(neighbours),
    },
    Row {
        name: "the same in another's name",
        cells: [Refused("neighbour_spoofed"), Never, Never],
        try_it: Try::Ports(|aim| {
            let other = if aim.is_v4() { "10.1.3.3" } else { "fd10:3::3" };
            let gateway = if aim.is_v4() { "169.254.1.1" } else { "fe80::1" };
            vec![if aim.is_v4() { arp_request } else { neighbour_solicitation }(aim.from, other, gateway)]
        }),
    },
    Row { name: "to and from the node itself", cells: [Own, Own, Never], try_it: Try::Special(node) },
    Row {
        name: "IPv4 fragments",
        cells: [Verdict; 3],
        try_it: Try::Ports(|aim| if aim.is_v4() { pieces(aim) } else { Vec::new() }),
    },
    Row {
        name: "IPv6 fragments",
        cells: [Verdict; 3],
        try_it: Try::Ports(|aim| if aim.is_v4() { Vec::new() } else { pieces(aim) }),
    },
    Row {
        name: "fragments that split a header, or write over one",
        cells: [Refused("fragment_tiny"), Refused("fragment_tiny"), Never],
        try_it: Try::Ports(|aim| {
            let (udp, id) = (aim.udp(30), u32::from(aim.number));
            vec![udp.piece(id, 0..72, true), udp.piece(id, 72..240, false)]
        }),
    },
    Row {
        name: "IPv4 options",
        cells: [DENIED; 3],
        try_it: Try::Ports(|aim| {
            if aim.is_v4() { vec![aim.udp(1).options(&[1, 1, 1, 0]).build()] } else { Vec::new() }
        }),
    },
    Row {
        name: "IPv4 fragments with options",
        cells: [DENIED; 3],
        try_it: Try::Ports(|aim| {
            let fragments = || aim.udp(200).options(&[1, 1, 1, 0]).fragments(aim.number.into(), 800);
            if aim.is_v4() { fragments() } else { Vec::new() }
        }),
    },
    Row {
        name: "IPv4 source routes",
        cells: [Refused("ip_invalid"), Unseen, Never],
        try_it: Try::Ports(|aim| {
            if aim.is_v4() {
                vec![aim.udp(1).options(&[131, 7, 4, 10, 1, 1, 1, 0]).build()]
            } else {
                Vec::new()
            }
        }),
    },
    Row {
        name: "IPv6 extension headers",
        cells: [DENIED; 3],
        try_it: Try::Ports(|aim| {
            let chain = || aim.udp(1).extension(DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]).build();
            if aim.is_v4() { Vec::new() } else { vec![chain()] }
        }),
    },
    Row {
        name: "IPv6 next headers that nobody knows",
        cells: [Refused("ipv6_ext_invalid"), Refused("ipv6_ext_invalid"), Never],
        try_it: Try::Ports(|aim| {
            if aim.is_v4() { Vec::new() } else { vec![aim.ip().protocol(200).payload(MARK).build()] }
        }),
    },
    Row {
        name: "longer than 3,504 bytes, without a verdict",
        cells: [Dropped("too_long"); 3],
        try_it: Try::Special(jumbo),
    },
    Row { name: "the same with one", cells: [Verdict; 3], try_it: Try::Special(jumbo) },
    Row {
        name: "priority tags (VLAN 0)",
        cells: [Dropped("tagged"), Verdict, Never],
        try_it: Try::Ports(|aim| vec![aim.udp(1).vlan(0).build()]),
    },
    Row {
        name: "other VLAN tags",
        cells: [Dropped("tagged"), Unseen, Never],
        try_it: Try::Ports(|aim| vec![aim.udp(1).vlan(5).build(), aim.udp(1).tag(0x88a8, 5).vlan(0).build()]),
    },
    Row {
        name: "under another MAC address",
        cells: [Refused("spoofed_source"), Never, Never],
        try_it: Try::Ports(|aim| vec![aim.udp(1).from(aim.to).build()]),
    },
    Row {
        name: "to another MAC address",
        cells: [Refused("not_for_us"), Unseen, Never],
        try_it: Try::Ports(|aim| vec![aim.udp(1).to(flow::MacAddr([2, 0, 0, 0, 9, 9])).build()]),
    },
    Row {
        name: "under another pod's address",
        cells: [Refused("spoofed_source"), Dropped("spoofed"), Dropped("spoofed")],
        try_it: Try::Ports(|aim| {
            let friend = if aim.is_v4() { "10.1.1.2" } else { "fd10:1::2" };
            vec![aim.link().ip(friend, &aim.dst).udp(aim.number, aim.port).payload(MARK).build()]
        }),
    },
    Row {
        name: "multicast and broadcast",
        cells: [Refused("multicast"), Unseen, Never],
        try_it: Try::Ports(|aim| {
            let (group, mac) = match aim.family {
                Family::V4 => ("224.0.1.9", [1, 0, 0x5e, 0, 1, 9]),
                Family::V6 => ("ff05::9", [0x33, 0x33, 0, 0, 0, 9]),
            };
            let to = aim.link().to(flow::MacAddr(mac)).ip(&aim.src, group);
            vec![to.udp(aim.number, aim.port).payload(MARK).build()]
        }),
    },
    Row {
        name: "to a loopback address",
        cells: [Refused("ip_invalid"), Unseen, Never],
        try_it: Try::Ports(|aim| {
            let own = if aim.is_v4() { "127.0.0.1" } else { "::1" };
            vec![aim.link().ip(&aim.src, own).udp(aim.number, aim.port).payload(MARK).build()]
        }),
    },
    Row {
        name: "IPv4-mapped IPv6 addresses",
        cells: [Refused("ip_invalid"), Unseen, Never],
        try_it: Try::Ports(|aim| {
            let mapped = || aim.link().ip("::ffff:10.1.1.1", &aim.dst).udp(aim.number, aim.port);
            if aim.is_v4() { Vec::new() } else { vec![mapped().payload(MARK).build()] }
        }),
    },
    Row {
        name: "unknown ethertypes",
        cells: [Refused("unknown_ethertype"), Unseen, Never],
        try_it: Try::Ports(|aim| {
            let mut frame = aim.udp(1).build();
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            vec![frame]
        }),
    },
    Row {
        name: "headers that are cut",
        cells: [Refused("truncated"), Unseen, Never],
        try_it: Try::Ports(|aim| vec![aim.udp(1).build()[..14 + 19].to_vec()]),
    },
    Row { name: "on the punt pair, without a port's tag", cells: [Never; 3], try_it: Try::Pair(untagged) },
    Row { name: "on the punt pair, not approved", cells: [Never; 3], try_it: Try::Pair(not_approved) },
];

fn pieces(aim: &Aim) -> Vec<Vec<u8>> {
    aim.udp(200).fragments(aim.number.into(), 800)
}

/// Tries a row on a way.
fn try_row(bench: &Bench, row: &Row, way: Way, cell: Cell) {
    let (frames, portless) = match row.try_it {
        Try::Ports(frames) => (frames, false),
        Try::Addresses(frames) => (frames, true),
        Try::Special(special) => return special(bench, row, way, cell),
        Try::Pair(_) => return,
    };
    let name = format!("{} {way:?}", row.name);
    let aims = |port| Family::ALL.map(|family| bench.aim(way, family, port, portless));
    let all = |aims: &[Aim]| -> Vec<Vec<u8>> { aims.iter().flat_map(frames).collect() };
    let (open, closed) = (aims(OPEN), aims(CLOSED));
    match cell {
        Verdict => {
            let count = all(&open).len();
            assert_eq!(bench.arrive(way, &all(&open), count), count, "{name}");
            let before = bench.punted(way);
            let again = rounds(&open, frames);
            assert_eq!(bench.arrive(way, &again, again.len()), again.len(), "{name}, again");
            let punts = bench.punted(way) - before;
            assert!(punts <= STRAY, "{name}: {punts} punts of {} frames", again.len());
            let (refused, denied) = (bench.refused("default_deny"), bench.counted("denied"));
            let firsts = closed.iter().filter(|aim| !frames(aim).is_empty()).count();
            assert_eq!(bench.arrive(way, &all(&closed), 0), 0, "{name}, closed");
            bench.grows(&name, refused, firsts, || bench.refused("default_deny"));
            let again = rounds(&closed, frames);
            assert_eq!(bench.arrive(way, &again, 0), 0, "{name}, closed, again");
            bench.grows(&name, denied, again.len() / count - usize::from(STRAY as u8), || {
                bench.counted("denied")
            });
        }
        Asked(reason) => {
            let before = bench.punted(way);
            let again = rounds(&open, frames);
            assert_eq!(bench.arrive(way, &again, again.len()), again.len(), "{name}");
            let punts = bench.punted(way) - before;
            assert!(punts >= again.len() as u64, "{name}: {punts} punts of {} frames", again.len());
            refused(bench, &name, way, reason, &all(&closed), 1);
        }
        Refused(reason) => {
            let frames = [all(&open), all(&closed)].concat();
            refused(bench, &name, way, reason, &frames, frames.len());
        }
        Dropped(count) => {
            let frames = [all(&open), all(&closed)].concat();
            let before = bench.counted(count);
            assert_eq!(bench.arrive(way, &frames, 0), 0, "{name}");
            bench.grows(&name, before, frames.len(), || bench.counted(count));
        }
        Unseen => {
            let frames = [all(&open), all(&closed)].concat();
            assert_eq!(bench.arrive(way, &frames, 0), 0, "{name}");
        }
        Own | Never => {}
    }
}

/// None of the frames arrives, and at least `least` of them are counted.
fn refused(bench: &Bench, name: &str, way: Way, reason: &str, frames: &[Vec<u8>], least: usize) {
    let before = bench.refused(reason);
    assert_eq!(bench.arrive(way, frames, 0), 0, "{name}, {reason}");
    bench.grows(&format!("{name}, {reason}"), before, least, || bench.refused(reason));
}

/// The same connections often, with another datagram each time.
fn rounds(aims: &[Aim], frames: fn(&Aim) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for round in 1..=ROUNDS {
        for frame in aims.iter().flat_map(frames) {
            all.push(with_id(frame, round));
        }
    }
    all
}

/// A fragment of another datagram of the same connection.
fn with_id(mut frame: Vec<u8>, round: u16) -> Vec<u8> {
    let id = 40_000 + round;
    match (frame[12..14] == [0x08, 0x00], frame[20]) {
        (true, _) => {
            let before = u16::from_be_bytes([frame[18], frame[19]]);
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            // RFC 1624, equation 3.
            let sum = !u16::from_be_bytes([frame[24], frame[25]]);
            let sum = u32::from(sum) + u32::from(!before) + u32::from(id);
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        }
        (false, 44) => {
            let own = u16::from_be_bytes([frame[58], frame[59]]);
            frame[58..60].copy_from_slice(&(own ^ round).to_be_bytes());
            frame[60..62].copy_from_slice(&id.to_be_bytes());
        }
        _ => {}
    }
    frame
}

/// One system call sends twenty datagrams, which the kernel carries as one packet for as long as it can.
fn segmented(bench: &Bench, row: &Row, way: Way, _: Cell) {
    const SEGMENT: usize = 1000;
    const COUNT: usize = 20;
    let receiver = if way == Way::Out { Place::outside("outside-1") } else { pod("y/a") };
    for family in Family::ALL {
        let (namespace, source) = bench.source(way, family);
        let sender = namespace.run(|| UdpSocket::bind((source, 0))).expect("root").expect("a socket");
        setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT as i32)).expect("UDP_SEGMENT");
        let send = |port: u16| {
            let aim = bench.aim(way, family, port, false);
            let to: SocketAddr = (aim.dst.parse::<std::net::IpAddr>().expect("an address"), port).into();
            sender.send_to(&vec![7; COUNT * SEGMENT], to).expect("sent");
        };
        let got = |port: u16, patience: Duration| {
            let (socket, start, mut got) =
                (bench.socket(&receiver, family, port), std::time::Instant::now(), 0);
            while got < COUNT && start.elapsed() < patience {
                match socket.recv(&mut [0; 2 * SEGMENT]) {
                    Ok(length) => got += usize::from(length == SEGMENT),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            got
        };
        // What rows before have sent to the same socket may fill it.
        while bench.socket(&receiver, family, OPEN).recv(&mut [0; 2 * SEGMENT]).is_ok() {}
        send(OPEN);
        assert_eq!(got(OPEN, Duration::from_secs(10)), COUNT, "{} {way:?} {family}: the first", row.name);
        let before = bench.punted(way);
        send(OPEN);
        assert_eq!(got(OPEN, Duration::from_secs(10)), COUNT, "{} {way:?} {family}: again", row.name);
        let punts = bench.punted(way) - before;
        assert!(punts <= STRAY, "{punts} punts");
        send(CLOSED);
        assert_eq!(got(CLOSED, Duration::from_millis(300)), 0, "{} {way:?} {family}: closed", row.name);
    }
}

/// Errors about a packet that came the other way, and about one that did not.
fn errors(bench: &Bench, row: &Row, way: Way, cell: Cell) {
    let Asked(reason) = cell else { panic!("{}", row.name) };
    let name = format!("{} {way:?}", row.name);
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for family in Family::ALL {
        let mut aim = bench.aim(way, family, OPEN, false);
        if way == Way::Out {
            // Nothing translates what the outside sends.
            aim.dst = bench.scene.address(&Place::outside("outside-1"), family).to_string();
        }
        let (back, link): (&RawPort, _) = match way {
            Way::Out => (bench.sender(Way::ToPod), bench.aim(Way::ToPod, family, OPEN, false)),
            _ => {
                let victim = pod_of(&bench.scene, "y/a");
                (bench.raw("y/a"), Aim { from: victim.pod_mac, to: victim.host_mac, ..aim.clone() })
            }
        };
        let asked = |number| {
            let packet = link.link().ip(&aim.dst, &aim.src).udp(number, 9).payload(MARK);
            packet.build()
        };
        let before = bench.kernel.sum(|counted| counted.reinjected);
        back.send(&asked(aim.number)).expect("the link is up");
        eventually("the question goes through", Duration::from_secs(10), || {
            bench.kernel.sum(|counted| counted.reinjected) > before
        });
        let (kind, code) = if aim.is_v4() { (3, 3) } else { (1, 4) };
        let error = |number| aim.ip().icmp_error(kind, code, &asked(number)).build();
        open.push(error(aim.number));
        closed.push(error(aim.number + 20_000));
    }
    bench.arrive(way, &[], 0);
    let before = bench.punted(way);
    let again: Vec<Vec<u8>> = open.iter().cycle().take(open.len() * usize::from(ROUNDS)).cloned().collect();
    assert_eq!(bench.arrive(way, &again, again.len()), again.len(), "{name}");
    assert!(bench.punted(way) - before >= again.len() as u64, "{name}");
    refused(bench, &name, way, reason, &closed, closed.len());
}

/// A pod asks for its gateway, and the node for the pod.
fn neighbours(bench: &Bench, row: &Row, way: Way, _: Cell) {
    let own = |name| bench.kernel.of_pod(&bench.scene, name).own;
    let patience = Duration::from_secs(20);
    let x_a = pod_of(&bench.scene, "x/a");
    match way {
        Way::FromPod => {
            let v6 = bench.aim(way, Family::V6, OPEN, false).src;
            let v4 = bench.aim(way, Family::V4, OPEN, false).src;
            let asks = [
                arp_request(x_a.pod_mac, &v4, "169.254.1.1"),
                neighbour_solicitation(x_a.pod_mac, &v6, "fe80::1"),
            ];
            for ask in asks {
                let before = own("x/a");
                bench.raw("x/a").send(&ask).expect("the link is up");
                eventually(row.name, patience, || own("x/a") > before);
            }
        }
        _ => {
            let victim = pod_of(&bench.scene, "y/c");
            bench.node(&format!(
                "ip neighbour flush dev {0}; ip -6 neighbour flush dev {0}",
                victim.interface
            ));
            for address in &victim.addresses {
                let before = own("y/c");
                let socket = bench.scene.lab.node().run(|| {
                    UdpSocket::bind(match address.is_ipv4() {
                        true => "0.0.0.0:0",
                        false => "[::]:0",
                    })
                });
                let socket = socket.expect("root").expect("a socket");
                socket.send_to(b"who is there", (*address, 9)).expect("sent");
                // The question for its neighbour, and the datagram.
                eventually(row.name, patience, || own("y/c") >= before + 2);
            }
        }
    }
}

/// A pod always reaches its node, and its node always reaches it.
fn node(bench: &Bench, row: &Row, way: Way, _: Cell) {
    let own = |name| bench.kernel.of_pod(&bench.scene, name).own;
    for family in Family::ALL {
        let node = bench.scene.address(&Place::Node, family);
        match way {
            Way::FromPod => {
                let before = own("x/a");
                let aim = bench.aim(way, family, CLOSED, false);
                let frame = aim.link().ip(&aim.src, &node.to_string()).udp(aim.number, 9).build();
                bench.raw("x/a").send(&frame).expect("the link is up");
                eventually(row.name, Duration::from_secs(20), || own("x/a") > before);
            }
            _ => {
                let before = own("y/a");
                let socket = bench.scene.lab.node().run(|| UdpSocket::bind((node, 0)));
                let socket = socket.expect("root").expect("a socket");
                let victim = bench.socket(&pod("y/a"), family, CLOSED);
                socket.send_to(MARK, victim.local_addr().expect("an address")).expect("sent");
                eventually(row.name, Duration::from_secs(20), || own("y/a") > before);
                eventually("it arrives", Duration::from_secs(20), || victim.recv(&mut [0; 64]).is_ok());
            }
        }
    }
    // What the sockets' links have seen of it.
    bench.arrive(way, &[], 0);
}

/// Frames longer than the punt pair carries.
fn jumbo(bench: &Bench, row: &Row, way: Way, cell: Cell) {
    for family in Family::ALL {
        let name = format!("{} {way:?} {family}", row.name);
        let aim = bench.aim(way, family, OPEN, false);
        let long = aim.udp(JUMBO / MARK.len()).build();
        if let Dropped(count) = cell {
            let of_length = |length: usize| {
                let empty = aim.ip().udp(aim.number, aim.port).build().len();
                let payload = MARK.repeat(length / MARK.len());
                aim.ip().udp(aim.number, aim.port).payload(&payload[..length - empty]).build()
            };
            for length in [JUMBO, LONGEST + 1] {
                let before = bench.counted(count);
                assert_eq!(bench.arrive(way, &[of_length(length)], 0), 0, "{name}");
                bench.grows(&name, before, 1, || bench.counted(count));
            }
            assert_eq!(bench.arrive(way, &[of_length(LONGEST)], 1), 1, "{name}, not longer");
        } else {
            assert_eq!(bench.arrive(way, &[aim.udp(1).build()], 1), 1, "{name}: a short one");
            let before = bench.punted(way);
            assert_eq!(bench.arrive(way, &vec![long; 10], 10), 10, "{name}");
            assert!(bench.punted(way) - before <= STRAY, "{name}");
        }
        let closed = bench.aim(way, family, CLOSED, false);
        assert_eq!(bench.arrive(way, &[closed.udp(JUMBO / MARK.len()).build()], 0), 0, "{name}, closed");
        assert_eq!(bench.arrive(way, &[closed.udp(1).build()], 0), 0, "{name}, closed and short");
        assert_eq!(
            bench.arrive(way, &[closed.udp(JUMBO / MARK.len()).build()], 0),
            0,
            "{name}, closed, again"
        );
    }
}

fn untagged(bench: &Bench) {
    let near = RawPort::open(bench.scene.lab.node(), "portcullis0").expect("the punt pair");
    let before = bench.counted("forged");
    let aim = bench.aim(Way::FromPod, Family::V4, OPEN, false);
    near.send(&aim.udp(1).build()).expect("the link is up");
    assert_eq!(bench.arrive(Way::FromPod, &[], 0), 0);
    bench.grows("untagged", before, 1, || bench.counted("forged"));
}

fn not_approved(bench: &Bench) {
    let far = RawPort::open(bench.scene.lab.node(), "portcullis1").expect("the punt pair");
    let before = bench.counted("forged");
    let aim = bench.aim(Way::FromPod, Family::V4, OPEN, false);
    for tag in 0..24 {
        far.send(&aim.udp(4).vlan(tag).build()).expect("the link is up");
    }
    assert_eq!(bench.arrive(Way::FromPod, &[], 0), 0);
    bench.grows("not approved", before, 24, || bench.counted("forged"));
}

/// The rows of the table in the documentation.
fn table() -> String {
    let mut text = "| frames | `pod_in` | `pod_out` | `uplink_out` | `steer` | `reinject` |\n|---|---|---|---|---|---|\n".to_owned();
    for Row { name, cells, try_it } in ROWS {
        let seen = cells.iter().any(|cell| cell.is_punted().0);
        let back = cells.iter().any(|cell| cell.is_punted().1);
        let (steer, reinject) = match (try_it, *name) {
            (Try::Pair(_), name) if name.contains("without") => ("dropped: `forged`", "dropped: `forged`"),
            (Try::Pair(_), _) => ("-", "dropped: `forged`"),
            _ => (if seen { "to the worker" } else { "-" }, if back { "taken back" } else { "-" }),
        };
        let [pod_in, pod_out, uplink_out] = cells.map(Cell::text);
        text += &format!("| {name} | {pod_in} | {pod_out} | {uplink_out} | {steer} | {reinject} |\n");
    }
    text
}

#[test]
fn the_documentation_has_this_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/inline.md");
    let text = fs::read_to_string(path).expect("docs/inline.md");
    let written: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("| frames |")).collect();
    let written: Vec<&str> = written.into_iter().take_while(|line| line.starts_with('|')).collect();
    let ours = table();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, text.replace(&(written.join("\n") + "\n"), &ours)).expect("docs/inline.md");
        return;
    }
    assert_eq!(written, ours.lines().collect::<Vec<_>>(), "docs/inline.md: UPDATE=1 writes the table anew");
}

#[test]
fn every_kind_of_frame_fares_as_the_table_says() {
    let bench = Bench::new();
    for (column, way) in [Way::FromPod, Way::ToPod, Way::Out].into_iter().enumerate() {
        if way == Way::Out {
            bench.translate();
        }
        for row in ROWS {
            let through = way == Way::Out && matches!(row.cells[column], Dropped("spoofed"));
            let way = if through { Way::Through } else { way };
            if row.cells[column] != Never {
                try_row(&bench, row, way, row.cells[column]);
            }
        }
    }
    for row in ROWS {
        if let Try::Pair(pair) = row.try_it {
            pair(&bench);
        }
    }
}

#[test]
fn fragments_that_the_node_puts_together_bring_nobody_in_anothers_name() {
    let bench = Bench::new();
    // From now on the node tracks connections: it puts datagrams together, and cuts them anew.
    bench.translate();
    for row in ROWS.iter().filter(|row| matches!(row.name, "IPv4 fragments" | "IPv6 fragments")) {
        for way in [Way::FromPod, Way::ToPod] {
            try_row(&bench, row, way, Verdict);
        }
    }
    for family in Family::ALL {
        for (pretended, port) in
            [(pod("x/b"), OPEN), (pod("y/a"), OPEN), (Place::Node, OPEN), (Place::Node, CLOSED)]
        {
            for size in [800, 1448] {
                let mut aim = bench.aim(Way::ToPod, family, port, false);
                aim.src = bench.scene.address(&pretended, family).to_string();
                let frames = aim.udp(200).fragments(aim.number.into(), size);
                let before = bench.counted("spoofed");
                let name = format!("in the name of {pretended} {family}, in pieces of {size}");
                assert_eq!(bench.arrive(Way::ToPod, &frames, 0), 0, "{name}");
                if pretended != Place::Node {
                    bench.grows(&name, before, 1, || bench.counted("spoofed"));
                }
            }
        }
    }
}
