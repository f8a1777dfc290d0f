//! Streams count exactly what was delivered, floods measure, raw ports see and forge frames. Needs root.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Family, Flood, Lab, Place, RawPort, Stream, StreamPlan, StreamReport, Topology, Transport};

fn lab() -> Lab {
    Lab::up(&Topology::nine(Lab::unique())).expect("a lab (needs root)")
}

fn plan(transport: Transport, family: Family, rate: u32, limit: u64) -> StreamPlan {
    StreamPlan {
        from: Place::pod("x", "a"),
        to: Place::pod("y", "b"),
        family,
        port: 7000,
        transport,
        rate,
        limit,
    }
}

fn nft(lab: &Lab, rules: &str) {
    let output = lab.node().command("nft").arg(rules).output().expect("nft");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_undisturbed_stream_loses_nothing_and_keeps_its_rate() {
    let lab = lab();
    for family in Family::ALL {
        for transport in [Transport::Tcp, Transport::Udp] {
            let stream = Stream::start(&lab, &plan(transport, family, 2000, 400)).unwrap();
            wait_for("the stream ends", || stream.is_finished());
            let report = stream.stop();
            let StreamReport { sent, delivered, duplicates, first, last, broken, .. } = report;
            let case = format!("{transport} {family} {report:?}");
            assert_eq!((sent, delivered, duplicates, report.lost()), (400, 400, 0, 0), "{case}");
            assert_eq!((first, last, broken), (Some(0), Some(399), false), "{case}");
            let took = report.last_delivery.unwrap() - report.first_delivery.unwrap();
            assert!(took > Duration::from_millis(150), "{case}");
        }
    }
}

#[test]
fn a_udp_stream_counts_exactly_what_the_node_let_through() {
    let lab = lab();
    // The node counts what it forwards, and drops every third datagram.
    nft(
        &lab,
        "add table inet t; add counter inet t passed; \
               add chain inet t f { type filter hook forward priority 0; }; \
               add rule inet t f udp dport 7000 numgen inc mod 3 0 drop; \
               add rule inet t f udp dport 7000 counter name passed",
    );
    let stream = Stream::start(&lab, &plan(Transport::Udp, Family::V4, 5000, 600)).unwrap();
    wait_for("the stream ends", || stream.is_finished());
    let report = stream.stop();
    let counter = lab.node().command("nft").arg("list counter inet t passed").output().unwrap();
    let counter = String::from_utf8(counter.stdout).unwrap();
    let passed: u64 = counter.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!((report.sent, report.delivered, report.lost()), (600, 400, 200));
    assert_eq!(passed, report.delivered);
}

#[test]
fn the_last_delivery_of_a_cut_stream_is_before_the_cut_took_hold() {
    let lab = lab();
    for transport in [Transport::Tcp, Transport::Udp] {
        let stream = Stream::start(&lab, &plan(transport, Family::V6, 1000, 100_000)).unwrap();
        wait_for("the stream flows", || stream.report().delivered >= 100);
        nft(
            &lab,
            "add table inet t; add chain inet t f { type filter hook forward priority 0; policy drop; }",
        );
        let cut = Instant::now();
        thread::sleep(Duration::from_millis(300));
        let report = stream.report();
        assert!(report.last_delivery.unwrap() < cut + Duration::from_millis(250), "{transport} {report:?}");
        assert!(report.sent > report.delivered + 100, "{transport}: it goes on sending: {report:?}");

        nft(&lab, "delete table inet t");
        wait_for("the stream goes on", || stream.report().delivered > report.delivered + 50);
        let report = stream.stop();
        assert!(report.longest_gap >= Duration::from_millis(250), "{transport} {report:?}");
        if transport == Transport::Tcp {
            assert_eq!((report.lost(), report.broken), (0, false), "TCP sends again what was dropped");
        } else {
            assert!(report.lost() >= 200, "{report:?}");
        }
    }
}

#[test]
fn a_tcp_stream_that_is_refused_or_reset_says_so() {
    let lab = lab();
    nft(&lab, "add table inet t; add chain inet t f { type filter hook forward priority 0; }");
    let stream = Stream::start(&lab, &plan(Transport::Tcp, Family::V4, 1000, 100_000)).unwrap();
    nft(&lab, "add rule inet t f meta l4proto tcp reject with tcp reset");
    wait_for("the stream breaks", || stream.report().broken);
    assert!(stream.stop().broken);
    let error = Stream::start(&lab, &plan(Transport::Tcp, Family::V4, 1000, 100)).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_flood_reports_what_arrived() {
    let lab = lab();
    let (from, to) = (Place::pod("x", "a"), Place::pod("y", "b"));
    let time = Duration::from_secs(5);
    let flood = Flood::start(&lab, (&from, &to), (Family::V4, 9), 18, 20_000, time).unwrap();
    let report = flood.finish();
    println!("{report:?}: {:.0} packets a second", report.delivered_per_second());
    assert_eq!(report.sent, 20_000);
    assert!(report.delivered.abs_diff(20_000) < 50, "{report:?}");
    assert!(report.elapsed < time);

    nft(&lab, "add table inet t; add chain inet t f { type filter hook forward priority 0; policy drop; }");
    let flood = Flood::start(&lab, (&from, &to), (Family::V6, 9), 18, u64::MAX, time).unwrap();
    thread::sleep(Duration::from_millis(100));
    let report = flood.stop();
    assert!(report.sent > 1000 && report.delivered < 50, "{report:?}");
}

/// An Ethernet frame of an experimental type (IEEE 802.3 local experimental ethertype 1).
fn frame(to: [u8; 6], from: [u8; 6], tag: u8) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb5], &[tag; 50]].concat()
}

#[test]
fn raw_frames_cross_a_veth_as_they_are() {
    let lab = lab();
    let (a, b) = (lab.pod("x", "a").unwrap(), lab.pod("x", "b").unwrap());
    let pod = RawPort::open(&a.namespace, "eth0").unwrap();
    let host = RawPort::open(lab.node(), &a.interface).unwrap();
    let other = RawPort::open(lab.node(), &b.interface).unwrap();
    let experimental = |frame: &[u8]| frame[12..14] == [0x88, 0xb5];

    let sent = frame(a.host_mac.0, [0x66; 6], 1);
    pod.send(&sent).unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(host.receive_where(second, experimental).unwrap(), Some(sent), "also with a forged sender");
    let sent = frame(a.pod_mac.0, a.host_mac.0, 2);
    host.send(&sent).unwrap();
    assert_eq!(pod.receive_where(second, experimental).unwrap(), Some(sent), "and not its own frame");
    assert_eq!(other.receive_where(Duration::from_millis(50), experimental).unwrap(), None);

    let error = RawPort::open(lab.node(), "no-such-link").unwrap_err();
    assert!(error.to_string().contains("no-such-link"), "{error}");
}

#[test]
fn transport_checksums_of_the_pods_are_partial() {
    let lab = lab();
    let (a, b) = (lab.pod("x", "a").unwrap(), lab.pod("x", "b").unwrap());
    let host = RawPort::open(lab.node(), &a.interface).unwrap();
    let (IpAddr::V4(from), IpAddr::V4(to)) = (a.addresses[0], b.addresses[0]) else { panic!("IPv4 first") };
    let socket = a.namespace.run(|| std::net::UdpSocket::bind((from, 0)).unwrap()).unwrap();
    socket.send_to(b"four", (to, 9)).unwrap();
    let udp = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 17;
    let frame = host.receive_where(Duration::from_secs(1), udp).unwrap().unwrap();

    // What the kernel leaves to the device to complete: the sum of the pseudo header alone (RFC 768).
    let words =
        |bytes: &[u8]| bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
    let pseudo = words(&frame[26..34]) + 17 + words(&frame[38..40]);
    let folded = (pseudo & 0xffff) + (pseudo >> 16);
    assert_eq!(words(&frame[40..42]), folded);
}
