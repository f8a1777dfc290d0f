//! A node in memory: pods a, b and c and an uplink, their tables, and a ledger that is checked after every
//! step.

#![allow(dead_code, reason = "each test file uses its own part of the bed")]

use std::sync::Arc;

use compiler::{Budget, Compiler, Scope};
use engine::events::Event;
use engine::flows::Millis;
use engine::io::{PacketIo, Slot};
use engine::loopback::Loopback;
use engine::shared::{Owner, Shared};
use engine::wiring::{Port, PortId, Role, Route, Speaker, Wiring};
use engine::worker::Worker;
use flow::{Address, DropReason, MacAddr};
use policy::model::Cluster;
use table::{PolicyTable, Publisher};
use testkit::cluster::{cluster, policy, rule};
use testkit::frames::{FrameBuilder, frame};

pub(crate) const A: &str = "10.0.0.1";
pub(crate) const B: &str = "10.0.0.2";
pub(crate) const C: &str = "10.0.0.3";
pub(crate) const A6: &str = "fd00::1";
pub(crate) const B6: &str = "fd00::2";
pub(crate) const OUTSIDE: &str = "198.51.100.10";
pub(crate) const NODE: &str = "192.0.2.1";
pub(crate) const NODE6: &str = "2001:db8::1";
/// An address that the node goes by, and that is on none of its interfaces.
pub(crate) const NODE_PUBLIC: &str = "203.0.113.77";

pub(crate) const UPLINK: usize = 3;
pub(crate) const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);

pub(crate) fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

/// The MAC of the pod behind a port.
pub(crate) const fn pod_mac(port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port as u8])
}

/// The MAC of our side of a port.
pub(crate) const fn port_mac(port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port as u8])
}

/// A frame of the pod behind `port`, as its kernel addresses it.
pub(crate) fn from_pod(port: usize) -> FrameBuilder {
    frame().from(pod_mac(port)).to(port_mac(port))
}

/// A frame that the gateway sends to our uplink.
pub(crate) fn from_outside() -> FrameBuilder {
    frame().from(GATEWAY).to(port_mac(UPLINK))
}

/// Pods a, b and c (ports 0 to 2, dual stack) and an uplink (port 3) with a default route.
pub(crate) fn wiring() -> Wiring {
    wiring_with_macs([true; 3])
}

pub(crate) fn wiring_with_macs(known: [bool; 3]) -> Wiring {
    let speaker = Speaker { v4: Some(address(NODE)), v6: Some(address(NODE6)) };
    let pod = |port: usize, v4: &str, v6: &str| Port {
        name: format!("pod{port}"),
        mac: port_mac(port),
        mtu: 1500,
        speaker,
        role: Role::Pod {
            mac: known[port].then(|| pod_mac(port)),
            addresses: vec![address(v4), address(v6)],
        },
    };
    let up = Port { name: "up".into(), mac: port_mac(UPLINK), mtu: 1500, speaker, role: Role::Uplink };
    let (port, network, gateway) = (PortId(UPLINK as u16), address("0.0.0.0"), address("192.0.2.254"));
    Wiring::new(
        vec![pod(0, A, A6), pod(1, B, B6), pod(2, C, "fd00::3"), up],
        [address(NODE), address(NODE6)],
        [Route { network, length: 0, port: Some(port), via: Some(gateway) }],
        [((port, gateway), GATEWAY)],
    )
}

/// Everything is open but what comes to b: only `ports`, TCP and UDP, from anybody.
pub(crate) fn b_accepts(ports: &[u16]) -> Cluster {
    let accepted =
        ports.iter().fold(rule(), |rule, port| rule.on(&format!("TCP/{port}")).on(&format!("UDP/{port}")));
    cluster()
        .node("node", &format!("{NODE} {NODE_PUBLIC}"))
        .pod("x/a", &format!("{A} {A6}"), "")
        .pod("x/b", &format!("{B} {B6}"), "app=b")
        .pod("x/c", &format!("{C} fd00::3"), "")
        .policy(policy("x/b-accepts").subjects("app=b").ingress([accepted]))
        .build()
}

/// The tables of these clusters, each the successor of the one before.
pub(crate) fn tables<const N: usize>(clusters: [Cluster; N]) -> [PolicyTable; N] {
    let mut compiler = Compiler::new(Scope::AllPods, Budget::default());
    clusters.map(|cluster| compiler.update(&cluster).expect("within the budget"))
}

/// The table of one cluster.
pub(crate) fn table(cluster: Cluster) -> PolicyTable {
    let [table] = tables([cluster]);
    table
}

/// The node, driven by one worker.
pub(crate) struct Bed {
    pub(crate) worker: Worker<Loopback>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tables: Publisher<PolicyTable>,
    pub(crate) wirings: Publisher<Wiring>,
    pub(crate) now: u64,
    /// The ICMP errors that left, and by which port.
    pub(crate) errors: Vec<(usize, Vec<u8>)>,
}

/// Where one frame went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Sent { port: usize, bytes: Vec<u8> },
    Dropped(DropReason),
}

impl Bed {
    /// A node that has not seen a table yet; recovery is over from the start.
    pub(crate) fn bare() -> Self {
        Self::with_recovery(0)
    }

    pub(crate) fn with_recovery(window: u64) -> Self {
        let owners = (0..4).map(|slot| Owner { worker: 0, slot: Slot(slot) }).collect();
        let shared = Arc::new(Shared::new(owners, 1024));
        let (mut tables, mut wirings) = (Publisher::new(), Publisher::new());
        let io = Loopback::new(4, 256, 64);
        let readers = (tables.reader(), wirings.reader());
        let worker = Worker::new(0, io, Arc::clone(&shared), readers.0, readers.1, window);
        Self { worker, shared, tables, wirings, now: 0, errors: Vec::new() }
    }

    /// A node where b accepts TCP and UDP on port 80, and all else is open.
    pub(crate) fn new() -> Self {
        Self::with(table(b_accepts(&[80])))
    }

    pub(crate) fn with(table: PolicyTable) -> Self {
        let mut bed = Self::bare();
        bed.wirings.publish(wiring());
        bed.tables.publish(table);
        bed
    }

    /// Lets frames arrive on a port without turning the worker.
    pub(crate) fn inject(&mut self, port: usize, frame: &[u8]) {
        assert!(self.worker.io_mut().inject(Slot(port), frame), "no free frame");
    }

    /// One turn; afterwards every frame is accounted for.
    pub(crate) fn turn(&mut self) -> u64 {
        self.now += 1;
        let handled = self.worker.turn(Millis(self.now));
        self.check_ledger();
        handled
    }

    /// `rx + handed_in + made == tx + handed_out + sum(dropped)`, and no frame of packet memory is lost.
    pub(crate) fn check_ledger(&self) {
        let (tally, census) = (self.worker.tally(), self.worker.io().census());
        assert!(tally.balances(), "{tally:#?}");
        assert!(census.balances() && census.held == 0, "{census:?}");
        assert_eq!(self.worker.counters().read(), *tally, "what others see is what was counted");
    }

    /// What becomes of one frame.
    pub(crate) fn fate(&mut self, port: usize, frame: &[u8]) -> Fate {
        let before = *self.worker.tally();
        self.inject(port, frame);
        assert_eq!(self.turn(), 1);
        let after = *self.worker.tally();
        for out in 0..4 {
            while after.made > before.made
                && let Some(bytes) = self.worker.io_mut().sent(Slot(out), <[u8]>::to_vec)
            {
                self.errors.push((out, bytes));
            }
            if let Some(bytes) = self.worker.io_mut().sent(Slot(out), <[u8]>::to_vec) {
                assert_eq!(after.tx, before.tx + 1);
                return Fate::Sent { port: out, bytes };
            }
        }
        let reason = |r: &&DropReason| after.dropped_for(**r) == before.dropped_for(**r) + 1;
        Fate::Dropped(*DropReason::ALL.iter().find(reason).expect("a frame vanished"))
    }

    /// The port that one frame left by.
    pub(crate) fn passes(&mut self, port: usize, frame: &FrameBuilder) -> usize {
        match self.fate(port, &frame.build()) {
            Fate::Sent { port, .. } => port,
            Fate::Dropped(reason) => panic!("dropped: {reason}: {}", reason.sentence()),
        }
    }

    /// Why one frame was dropped.
    pub(crate) fn drops(&mut self, port: usize, frame: &FrameBuilder) -> DropReason {
        match self.fate(port, &frame.build()) {
            Fate::Dropped(reason) => reason,
            Fate::Sent { port, .. } => panic!("left by port {port}"),
        }
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.shared.events.take()).collect()
    }
}
