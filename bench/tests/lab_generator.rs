//! Frames of every way arrive with their numbers and stamps, and what is done to them on the way is reported. Needs
//! root.

use std::net::UdpSocket;
use std::time::Duration;

use bench::generator::{
    Carried, Frames, Kind, LiveFrames, Load, Offered, PacketSocket, Receipt, Record, Sink, Span, Stop,
    over_sockets, receive_without_a_program,
};
use lab::{Family, Lab, LabPod, Place, RawPort, Topology};

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(10);

struct Scene {
    lab: Lab,
    from: Place,
    to: Place,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::up(&Topology::nine(Lab::unique())).expect("a lab (needs root)");
        let scene = Self { lab, from: Place::pod("x", "a"), to: Place::pod("y", "b") };
        receive_without_a_program(scene.lab.node(), &scene.sender().interface).expect("ethtool");
        scene
    }

    fn pod(&self, place: &Place) -> &LabPod {
        let Place::Pod(name) = place else { panic!("{place} is no pod") };
        self.lab.pods().iter().find(|pod| pod.name == *name).expect("a pod")
    }

    fn sender(&self) -> &LabPod {
        self.pod(&self.from)
    }

    fn load(&self, family: Family, kind: Kind) -> Load {
        let load = Load::between(&self.lab, &self.from, &self.to, family, PORT).expect("a load");
        let (source_ports, destination_ports) = (Span::of(30_000, 50), Span::of(PORT, 3));
        Load { kind, flows: 150, source_ports, destination_ports, stride: 7, frame: 100, ..load }
    }

    fn sink(&self, load: &Load) -> Sink {
        Sink::open(&self.pod(&self.to).namespace, "eth0", load.run).expect("a receiver")
    }

    /// By live frames, or else by a packet socket.
    fn send(&self, live: Option<&mut LiveFrames>, load: &Load) -> Offered {
        let (namespace, stop) = (&self.sender().namespace, Stop::default());
        let offered = match live {
            Some(live) => live.send(namespace, "eth0", load, &stop),
            None => PacketSocket::open(namespace, "eth0").and_then(|socket| socket.send(load, &stop)),
        };
        offered.expect("frames are sent")
    }

    fn send_and_receive(&self, live: Option<&mut LiveFrames>, load: &Load) -> (Offered, Receipt) {
        let sink = self.sink(load);
        let offered = self.send(live, load);
        (offered, sink.finish(offered.frames).expect("a receipt"))
    }
}

#[test]
fn live_frames_and_packet_sockets_deliver_every_number_once_and_in_order() {
    let scene = Scene::new();
    let mut live = LiveFrames::load().expect("the program");
    for family in Family::ALL {
        for kind in [Kind::Udp, Kind::Syn] {
            for is_live in [true, false] {
                let load = Load { rate: Some(20_000), limit: 4000, ..scene.load(family, kind) };
                let (offered, receipt) = scene.send_and_receive(is_live.then_some(&mut live), &load);
                let case = format!("live: {is_live}, {family} {kind:?}: {offered:?}, {receipt:?}");
                let lost = receipt.lost(4000);
                assert_eq!((offered.frames, receipt.received + lost), (4000, 4000), "{case}");
                // The kernel between them may lose some when the machine is busy.
                assert!(lost <= 40, "{case}");
                assert_eq!((receipt.duplicates, receipt.reordered, receipt.missed), (0, 0, 0), "{case}");
                assert!(receipt.last > Some(3950), "{case}");
                assert!(offered.elapsed >= Duration::from_millis(190), "no faster than asked for: {case}");
                let [median, longest] = [0.5, 1.0].map(|share| receipt.latency_at(share));
                assert!(median > Duration::from_nanos(100), "{case}");
                assert!(longest < PATIENCE, "{case}");
            }
        }
    }
}

#[test]
fn the_program_writes_the_same_frames_as_the_library_and_a_socket_accepts_them() {
    let scene = Scene::new();
    let mut live = LiveFrames::load().expect("the program");
    let node = RawPort::open(scene.lab.node(), &scene.sender().interface).expect("the node's side");
    for family in Family::ALL {
        for kind in [Kind::Udp, Kind::Syn] {
            // As many as a socket has room for: a live frame counts as a page.
            let mut load = Load { limit: 20, rate: Some(10_000), ..scene.load(family, kind) };
            (load.sources.count, load.destinations.count, load.flows) = (2, 3, 900);
            scene.send(Some(&mut live), &load);
            let ours = |frame: &[u8]| Record::of(frame).is_some_and(|record| record.run == load.run);
            let frames = Frames::new(&load);
            let mut expected = vec![0; load.frame];
            for number in 0..load.limit {
                let frame = node.receive_where(PATIENCE, ours).expect("the interface is there");
                let frame = frame.expect("every frame comes by");
                let record = Record::of(&frame).expect("a record");
                assert_eq!(record.number, number);
                frames.write(number, record.sent, &mut expected);
                assert_eq!(frame, expected, "{family} {kind:?} {number}");
            }
        }
        let load = Load { limit: 20, rate: Some(5000), ..scene.load(family, Kind::Udp) };
        let load = Load { flows: 50, destination_ports: Span::one(PORT), ..load };
        let address = scene.lab.address(&scene.to, family).expect("an address");
        let bound = scene.pod(&scene.to).namespace.run(|| UdpSocket::bind((address, PORT)));
        let socket = bound.expect("the pod's namespace").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        scene.send(Some(&mut live), &load);
        let mut payload = [0; 256];
        for number in 0..load.limit {
            let length = socket.recv(&mut payload).expect("a datagram");
            assert_eq!(length, load.frame - if family == Family::V4 { 42 } else { 62 });
            assert_eq!((&payload[..4], &payload[8..16]), (&b"pclg"[..], &number.to_be_bytes()[..]));
        }
    }
}

#[test]
fn what_is_dropped_repeated_and_overtaken_is_reported() {
    let scene = Scene::new();
    let load = scene.load(Family::V4, Kind::Udp);
    let sink = scene.sink(&load);
    let port = RawPort::open(&scene.sender().namespace, "eth0").expect("the pod's port");
    let frames = Frames::new(&load);
    let mut frame = vec![0; load.frame];
    // 3 is lost, 5 comes twice, 8 is overtaken by 9 and 10.
    for number in [0, 1, 2, 4, 5, 5, 6, 7, 9, 10, 8, 11] {
        frames.write(number, Duration::ZERO, &mut frame);
        port.send(&frame).expect("sent");
    }
    // Of another load: counts for nothing.
    Frames::new(&scene.load(Family::V4, Kind::Udp)).write(3, Duration::ZERO, &mut frame);
    port.send(&frame).expect("sent");
    let receipt = sink.finish(12).expect("a receipt");
    assert_eq!((receipt.received, receipt.lost(12)), (11, 1), "{receipt:?}");
    assert_eq!((receipt.duplicates, receipt.reordered, receipt.too_late), (1, 1, 0), "{receipt:?}");
    assert_eq!((receipt.last, receipt.missed), (Some(11), 0), "{receipt:?}");
}

#[test]
fn a_receiver_that_cannot_keep_up_says_what_it_missed() {
    let scene = Scene::new();
    let load = Load { limit: 20_000, rate: Some(50_000), ..scene.load(Family::V4, Kind::Udp) };
    // Room for two or three frames.
    let pod = scene.pod(&scene.to);
    let sink = Sink::with_buffer(&pod.namespace, "eth0", load.run, 2048).expect("a receiver");
    let offered = scene.send(None, &load);
    let receipt = sink.finish(offered.frames).expect("a receipt");
    assert_eq!(offered.frames, load.limit);
    assert!(receipt.missed > 100 && receipt.received < load.limit, "{receipt:?}");
    assert_eq!(receipt.lost(offered.frames), 0, "none of it is a loss of the path: {receipt:?}");
}

#[test]
fn sockets_carry_the_same_load() {
    let scene = Scene::new();
    for family in Family::ALL {
        for kind in [Kind::Udp, Kind::Syn] {
            let load = Load { rate: Some(2000), limit: 400, ..scene.load(family, kind) };
            let carried = over_sockets(&scene.lab, &scene.from, &scene.to, &load).expect("a stream");
            let Carried::Stream(report) = carried else { panic!("{carried:?}") };
            assert_eq!(
                (report.sent, report.delivered, report.duplicates),
                (400, 400, 0),
                "{family} {kind:?}"
            );
        }
    }
    let syn = scene.load(Family::V4, Kind::Syn);
    assert!(over_sockets(&scene.lab, &scene.from, &scene.to, &syn).is_err(), "there is no flood of TCP");
}

/// The rates are printed: what can be reached depends on the machine and on who else uses it.
#[test]
fn as_fast_as_possible_ends_with_its_time() {
    let scene = Scene::new();
    let mut live = LiveFrames::load().expect("the program");
    let time = Duration::from_millis(500);
    let load = Load { frame: 66, flows: 1, limit: u64::MAX, time, ..scene.load(Family::V4, Kind::Udp) };
    for (way, is_live) in [("live frames", true), ("packet socket", false)] {
        let (offered, receipt) = scene.send_and_receive(is_live.then_some(&mut live), &load);
        let Receipt { received, missed, .. } = receipt;
        let rate = offered.rate();
        println!("{way}: {rate:.0}/s offered, {} sent, {received} received, {missed} missed", offered.frames);
        assert!(offered.frames > 1000 && received > 1000 && offered.elapsed < PATIENCE, "{way}: {offered:?}");
    }
    let carried = over_sockets(&scene.lab, &scene.from, &scene.to, &load).expect("a flood");
    let Carried::Flood(report) = carried else { panic!("{carried:?}") };
    println!(
        "sockets: {:.0}/s sent, {:.0}/s received",
        report.sent_per_second(),
        report.delivered_per_second()
    );
    assert!(report.sent > 1000 && report.elapsed < PATIENCE, "{report:?}");
}
