//! What the kernel's half of inline mode has counted, read where the agent has pinned it.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::net::IpAddr;
use std::path::PathBuf;

use bpf::inline::{CachedFlow, Counted, Inline};
use flow::{FlowKey, Protocol, Verdict};
use lab::Place;

use crate::scene::{Scene, pod};

/// The pinned maps of a scene's agent.
pub(crate) struct Kernel {
    programs: Inline,
    ports: u16,
}

/// Where the agent of a scene keeps its pins.
pub(crate) fn pins(scene: &Scene) -> PathBuf {
    let places = bpf::pin_dirs(&scene.home.state_dir()).map(|place| place.join("inline"));
    places.into_iter().find(|place| place.is_dir()).expect("an agent has pinned its maps")
}

impl Kernel {
    /// Of an agent that has this `flows.capacity`.
    pub(crate) fn of(scene: &Scene, capacity: u32) -> Self {
        let programs = Inline::load(&pins(scene), 2 * capacity).expect("its maps");
        let ports = scene.lab.pods().len() as u16 + 1;
        Self { programs, ports }
    }

    /// All verdicts.
    pub(crate) fn verdicts(&self) -> Vec<CachedFlow> {
        let mut verdicts = Vec::new();
        self.programs.cache().expect("its verdicts").each(|flow| verdicts.push(flow)).expect("a map");
        verdicts
    }

    /// Takes every place for IPv4 with verdicts of a port: of its pod, which has this address.
    pub(crate) fn fill(&self, port: u16, local: IpAddr) {
        let mut cache = self.programs.cache().expect("its verdicts");
        for n in 0..u16::MAX {
            let key = FlowKey::new(Protocol::UDP, (local, n), (IpAddr::from([192, 0, 2, 1]), 9));
            let flow = CachedFlow {
                port,
                key,
                verdict: Verdict::Allow,
                pod_opened: true,
                ending: false,
                answered: true,
                provisional: false,
                hidden: false,
                epoch: 0,
                other: None,
                last_seen: u64::MAX,
            };
            if cache.enter(&[flow]) > 0 {
                return;
            }
        }
        panic!("there is still room");
    }

    /// A figure, of all ports together.
    pub(crate) fn sum(&self, figure: impl Fn(&Counted) -> u64) -> u64 {
        (0..=self.ports).map(|id| figure(&self.programs.counted(id).expect("a map"))).sum()
    }

    /// What was counted at a pod's port.
    pub(crate) fn of_pod(&self, scene: &Scene, name: &str) -> Counted {
        let found = scene.lab.pods().iter().position(|link| Place::Pod(link.name.clone()) == pod(name));
        let id = found.expect("a pod") as u16 + 1;
        self.programs.counted(id).expect("a map")
    }

    /// What was counted at the uplink.
    pub(crate) fn of_uplink(&self) -> Counted {
        self.programs.counted(self.ports).expect("a map")
    }
}
