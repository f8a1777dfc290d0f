//! Who is in the lab: namespaces, pods, the node, and hosts outside.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use flow::Address;
use policy::model::{Cluster, Labels, Namespace, Node, ObjectName, Phase, Pod};

use crate::error::Error;
use crate::manifests::manifests;

/// What a lab is made of.
///
/// Pods of another node than [`Topology::node`] have no port: they are addresses outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// The lab's name: one to eight lower-case letters and digits, the first a letter. All that the lab makes
    /// is called after it, and a second lab of the same name replaces the first.
    pub name: String,
    /// The node and its addresses, which are put on its uplink.
    pub node: Node,
    /// Kubernetes namespaces with their labels.
    pub namespaces: Vec<Namespace>,
    /// Pods. Those without addresses, ended, or in their node's own network have no place in the lab.
    pub pods: Vec<Pod>,
    /// Hosts that are no pods.
    pub outside: Vec<Host>,
}

/// A host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name in matrices.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Somebody in the lab that connections come from and go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A pod.
    Pod(ObjectName),
    /// A host outside, by name.
    Outside(String),
    /// The node itself.
    Node,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Place {
    /// The pod `namespace/name`.
    pub fn pod(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Pod(ObjectName::new(namespace, name))
    }

    /// The host of that name.
    pub fn outside(name: impl Into<String>) -> Self {
        Self::Outside(name.into())
    }
}

/// `namespace/name` of a pod, the name of a host, or `node`: what servers answer with.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => f.pad(&name.to_string()),
            Self::Outside(name) => f.pad(name),
            Self::Node => f.pad("node"),
        }
    }
}

impl Topology {
    /// Namespaces `x`, `y` and `z` with the pods `a`, `b` and `c` each, labelled `ns: x` and `pod: a` and so on;
    /// one node, and the hosts of [`Topology::default_outside`].
    #[must_use]
    pub fn nine(name: impl Into<String>) -> Self {
        let labels = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        let mut namespaces = Vec::new();
        let mut pods = Vec::new();
        for (i, namespace) in (1_u8..).zip(["x", "y", "z"]) {
            namespaces.push(Namespace { name: namespace.to_owned(), labels: labels("ns", namespace) });
            for (j, pod) in (1_u8..).zip(["a", "b", "c"]) {
                let v6 = [0xfd, 0x10, 0, i, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, j];
                pods.push(Pod {
                    name: ObjectName::new(namespace, pod),
                    uid: String::new(),
                    labels: labels("pod", pod),
                    node: DEFAULT_NODE.to_owned(),
                    addresses: vec![Address::v4([10, 1, i, j]), Address::v6(v6)],
                    host_network: false,
                    phase: Phase::Running,
                    started: String::new(),
                    ports: Vec::new(),
                });
            }
        }
        let outside = Self::default_outside();
        Self { name: name.into(), node: default_node(DEFAULT_NODE), namespaces, pods, outside }
    }

    /// The pods, namespaces and the node `node` of a cluster, as its manifests say; an empty `node` stands for
    /// the first of its nodes by name. A node that nobody declared gets addresses of the lab's own.
    #[must_use]
    pub fn from_cluster(name: impl Into<String>, node: &str, cluster: &Cluster) -> Self {
        let first = cluster.nodes.iter().map(|node| node.name.as_str()).min().unwrap_or(DEFAULT_NODE);
        let wanted = if node.is_empty() { first } else { node };
        let declared = cluster.nodes.iter().find(|node| node.name == wanted && !node.addresses.is_empty());
        let has_place =
            |pod: &&Pod| !pod.host_network && pod.phase != Phase::Ended && !pod.addresses.is_empty();
        Self {
            name: name.into(),
            node: declared.cloned().unwrap_or_else(|| default_node(wanted)),
            namespaces: cluster.namespaces.clone(),
            pods: cluster.pods.iter().filter(has_place).cloned().collect(),
            outside: Self::default_outside(),
        }
    }

    /// Four hosts in the networks for documentation (RFC 5737, RFC 3849): `outside-1` and `outside-2` share a
    /// network, the others have one each.
    #[must_use]
    pub fn default_outside() -> Vec<Host> {
        let addresses: [(&[u8; 4], u16, u16); 4] = [
            (&[198, 51, 100, 1], 0x100, 1),
            (&[198, 51, 100, 2], 0x100, 2),
            (&[203, 0, 113, 1], 0x113, 1),
            (&[192, 0, 2, 1], 0x2, 1),
        ];
        let host = |(number, (v4, network, host)): (usize, (&[u8; 4], u16, u16))| Host {
            name: format!("outside-{number}"),
            addresses: vec![IpAddr::from(*v4), IpAddr::from([0x2001, 0xdb8, network, 0, 0, 0, 0, host])],
        };
        (1..).zip(addresses).map(host).collect()
    }

    /// Whether the pod runs on the lab's node and so has a port of its own.
    #[must_use]
    pub fn is_local(&self, pod: &Pod) -> bool {
        pod.node.is_empty() || pod.node == self.node.name
    }

    /// Everybody: pods in the order given, then hosts outside, then the node.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let pods = self.pods.iter().map(|pod| Place::Pod(pod.name.clone()));
        let outside = self.outside.iter().map(|host| Place::Outside(host.name.clone()));
        pods.chain(outside).chain([Place::Node]).collect()
    }

    /// The addresses of somebody, none of somebody unknown.
    #[must_use]
    pub fn addresses(&self, place: &Place) -> Vec<IpAddr> {
        let ips = |addresses: &Vec<Address>| addresses.iter().map(|address| address.ip()).collect();
        match place {
            Place::Pod(name) => self.pods.iter().find(|pod| pod.name == *name).map(|pod| ips(&pod.addresses)),
            Place::Outside(name) => {
                self.outside.iter().find(|host| host.name == *name).map(|host| host.addresses.clone())
            }
            Place::Node => Some(ips(&self.node.addresses)),
        }
        .unwrap_or_default()
    }

    /// What policy sees of the lab, without policies.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster {
            namespaces: self.namespaces.clone(),
            pods: self.pods.clone(),
            nodes: vec![self.node.clone()],
            policies: Vec::new(),
        }
    }

    /// The same as Kubernetes manifests: Namespace, Pod and Node objects in one YAML stream.
    #[must_use]
    pub fn manifests(&self) -> String {
        manifests(&self.cluster())
    }

    /// Refuses what cannot be built, and names that could lead out of the lab.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Topology(why));
        check_name(&self.name)?;
        let mut names = HashSet::new();
        let mut seen = HashSet::new();
        for place in self.places() {
            let addresses = self.addresses(&place);
            if addresses.is_empty() {
                return refuse(format!("{place} has no address"));
            }
            for address in addresses {
                if !seen.insert(address) {
                    return refuse(format!("{address} is given twice, the second time to {place}"));
                }
            }
            let words: &[&String] = match &place {
                Place::Pod(name) => &[&name.namespace, &name.name],
                Place::Outside(name) => &[name],
                Place::Node => &[],
            };
            let legal = |word: &&String| {
                !word.is_empty()
                    && word.len() <= 63
                    && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b))
            };
            if !words.iter().all(legal) {
                return refuse(format!("{:?} is no name for a pod or host of the lab", place.to_string()));
            }
            if !names.insert(place.to_string()) {
                return refuse(format!("there are two of {place}"));
            }
        }
        Ok(())
    }
}

/// Refuses a lab's name that is too long for interfaces or could be confused with another's.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let legal = name.len() <= 8
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if legal {
        Ok(())
    } else {
        Err(Error::Topology(format!(
            "{name:?} is no name of a lab: one to eight lower-case letters and digits, the first a letter"
        )))
    }
}

const DEFAULT_NODE: &str = "node-1";

fn default_node(name: &str) -> Node {
    let v6 = [0xfd, 0x10, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    Node { name: name.to_owned(), addresses: vec![Address::v4([10, 255, 0, 1]), Address::v6(v6)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_pods_four_hosts_and_a_node_have_addresses_of_both_families() {
        let topology = Topology::nine("t");
        topology.check().unwrap();
        assert_eq!(topology.places().len(), 14);
        for place in topology.places() {
            let families: Vec<_> = topology.addresses(&place).iter().map(Family::of).collect();
            assert_eq!(families, Family::ALL, "{place}");
        }
        assert_eq!(topology.places()[5], Place::pod("y", "c"));
        assert_eq!(topology.addresses(&Place::pod("y", "c"))[0], IpAddr::from([10, 1, 2, 3]));
    }

    #[test]
    fn a_cluster_becomes_the_lab_without_pods_that_have_no_network_of_their_own() {
        let mut cluster = Topology::nine("t").cluster();
        cluster.pods[0].host_network = true;
        cluster.pods[1].phase = Phase::Ended;
        cluster.pods[2].addresses.clear();
        cluster.pods[3].node = "elsewhere".to_owned();
        let topology = Topology::from_cluster("u", "", &cluster);
        assert_eq!(topology.pods, cluster.pods[3..]);
        assert!(!topology.is_local(&topology.pods[0]) && topology.is_local(&topology.pods[1]));
        assert_eq!(topology.node, cluster.nodes[0]);
        cluster.nodes.clear();
        let undeclared = Topology::from_cluster("u", "other", &cluster).node;
        assert_eq!((undeclared.name.as_str(), undeclared.addresses.len()), ("other", 2));
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        type Spoil = fn(&mut Topology);
        let spoilt: [(&str, Spoil); 7] = [
            ("name too long", |t| t.name = "ninechars".to_owned()),
            ("name with a separator", |t| t.name = "a-b".to_owned()),
            ("empty name", |t| t.name.clear()),
            ("pod named into another folder", |t| t.pods[0].name.name = "../../x".to_owned()),
            ("pod twice", |t| t.pods[1].name = t.pods[0].name.clone()),
            ("address twice", |t| t.pods[1].addresses = t.pods[0].addresses.clone()),
            ("no address", |t| t.outside[0].addresses.clear()),
        ];
        for (what, spoil) in spoilt {
            let mut topology = Topology::nine("t");
            spoil(&mut topology);
            assert!(matches!(topology.check(), Err(Error::Topology(_))), "{what}");
        }
    }
}
