//! The lab itself: node, pods and outside as namespaces of this machine.

mod places;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use flow::MacAddr;
use policy::model::ObjectName;

use self::places::{Places, uplink_name};
use crate::error::Error;
use crate::links::{self, PodLink};
use crate::netns::{Identity, Namespace};
use crate::state::{self, State};
use crate::topology::{Family, Host, Place, Topology, check_name};

/// A lab that is up. It goes down when dropped, unless it is persistent.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    state: State,
    node: Namespace,
    outside: Namespace,
    pods: Vec<LabPod>,
    uplink: String,
    bpffs: PathBuf,
    persistent: bool,
    /// Veth pairs made since the lab came up.
    replugged: AtomicU32,
}

/// A pod of the lab's node.
#[derive(Debug)]
pub struct LabPod {
    /// Namespace and name of the Pod object.
    pub name: ObjectName,
    /// The pod's network namespace. Its interface is `eth0`.
    pub namespace: Namespace,
    /// The node's side of the pod's veth pair.
    pub interface: String,
    /// The MAC address of the pod's `eth0`.
    pub pod_mac: MacAddr,
    /// The MAC address of the node's side: the pod's gateway.
    pub host_mac: MacAddr,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

impl LabPod {
    fn link(&self) -> PodLink<'_> {
        PodLink {
            number: 0,
            interface: &self.interface,
            host_mac: self.host_mac,
            pod_mac: self.pod_mac,
            namespace: self.namespace.name(),
            addresses: &self.addresses,
        }
    }
}

impl Lab {
    /// Builds the lab. What a dead predecessor of the same name left, or a persistent one, is removed first.
    ///
    /// # Errors
    /// Without root or iproute2, for a topology that cannot be built, while a lab of this name is in use, and
    /// where something of its name exists that no lab made. What was built until then is removed.
    pub fn up(topology: &Topology) -> Result<Self, Error> {
        topology.check()?;
        let mut state = State::create(&topology.name)?;
        let built = state.mount_bpffs().and_then(|bpffs| {
            let mut make = |name: &str| Namespace::create(name, |identity| state.namespace(name, identity));
            let places = Places::with(topology, &mut make)?;
            places.join(topology)?;
            Ok((places, bpffs))
        });
        match built {
            Ok((places, bpffs)) => Ok(Self::of(topology, state, places, bpffs, false)),
            Err(error) => {
                let _first_error_counts = state::remove(&topology.name);
                Err(error)
            }
        }
    }

    /// The lab that another process left standing. It stays when this value is dropped.
    ///
    /// # Errors
    /// When there is none of this name, or it was built from another topology.
    pub fn open(topology: &Topology) -> Result<Self, Error> {
        topology.check()?;
        let (state, record) = State::open(&topology.name)?;
        let mut find = |name: &str| {
            let known = record.namespaces.iter().find(|(known, _)| known == name);
            let identity: Option<Identity> = known.map(|(_, identity)| *identity);
            let other = || Error::Topology(format!("lab {} was built from another one", topology.name));
            Namespace::open(name, identity.ok_or_else(other)?)
        };
        let places = Places::with(topology, &mut find)?;
        let bpffs = state::bpffs_of(&topology.name);
        Ok(Self::of(topology, state, places, bpffs, true))
    }

    /// A name that no other lab of this machine has, for tests that run side by side.
    #[must_use]
    pub fn unique() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let digits = |mut number: u32, width: usize| {
            let mut text = Vec::new();
            while number > 0 || text.len() < width {
                text.push(char::from_digit(number % 36, 36).unwrap_or('0'));
                number /= 36;
            }
            text.into_iter().rev().collect::<String>()
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % (36 * 36);
        // Process numbers stay below 2^22 (proc(5), pid_max): five digits.
        format!("t{}{}", digits(process::id(), 1), digits(number, 2))
    }

    /// The names of the labs that stand on this machine.
    #[must_use]
    pub fn names() -> Vec<String> {
        state::names()
    }

    /// Removes the lab of this name, whoever brought it up, with the processes that run in its namespaces.
    /// Whether there was one.
    ///
    /// # Errors
    /// Without root.
    pub fn remove(name: &str) -> Result<bool, Error> {
        check_name(name)?;
        state::remove(name)
    }

    /// Takes the lab down: the processes in its namespaces, the namespaces, its bpffs and its state.
    ///
    /// # Errors
    /// When something of it could not be removed.
    pub fn down(mut self) -> Result<(), Error> {
        self.persistent = true;
        state::remove(&self.topology.name).map(drop)
    }

    /// Leaves the lab standing when this value is dropped and when the process ends.
    ///
    /// # Errors
    /// When that cannot be noted in the lab's state.
    pub fn persist(&mut self) -> Result<(), Error> {
        if !self.persistent {
            self.state.persistent()?;
            self.persistent = true;
        }
        Ok(())
    }

    /// Gives the outside further hosts, while the lab stands.
    ///
    /// # Errors
    /// For hosts that the topology could not have had from the start.
    pub fn add_outside(&mut self, hosts: Vec<Host>) -> Result<(), Error> {
        let addresses: Vec<IpAddr> = hosts.iter().flat_map(|host| host.addresses.clone()).collect();
        let mut topology = self.topology.clone();
        topology.outside.extend(hosts);
        topology.check()?;
        links::ip(&self.outside, &links::hosts(&addresses))?;
        self.topology = topology;
        Ok(())
    }

    /// Deletes the veth pair of a pod, as when its sandbox is torn down. Sockets in the pod stay.
    ///
    /// # Errors
    /// When it is not there.
    pub fn unplug(&self, pod: &LabPod) -> Result<(), Error> {
        links::ip(&self.node, &format!("link delete {}\n", pod.interface))
    }

    /// Makes the veth pair of a pod anew, with the names and addresses of before and an index that no interface has
    /// had. The pod knows its gateways: what is sent in it goes out at once.
    ///
    /// # Errors
    /// When it is there.
    pub fn plug(&self, pod: &LabPod) -> Result<(), Error> {
        let anew = 1 + self.replugged.fetch_add(1, Ordering::Relaxed) as usize;
        let index = links::FIRST_INDEX + self.pods.len() + anew;
        let batch = links::pod_link(&pod.link(), index, &self.topology.addresses(&Place::Node));
        links::ip(&self.node, &batch)?;
        links::ip(&pod.namespace, &(links::pod(&pod.addresses) + &links::known_gateways(pod.host_mac)))
    }

    /// Sets one end of a pod's veth pair down, or up again with all that it had: the node's end, or the pod's.
    ///
    /// # Errors
    /// When the link is not there.
    pub fn set_link(&self, pod: &LabPod, node_end: bool, up: bool) -> Result<(), Error> {
        match (node_end, up) {
            (true, true) => {
                let node = self.topology.addresses(&Place::Node);
                links::ip(&self.node, &links::pod_link_up(&pod.link(), &node))
            }
            (true, false) => links::ip(&self.node, &format!("link set {} down\n", pod.interface)),
            (false, true) => links::ip(&pod.namespace, &links::pod(&pod.addresses)),
            (false, false) => links::ip(&pod.namespace, "link set eth0 down\n"),
        }
    }

    /// What it was built from.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.topology.name
    }

    /// The node's namespace: the product runs here.
    #[must_use]
    pub const fn node(&self) -> &Namespace {
        &self.node
    }

    /// The namespace of all hosts outside.
    #[must_use]
    pub const fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// The pods of the node, in the topology's order.
    #[must_use]
    pub fn pods(&self) -> &[LabPod] {
        &self.pods
    }

    /// One of them.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&LabPod> {
        self.pods.iter().find(|pod| pod.name.namespace == namespace && pod.name.name == name)
    }

    /// The node's interface towards the outside.
    #[must_use]
    pub fn uplink(&self) -> &str {
        &self.uplink
    }

    /// A bpffs of the lab's own, for the product's pins: they go with the lab.
    #[must_use]
    pub const fn bpffs(&self) -> &PathBuf {
        &self.bpffs
    }

    /// Everybody: pods, hosts outside, the node.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        self.topology.places()
    }

    /// The namespace in which somebody's sockets live. Pods of other nodes are outside.
    ///
    /// # Errors
    /// When there is nobody of that name.
    pub fn namespace(&self, place: &Place) -> Result<&Namespace, Error> {
        let known = !self.topology.addresses(place).is_empty();
        let pod =
            |name: &ObjectName| self.pods.iter().find(|pod| pod.name == *name).map(|pod| &pod.namespace);
        match place {
            Place::Node => Some(&self.node),
            Place::Outside(_) => Some(&self.outside),
            Place::Pod(name) => Some(pod(name).unwrap_or(&self.outside)),
        }
        .filter(|_| known)
        .ok_or_else(|| Error::NoSuchPlace(place.clone()))
    }

    /// Somebody's first address of a family.
    ///
    /// # Errors
    /// When there is nobody of that name, or no such address.
    pub fn address(&self, place: &Place, family: Family) -> Result<IpAddr, Error> {
        let addresses = self.topology.addresses(place);
        let found = addresses.into_iter().find(|address| Family::of(address) == family);
        found.ok_or_else(|| Error::NoSuchPlace(place.clone()))
    }

    /// `node:`, `ports:` and `uplinks:` of the product's configuration for this lab, as YAML.
    #[must_use]
    pub fn config(&self, with_macs: bool) -> String {
        let mut text = format!("node: {:?}\nports:\n", self.topology.node.name);
        for LabPod { name, interface, pod_mac, .. } in &self.pods {
            let _infallible = writeln!(text, "- interface: {interface:?}\n  pod: \"{name}\"");
            if with_macs {
                let _infallible = writeln!(text, "  mac: \"{pod_mac}\"");
            }
        }
        let _infallible = writeln!(text, "uplinks: [{:?}]", self.uplink);
        text
    }

    fn of(topology: &Topology, state: State, places: Places, bpffs: PathBuf, persistent: bool) -> Self {
        let Places { mut node, mut outside, mut pods } = places;
        // From here on the state file decides what is removed, and when.
        node.persist();
        outside.persist();
        pods.iter_mut().for_each(|pod| pod.namespace.persist());
        let uplink = uplink_name(topology);
        Self {
            topology: topology.clone(),
            state,
            node,
            outside,
            pods,
            uplink,
            bpffs,
            persistent,
            replugged: AtomicU32::new(0),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.persistent {
            // Nobody is left to tell; what stays is removed by the next lab.
            let _unreported = state::remove(&self.topology.name);
        }
    }
}
