//! What is told, as records; and the marks that a new record leaves.
//!
//! Each `put_…` replaces one record and gives back the one before, which keeps its references until it is dropped or
//! put back: so a change is taken back by the same step that made it.

use std::sync::Arc;

use flow::Address;
use policy::model::{NetworkPolicy, Node, ObjectName, Pod};

use crate::intern::Heap as _;
use crate::policies::{DIRECTIONS, Policies, PolicyAt, PolicyKey, PolicyQuery, PolicyRecord, index};
use crate::population::{NamespaceAt, NodeAt, NodeName, PodAt, PodQuery, PodRecord, Population};
use crate::state::State;
use crate::words::Pairs;

/// What an object was before a change.
pub(crate) enum Before {
    Pod(PodAt, Option<PodRecord>),
    Namespace(NamespaceAt, bool, Pairs),
    Node(NodeAt, Option<Arc<[Address]>>),
    Policy(PolicyAt, Option<Arc<PolicyRecord>>),
}

impl State {
    // === pods ===

    /// The place of a pod, new or known. A reference.
    pub(crate) fn place_of_pod(&mut self, pod: &Pod) -> PodAt {
        let namespace = self.namespace(&pod.name.namespace);
        let query = PodQuery { namespace, name: &pod.name.name, uid: &pod.uid };
        if let Some(at) = self.population.pods.find(&query) {
            self.population.pods.retain(at);
            self.population.namespaces.release(namespace);
            return at;
        }
        let at = self.population.pods.acquire(query.key()).0;
        self.population.pods.value_mut(at).judged = self.scope.judges(&pod.name);
        at
    }

    /// Takes in what a pod is, unless it is known as it is. Takes over the reference to its place.
    pub(crate) fn pod(&mut self, at: PodAt, pod: &Pod) -> Option<Before> {
        let record = self.pod_record(self.population.pods.key(at).namespace, pod);
        let known = self.population.record(at) == Some(&record);
        let before = if known {
            self.release_pod(&record);
            None
        } else {
            Some(Before::Pod(at, self.put_pod(at, Some(record))))
        };
        self.population.pods.release(at);
        before
    }

    /// Takes away a pod.
    pub(crate) fn pod_gone(&mut self, name: &ObjectName, uid: &str) -> Option<Before> {
        let namespace = self.population.namespaces.find(name.namespace.as_str())?;
        let at = self.population.pods.find(&PodQuery { namespace, name: &name.name, uid })?;
        self.remove_pod(at)
    }

    /// Takes away the pod at a place.
    pub(crate) fn remove_pod(&mut self, at: PodAt) -> Option<Before> {
        self.population.record(at)?;
        Some(Before::Pod(at, self.put_pod(at, None)))
    }

    /// The record of a pod.
    fn pod_record(&mut self, namespace: NamespaceAt, pod: &Pod) -> PodRecord {
        let (identity, new) = self.population.identity(&mut self.words, namespace, &pod.labels);
        if new {
            self.dirty.identities.mark(identity);
        }
        let node = self.population.nodes.acquire_as(pod.node.as_str(), || NodeName(pod.node.as_str().into()));
        let mut addresses = pod.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let record = PodRecord {
            identity,
            node,
            ports: self.ports.of_pod(&mut self.words, &pod.ports),
            addresses: addresses.into(),
            started: pod.started.as_str().into(),
            phase: pod.phase,
            host_network: pod.host_network,
        };
        self.population.heap += record.heap();
        record
    }

    fn put_pod(&mut self, at: PodAt, record: Option<PodRecord>) -> Option<PodRecord> {
        let Self { population, hosts, dirty, .. } = self;
        let before = population.pods.value_mut(at).record.take();
        if let Some(before) = &before {
            population.leave(at, before.identity);
            for &address in before.claims() {
                hosts.disclaim(address, at);
                dirty.claims.push(address);
            }
        }
        if let Some(record) = &record {
            population.join(at, record.identity);
            for &address in record.claims() {
                hosts.claim(address, at);
                dirty.claims.push(address);
            }
        }
        match (before.is_some(), record.is_some()) {
            (false, true) => population.pods.retain(at),
            (true, false) => population.pods.release(at),
            _ => {}
        }
        population.pods.value_mut(at).record = record;
        dirty.residents.mark(at);
        before
    }

    fn release_pod(&mut self, record: &PodRecord) {
        self.population.heap -= record.heap();
        self.population.release(record, &mut self.ports);
    }

    // === namespaces ===

    /// Refers to a namespace.
    fn namespace(&mut self, name: &str) -> NamespaceAt {
        let (at, new) = self.population.namespace(&mut self.words, name);
        if new {
            self.dirty.namespaces.mark(at);
        }
        at
    }

    /// Takes in a declared namespace, unless it is known as it is.
    pub(crate) fn declare(&mut self, namespace: policy::model::Namespace) -> (NamespaceAt, Option<Before>) {
        let at = self.namespace(&namespace.name);
        let name = namespace.name.clone();
        let labels = Population::labels_of(&mut self.words, &name, Some(namespace.labels));
        let slot = self.population.namespaces.value(at);
        let before = if slot.declared && slot.labels == labels {
            self.words.release_pairs(&labels);
            None
        } else {
            let (declared, labels) = self.put_namespace(at, true, labels);
            Some(Before::Namespace(at, declared, labels))
        };
        self.population.namespaces.release(at);
        (at, before)
    }

    /// Takes away the declaration of a namespace.
    pub(crate) fn namespace_gone(&mut self, name: &str) -> Option<Before> {
        let at = self.population.namespaces.find(name)?;
        if !self.population.namespaces.value(at).declared {
            return None;
        }
        let labels = Population::labels_of(&mut self.words, name, None);
        let (declared, labels) = self.put_namespace(at, false, labels);
        Some(Before::Namespace(at, declared, labels))
    }

    fn put_namespace(&mut self, at: NamespaceAt, declared: bool, labels: Pairs) -> (bool, Pairs) {
        let slot = self.population.namespaces.value_mut(at);
        let before =
            (std::mem::replace(&mut slot.declared, declared), std::mem::replace(&mut slot.labels, labels));
        match (before.0, declared) {
            (false, true) => self.population.namespaces.retain(at),
            (true, false) => self.population.namespaces.release(at),
            _ => {}
        }
        self.dirty.namespaces.mark(at);
        before
    }

    // === nodes ===

    /// Takes in a node, unless it is known as it is. A node without a name is nobody's.
    pub(crate) fn node(&mut self, node: &Node) -> Option<(NodeAt, Option<Before>)> {
        if node.name.is_empty() {
            return None;
        }
        let at = self.population.nodes.acquire_as(node.name.as_str(), || NodeName(node.name.as_str().into()));
        let mut addresses = node.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let known = self.population.nodes.value(at).addresses.as_deref() == Some(addresses.as_slice());
        let before = (!known).then(|| Before::Node(at, self.put_node(at, Some(addresses.into()))));
        self.population.nodes.release(at);
        Some((at, before))
    }

    /// Takes away a node.
    pub(crate) fn node_gone(&mut self, name: &str) -> Option<Before> {
        let at = self.population.nodes.find(name)?;
        self.remove_node(at)
    }

    /// Takes away the node at a place.
    pub(crate) fn remove_node(&mut self, at: NodeAt) -> Option<Before> {
        self.population.nodes.value(at).addresses.as_ref()?;
        Some(Before::Node(at, self.put_node(at, None)))
    }

    fn put_node(&mut self, at: NodeAt, addresses: Option<Arc<[Address]>>) -> Option<Arc<[Address]>> {
        let Self { population, hosts, dirty, .. } = self;
        let before = std::mem::replace(&mut population.nodes.value_mut(at).addresses, addresses.clone());
        for &address in before.iter().flat_map(|addresses| addresses.iter()) {
            hosts.remove_node(address, at);
            dirty.hosts.push(address);
        }
        for &address in addresses.iter().flat_map(|addresses| addresses.iter()) {
            hosts.add_node(address, at);
            dirty.hosts.push(address);
        }
        match (before.is_some(), addresses.is_some()) {
            (false, true) => population.nodes.retain(at),
            (true, false) => population.nodes.release(at),
            _ => {}
        }
        dirty.nodes.mark(at);
        before
    }

    // === policies ===

    /// The place of a policy, new or known. A reference.
    pub(crate) fn place_of_policy(&mut self, policy: &NetworkPolicy) -> PolicyAt {
        let namespace = self.namespace(&policy.name.namespace);
        let query = PolicyQuery { namespace, name: &policy.name.name };
        if let Some(at) = self.policies.all.find(&query) {
            self.policies.all.retain(at);
            self.population.namespaces.release(namespace);
            return at;
        }
        let at = self.policies.all.acquire(PolicyKey { namespace, name: query.name.into() }).0;
        self.population.namespaces.value_mut(namespace).policies.push(at);
        at
    }

    /// Takes in what a policy is, unless it is known as it is. Takes over the reference to its place.
    pub(crate) fn policy(&mut self, at: PolicyAt, policy: &NetworkPolicy) -> Option<Before> {
        let held = self.footprint_beside_the_table().total();
        let namespace = self.policies.all.key(at).namespace;
        let Self { words, population, peers, ports, .. } = self;
        let record = Policies::record(namespace, policy, words, population, peers, ports);
        self.policies.heap += record.heap();
        let known = self.policies.get(at).is_some_and(|known| **known == record);
        let before = if known {
            self.release_policy(&record);
            None
        } else {
            Some(Before::Policy(at, self.put_policy(at, Some(Arc::new(record)))))
        };
        self.policies.all.release(at);
        let grown = self.footprint_beside_the_table().total().saturating_sub(held);
        self.blame(&[at], grown);
        before
    }

    /// Takes away a policy.
    pub(crate) fn policy_gone(&mut self, name: &ObjectName) -> Option<Before> {
        let namespace = self.population.namespaces.find(name.namespace.as_str())?;
        let at = self.policies.all.find(&PolicyQuery { namespace, name: &name.name })?;
        self.remove_policy(at)
    }

    /// Takes away the policy at a place.
    pub(crate) fn remove_policy(&mut self, at: PolicyAt) -> Option<Before> {
        self.policies.get(at)?;
        Some(Before::Policy(at, self.put_policy(at, None)))
    }

    fn put_policy(&mut self, at: PolicyAt, record: Option<Arc<PolicyRecord>>) -> Option<Arc<PolicyRecord>> {
        let Self { words, population, policies, dirty, .. } = self;
        let (key, slot) = policies.all.entry_mut(at);
        let before = std::mem::replace(&mut slot.record, record.clone());
        for record in before.iter().chain(&record) {
            let selector = words.selectors.key(record.subjects);
            for &identity in &population.namespaces.value(key.namespace).identities {
                if !selector.matches(population.labels(identity)) {
                    continue;
                }
                let pods = population.identities.value(identity).pods.iter().copied();
                let subjects = pods.filter(|&pod| population.pods.value(pod).subject.is_some());
                subjects.for_each(|pod| dirty.subjects.mark(pod));
            }
        }
        for direction in DIRECTIONS {
            let [old, new] = [&before, &record].map(|record| record.as_ref()?.rules(direction));
            if old != new {
                slot.rows[index(direction)].iter().for_each(|&row| dirty.rows.mark(row));
            }
        }
        match (before.is_some(), record.is_some()) {
            (false, true) => policies.all.retain(at),
            (true, false) => policies.all.release(at),
            _ => {}
        }
        dirty.policies.mark(at);
        dirty.liveness.mark(at);
        before
    }

    fn release_policy(&mut self, record: &PolicyRecord) {
        let Self { words, peers, ports, policies, .. } = self;
        policies.heap -= record.heap();
        Policies::release(record, words, peers, ports);
    }

    // === taking back ===

    /// Takes back a change.
    pub(crate) fn restore(&mut self, before: Before) {
        match before {
            Before::Pod(at, record) => {
                let put = self.put_pod(at, record);
                self.forget(Before::Pod(at, put));
            }
            Before::Namespace(at, declared, labels) => {
                let (declared, labels) = self.put_namespace(at, declared, labels);
                self.forget(Before::Namespace(at, declared, labels));
            }
            Before::Node(at, addresses) => drop(self.put_node(at, addresses)),
            Before::Policy(at, record) => {
                let put = self.put_policy(at, record);
                self.forget(Before::Policy(at, put));
            }
        }
    }

    /// Lets go of what an object was.
    pub(crate) fn forget(&mut self, before: Before) {
        match before {
            Before::Pod(_, Some(record)) => self.release_pod(&record),
            Before::Namespace(_, _, labels) => self.words.release_pairs(&labels),
            Before::Policy(_, Some(record)) => self.release_policy(&record),
            Before::Pod(_, None) | Before::Node(..) | Before::Policy(_, None) => {}
        }
    }
}
