//! Router mode on this node: XDP programs, AF_XDP sockets, and the workers that turn them.

mod plane;
mod ports;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use bpf::{Fallback, Kind, PortEntry, Steering};
use engine::io::Slot;
use engine::shared::{Owner, Shared};
use engine::wiring::PortId;
use engine::worker::Worker;
use tracing::info;
use xsk::XskIo;

use crate::admin::snapshot::Repairs;
use crate::config;
use crate::interface::InterfaceName;
use crate::plane::Beginning;
use crate::workers::{Workers, packet_memory, recovery_window};

pub use ports::{Port, PortState};

/// The running half of router mode.
pub struct RouterPlane {
    /// The XDP programs' maps.
    steering: Steering,
    /// What the workers share.
    shared: Arc<Shared>,
    workers: Workers,
    /// By [`PortId`].
    ports: Vec<Port>,
    /// What all ports' programs are told alike.
    entry: PortEntry,
    /// Where links are pinned.
    pins: PathBuf,
    /// What was mended since the start.
    repairs: Repairs,
}

impl RouterPlane {
    /// Opens the sockets, starts the workers, and attaches the programs of `steering`, or takes over those that a
    /// predecessor left pinned. Ports are numbered as the configuration lists them: pods, then
    /// uplinks. One whose interface is not there is served when [`follow`](Plane::follow) sees it come.
    fn open(steering: Steering, beginning: Beginning<'_>) -> Result<Self> {
        let Beginning { config, pins, view, claims, table, wiring, .. } = beginning;
        let interfaces: Vec<&InterfaceName> = config.interfaces().collect();
        let owners = owners(config.ports.len(), interfaces.len(), config.workers);
        let shared = Arc::new(Shared::new(owners.clone(), config.flows.capacity));
        let room = steering.socket_capacity() / u32::try_from(interfaces.len().max(1))?;
        let port = |(n, interface): (usize, &&InterfaceName)| {
            let kind = if n < config.ports.len() { Kind::Pod } else { Kind::Uplink };
            Port::new(PortId(n as u16), (*interface).clone(), kind, owners[n], (n as u32 * room, room))
        };
        let mut plane = Self {
            steering,
            shared,
            workers: Workers::none(),
            ports: interfaces.iter().enumerate().map(port).collect(),
            entry: PortEntry {
                base: 0,
                queues: 0,
                mac: None,
                fallback: match config.fallback {
                    config::Fallback::Closed => Fallback::Drop,
                    config::Fallback::Open => Fallback::Pass,
                },
                strips_priority_tags: config.vlan == config::Vlan::Strip0,
            },
            pins: pins.to_owned(),
            repairs: Repairs::default(),
        };
        let mut ios = Vec::new();
        for worker in 0..config.workers {
            let names: Vec<&str> =
                slots_of(&owners, worker).iter().map(|port| interfaces[*port].as_str()).collect();
            ios.push(XskIo::new(packet_memory(config), &names)?);
        }
        for (me, io) in ios.into_iter().enumerate() {
            let shared = Arc::clone(&plane.shared);
            let worker =
                Worker::new(me, io, shared, table.reader(), wiring.reader(), recovery_window(config));
            let told = (worker.counters(), worker.records());
            plane.workers.spawn(worker, told, config.polling)?;
        }
        plane.open_ports(view, claims)?;
        let attached = plane.ports.iter().filter(|port| port.ifindex.is_some()).count();
        info!(ports = attached, workers = config.workers, "ports are attached");
        Ok(plane)
    }
}

/// Who owns which port: uplinks go to the first worker, ahead of its pods (the first interface of a worker
/// should be one that stays), and pods to all in turn.
fn owners(pods: usize, ports: usize, workers: usize) -> Vec<Owner> {
    let uplinks = ports - pods;
    let mut next: Vec<usize> = (0..workers).map(|worker| if worker == 0 { uplinks } else { 0 }).collect();
    (0..ports)
        .map(|port| {
            if port >= pods {
                return Owner { worker: 0, slot: Slot(port - pods) };
            }
            let worker = port % workers;
            let slot = Slot(next[worker]);
            next[worker] += 1;
            Owner { worker, slot }
        })
        .collect()
}

/// The ports of one worker, by slot.
fn slots_of(owners: &[Owner], worker: usize) -> Vec<usize> {
    let mut ports: Vec<usize> = (0..owners.len()).filter(|port| owners[*port].worker == worker).collect();
    ports.sort_unstable_by_key(|port| owners[*port].slot.0);
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_one_slot_of_one_worker() {
        for (pods, ports, workers) in [(1, 1, 1), (3, 4, 1), (5, 7, 2), (2, 3, 4)] {
            let owners = owners(pods, ports, workers);
            let mut seen: Vec<(usize, usize)> = owners.iter().map(|o| (o.worker, o.slot.0)).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), ports);
            for worker in 0..workers {
                let slots = slots_of(&owners, worker);
                for (slot, port) in slots.iter().enumerate() {
                    assert_eq!(owners[*port], Owner { worker, slot: Slot(slot) });
                }
            }
        }
    }
}
