//! Inline mode: what one pod floods with costs the others nothing. Needs root.

mod inline_kernel;
mod scene;

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use bench::generator::{Kind, LiveFrames, Load, Offered, Span, Stop, receive_without_a_program};
use bpf::inline::Counted;
use inline_kernel::Kernel;
use lab::{Family, Stream, Transport};
use nix::sys::socket::{setsockopt, sockopt};
use scene::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Verdicts there is room for are twice as many in each family: 819 allowed ones and as many denials for each of ten
/// ports, and 16,384 for whoever comes first.
const CAPACITY: u32 = 16_384;
const SHARE: u64 = 2 * CAPACITY as u64 / 4 / 10;
/// New connections of a flood: more than there is room for.
const FLOWS: u64 = 60_000;
/// Slow enough for a receiver that is not run for a second.
const RECORDS: u32 = 200;

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

/// New connections from a pod to ports of another, each with one packet.
fn flood(scene: &Scene, from: &str, to: &str, kind: Kind, family: Family) -> Offered {
    receive_without_a_program(scene.lab.node(), &scene.link(from).interface).expect("ethtool");
    let load = Load::between(&scene.lab, &pod(from), &pod(to), family, 1).expect("a load");
    let load = Load {
        source_ports: Span::of(1024, 50_000),
        destination_ports: Span::of(100, 20),
        flows: FLOWS,
        // Ports look random.
        stride: 12_347,
        frame: 100,
        kind,
        rate: Some(20_000),
        limit: FLOWS,
        time: Duration::from_secs(15),
        ..load
    };
    let mut live = LiveFrames::load().expect("the generator's program");
    live.send(&scene.link(from).namespace, "eth0", &load, &Stop::default()).expect("a flood")
}

/// Streams between pods that do not flood.
struct Others {
    streams: Vec<(&'static str, Stream)>,
}

impl Others {
    fn start(scene: &Scene) -> Self {
        let start = |transport| scene.stream(&pod("x/b"), &pod("y/a"), 80, transport, RECORDS);
        let streams = vec![("UDP", start(Transport::Udp)), ("TCP", start(Transport::Tcp))];
        eventually("both connections run", PATIENCE, || {
            streams.iter().all(|(_, stream)| stream.report().delivered > 20)
        });
        Self { streams }
    }

    /// Each of them has delivered all that it was given.
    #[track_caller]
    fn have_lost_nothing(self) {
        for (name, stream) in self.streams {
            let report = stream.stop();
            assert!(!report.broken && report.lost() == 0, "{name}: {report:?}");
        }
    }
}

/// A connection between pods that have nothing to do with the flood; it opens meanwhile, and the kernel carries it.
#[track_caller]
fn opens_and_is_carried(scene: &Scene, kernel: &Kernel, port: u16) -> Stream {
    let stream = scene.stream(&pod("z/a"), &pod("y/c"), port, Transport::Udp, RECORDS);
    eventually("it opens", PATIENCE, || stream.report().delivered > 10);
    let punted = || ["z/a", "y/c"].map(|name| kernel.of_pod(scene, name).punted).iter().sum::<u64>();
    let (before, records) = (punted(), stream.report().delivered);
    eventually("it goes on", PATIENCE, || stream.report().delivered > records + 100);
    let punts = punted() - before;
    assert!(punts < 20, "{punts} punts of a connection that the kernel knows");
    stream
}

/// What everybody else keeps while x/c floods.
fn others_keep_what_they_have(to: &str, kind: Kind, family: Family, seen: impl Fn(&Kernel, &Scene)) {
    let scene = Scene::new(&format!("mode: inline\nflows: {{capacity: {CAPACITY}}}\n"));
    scene.home.apply("flood.yaml", Y_B_FROM_X).expect("a manifest");
    scene.silence("y/b");
    let agent = scene.agent();
    let kernel = Kernel::of(&scene, CAPACITY);
    let others = Others::start(&scene);
    let (offered, late) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&scene, "x/c", to, kind, family));
        eventually("the flood is on", PATIENCE, || kernel.of_pod(&scene, "x/c").punted > FLOWS / 4);
        let late = opens_and_is_carried(&scene, &kernel, 5000);
        (flooding.join().expect("a flood"), late)
    });
    assert_eq!(offered.frames, FLOWS, "{offered:?}");
    others.have_lost_nothing();
    // Also when all is as full as it gets.
    let after = opens_and_is_carried(&scene, &kernel, 5001);
    for stream in [late, after] {
        assert!(!stream.stop().broken);
    }
    assert!(!scene.reaches(&pod("z/a"), &pod("y/a"), 80, Transport::Tcp), "{}", agent.log());
    seen(&kernel, &scene);
}

#[test]
fn a_flood_of_allowed_connections_costs_the_others_nothing() {
    others_keep_what_they_have("y/b", Kind::Syn, Family::V4, |kernel, scene| {
        let hits = kernel.of_pod(scene, "y/b").hit;
        assert!(hits > SHARE, "{hits} packets reached the flooded pod");
    });
}

#[test]
fn a_flood_of_denied_connections_costs_the_others_nothing() {
    others_keep_what_they_have("y/a", Kind::Udp, Family::V4, |kernel, scene| {
        let Counted { hit, .. } = kernel.of_pod(scene, "x/c");
        assert_eq!(hit, 0, "of the flood nothing is allowed");
        // The flooder's own allowed connections find room beside its denials.
        let stream = scene.stream(&pod("x/c"), &pod("y/c"), 5002, Transport::Udp, RECORDS);
        eventually("it opens", PATIENCE, || stream.report().delivered > 100);
        assert!(kernel.of_pod(scene, "x/c").hit > 50);
    });
}

/// Otherwise a pod could have the worker handed sixty times as much as it may.
#[test]
fn many_datagrams_in_one_piece_are_as_many_punts() {
    /// Of a port, at once and in a second.
    const BURST: f64 = 1024.0;
    const RATE: f64 = 100_000.0;
    const PIECES: u64 = 4000;
    const SEGMENTS: u64 = 60;
    let scene = Scene::new("mode: inline\n");
    scene.silence("y/b");
    let _agent = scene.agent();
    let kernel = Kernel::of(&scene, 262_144);
    let others = Others::start(&scene);
    let to = scene.address(&pod("y/b"), Family::V4);
    let socket = scene.link("x/c").namespace.run(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    let socket = socket.expect("root");
    setsockopt(&socket, sockopt::UdpGsoSegment, &100).expect("segmentation");
    let (before, start) = (kernel.of_pod(&scene, "x/c"), Instant::now());
    for port in (1024..).take(PIECES as usize) {
        socket.send_to(&[7; 100 * SEGMENTS as usize], (to, port)).expect("sent");
    }
    let asked = |now: &Counted| now.punted + now.limited - before.punted - before.limited;
    eventually("all were seen", PATIENCE, || asked(&kernel.of_pod(&scene, "x/c")) >= PIECES);
    let punted = kernel.of_pod(&scene, "x/c").punted - before.punted;
    let most = BURST + RATE * start.elapsed().as_secs_f64();
    assert!((punted * SEGMENTS) as f64 <= most, "{punted} times {SEGMENTS} frames, at most {most}");
    others.have_lost_nothing();
}
