//! What every benchmark shares: a node in memory with two pods, and the frames that they send.
//!
//! Names of benchmarks read `action/class/metric`. `make bench` runs them all.

pub mod random;
pub mod cluster;
pub mod adversarial;
pub mod exact;
pub mod expansion;
pub mod traffic;
pub mod rte_acl;
pub mod measure;
pub mod record;
pub mod machine;
pub mod output;
pub mod sections;
pub mod plot;
pub mod generator;

use std::sync::Arc;

use compiler::{Scope, compile};
use engine::flows::Millis;
use engine::io::Slot;
use engine::loopback::Loopback;
use engine::shared::{Owner, Shared};
use engine::wiring::{Port, Role, Speaker, Wiring};
use engine::worker::Worker;
use flow::{Address, MacAddr};
use policy::model::Cluster;
use table::{PolicyTable, Publisher};
use testkit::cluster::{cluster, policy, rule};
use testkit::frames::{FrameBuilder, frame};

/// The table of a cluster, of which every benchmark is about something.
///
/// # Errors
///
/// When the compiler refuses it.
pub fn compiled(cluster: &Cluster, scope: &Scope) -> anyhow::Result<PolicyTable> {
    Ok(compile(cluster, scope)?)
}

/// Frames in a burst.
pub const BURST: usize = 64;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

const fn pod_mac(port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port as u8])
}

const fn port_mac(port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port as u8])
}

/// A frame from pod a to pod b.
#[must_use]
pub fn a_to_b() -> FrameBuilder {
    frame().from(pod_mac(0)).to(port_mac(0)).ip("10.0.0.1", "10.0.0.2")
}

/// Pods a and b on one worker; b accepts UDP to port 80.
pub struct Node {
    worker: Worker<Loopback>,
    now: u64,
    _tables: Publisher<PolicyTable>,
    _wirings: Publisher<Wiring>,
}

impl Node {
    /// A node with room for `flows` connections.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        let owners = (0..2).map(|slot| Owner { worker: 0, slot: Slot(slot) }).collect();
        let shared = Arc::new(Shared::new(owners, flows));
        let (mut tables, mut wirings) = (Publisher::new(), Publisher::new());
        tables.publish(table());
        let pod = |port: usize, address: [u8; 4]| Port {
            name: format!("pod{port}"),
            mac: port_mac(port),
            mtu: 1500,
            speaker: Speaker::default(),
            role: Role::Pod { mac: Some(pod_mac(port)), addresses: vec![Address::v4(address)] },
        };
        wirings.publish(Wiring::new(vec![pod(0, A), pod(1, B)], [], [], []));
        let io = Loopback::new(2, 4 * BURST, 2 * BURST);
        let worker = Worker::new(0, io, shared, tables.reader(), wirings.reader(), 0);
        Self { worker, now: 0, _tables: tables, _wirings: wirings }
    }

    /// Lets a burst arrive from pod a.
    pub fn arrive<'a>(&mut self, frames: impl IntoIterator<Item = &'a Vec<u8>>) {
        for frame in frames {
            assert!(self.worker.io_mut().inject(Slot(0), frame), "no free frame");
        }
    }

    /// One turn of the worker.
    pub fn turn(&mut self) -> u64 {
        self.now += 1;
        self.worker.turn(Millis(self.now))
    }

    /// Asks for records of everything, and throws away those that there are.
    pub fn record(&self) {
        let records = self.worker.records();
        records.ask_for(u16::MAX);
        while records.take().is_some() {}
    }

    /// Takes what was sent to pod b.
    pub fn drain(&mut self) -> usize {
        let io = self.worker.io_mut();
        std::iter::from_fn(|| io.sent(Slot(1), |_| ())).count()
    }
}

fn table() -> PolicyTable {
    let cluster = cluster()
        .pod("x/a", "10.0.0.1", "")
        .pod("x/b", "10.0.0.2", "app=b")
        .policy(policy("x/b").subjects("app=b").ingress([rule().on("UDP/80")]))
        .build();
    compile(&cluster, &Scope::AllPods).expect("two pods are within any budget")
}
