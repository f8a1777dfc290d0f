//! Keeps the engine's wiring and the XDP programs' maps in step with what is known: the policy table's pods,
//! the kernel's links and neighbours, and the pods' MAC addresses.

use anyhow::Result;
use engine::wiring::{PortId, Wiring};
use flow::{Address, MacAddr};
use table::{Name, PolicyTable, Publisher};
use tracing::{info, warn};

use crate::config::Config;
use crate::dataplane::Dataplane;
use crate::interface::InterfaceName;
use crate::links::{NodeView, PodLink, wire};

/// What the wiring is made of.
pub struct Rewire {
    pods: Vec<PodLink>,
    names: Vec<Name>,
    uplinks: Vec<InterfaceName>,
    view: NodeView,
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
        Self { pods, names, uplinks: config.uplinks.clone(), view, wiring, has_table: false }
    }

    /// The pods' addresses are now as this table has them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update of the programs' maps.
    pub fn table(&mut self, table: &PolicyTable, dataplane: &mut Dataplane) -> Result<()> {
        for (pod, name) in self.pods.iter_mut().zip(&self.names) {
            let known = table.local_pods().find(|known| known.name() == name);
            if known.is_none() {
                warn!(pod = %name, interface = %pod.interface, "no running pod of this name in the manifests");
            }
            pod.addresses = known.map(|known| known.addresses().to_vec()).unwrap_or_default();
        }
        self.has_table = true;
        self.publish(dataplane)
    }

    /// The kernel's links, routes or neighbours are now these.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update of the programs' maps.
    pub fn view(&mut self, view: NodeView, dataplane: &mut Dataplane) -> Result<()> {
        self.view = view;
        self.publish(dataplane)
    }

    /// A pod has shown its MAC address. The first one stays.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an update of the programs' maps.
    pub fn mac_seen(&mut self, port: PortId, mac: MacAddr, dataplane: &mut Dataplane) -> Result<()> {
        let Some(pod) = self.pods.get_mut(usize::from(port.0)).filter(|pod| pod.mac.is_none()) else {
            return Ok(());
        };
        info!(interface = %pod.interface, %mac, "pinned the pod's MAC address");
        pod.mac = Some(mac);
        self.publish(dataplane)
    }

    /// Whom to solicit: by interface and address.
    #[must_use]
    pub fn missing(&self) -> Vec<(u32, Address)> {
        self.view.missing(&self.pods, &self.uplinks).into_iter().collect()
    }

    /// The gateways behind the uplinks, whom the kernel should keep looking after.
    #[must_use]
    pub fn gateways(&self) -> Vec<(u32, Address)> {
        self.view.gateways(&self.uplinks).into_iter().collect()
    }

    /// How many pods can be reached: their address and MAC address are known.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.pods.iter().filter(|pod| pod.mac.is_some() && !pod.addresses.is_empty()).count()
    }

    /// Frees old wirings that no worker holds any more.
    pub fn collect(&mut self) {
        self.wiring.collect();
    }

    fn publish(&mut self, dataplane: &mut Dataplane) -> Result<()> {
        for pod in self.pods.iter_mut().filter(|pod| pod.mac.is_none()) {
            pod.mac = self.view.mac_of(pod);
            if let Some(mac) = pod.mac {
                info!(interface = %pod.interface, %mac, "pinned the pod's MAC address from the kernel's neighbours");
            }
        }
        if !self.has_table {
            return Ok(());
        }
        // What may go to the kernel follows the wiring: an address that a pod has lost is refused by the
        // engine first, one that it has gained is known to the engine before the kernel sees it.
        let wiring = wire(&self.view, &self.pods, &self.uplinks);
        if self.wiring.current().is_some_and(|current| *current == wiring) {
            // The maps hold nothing that the wiring does not: they are as they should be.
            return Ok(());
        }
        self.wiring.publish(wiring);
        for (port, pod) in (0..).map(PortId).zip(&self.pods) {
            dataplane.set_mac(port, pod.mac)?;
            dataplane.steering.set_pod_addresses(dataplane.ifindex(port), &pod.addresses)?;
        }
        let local: Vec<Address> = self.pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        dataplane.steering.set_local_addresses(&local)?;
        let node: Vec<Address> = self.view.node_addresses(&self.pods).into_iter().collect();
        Ok(dataplane.steering.set_node_addresses(&node)?)
    }
}
