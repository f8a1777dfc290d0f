//! What the agent needs of a mode: the packet's half of this node, whatever carries the packets.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use engine::shared::{Owner, Shared};
use engine::wiring::{PortId, Wiring};
use table::{PolicyTable, Publisher};

use crate::admin::snapshot::{self, Repairs, Role};
use crate::config::{Config, PodPort};
use crate::instance::Instance;
use crate::interface::InterfaceName;
use crate::links::{NodeLinks, NodeView, PodLink};
use crate::workers::Workers;

/// What a plane begins with.
pub struct Beginning<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Where links and maps are pinned.
    pub pins: &'a Path,
    /// The node's links as they are.
    pub view: &'a NodeView,
    /// To ask for changes of links.
    pub links: &'a NodeLinks,
    /// The right to interfaces.
    pub claims: &'a mut Instance,
    /// Where the workers get their policy from.
    pub table: &'a mut Publisher<PolicyTable>,
    /// Where the workers get their picture of the node from.
    pub wiring: &'a mut Publisher<Wiring>,
}

/// What the kernel's programs are to be told.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The node's links.
    pub view: &'a NodeView,
    /// The pods behind the ports, in their order.
    pub pods: &'a [PodLink],
}

/// The packet's half of a mode.
///
/// A port's life, as far as both sides of the agent have a part in it: [`follow`](Self::follow) says which interfaces
/// are there, the wiring is published, and [`steer`](Self::steer) tells the programs.
#[expect(async_fn_in_trait, reason = "the agent awaits these in its own task, and asks for no Send")]
pub trait Plane: Sized {
    /// The programs, loaded and attached to nothing.
    type Programs;

    /// Loads the programs, which takes more privileges than all that comes later.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn load(config: &Config, pins: &Path) -> Result<Self::Programs>;

    /// The interfaces that run a predecessor's programs: what they may do goes on without a gap.
    ///
    /// # Errors
    ///
    /// The pins cannot be read.
    fn already_ready(config: &Config, view: &NodeView, pins: &Path) -> Result<BTreeSet<u32>>;

    /// Opens sockets and starts the workers.
    ///
    /// # Errors
    ///
    /// What the system refuses, in words that say what to do.
    async fn start(programs: Self::Programs, beginning: Beginning<'_>) -> Result<Self>;

    /// The workers.
    fn workers(&self) -> &Workers;

    /// The workers, to be stopped.
    fn workers_mut(&mut self) -> &mut Workers;

    /// What the workers share.
    fn shared(&self) -> &Arc<Shared>;

    /// What was mended since the start.
    fn repairs(&self) -> Repairs;

    /// The same, to count one more.
    fn repairs_mut(&mut self) -> &mut Repairs;

    /// The interface of a port, while it is claimed.
    fn ifindex(&self, port: PortId) -> Option<u32>;

    /// The interfaces that run their programs, by index: they may be let through. Those of pods; and uplinks, where they
    /// run programs for what the kernel forwards.
    fn ready(&self) -> BTreeSet<u32>;

    /// Whether a port waits for what may be free in a moment: then [`follow`](Self::follow) soon again.
    fn is_waiting(&self) -> bool;

    /// Brings every port in step with the links as they are now, and mends what has drifted.
    fn follow(&mut self, view: &NodeView, claims: &mut Instance);

    /// A new policy table is in force, or the wiring has changed.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn renew(&mut self, wiring: &Wiring) -> Result<()>;

    /// The table that [`renew`](Self::renew) goes by from now on.
    fn table(&mut self, table: &Arc<PolicyTable>);

    /// Makes the programs' maps hold what they should; tells whether they did not.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn steer(&mut self, known: Known<'_>) -> Result<bool>;

    /// Mends links that are no port's; when links have changed.
    async fn keep(&mut self, links: &NodeLinks);

    /// Mends all that is no port's; every two seconds. What cannot be mended is told.
    async fn inspect(&mut self, links: &NodeLinks);

    /// Has what is over forgotten, twice a second.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn upkeep(&mut self, round: u32) -> Result<()>;

    /// Takes away what `on_exit: detach` does not leave, besides the programs of the ports.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    async fn clear_away(self, links: &NodeLinks) -> Result<()>;

    /// How the ports are, in the order of [`sockets`](Self::sockets), without what workers say of their queues.
    fn ports(&self, config: &Config, pods: &[PodLink]) -> Vec<snapshot::Port>;

    /// Who drives the sockets of each of these ports, where it has any.
    fn sockets(&self) -> Vec<Option<Owner>>;

    /// What only inline mode has to tell.
    fn inline(&self) -> Option<snapshot::Inline>;
}

/// A port as it is shown, as far as all modes know it alike; `behind` and `pod` are for a pod's.
pub(crate) fn shown(
    interface: &InterfaceName,
    ifindex: Option<u32>,
    behind: Option<&PodPort>,
    pod: Option<&PodLink>,
) -> snapshot::Port {
    let addresses = pod.map(|pod| pod.addresses.iter().map(ToString::to_string).collect());
    snapshot::Port {
        interface: interface.to_string(),
        ifindex: ifindex.unwrap_or(0),
        role: if behind.is_some() { Role::Pod } else { Role::Uplink },
        pod: behind.map(|port| port.pod.to_string()),
        mac: pod.and_then(|pod| pod.mac).map(|mac| mac.to_string()),
        addresses: addresses.unwrap_or_default(),
        ..snapshot::Port::default()
    }
}
