//! The data of a cluster as far as NetworkPolicy looks at it.
//!
//! Nil and empty die at the door: `manifest` (and later the API conversion) decide what an absent, null or
//! empty field means, and past it no type can express the difference.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use flow::{Address, Protocol};
use ipnet::IpNet;

pub use crate::selector::Labels;
use crate::selector::Selector;

/// Where an object or a rule was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file, or another name of the source.
    pub source: Arc<str>,
    /// The line, from one; zero when the source has no lines.
    pub line: u32,
    /// The column, from one; zero when the source has no lines.
    pub column: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.source) } else { write!(f, "{}:{}", self.source, self.line) }
    }
}

/// The name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectName {
    /// The name `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that policy is evaluated against. The order of the objects means nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Namespaces, by name. A namespace that pods name but nobody declared has no labels of its own.
    pub namespaces: Vec<Namespace>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Policies.
    pub policies: Vec<NetworkPolicy>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels` as written; `kubernetes.io/metadata.name` is never read from here.
    pub labels: Labels,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`, empty where the source has none.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nodeName`, empty while unscheduled.
    pub node: String,
    /// `status.podIPs` of a running pod.
    pub addresses: Vec<Address>,
    /// Whether the pod shares its node's network (`spec.hostNetwork`): then it is neither subject nor peer.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: Phase,
    /// `status.startTime`, RFC 3339 as written, empty when absent; newest wins where two pods claim one address.
    pub started: String,
    /// Named container ports of containers and of sidecar init containers. One name may stand for several.
    pub ports: Vec<NamedPort>,
}

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Running, or not said.
    #[default]
    Running,
    /// Not started yet.
    Pending,
    /// Succeeded or failed: it owns no address any more.
    Ended,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// `name`.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: u16,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses` of type InternalIP and ExternalIP.
    pub addresses: Vec<Address>,
}

/// A NetworkPolicy after defaulting.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub name: ObjectName,
    /// Where it was written.
    pub origin: Origin,
    /// The pods of its own namespace that it selects.
    pub subjects: Selector,
    /// What it does to connections into them.
    pub ingress: Isolation,
    /// What it does to connections out of them.
    pub egress: Isolation,
}

/// What a policy does in one direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Isolation {
    /// Nothing: `policyTypes` leaves this direction out.
    Open,
    /// Only what a rule allows passes. No rules: nothing does.
    Isolated {
        /// The rules, in the order they were written, which decides nothing but their names.
        rules: Vec<Rule>,
    },
}

/// One entry of `spec.ingress` or `spec.egress`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Where it was written.
    pub origin: Origin,
    /// With whom.
    pub peers: Peers,
    /// On which destination ports.
    pub ports: Ports,
}

/// Whom a rule speaks of.
#[derive(Clone, Debug, PartialEq)]
pub enum Peers {
    /// Everybody, external addresses included: `from` or `to` is absent or empty.
    Any,
    /// Whoever at least one of these matches; an empty list matches nobody.
    OneOf(Vec<Peer>),
}

/// One entry of `from` or `to`.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Pods.
    Pods {
        /// In which namespaces.
        namespaces: Namespaces,
        /// Which pods of them.
        pods: Selector,
    },
    /// Addresses.
    Block(IpBlock),
}

/// In which namespaces a peer's pods are looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Namespaces {
    /// `namespaceSelector` is absent: the policy's own.
    SameAsPolicy,
    /// Those that the selector matches; the empty selector matches all.
    Matching(Selector),
}

/// `ipBlock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpBlock {
    /// `cidr`, without host bits.
    pub cidr: IpNet,
    /// `except`: holes in `cidr`, not denials.
    pub except: Vec<IpNet>,
}

impl IpBlock {
    /// Whether the block covers `address`. A block of one family never covers the other.
    #[must_use]
    pub fn contains(&self, address: Address) -> bool {
        let ip: IpAddr = address.ip();
        self.cidr.contains(&ip) && !self.except.iter().any(|hole| hole.contains(&ip))
    }
}

/// On which destination ports a rule allows.
#[derive(Clone, Debug, PartialEq)]
pub enum Ports {
    /// All ports of all protocols, also of those that have none: `ports` is absent or empty.
    Any,
    /// What at least one of these matches.
    OneOf(Vec<PortMatch>),
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMatch {
    /// `protocol`: TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Which of its ports.
    pub port: PortSet,
}

/// The port or ports of one entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSet {
    /// `port` is absent: all ports of the protocol.
    All,
    /// `port` up to `endPort`, both included; equal where `endPort` is absent.
    Range(u16, u16),
    /// A name, looked up at the destination pod of each connection.
    Named(String),
}
