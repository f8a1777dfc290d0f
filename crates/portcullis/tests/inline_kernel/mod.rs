//! What the kernel's half of inline mode has counted, read where the agent has pinned it.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::path::PathBuf;

use bpf::inline::{Counted, Inline};
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
