//! Keeps the engine's wiring and the programs' maps in step with what is known: the policy table's pods,
//! the kernel's links and neighbours, and the pods' MAC addresses.

use std::sync::Arc;

use anyhow::Result;
use engine::wiring::{PortId, PriorityTags, Wiring};
use flow::{Address, MacAddr};
use table::{Name, PolicyTable, Publisher};
use tracing::{info, warn};

use crate::config::{Config, Mode, Vlan};
use crate::interface::InterfaceName;
use crate::links::{NodeView, PodLink, wire};
use crate::plane::{Known, Plane};

/// What the wiring is made of.
pub struct Rewire {
    pods: Vec<PodLink>,
    /// The MAC addresses that the configuration gives, by pod.
    given: Vec<Option<MacAddr>>,
    /// The interfaces that the pods' MAC addresses were pinned on.
    indices: Vec<Option<u32>>,
    names: Vec<Name>,
    uplinks: Vec<InterfaceName>,
    /// The uplinks whose next hops are ours to know; none where the kernel forwards.
    forwarding: Vec<InterfaceName>,
    view: NodeView,
    priority_tags: PriorityTags,
    services: Vec<(Address, u8)>,
    wiring: Publisher<Wiring>,
    /// Whether a policy table has said whose addresses are whose.
    has_table: bool,
}

impl Rewire {
    /// The ports of the configuration, without any pod's address yet: nothing is wired before the first
    /// policy table says whose addresses are whose.
    #[must_use]
    pub fn new(config: &Config, view: NodeView, wiring: Publisher<Wiring>) -> Self {
        let pods = config.ports.iter().map(|port| PodLink {
            interface: port.interface.clone(),
            mac: port.mac,
            addresses: Vec::new(),
        });
        let names = config.ports.iter().map(|port| Name::new(&port.pod.namespace, &port.pod.name));
        let (pods, names) = (pods.collect(), names.collect());
        let given = config.ports.iter().map(|port| port.mac).collect();
        let indices = vec![None; config.ports.len()];
        let priority_tags = match config.vlan {
            Vlan::Deny => PriorityTags::Refused,
            Vlan::Strip0 => PriorityTags::Stripped,
        };
        let uplinks = config.uplinks.clone();
        let (forwarding, services) = match config.mode {
            Mode::Router => (uplinks.clone(), Vec::new()),
            Mode::Inline => (Vec::new(), config.services.clone()),
        };
        Self {
            pods,
            given,
            indices,
            names,
            uplinks,
            forwarding,
            view,
            priority_tags,
            services,
            wiring,
            has_table: false,
        }
    }

    /// The pods' addresses are now as this table has them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update of the programs' maps.
    pub fn table(&mut self, table: &Arc<PolicyTable>, plane: &mut impl Plane) -> Result<()> {
        for (pod, name) in self.pods.iter_mut().zip(&self.names) {
            let known = table.local_pods().find(|known| known.name() == name);
            if known.is_none() {
                warn!(pod = %name, interface = %pod.interface, "no running pod of this name in the manifests");
            }
            pod.addresses = known.map(|known| known.addresses().to_vec()).unwrap_or_default();
        }
        self.has_table = true;
        plane.table(table);
        self.publish(plane)
    }

    /// The kernel's links, routes or neighbours are now these.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update of the programs' maps.
    pub fn view(&mut self, view: NodeView, plane: &mut impl Plane) -> Result<()> {
        self.view = view;
        self.publish(plane)
    }

    /// A pod has shown its MAC address. The first one stays.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update of the programs' maps.
    pub fn mac_seen(&mut self, port: PortId, mac: MacAddr, plane: &mut impl Plane) -> Result<()> {
        let Some(pod) = self.pods.get_mut(usize::from(port.0)).filter(|pod| pod.mac.is_none()) else {
            return Ok(());
        };
        info!(interface = %pod.interface, %mac, "pinned the pod's MAC address");
        pod.mac = Some(mac);
        self.publish(plane)
    }

    /// Whom to solicit: by interface and address.
    #[must_use]
    pub fn missing(&self) -> Vec<(u32, Address)> {
        self.view.missing(&self.pods, &self.forwarding).into_iter().collect()
    }

    /// The gateways behind the uplinks, whom the kernel should keep looking after.
    #[must_use]
    pub fn gateways(&self) -> Vec<(u32, Address)> {
        self.view.gateways(&self.forwarding).into_iter().collect()
    }

    /// The pods behind the ports, in the order of the ports.
    #[must_use]
    pub fn pods(&self) -> &[PodLink] {
        &self.pods
    }

    /// Frees old wirings that no worker holds any more.
    pub fn collect(&mut self) {
        self.wiring.collect();
    }

    /// Whether the programs' maps held something else than they should, and had to be mended.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update of the programs' maps.
    pub fn inspect(&self, plane: &mut impl Plane) -> Result<bool> {
        Ok(self.has_table && self.steer(plane)?)
    }

    fn publish(&mut self, plane: &mut impl Plane) -> Result<()> {
        let mut moved = false;
        for (n, pod) in self.pods.iter_mut().enumerate() {
            let index = plane.ifindex(PortId(n as u16));
            if self.indices[n] != index {
                // Whoever is behind another interface has another MAC address.
                (self.indices[n], pod.mac, moved) = (index, self.given[n], true);
            }
            if pod.mac.is_none() {
                pod.mac = self.view.mac_of(pod);
                if let Some(mac) = pod.mac {
                    info!(interface = %pod.interface, %mac, "pinned the pod's MAC address from the kernel's neighbours");
                }
            }
        }
        if !self.has_table {
            return Ok(());
        }
        // What may go to the kernel follows the wiring: an address that a pod has lost is refused by the
        // engine first, one that it has gained is known to the engine before the kernel sees it.
        let wiring = wire(&self.view, &self.pods, &self.uplinks)
            .with_priority_tags(self.priority_tags)
            .with_services(self.services.iter().copied());
        let current = self.wiring.current().filter(|current| **current == wiring);
        let same = current.is_some();
        let wiring = current.unwrap_or_else(|| self.wiring.publish(wiring));
        plane.renew(&wiring)?;
        if same && !moved {
            // The maps hold nothing that the wiring does not: they are as they should be.
            return Ok(());
        }
        self.steer(plane).map(drop)
    }

    /// Makes the programs' maps hold what they should; tells whether they did not.
    fn steer(&self, plane: &mut impl Plane) -> Result<bool> {
        plane.steer(Known { view: &self.view, pods: &self.pods })
    }
}
