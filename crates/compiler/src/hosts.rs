//! Addresses of pods and nodes, and which pod owns which.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use hashbrown::HashMap;

use flow::Address;
use policy::model::Phase;

use crate::classes::ClassAt;
use crate::population::{NodeAt, PodAt, Population};

/// All addresses that somebody claims or that a node has.
pub(crate) struct Hosts {
    pub(crate) all: BTreeMap<Address, Host>,
    /// The nodes that have an address.
    pub(crate) nodes: HashMap<Address, Vec<NodeAt>>,
    /// Claimants of addresses that more than one pod claims.
    rivals: HashMap<Address, Vec<PodAt>>,
}

/// One address.
#[derive(Default)]
pub(crate) struct Host {
    /// The only claimant, where there is but one.
    claimant: Option<PodAt>,
    pub(crate) owner: Option<PodAt>,
    /// Its class. A reference.
    pub(crate) class: Option<ClassAt>,
    /// Whether the table has an entry for it.
    pub(crate) written: bool,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        Self { all: BTreeMap::new(), nodes: HashMap::new(), rivals: HashMap::new() }
    }

    /// A pod claims an address.
    pub(crate) fn claim(&mut self, address: Address, pod: PodAt) {
        let host = self.all.entry(address).or_default();
        match (host.claimant, self.rivals.get_mut(&address)) {
            (None, None) => host.claimant = Some(pod),
            (Some(other), _) => {
                host.claimant = None;
                self.rivals.insert(address, vec![other, pod]);
            }
            (None, Some(rivals)) => rivals.push(pod),
        }
    }

    /// A pod gives up its claim.
    pub(crate) fn disclaim(&mut self, address: Address, pod: PodAt) {
        let Some(host) = self.all.get_mut(&address) else { return };
        let Some(rivals) = self.rivals.get_mut(&address) else {
            host.claimant = None;
            return;
        };
        rivals.retain(|&rival| rival != pod);
        if let [last] = rivals[..] {
            host.claimant = Some(last);
            self.rivals.remove(&address);
        }
    }

    /// Who ought to own an address: as `policy::Cluster::owners` has it.
    pub(crate) fn heir(&self, address: Address, population: &Population) -> Option<PodAt> {
        match self.rivals.get(&address) {
            None => self.all.get(&address)?.claimant,
            Some(rivals) => rivals.iter().copied().max_by(|&a, &b| {
                let claim = |pod| claim(pod, population);
                claim(a).cmp(&claim(b))
            }),
        }
    }

    /// A node has an address.
    pub(crate) fn add_node(&mut self, address: Address, node: NodeAt) {
        self.all.entry(address).or_default();
        self.nodes.entry(address).or_default().push(node);
    }

    /// A node has it no more.
    pub(crate) fn remove_node(&mut self, address: Address, node: NodeAt) {
        if let Some(nodes) = self.nodes.get_mut(&address) {
            nodes.retain(|&other| other != node);
            if nodes.is_empty() {
                self.nodes.remove(&address);
            }
        }
    }

    /// Whether nobody has an address any more.
    pub(crate) fn is_deserted(&self, address: Address) -> bool {
        let claimed = self.all.get(&address).is_some_and(|host| host.claimant.is_some());
        !claimed && !self.rivals.contains_key(&address) && !self.nodes.contains_key(&address)
    }

    /// The owner of an address.
    pub(crate) fn owner(&self, address: Address) -> Option<PodAt> {
        self.all.get(&address)?.owner
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> usize {
        /// An address, its list and its place in the index.
        const BUCKET: usize = 80;
        self.all.len() * (size_of::<(Address, Host)>() * 3 / 2)
            + (self.nodes.capacity() + self.rivals.capacity()) * BUCKET
    }
}

/// How good a pod's claim to its addresses is.
fn claim(pod: PodAt, population: &Population) -> impl Ord {
    let key = population.pods.key(pod);
    let namespace = population.namespaces.key(key.namespace);
    population.record(pod).map(|record| {
        (Reverse(record.phase == Phase::Pending), &*record.started, key.uid(), &**namespace, key.name())
    })
}
