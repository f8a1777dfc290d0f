//! A cluster as a stream of changes, and what its tables say.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use compiler::{Budget, Change, Compiler, Scope, compile};
use flow::{Epoch, FlowKey};
use policy::Connection;
use policy::model::{Cluster, Namespace, NetworkPolicy, Node, ObjectName, Pod};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use table::PolicyTable;
use testkit::arbitrary::clusters;

/// A cluster by the names of its objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) pods: BTreeMap<(ObjectName, String), Pod>,
    pub(crate) policies: BTreeMap<ObjectName, NetworkPolicy>,
}

/// One thing that may happen, in a cluster that is not known yet.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    what: u8,
    here: Index,
    there: Index,
}

impl Model {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let mut model = Self::default();
        objects(cluster).into_iter().for_each(|change| model.apply(&change));
        model
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster {
            namespaces: self.namespaces.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            pods: self.pods.values().cloned().collect(),
            policies: self.policies.values().cloned().collect(),
        }
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Pod(pod) => drop(self.pods.insert((pod.name.clone(), pod.uid.clone()), pod)),
            Change::PodGone { name, uid } => drop(self.pods.remove(&(name, uid))),
            Change::Namespace(namespace) => {
                drop(self.namespaces.insert(namespace.name.clone(), namespace));
            }
            Change::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
            Change::Node(node) => drop(self.nodes.insert(node.name.clone(), node)),
            Change::NodeGone(name) => drop(self.nodes.remove(&name)),
            Change::Policy(policy) => drop(self.policies.insert(policy.name.clone(), policy)),
            Change::PolicyGone(name) => drop(self.policies.remove(&name)),
        }
    }

    /// What a step is here; `donor` has the objects that come in. Nothing where there is nothing to change.
    pub(crate) fn change(&self, step: &Step, donor: &Cluster) -> Option<Change> {
        let pods = Vec::from_iter(self.pods.values().cloned());
        let pod = || (!pods.is_empty()).then(|| step.here.get(&pods).clone());
        let given = || (!donor.pods.is_empty()).then(|| step.there.get(&donor.pods).clone());
        let mine = || Vec::from_iter(self.policies.keys());
        Some(match step.what {
            0 | 1 => Change::Pod(Pod { labels: given()?.labels, ..pod()? }),
            2 => Change::Pod(Pod { ports: given()?.ports, node: given()?.node, ..pod()? }),
            3 => Change::Pod(Pod { phase: given()?.phase, started: given()?.started, ..pod()? }),
            4 | 5 => Change::Pod(given()?),
            6 | 7 => Change::PodGone { name: pod()?.name, uid: pod()?.uid },
            8..=10 if !donor.policies.is_empty() => Change::Policy(step.there.get(&donor.policies).clone()),
            11 if !mine().is_empty() => Change::PolicyGone((*step.here.get(&mine())).clone()),
            12 | 13 if !donor.namespaces.is_empty() => {
                Change::Namespace(step.there.get(&donor.namespaces).clone())
            }
            14 => Change::NamespaceGone(self.namespaces.keys().next()?.clone()),
            15 if !donor.nodes.is_empty() => Change::Node(step.there.get(&donor.nodes).clone()),
            16 => Change::NodeGone(self.nodes.keys().next()?.clone()),
            _ => return None,
        })
    }

    /// The changes that make this cluster from another one.
    pub(crate) fn changes_from(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone = before.namespaces.keys().filter(|name| !self.namespaces.contains_key(*name));
        changes.extend(gone.cloned().map(Change::NamespaceGone));
        let gone = before.nodes.keys().filter(|name| !self.nodes.contains_key(*name));
        changes.extend(gone.cloned().map(Change::NodeGone));
        let gone = before.pods.keys().filter(|key| !self.pods.contains_key(*key));
        changes.extend(gone.cloned().map(|(name, uid)| Change::PodGone { name, uid }));
        let gone = before.policies.keys().filter(|name| !self.policies.contains_key(*name));
        changes.extend(gone.cloned().map(Change::PolicyGone));
        changes.extend(objects(&self.cluster()));
        changes
    }
}

/// All objects of a cluster.
pub(crate) fn objects(cluster: &Cluster) -> Vec<Change> {
    let namespaces = cluster.namespaces.iter().cloned().map(Change::Namespace);
    let nodes = cluster.nodes.iter().cloned().map(Change::Node);
    let policies = cluster.policies.iter().cloned().map(Change::Policy);
    let pods = cluster.pods.iter().cloned().map(Change::Pod);
    namespaces.chain(nodes).chain(policies).chain(pods).collect()
}

/// A cluster, another one that gives new objects, and what happens: some steps at a time.
pub(crate) fn walks(most: usize) -> impl Strategy<Value = (Cluster, Cluster, Vec<Vec<Step>>)> {
    let step =
        (0..17_u8, any::<Index>(), any::<Index>()).prop_map(|(what, here, there)| Step { what, here, there });
    let several = prop_oneof![3 => vec(step.clone(), 1), 1 => vec(step, 0..5)];
    (clusters(), clusters(), vec(several, 1..=most))
}

pub(crate) fn new_compiler() -> Compiler {
    Compiler::new(Scope::AllPods, Budget::default())
}

pub(crate) fn from_scratch(cluster: &Cluster) -> PolicyTable {
    compile(cluster, &Scope::AllPods).expect("within the budget")
}

pub(crate) fn key(connection: &Connection) -> FlowKey {
    FlowKey::new(connection.protocol, (connection.src, 40_000), (connection.dst, connection.port))
}

/// The epochs of the judged pods, by name and uid.
pub(crate) fn epochs(table: &PolicyTable) -> BTreeMap<(String, String), Epoch> {
    let epoch = |pod: &table::LocalPod| table.epoch_of(pod.addresses()[0]).expect("it is judged");
    table.local_pods().map(|pod| ((pod.name().to_string(), pod.uid().to_owned()), epoch(pod))).collect()
}
