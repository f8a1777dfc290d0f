//! Whose address it is, and which labels a namespace has.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use flow::Address;

use crate::model::{Cluster, Labels, Namespace, Phase, Pod};

/// The label that names a namespace.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

impl Cluster {
    /// Which pod owns an address, as an index into [`pods`](Self::pods).
    ///
    /// An ended pod owns none: its `status.podIP` stays in the API while another pod may already have the
    /// address. A pod in its node's network owns none: the address is the node's. Where two pods claim one,
    /// running wins over pending, then the one that started last, then the greater uid and name, so that the
    /// order of the objects decides nothing.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<Address, usize> {
        let mut owners = BTreeMap::new();
        for (index, pod) in self.pods.iter().enumerate() {
            if pod.phase == Phase::Ended || pod.host_network {
                continue;
            }
            for &address in &pod.addresses {
                let owner = owners.entry(address).or_insert(index);
                if claim(&self.pods[*owner]) < claim(pod) {
                    *owner = index;
                }
            }
        }
        owners
    }

    /// The labels of a namespace.
    ///
    /// > The Kubernetes control plane sets an immutable label `kubernetes.io/metadata.name` on all namespaces,
    /// > the value of the label is the namespace name.
    ///
    /// So it comes from the name, whatever the written labels claim. A namespace that nobody declared has no
    /// other.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &str) -> Labels {
        labels_of(namespace, self.namespaces.iter().find(|declared| declared.name == namespace))
    }

    /// The addresses of the node on which a pod runs; none while it is unscheduled or the node is unknown.
    pub fn node_addresses(&self, node: &str) -> impl Iterator<Item = Address> {
        let known = self.nodes.iter().filter(move |known| !node.is_empty() && known.name == node);
        known.flat_map(|known| known.addresses.iter().copied())
    }
}

/// The labels of the namespace `name`, as [`Cluster::namespace_labels`] has them, where its object is at hand.
#[must_use]
pub fn labels_of(name: &str, declared: Option<&Namespace>) -> Labels {
    let mut labels = declared.map_or_else(Labels::new, |declared| declared.labels.clone());
    labels.insert(METADATA_NAME.to_owned(), name.to_owned());
    labels
}

/// How good a pod's claim to its addresses is. Start times as Kubernetes writes them (UTC, whole seconds) sort
/// as text.
fn claim(pod: &Pod) -> impl Ord {
    (Reverse(pod.phase == Phase::Pending), pod.started.clone(), pod.uid.clone(), pod.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    const SHARED: Address = Address::v4([10, 0, 1, 1]);

    fn pod(name: &str, started: &str) -> Pod {
        Pod {
            name: ObjectName::new("x", name),
            uid: String::new(),
            labels: Labels::new(),
            node: "n".into(),
            addresses: vec![SHARED],
            host_network: false,
            phase: Phase::Running,
            started: started.into(),
            ports: Vec::new(),
        }
    }

    /// The owner of the shared address, which no order of the pods may change.
    fn owner(mut pods: Vec<Pod>) -> Option<String> {
        let owner_of = |pods: &[Pod]| {
            let cluster = Cluster { pods: pods.to_vec(), ..Cluster::default() };
            cluster.owners().get(&SHARED).map(|&index| cluster.pods[index].name.name.clone())
        };
        let owner = owner_of(&pods);
        pods.reverse();
        assert_eq!(owner_of(&pods), owner, "the order of the pods matters");
        owner
    }

    #[test]
    fn the_newest_running_pod_owns_an_address_that_two_claim() {
        let old = pod("old", "2024-05-01T10:00:00Z");
        let new = pod("new", "2024-05-01T10:00:01Z");
        assert_eq!(owner(vec![old.clone(), new.clone()]).as_deref(), Some("new"));
        let never = pod("never", "");
        assert_eq!(owner(vec![never, old.clone()]).as_deref(), Some("old"));
        let pending = Pod { phase: Phase::Pending, ..new.clone() };
        assert_eq!(owner(vec![old.clone(), pending.clone()]).as_deref(), Some("old"));
        assert_eq!(owner(vec![pending]).as_deref(), Some("new"));
    }

    #[test]
    fn uid_and_name_decide_between_pods_of_one_age() {
        let a = Pod { uid: "2".into(), ..pod("a", "") };
        let b = Pod { uid: "1".into(), ..pod("b", "") };
        assert_eq!(owner(vec![a, b]).as_deref(), Some("a"));
        assert_eq!(owner(vec![pod("a", ""), pod("b", "")]).as_deref(), Some("b"));
    }

    #[test]
    fn ended_and_host_network_pods_own_nothing() {
        let ended = Pod { phase: Phase::Ended, ..pod("ended", "2024-05-02T00:00:00Z") };
        let host = Pod { host_network: true, ..pod("host", "2024-05-02T00:00:00Z") };
        assert_eq!(owner(vec![ended.clone(), host.clone()]), None);
        assert_eq!(owner(vec![ended, host, pod("running", "")]).as_deref(), Some("running"));
    }

    #[test]
    fn the_name_label_comes_from_the_name() {
        let lie = Labels::from([(METADATA_NAME.to_owned(), "y".to_owned()), ("team".into(), "a".into())]);
        let cluster =
            Cluster { namespaces: vec![Namespace { name: "x".into(), labels: lie }], ..Cluster::default() };
        assert_eq!(cluster.namespace_labels("x")[METADATA_NAME], "x");
        assert_eq!(cluster.namespace_labels("x")["team"], "a");
        assert_eq!(
            cluster.namespace_labels("nobody"),
            Labels::from([(METADATA_NAME.to_owned(), "nobody".to_owned())])
        );
    }
}
