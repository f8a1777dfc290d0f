//! The oracle: whether policy allows a connection, one sentence of the API after the other.
//!
//! Quotations are from the reference of networking.k8s.io/v1 (`API`) and from "Network Policies" in the
//! Kubernetes documentation (`DOC`).

use std::collections::BTreeMap;

use flow::{Address, Direction, Protocol, Verdict};

use crate::model::{
    Cluster, Isolation, Namespaces, NetworkPolicy, ObjectName, Peer, Peers, Pod, PortMatch, PortSet, Ports,
    Rule,
};

/// A new connection, in the direction in which it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Who opens it.
    pub src: Address,
    /// To whom.
    pub dst: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// The destination port; without meaning where the protocol has none.
    pub port: u16,
}

/// What the policies of a cluster say about one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the source's side says.
    pub egress: Side,
    /// What the destination's side says.
    pub ingress: Side,
}

/// What one side of a connection says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// No pod, or one that no policy isolates in this direction.
    Open,
    /// The other side is the pod's own node, or the pod itself.
    Exempt,
    /// A rule allows it; of several, the first by namespace, name and index.
    AllowedBy {
        /// The policy.
        policy: ObjectName,
        /// The index of the rule among the policy's rules for this direction, from zero.
        rule: usize,
    },
    /// Policies isolate the pod, and none of their rules allows the connection.
    Isolated {
        /// These, by namespace and name.
        policies: Vec<ObjectName>,
    },
}

impl Decision {
    /// The verdict.
    ///
    /// > For a connection from a source pod to a destination pod to be allowed, both the egress policy on the
    /// > source pod and the ingress policy on the destination pod need to allow the connection. If either side
    /// > does not allow the connection, it will not happen. (DOC)
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self { egress: Side::Isolated { .. }, .. } | Self { ingress: Side::Isolated { .. }, .. } => {
                Verdict::Deny
            }
            _ => Verdict::Allow,
        }
    }
}

/// Decides a new connection from nothing but the text of the API.
#[must_use]
pub fn evaluate(cluster: &Cluster, connection: &Connection) -> Decision {
    let case = Case { cluster, owners: cluster.owners(), connection };
    Decision { egress: case.side(Direction::Egress), ingress: case.side(Direction::Ingress) }
}

/// One connection in one cluster.
struct Case<'a> {
    cluster: &'a Cluster,
    owners: BTreeMap<Address, usize>,
    connection: &'a Connection,
}

impl Case<'_> {
    fn pod(&self, address: Address) -> Option<&Pod> {
        self.owners.get(&address).map(|&index| &self.cluster.pods[index])
    }

    fn side(&self, direction: Direction) -> Side {
        let (own, other) = match direction {
            Direction::Egress => (self.connection.src, self.connection.dst),
            Direction::Ingress => (self.connection.dst, self.connection.src),
        };
        // Policies speak of pods only.
        let Some(pod) = self.pod(own) else { return Side::Open };

        // > [...] traffic to and from the node where a Pod is running is always allowed, regardless of the IP address
        // > of the Pod or the node [...] (DOC)
        if self.cluster.node_addresses(&pod.node).any(|address| address == other) {
            return Side::Exempt;
        }
        // > [...] a pod cannot block access to itself [...] (DOC)
        if self.owners.get(&own) == self.owners.get(&other) {
            return Side::Exempt;
        }

        // > By default, a pod is non-isolated for egress; all outbound connections are allowed. A pod is isolated
        // > for egress if there is any NetworkPolicy that both selects the pod and has "Egress" in its policyTypes.
        // > [...] By default, a pod is non-isolated for ingress [likewise]. (DOC)
        let isolating = self.isolating(pod, direction);
        if isolating.is_empty() {
            return Side::Open;
        }

        // > Network policies do not conflict; they are additive. If any policy or policies apply to a given pod
        // > for a given direction, the connections allowed in that direction from that pod is the union of what the
        // > applicable policies allow. Thus, order of evaluation does not affect the policy result. (DOC)
        for (policy, rules) in &isolating {
            for (index, rule) in rules.iter().enumerate() {
                if self.peers_match(policy, rule, other) && self.ports_match(rule) {
                    return Side::AllowedBy { policy: policy.name.clone(), rule: index };
                }
            }
        }
        Side::Isolated { policies: isolating.iter().map(|(policy, _)| policy.name.clone()).collect() }
    }

    /// The policies that isolate a pod in one direction, by name, with their rules for it.
    fn isolating(&self, pod: &Pod, direction: Direction) -> Vec<(&NetworkPolicy, &[Rule])> {
        let mut isolating: Vec<_> = self
            .cluster
            .policies
            .iter()
            // > podSelector selects the pods to which this NetworkPolicy object applies. [...] An empty selector
            // > matches all pods in the policy's namespace. (API)
            .filter(|policy| {
                policy.name.namespace == pod.name.namespace && policy.subjects.matches(&pod.labels)
            })
            .filter_map(|policy| {
                let isolation = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                match isolation {
                    Isolation::Open => None,
                    Isolation::Isolated { rules } => Some((policy, rules.as_slice())),
                }
            })
            .collect();
        isolating.sort_by_key(|(policy, _)| (&policy.name, &policy.origin));
        isolating
    }

    /// > from is a list of sources which should be able to access the pods selected for this rule. Items in this
    /// > list are combined using a logical OR operation. If this field is empty or missing, this rule matches all
    /// > sources (traffic not restricted by source). (API; `to` likewise)
    fn peers_match(&self, policy: &NetworkPolicy, rule: &Rule, other: Address) -> bool {
        match &rule.peers {
            Peers::Any => true,
            Peers::OneOf(peers) => peers.iter().any(|peer| self.peer_matches(policy, peer, other)),
        }
    }

    fn peer_matches(&self, policy: &NetworkPolicy, peer: &Peer, other: Address) -> bool {
        match peer {
            // > except is a slice of CIDRs that should not be included within an IPBlock. (API)
            //
            // The block matches the address of a pod like any other.
            Peer::Block(block) => block.contains(other),
            Peer::Pods { namespaces, pods } => {
                // Selectors never match external addresses or nodes.
                let Some(pod) = self.pod(other) else { return false };
                let namespace = &pod.name.namespace;
                let in_namespace = match namespaces {
                    // > Otherwise it selects the pods matching podSelector in the policy's own namespace. (API)
                    Namespaces::SameAsPolicy => *namespace == policy.name.namespace,
                    // > namespaceSelector selects namespaces using cluster-scoped labels. This field follows
                    // > standard label selector semantics; if present but empty, it selects all namespaces. (API)
                    Namespaces::Matching(selector) => {
                        selector.matches(&self.cluster.namespace_labels(namespace))
                    }
                };
                // > If namespaceSelector is also set, then the NetworkPolicyPeer as a whole selects the pods
                // > matching podSelector in the Namespaces selected by NamespaceSelector. (API)
                in_namespace && pods.matches(&pod.labels)
            }
        }
    }

    /// > ports is a list of ports which should be made accessible on the pods selected for this rule. Each item in
    /// > this list is combined using a logical OR. If this field is empty or missing, this rule matches all ports
    /// > (traffic not restricted by port). (API)
    fn ports_match(&self, rule: &Rule) -> bool {
        match &rule.ports {
            // Also of protocols that have no ports.
            Ports::Any => true,
            Ports::OneOf(ports) => ports.iter().any(|port| self.port_matches(port)),
        }
    }

    fn port_matches(&self, wanted: &PortMatch) -> bool {
        let Connection { dst, protocol, port, .. } = *self.connection;
        // > protocol represents the protocol (TCP, UDP, or SCTP) which traffic must match. (API)
        if !protocol.has_ports() || wanted.protocol != protocol {
            return false;
        }
        match &wanted.port {
            // > If this field is not provided, this matches all port names and numbers. (API, port)
            PortSet::All => true,
            // > endPort indicates that the range of ports from port to endPort if set, inclusive, should be
            // > allowed by the policy. (API)
            PortSet::Range(first, last) => (*first..=*last).contains(&port),
            // > This can either be a numerical or named port on a pod. [...] only traffic on the specified
            // > protocol AND port will be matched. (API, port)
            //
            // In both directions the pod is the destination. An external destination has no names. One name may
            // stand for several ports of a pod.
            PortSet::Named(name) => self.pod(dst).is_some_and(|pod| {
                pod.ports
                    .iter()
                    .any(|named| named.name == *name && named.protocol == protocol && named.number == port)
            }),
        }
    }
}
