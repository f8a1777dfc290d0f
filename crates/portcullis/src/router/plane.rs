//! Router mode as the agent sees it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bpf::{Kind, Steering};
use engine::shared::{Owner, Shared};
use engine::wiring::{PortId, Wiring};
use flow::Address;
use table::PolicyTable;

use super::{PortState, RouterPlane};
use crate::admin::snapshot::{self, Repairs, Xdp};
use crate::config::Config;
use crate::instance::Instance;
use crate::links::{NodeLinks, NodeView, PodLink};
use crate::plane::{Beginning, Known, Plane, shown};
use crate::workers::Workers;

impl Plane for RouterPlane {
    type Programs = Steering;

    fn load(_config: &Config, _pins: &Path) -> Result<Steering> {
        Ok(Steering::load()?)
    }

    fn already_ready(config: &Config, view: &NodeView, pins: &Path) -> Result<BTreeSet<u32>> {
        let mut ready = BTreeSet::new();
        for index in config.ports.iter().filter_map(|port| view.index(&port.interface)) {
            if bpf::pins::is_ours(pins, index)? {
                ready.insert(index);
            }
        }
        Ok(ready)
    }

    async fn start(steering: Steering, beginning: Beginning<'_>) -> Result<Self> {
        Self::open(steering, beginning)
    }

    fn workers(&self) -> &Workers {
        &self.workers
    }

    fn workers_mut(&mut self) -> &mut Workers {
        &mut self.workers
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn repairs(&self) -> Repairs {
        self.repairs
    }

    fn repairs_mut(&mut self) -> &mut Repairs {
        &mut self.repairs
    }

    fn ifindex(&self, port: PortId) -> Option<u32> {
        self.ports[usize::from(port.0)].ifindex
    }

    fn ready(&self) -> BTreeSet<u32> {
        self.ports
            .iter()
            .filter(|port| port.kind == Kind::Pod && port.attached)
            .filter_map(|port| port.ifindex)
            .collect()
    }

    fn is_waiting(&self) -> bool {
        self.waits_for_queues()
    }

    fn follow(&mut self, view: &NodeView, claims: &mut Instance) {
        self.follow_links(view, claims);
    }

    fn table(&mut self, _table: &Arc<PolicyTable>) {}

    fn renew(&mut self, _wiring: &Wiring) -> Result<()> {
        // Workers compare epochs themselves.
        Ok(())
    }

    fn steer(&mut self, Known { view, pods }: Known<'_>) -> Result<bool> {
        let mut changed = false;
        for (port, pod) in (0..).map(PortId).zip(pods) {
            changed |= self.set_mac(port, pod.mac)?;
            if let Some(index) = self.ifindex(port) {
                changed |= self.steering.set_pod_addresses(index, &pod.addresses)?;
            }
        }
        let local: Vec<Address> = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        changed |= self.steering.set_local_addresses(&local)?;
        let node: Vec<Address> = view.node_addresses(pods).into_iter().collect();
        Ok(changed | self.steering.set_node_addresses(&node)?)
    }

    // All that it has belongs to a port.
    async fn keep(&mut self, _links: &NodeLinks) {}

    async fn inspect(&mut self, _links: &NodeLinks) {}

    fn upkeep(&mut self, _round: u32) -> Result<()> {
        self.shared.flows.sweep(self.workers.now());
        Ok(())
    }

    async fn clear_away(self, _links: &NodeLinks) -> Result<()> {
        Ok(())
    }

    fn ports(&self, config: &Config, pods: &[PodLink]) -> Vec<snapshot::Port> {
        let ports = self.ports.iter().enumerate().map(|(number, port)| {
            let counted = self.steering.counters(port.base).ok();
            let (state, why) = shown_state(&port.state);
            snapshot::Port {
                state,
                why,
                xdp: counted.map(|counted| Xdp {
                    passed: counted.passed,
                    redirected: counted.redirected,
                    dropped: counted.dropped,
                }),
                dropped: self.workers.counters[port.owner.worker].dropped_from(port.owner.slot),
                worker: port.owner.worker,
                attach: "native".to_owned(),
                ..shown(&port.interface, port.ifindex, config.ports.get(number), pods.get(number))
            }
        });
        ports.collect()
    }

    fn sockets(&self) -> Vec<Option<Owner>> {
        self.ports.iter().map(|port| Some(port.owner)).collect()
    }

    fn inline(&self) -> Option<snapshot::Inline> {
        None
    }
}

fn shown_state(state: &PortState) -> (snapshot::PortState, Option<String>) {
    match state {
        PortState::Absent => (snapshot::PortState::Absent, None),
        PortState::Attached => (snapshot::PortState::Attached, None),
        PortState::Paused => (snapshot::PortState::Paused, None),
        PortState::Closed { why, .. } => (snapshot::PortState::Closed, Some(why.clone())),
    }
}
