//! The cluster of a test as its steps change it.

use std::collections::HashMap;
use std::sync::Arc;

use manifest::{Diagnostic, Object};
use policy::model::{Cluster, Labels, NetworkPolicy, ObjectName};

/// One change of a step.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Exactly these policies.
    Policies(Vec<NetworkPolicy>),
    /// One object more, or another one in the place of its namesake.
    Put(Box<Object>),
    /// One object less.
    Delete {
        /// Where that is written.
        at: Diagnostic,
        /// Which.
        object: Key,
    },
    /// Other labels.
    Label {
        /// Where that is written.
        at: Diagnostic,
        /// Whose: a pod or a namespace.
        object: Key,
        /// Labels to set.
        set: Labels,
        /// Keys to remove.
        remove: Vec<String>,
    },
}

/// The kind of an object, and its name within the kind.
pub(super) type Key = (&'static str, String);

/// A cluster and where in it each object is.
#[derive(Debug)]
pub(super) struct State {
    cluster: Arc<Cluster>,
}

impl State {
    pub(super) const fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Makes the changes of one step. What names nothing is told at its place.
    pub(super) fn change(&mut self, changes: &[Change]) -> Result<(), Diagnostic> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut index = Index::of(&self.cluster);
        let cluster = Arc::make_mut(&mut self.cluster);
        for change in changes {
            match change {
                Change::Policies(policies) => {
                    cluster.policies.clone_from(policies);
                    index = Index::of(cluster);
                }
                Change::Put(object) => index.put(cluster, object),
                Change::Delete { at, object } => {
                    if !index.delete(cluster, object) {
                        return Err(unknown(at, object));
                    }
                }
                Change::Label { at, object, set, remove } => {
                    let Some(labels) = index.labels(cluster, object) else { return Err(unknown(at, object)) };
                    for key in remove {
                        if labels.remove(key).is_none() {
                            let message = format!("{} {} has no label `{key}`", object.0, object.1);
                            return Err(Diagnostic { code: "no-such-label", message, ..at.clone() });
                        }
                    }
                    labels.extend(set.clone());
                }
            }
        }
        Ok(())
    }
}

fn unknown(at: &Diagnostic, (kind, name): &Key) -> Diagnostic {
    let message = format!("there is no {kind} {name} in this step");
    Diagnostic { code: "no-such-object", message, ..at.clone() }
}

/// Where each object of a cluster is.
struct Index(HashMap<Key, usize>);

impl Index {
    fn of(cluster: &Cluster) -> Self {
        let named = |kind, name: &ObjectName| (kind, name.to_string());
        let mut places = HashMap::new();
        places.extend(cluster.namespaces.iter().enumerate().map(|(i, n)| (("Namespace", n.name.clone()), i)));
        places.extend(cluster.nodes.iter().enumerate().map(|(i, n)| (("Node", n.name.clone()), i)));
        places.extend(cluster.pods.iter().enumerate().map(|(i, pod)| (named("Pod", &pod.name), i)));
        let policies = cluster.policies.iter().enumerate();
        places.extend(policies.map(|(i, policy)| (named("NetworkPolicy", &policy.name), i)));
        Self(places)
    }

    fn put(&mut self, cluster: &mut Cluster, object: &Object) {
        fn put<T>(items: &mut Vec<T>, item: T, at: &mut HashMap<Key, usize>, key: Key) {
            let index = *at.entry(key).or_insert(items.len());
            if index < items.len() {
                items[index] = item;
            } else {
                items.push(item);
            }
        }
        let key = (object.kind(), object.name());
        match object.clone() {
            Object::Namespace(namespace) => put(&mut cluster.namespaces, namespace, &mut self.0, key),
            Object::Pod(pod) => put(&mut cluster.pods, pod, &mut self.0, key),
            Object::Node(node) => put(&mut cluster.nodes, node, &mut self.0, key),
            Object::NetworkPolicy(policy) => put(&mut cluster.policies, policy, &mut self.0, key),
        }
    }

    /// Whether the object was there.
    fn delete(&mut self, cluster: &mut Cluster, key: &Key) -> bool {
        let Some(index) = self.0.remove(key) else { return false };
        // The last one takes the place, so that the others stay where they are.
        let moved = match key.0 {
            "Namespace" => {
                cluster.namespaces.swap_remove(index);
                cluster.namespaces.get(index).map(|namespace| namespace.name.clone())
            }
            "Node" => {
                cluster.nodes.swap_remove(index);
                cluster.nodes.get(index).map(|node| node.name.clone())
            }
            "Pod" => {
                cluster.pods.swap_remove(index);
                cluster.pods.get(index).map(|pod| pod.name.to_string())
            }
            _ => {
                cluster.policies.swap_remove(index);
                cluster.policies.get(index).map(|policy| policy.name.to_string())
            }
        };
        if let Some(name) = moved {
            self.0.insert((key.0, name), index);
        }
        true
    }

    fn labels<'c>(&self, cluster: &'c mut Cluster, key: &Key) -> Option<&'c mut Labels> {
        let index = *self.0.get(key)?;
        match key.0 {
            "Namespace" => Some(&mut cluster.namespaces[index].labels),
            _ => Some(&mut cluster.pods[index].labels),
        }
    }
}
