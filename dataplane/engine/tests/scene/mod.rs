//! A node whose packets are written as sentences: `y/b:40000 > x/a:80 TCP SYN`.
//!
//! Pods x/a, y/b, y/c and z/a have ports 0 to 3; port 4 is free for a pod that comes later, port 5 is the uplink.
//! The labels of a namespace are `ns=` its name, those of a pod `pod=` its name.

use std::sync::Arc;

use compiler::{Budget, Compiler, Scope};
use engine::clock::Millis;
use engine::events::Event;
use engine::io::{PacketIo, Slot};
use engine::loopback::Loopback;
use engine::shared::{Owner, Shared};
use engine::wiring::{Port, PortId, Role, Route, Speaker, Wiring};
use engine::worker::Worker;
use flow::{DropReason, FlowKey, MacAddr, Verdict};
use policy::model::Cluster;
use table::{PolicyTable, Publisher};
use testkit::cluster::{ClusterBuilder, PolicyBuilder, address, cluster, connection};
use testkit::frames::{FrameBuilder, frame};

pub(crate) use DropReason::*;

/// A pod, its addresses, and the port that it is behind.
pub(crate) type PodAt = (&'static str, &'static str, &'static str, usize);

pub(crate) const PODS: [PodAt; 4] = [
    ("x/a", "10.1.0.1", "fd01::1", 0),
    ("y/b", "10.2.0.2", "fd02::2", 1),
    ("y/c", "10.2.0.3", "fd02::3", 2),
    ("z/a", "10.3.0.1", "fd03::1", 3),
];
pub(crate) const SPARE: usize = 4;
pub(crate) const UPLINK: usize = 5;
const OTHERS: [(&str, &str, &str); 3] = [
    ("node-a", "192.0.2.1", "2001:db8::1"),
    ("node-b", "192.0.2.2", "2001:db8::2"),
    ("router", "198.51.100.1", "2001:db8:1::1"),
];
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);

pub(crate) const fn pod_mac(port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port as u8])
}

const fn port_mac(port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port as u8])
}

/// What a table expects of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    Drops(DropReason),
}

pub(crate) use Fate::{Drops, Passes};

pub(crate) struct Scene {
    pub(crate) worker: Worker<Loopback>,
    pub(crate) shared: Arc<Shared>,
    compiler: Compiler,
    tables: Publisher<PolicyTable>,
    wirings: Publisher<Wiring>,
    pods: Vec<PodAt>,
    pub(crate) now: u64,
}

/// The model cluster with these policies.
pub(crate) fn with(policies: impl IntoIterator<Item = PolicyBuilder>) -> Cluster {
    policies.into_iter().fold(model(), ClusterBuilder::policy).build()
}

/// Nodes, namespaces and pods, before any policy.
pub(crate) fn model() -> ClusterBuilder {
    let cluster = cluster().node("node-a", "192.0.2.1").node("node-b", "192.0.2.2");
    let cluster = ["x", "y", "z"]
        .into_iter()
        .fold(cluster, |cluster, name| cluster.namespace(name, &format!("ns={name}")));
    PODS.into_iter().fold(cluster, pod)
}

/// Adds a pod on this node.
pub(crate) fn pod(cluster: ClusterBuilder, (name, v4, v6, _): PodAt) -> ClusterBuilder {
    let label = format!("pod={}", name.split_once('/').expect("namespace/name").1);
    cluster.pod(name, &format!("{v4} {v6}"), &label).on("node-a")
}

impl Scene {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self::with_room(cluster, 1024)
    }

    /// A node with room for so many connections.
    pub(crate) fn with_room(cluster: &Cluster, connections: usize) -> Self {
        let owners = (0..=UPLINK).map(|slot| Owner { worker: 0, slot: Slot(slot) }).collect();
        let shared = Arc::new(Shared::new(owners, connections));
        let (mut tables, mut wirings) = (Publisher::new(), Publisher::new());
        let io = Loopback::new(UPLINK + 1, 512, 256);
        let worker = Worker::new(0, io, Arc::clone(&shared), tables.reader(), wirings.reader(), 0);
        let compiler = Compiler::new(Scope::AllPods, Budget::default());
        let mut scene = Self { worker, shared, compiler, tables, wirings, pods: PODS.to_vec(), now: 0 };
        scene.wire(&PODS, true);
        scene.publish(cluster);
        scene
    }

    /// These pods are behind their ports, their MACs known or not.
    pub(crate) fn wire(&mut self, pods: &[PodAt], macs: bool) {
        let port = |port: usize| {
            let here = pods.iter().filter(|pod| pod.3 == port);
            let addresses = here.flat_map(|pod| [address(pod.1), address(pod.2)]).collect();
            let role = match port {
                UPLINK => Role::Uplink,
                _ => Role::Pod { mac: macs.then(|| pod_mac(port)), addresses },
            };
            let speaker = Speaker::default();
            Port { name: format!("port{port}"), mac: port_mac(port), mtu: 1500, speaker, role }
        };
        let (up, via) = (PortId(UPLINK as u16), address("192.0.2.254"));
        let via6 = address("fe80::fe");
        let route =
            |network, via| Route { network: address(network), length: 0, port: Some(up), via: Some(via) };
        self.wirings.publish(Wiring::new(
            (0..=UPLINK).map(port).collect(),
            [address("192.0.2.1")],
            [route("0.0.0.0", via), route("::", via6)],
            [((up, via), GATEWAY), ((up, via6), GATEWAY)],
        ));
        self.pods = pods.to_vec();
    }

    /// The policy table of this cluster is published.
    pub(crate) fn publish(&mut self, cluster: &Cluster) {
        self.tables.publish(self.compiler.update(cluster).expect("within the budget"));
    }

    /// The frame that a sentence speaks of, and the port by which it comes.
    ///
    /// `[v6 ]FROM[@WHOSE_PORT] > TO PROTOCOL[ FLAGS]`, where an end is a pod, a node, `router` or an address, with
    /// `:PORT` or an identifier behind it where the protocol has one.
    pub(crate) fn frame(&self, sentence: &str) -> (usize, FrameBuilder) {
        let (v6, sentence) = sentence.strip_prefix("v6 ").map_or((false, sentence), |rest| (true, rest));
        let mut words = sentence.split_whitespace();
        let [from, _, to, protocol] = [(); 4].map(|()| words.next().unwrap_or_else(|| panic!("{sentence}")));
        let (from, as_whom) = from.split_once('@').map_or((from, None), |(from, whose)| (from, Some(whose)));
        let (src, src_port) = self.end(from, v6);
        let (dst, dst_port) = self.end(to, v6);
        let name = as_whom.unwrap_or_else(|| from.split(':').next().unwrap_or(from));
        let port = self.pods.iter().find(|pod| pod.0 == name).map_or(UPLINK, |pod| pod.3);
        let mac = if port == UPLINK { GATEWAY } else { pod_mac(port) };
        let frame = frame().from(mac).to(port_mac(port)).ip(&src, &dst);
        let frame = match protocol {
            "TCP" => frame.tcp(src_port, dst_port),
            "UDP" => frame.udp(src_port, dst_port),
            "SCTP" => frame.sctp(src_port, dst_port),
            "PING" => frame.ping(src_port),
            "PONG" => frame.pong(src_port),
            "GRE" => frame.protocol(47).payload(&[0; 8]),
            other => panic!("{other} in {sentence}"),
        };
        let flags = words.next().unwrap_or("").split(',').filter(|flag| !flag.is_empty());
        let frame = flags.fold(frame, |frame, flag| match flag {
            "SYN" => frame.syn(),
            "ACK" => frame.ack(),
            "FIN" => frame.fin(),
            "RST" => frame.rst(),
            "INIT" => frame.chunk(1),
            other => panic!("{other} in {sentence}"),
        });
        (port, frame)
    }

    fn end(&self, text: &str, v6: bool) -> (String, u16) {
        let (name, port) = match text.split_once(':') {
            Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
                (name, port.parse().ok())
            }
            _ => (text, None),
        };
        let others = OTHERS.map(|(name, v4, v6)| (name, v4, v6, UPLINK));
        let known = self.pods.iter().chain(&others).find(|known| known.0 == name);
        let ip = known.map_or(name, |known| if v6 { known.2 } else { known.1 });
        (ip.to_owned(), port.unwrap_or(0))
    }

    /// What becomes of one packet; afterwards every frame is accounted for.
    pub(crate) fn fate(&mut self, port: usize, frame: &[u8]) -> Fate {
        self.fates(port, &[frame.to_vec()])[0]
    }

    /// What becomes of packets that arrive together, the passed ones first.
    pub(crate) fn fates(&mut self, port: usize, frames: &[Vec<u8>]) -> Vec<Fate> {
        let before = *self.worker.tally();
        for frame in frames {
            assert!(self.worker.io_mut().inject(Slot(port), frame), "no free frame");
        }
        self.now += 1;
        assert_eq!(self.worker.turn(Millis(self.now)), frames.len() as u64);
        let (tally, census) = (*self.worker.tally(), self.worker.io().census());
        assert!(tally.balances() && census.balances() && census.held == 0, "{tally:#?} {census:?}");
        let ports = 0..=UPLINK;
        let sent =
            ports.map(|out| std::iter::from_fn(|| self.worker.io_mut().sent(Slot(out), |_| ())).count());
        let mut fates = vec![Passes; sent.sum()];
        for reason in DropReason::ALL {
            let times = tally.dropped_for(reason) - before.dropped_for(reason);
            fates.extend((0..times).map(|_| Drops(reason)));
        }
        fates
    }

    /// Plays a table of packets, one after the other.
    pub(crate) fn play<const N: usize>(&mut self, rows: [(&str, Fate, &str); N]) {
        for (sentence, fate, why) in rows {
            let (port, frame) = self.frame(sentence);
            assert_eq!(self.fate(port, &frame.build()), fate, "{sentence}: {why}");
        }
    }

    /// What the policy table says of a new connection.
    pub(crate) fn verdict(&self, text: &str) -> Verdict {
        let asked = connection(text);
        let key = FlowKey::new(asked.protocol, (asked.src, 50_000), (asked.dst, asked.port));
        let mut verdict = [Verdict::Deny];
        self.tables.current().expect("a table").classify(&[key], &mut verdict);
        verdict[0]
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.shared.events.take()).collect()
    }
}
