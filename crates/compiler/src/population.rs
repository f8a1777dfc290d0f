//! The pods that own addresses, with everything that rules ask about them.

use std::collections::{BTreeMap, BTreeSet};

use flow::{Address, Protocol};
use policy::labels_of;
use policy::model::{Cluster, Labels, Namespace, Namespaces, Pod};
use policy::selector::Selector;
use table::PortRange;

/// Everybody who can be a subject or a peer of a rule.
pub(crate) struct Population<'a> {
    /// By namespace, name and uid.
    pub(crate) residents: Vec<Resident<'a>>,
    namespaces: BTreeMap<&'a str, Labels>,
    addresses: usize,
}

/// A pod that owns at least one address.
pub(crate) struct Resident<'a> {
    pub(crate) pod: &'a Pod,
    /// The addresses that it owns, sorted.
    pub(crate) addresses: Vec<Address>,
}

impl<'a> Population<'a> {
    pub(crate) fn of(cluster: &'a Cluster) -> Self {
        let mut owned: BTreeMap<usize, Vec<Address>> = BTreeMap::new();
        for (address, owner) in cluster.owners() {
            owned.entry(owner).or_default().push(address);
        }
        let mut residents: Vec<_> = owned
            .into_iter()
            .map(|(index, addresses)| Resident { pod: &cluster.pods[index], addresses })
            .collect();
        residents.sort_by_key(|resident| (&resident.pod.name, &resident.pod.uid));
        let named: BTreeSet<_> = residents.iter().map(|pod| pod.pod.name.namespace.as_str()).collect();
        let mut declared: BTreeMap<&str, &Namespace> = BTreeMap::new();
        for namespace in &cluster.namespaces {
            declared.entry(&namespace.name).or_insert(namespace);
        }
        let namespaces =
            named.into_iter().map(|name| (name, labels_of(name, declared.get(name).copied()))).collect();
        let addresses = residents.iter().map(|resident| resident.addresses.len()).sum();
        Self { residents, namespaces, addresses }
    }

    /// How many addresses there are.
    pub(crate) const fn addresses(&self) -> usize {
        self.addresses
    }

    /// The addresses of the pods that a peer of a policy in namespace `own` selects.
    pub(crate) fn select(&self, own: &str, namespaces: &Namespaces, pods: &Selector) -> Vec<Address> {
        let selected: BTreeMap<&str, bool> = self
            .namespaces
            .iter()
            .map(|(&name, labels)| match namespaces {
                Namespaces::SameAsPolicy => (name, name == own),
                Namespaces::Matching(selector) => (name, selector.matches(labels)),
            })
            .collect();
        self.residents
            .iter()
            .filter(|resident| selected[resident.pod.name.namespace.as_str()])
            .filter(|resident| pods.matches(&resident.pod.labels))
            .flat_map(|resident| resident.addresses.iter().copied())
            .collect()
    }
}

impl Resident<'_> {
    /// The ports of the pod that have this name.
    pub(crate) fn named(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = PortRange> {
        let named = self.pod.ports.iter().filter(move |port| port.name == name && port.protocol == protocol);
        named.map(move |port| PortRange { protocol, first: port.number, last: port.number })
    }
}
