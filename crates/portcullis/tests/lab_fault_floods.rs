//! Floods, receivers that take nothing, and frames that the packet memory or its checksums could not carry.

mod faults;
mod scene;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bench::generator::{
    Kind, LiveFrames, Load, Offered, PacketSocket, Receipt, Sink, Span, Stop, receive_without_a_program,
};
use faults::{Denied, fault, thousands};
use lab::{Family, LabPod, Place, Transport};
use portcullis::lab_agent::LabAgent;
use scene::*;

const PATIENCE: Duration = Duration::from_secs(15);

/// Everybody of x may connect to y/b, whatever the port.
const Y_B_FROM_X: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b-from-x, namespace: "y"}
spec:
  podSelector: {matchLabels: {pod: b}}
  policyTypes: [Ingress]
  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}}]}]
"#;

fn link<'a>(scene: &'a Scene, place: &Place) -> &'a LabPod {
    let Place::Pod(name) = place else { panic!("{place} is no pod") };
    scene.lab.pods().iter().find(|link| link.name == *name).expect("a pod")
}

/// What goes into a pod's `eth0` is dropped by the pod itself, unanswered.
fn silence(scene: &Scene, place: &Place) {
    let rules = "add table inet silent; add chain inet silent in { type filter hook input priority 0; policy drop; }; \
                 add rule inet silent in meta l4proto icmpv6 accept";
    let output = link(scene, place).namespace.command("nft").arg(rules).output().expect("nft");
    assert!(output.status.success(), "{}", text(&output));
}

/// Sends live frames from a pod.
fn flood(scene: &Scene, from: &Place, load: &Load) -> Offered {
    let mut live = LiveFrames::load().expect("the generator's program");
    live.send(&link(scene, from).namespace, "eth0", load, &Stop::default()).expect("a flood")
}

/// What the agent takes of memory, in KiB (proc(5): VmRSS).
fn resident(agent: &LabAgent) -> u64 {
    let status = lines(&format!("/proc/{}/status", agent.id()));
    let line = status.iter().find_map(|line| line.strip_prefix("VmRSS:")).expect("the agent runs");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// TCP segments that a pod has sent again (`RetransSegs` of RFC 4022).
fn retransmitted(scene: &Scene, place: &Place) -> u64 {
    let read = || fs::read_to_string("/proc/thread-self/net/snmp");
    let text = link(scene, place).namespace.run(read).expect("the pod").expect("its figures");
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(str::split_whitespace);
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let mut pairs = names.zip(values);
    pairs
        .find(|(name, _)| *name == "RetransSegs")
        .and_then(|(_, value)| value.parse().ok())
        .expect("a number")
}

/// The figure of that name, the sum over all whose labels contain `label`.
fn figure(agent: &LabAgent, name: &str, label: &str) -> u64 {
    let figures = agent.figures().expect("figures");
    let ours = figures.iter().filter(|(key, _)| key.split('{').next() == Some(name) && key.contains(label));
    ours.map(|(_, value)| value).sum()
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// Has a new TCP connection carry records; how long that took.
fn connects(scene: &Scene, from: &Place, to: &Place, port: u16) -> Duration {
    let begin = Instant::now();
    let stream = scene.stream(from, to, port, Transport::Tcp, 1000);
    eventually("a new connection carries records", PATIENCE, || stream.report().delivered > 10);
    begin.elapsed()
}

#[test]
fn f26_floods_of_new_connections_cost_the_established_nothing() {
    fault("F26", "a million openings through an allowed rule", || {
        let scene = Scene::new("");
        scene.home.apply("flood.yaml", Y_B_FROM_X).expect("a manifest");
        let mut denied = Denied::seen_to_arrive(&scene);
        silence(&scene, &pod("y/b"));
        let agent = scene.agent();
        denied.count_from_now();
        let [tcp, udp] = [Transport::Tcp, Transport::Udp]
            .map(|transport| scene.stream(&pod("x/b"), &pod("y/a"), 80, transport, 1000));
        eventually("both connections run", PATIENCE, || {
            [&tcp, &udp].iter().all(|stream| stream.report().delivered > 500)
        });
        let (memory, again) = (resident(&agent), retransmitted(&scene, &pod("x/b")));
        let capacity = figure(&agent, "portcullis_conntrack_capacity", "");

        let load = Load::between(&scene.lab, &pod("x/c"), &pod("y/b"), Family::V4, 1).expect("a load");
        let load = Load {
            source_ports: Span::of(1024, 50_000),
            destination_ports: Span::of(1, 20),
            flows: 1_000_000,
            // Ports look random.
            stride: 123_457,
            frame: 80,
            limit: 1_000_000,
            time: Duration::from_secs(15),
            ..load
        };
        // First at a rate that the machine carries: what is lost then, is lost by judgement. Then as fast as it goes.
        let mut told = Vec::new();
        for (kind, rate) in [(Kind::Syn, Some(75_000)), (Kind::Udp, Some(75_000)), (Kind::Syn, None)] {
            let before = udp.report();
            let load = Load { kind, rate, ..load.clone() };
            let load = if rate.is_none() {
                Load { limit: u64::MAX, time: Duration::from_secs(3), ..load }
            } else {
                load
            };
            let (offered, meanwhile) = thread::scope(|scope| {
                let flood = scope.spawn(|| flood(&scene, &pod("x/c"), &load));
                let meanwhile = connects(&scene, &pod("x/a"), &pod("y/c"), 5000);
                (flood.join().expect("a flood"), meanwhile)
            });
            let after = udp.report();
            let (lost, sent) = (after.lost().saturating_sub(before.lost()), after.sent - before.sent);
            assert!(offered.frames > 300_000, "{offered:?}");
            assert!(percent(lost, sent) < 1.0, "{kind:?} {rate:?}: {lost} of {sent} lost");
            told.push(format!(
                "{:.0}/s of {}: {lost} of {sent} lost, another pod connects in {} ms",
                offered.rate(),
                if kind == Kind::Syn { "SYN" } else { "UDP" },
                meanwhile.as_millis(),
            ));
            assert!(resident(&agent) < memory + 16 * 1024, "from {memory} KiB to {}", resident(&agent));
            assert!(figure(&agent, "portcullis_conntrack_entries", "") <= capacity);
        }
        let back = connects(&scene, &pod("x/a"), &pod("y/c"), 5000);
        assert!(back < Duration::from_secs(5), "a new connection takes {back:?}");
        let again = retransmitted(&scene, &pod("x/b")) - again;
        let tcp = tcp.stop();
        assert!(!tcp.broken && tcp.lost() == 0, "{tcp:?}");
        let given_up = figure(&agent, "portcullis_conntrack_given_up_total", "");
        assert!(given_up > 100_000, "{given_up} connections gave way to others");
        format!(
            "{}; TCP: {again} of {} segments sent again; {} connections given up for others, {} to {} MiB, {}",
            told.join("; "),
            tcp.sent,
            thousands(given_up),
            memory / 1024,
            resident(&agent) / 1024,
            denied.finish(1000)
        )
    });
}

/// Runs a line of shell in a pod.
fn in_pod(scene: &Scene, place: &Place, line: &str) -> String {
    let output = link(scene, place).namespace.command("sh").args(["-ec", line]).output().expect("sh runs");
    assert!(output.status.success(), "{line}: {}", text(&output));
    text(&output)
}

/// A thousand datagrams a second for three seconds from x/b to y/a, as its policy allows: their latency.
fn third_party(scene: &Scene) -> Receipt {
    let load = Load::between(&scene.lab, &pod("x/b"), &pod("y/a"), Family::V4, 80).expect("a load");
    let load = Load { rate: Some(1000), limit: 3000, ..load };
    let sink = Sink::open(&link(scene, &pod("y/a")).namespace, "eth0", load.run).expect("a receiver");
    let socket = PacketSocket::open(&link(scene, &pod("x/b")).namespace, "eth0").expect("a socket");
    let offered = socket.send(&load, &Stop::default()).expect("datagrams");
    sink.finish(offered.frames).expect("a receipt")
}

/// The frames of all packet memory: how many are on their way out, and how many there are.
fn frames(agent: &LabAgent) -> (u64, u64) {
    (figure(agent, "portcullis_frames", "\"tx\""), figure(agent, "portcullis_frames", ""))
}

/// A counter of `ethtool -S`.
fn ethtool(scene: &Scene, interface: &str, counter: &str) -> u64 {
    let said = text(&scene.node(&format!("ethtool -S {interface}")));
    let value =
        said.lines().find_map(|line| line.trim().strip_prefix(counter)?.strip_prefix(": ")?.parse().ok());
    value.unwrap_or_else(|| panic!("no {counter} in {said}"))
}

#[test]
fn f27_a_receiver_that_takes_nothing_harms_nobody_else() {
    fault("F27", "a pod that lets its frames wait, and a sender beyond what workers carry", || {
        let scene = Scene::new("");
        scene.home.apply("flood.yaml", Y_B_FROM_X).expect("a manifest");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        silence(&scene, &pod("y/b"));
        let quiet = third_party(&scene);
        let (_, all) = frames(&agent);

        // What comes into y/b goes through a shaper that keeps nearly all of it, and with it the frames' memory.
        let held = "ip link add hold type ifb; ip link set hold up; tc qdisc add dev eth0 ingress; \
                    tc filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 \
                    action mirred egress redirect dev hold; \
                    tc qdisc add dev hold root tbf rate 64kbit burst 2kb limit 100mb";
        in_pod(&scene, &pod("y/b"), held);
        let load = Load::between(&scene.lab, &pod("x/c"), &pod("y/b"), Family::V4, 7).expect("a load");
        let load = Load { rate: Some(20_000), limit: 100_000, ..load };
        let (offered, crowded) = thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&scene, &pod("x/c"), &load));
            thread::sleep(Duration::from_millis(500));
            let crowded = third_party(&scene);
            (flood.join().expect("a flood"), crowded)
        });
        let full = || figure(&agent, "portcullis_drops_total", "\"tx_ring_full\"");
        eventually("drops are counted", PATIENCE, || full() > offered.frames / 2);
        let (waiting, total) = frames(&agent);
        assert!(waiting > 100 && total == all, "{waiting} of {total} frames wait, and there were {all}");
        in_pod(&scene, &pod("y/b"), "tc qdisc del dev eth0 ingress; ip link del hold");
        eventually("all frames come back", PATIENCE, || {
            let (waiting, total) = frames(&agent);
            waiting < 20 && total == all
        });
        assert_eq!(crowded.lost(3000), 0, "{crowded:?}");
        // Told, not asserted: the generator shares the machine's processors with whom it measures.
        let [median, tail] = [0.5, 0.99].map(|share| [&quiet, &crowded].map(|of| of.latency_at(share)));

        // More than a worker takes: what the program sent to the socket, the socket has taken or counted, and the
        // interface counts the same.
        let sender = &link(&scene, &pod("x/c")).interface;
        let load = Load { rate: None, limit: u64::MAX, time: Duration::from_secs(2), ..load };
        let beyond = flood(&scene, &pod("x/c"), &load);
        let of = |name: &str, label: &str| {
            let figures = agent.figures().expect("figures");
            let ours =
                |key: &str| key.starts_with(name) && key.contains(sender.as_str()) && key.contains(label);
            figures.iter().filter(|(key, _)| ours(key)).map(|(_, value)| value).sum::<u64>()
        };
        let counts = || {
            (
                of("portcullis_xdp_frames_total", "\"socket\""),
                of("portcullis_packets_total", "\"rx\""),
                of("portcullis_xsk_rx_dropped_total", ""),
            )
        };
        eventually("nothing is lost in silence", PATIENCE, || {
            let (sent, taken, dropped) = counts();
            sent > offered.frames && sent == taken + dropped
        });
        let (_, taken, dropped) = counts();
        assert!(dropped > 0, "{taken} frames are no more than a worker carries");
        assert_eq!(of("portcullis_xsk_rx_fill_ring_empty_total", ""), dropped, "the same frames");
        assert_eq!(ethtool(&scene, sender, "rx_queue_0_drops"), dropped, "by the interface's own count");
        format!(
            "{} of {} dropped as tx_ring_full while {waiting} wait, another pair's latency {:?} (quiet {:?}), of 99 % \
             {:?} ({:?}); at {:.0}/s {} taken and {} counted as rx_fill_ring_empty, {}",
            thousands(full()),
            thousands(offered.frames),
            median[1],
            median[0],
            tail[1],
            tail[0],
            beyond.rate(),
            thousands(taken - offered.frames),
            thousands(dropped),
            denied.finish(1000)
        )
    });
}

/// Sends so many bytes over a TCP connection between pods, and looks at each that arrives; how long that took.
fn bulk(scene: &Scene, from: &Place, to: &Place, family: Family, bytes: usize) -> Duration {
    let address = SocketAddr::new(scene.address(to, family), 80);
    let listening = link(scene, to).namespace.run(|| TcpListener::bind(address)).expect("the pod");
    let listener = listening.expect("a listener");
    let connecting = link(scene, from).namespace.run(|| TcpStream::connect_timeout(&address, PATIENCE));
    let mut sender = connecting.expect("the pod").expect("a connection");
    let (mut receiver, _) = listener.accept().expect("the connection");
    for socket in [&sender, &receiver] {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    }
    // A pattern that no segment's length divides.
    let pattern: Vec<u8> = (0..65_521_u32).map(|at| ((at * 31) >> 3) as u8).collect();
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..bytes / pattern.len() {
                sender.write_all(&pattern).expect("the connection carries data");
            }
            sender.shutdown(Shutdown::Write).expect("the connection ends in order");
        });
        let mut block = vec![0; pattern.len()];
        for _ in 0..bytes / pattern.len() {
            receiver.read_exact(&mut block).expect("data arrive");
            assert!(block == pattern, "data arrive as they were sent");
        }
        assert_eq!(receiver.read(&mut block).expect("the end"), 0);
    });
    begin.elapsed()
}

#[test]
fn f31_tcp_moves_data_while_pods_leave_checksums_to_their_interfaces() {
    fault("F31", "TCP with the pods' offloads on", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        for place in [pod("x/b"), pod("y/a")] {
            let features = in_pod(&scene, &place, "ethtool -k eth0");
            assert!(features.contains("tx-checksumming: on"), "{features}");
        }
        let before = retransmitted(&scene, &pod("x/b"));
        let bytes = 32 << 20;
        let rates = Family::ALL.map(|family| {
            let took = bulk(&scene, &pod("x/b"), &pod("y/a"), family, bytes);
            format!("{:.0} Mbit/s over {family}", bytes as f64 * 8.0 / 1e6 / took.as_secs_f64())
        });
        let again = retransmitted(&scene, &pod("x/b")) - before;
        eventually("they went through the sockets", PATIENCE, || {
            figure(&agent, "portcullis_transmitted_frames_total", "") > 40_000
        });
        let [v4, v6] = rates;
        format!("{v4}, {v6}, {again} segments sent again, {}", denied.finish(500))
    });
}

/// Sets the MTU of the links between two pods, both ends.
fn set_mtu(scene: &Scene, places: &[Place], mtu: u32) {
    for place in places {
        let interface = &link(scene, place).interface;
        let output = scene.node(&format!("ip link set {interface} mtu {mtu}"));
        assert!(output.status.success(), "{}", text(&output));
        in_pod(scene, place, &format!("ip link set eth0 mtu {mtu}"));
    }
}

#[test]
fn f32_packet_memory_follows_the_mtu_and_what_is_too_large_is_counted() {
    fault("F32", "an MTU raised while the agent runs, and frames that the way on does not take", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let ends = [pod("x/b"), pod("y/a")];
        receive_without_a_program(scene.lab.node(), &link(&scene, &ends[0]).interface).expect("ethtool");
        let load = Load::between(&scene.lab, &ends[0], &ends[1], Family::V4, 80).expect("a load");
        let large = Load { frame: 2500, rate: Some(5000), limit: 1000, ..load };
        let delivered = || {
            let sink = Sink::open(&link(&scene, &ends[1]).namespace, "eth0", large.run).expect("a receiver");
            let offered = flood(&scene, &ends[0], &large);
            sink.finish(offered.frames).expect("a receipt").received
        };
        set_mtu(&scene, &ends, 3000);
        assert_eq!(delivered(), 1000, "without enforcement they arrive");
        set_mtu(&scene, &ends, 1500);

        let agent = scene.agent();
        denied.count_from_now();
        // Chunks of 2 KiB do not take these frames.
        set_mtu(&scene, &ends, 3000);
        eventually("packet memory follows", PATIENCE, || delivered() == 1000);
        set_mtu(&scene, &ends[1..], 1500);
        let too_big = || figure(&agent, "portcullis_drops_total", "\"too_big\"");
        eventually("each is counted", 2 * PATIENCE, || {
            let before = too_big();
            let through = delivered();
            // The figures are half a second old.
            thread::sleep(Duration::from_secs(1));
            (through, too_big() - before) == (0, 1000)
        });
        format!("1,000 of 1,000 delivered, then 1,000 of 1,000 counted as too_big, {}", denied.finish(500))
    });
}
