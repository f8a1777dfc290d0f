//! What decides, by name: policies and their rules, and the classes of addresses that they speak of.

use std::fmt;
use std::sync::Arc;

use flow::{Direction, Protocol};

/// The name of a namespaced object, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Name {
    /// The name `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A policy of one table. It means nothing to another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub(crate) u32);

/// One thing that rules may say of the other end: a selection of pods, or a block of addresses. Whoever makes the
/// table numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u32);

/// A rule of one table. It means nothing to another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    pub(crate) policy: PolicyId,
    pub(crate) direction: Direction,
    pub(crate) index: u32,
}

impl PolicyId {
    /// The policy in this slot.
    #[must_use]
    pub const fn new(slot: u32) -> Self {
        Self(slot)
    }
}

impl PeerId {
    /// The peer with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl RuleId {
    /// The policy that the rule belongs to.
    #[must_use]
    pub const fn policy(self) -> PolicyId {
        self.policy
    }

    /// Whether it is an entry of `spec.ingress` or `spec.egress`.
    #[must_use]
    pub const fn direction(self) -> Direction {
        self.direction
    }

    /// Its index there, from zero.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// What a table remembers of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyInfo {
    /// Namespace and name.
    pub name: Name,
    /// Where it was written, as `file:line`.
    pub origin: String,
    /// The rules of `spec.ingress`.
    pub ingress: Vec<RuleInfo>,
    /// The rules of `spec.egress`.
    pub egress: Vec<RuleInfo>,
}

impl PolicyInfo {
    /// The rules of one direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[RuleInfo] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// What a table remembers of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleInfo {
    /// Where it was written, as `file:line`.
    pub origin: String,
    /// With whom.
    pub peers: RulePeers,
    /// On which destination ports.
    pub ports: RulePorts,
}

/// Whom a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RulePeers {
    /// Everybody.
    Any,
    /// Classes that one of these matches. Sorted.
    OneOf(Box<[PeerId]>),
}

/// On which destination ports a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RulePorts {
    /// All ports of all protocols, also of those that have none.
    Any,
    /// Ports that one of these holds.
    OneOf {
        /// By number.
        ranges: Box<[PortRange]>,
        /// By name, which the destination pod explains.
        names: Box<[(Arc<str>, Protocol)]>,
    },
}

/// A range of ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The first port of the range.
    pub first: u16,
    /// The last port of the range.
    pub last: u16,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// The name.
    pub name: Arc<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port that it stands for.
    pub number: u16,
}

/// What puts an address into its class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The peers that match it. Sorted.
    pub peers: Arc<[PeerId]>,
    /// What its port names stand for.
    pub ports: Arc<[NamedPort]>,
}

impl PolicyInfo {
    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let rules = self.ingress.iter().chain(&self.egress).map(|rule| {
            let peers = match &rule.peers {
                RulePeers::Any => 0,
                RulePeers::OneOf(peers) => size_of_val(&**peers),
            };
            let ports = match &rule.ports {
                RulePorts::Any => 0,
                RulePorts::OneOf { ranges, names } => size_of_val(&**ranges) + size_of_val(&**names),
            };
            size_of::<RuleInfo>() + rule.origin.len() + peers + ports
        });
        let names = self.name.namespace.len() + self.name.name.len() + self.origin.len();
        size_of::<Self>() + 16 + names + rules.sum::<usize>()
    }
}

impl Signature {
    /// What it holds beside itself.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.peers) + size_of_val(&*self.ports)
    }
}

impl RuleInfo {
    /// Whether the rule allows a connection with somebody of the class `peer` to `port` of a pod whose names mean
    /// `named`.
    pub(crate) fn allows(
        &self,
        peer: &Signature,
        named: &[NamedPort],
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let matches = match &self.peers {
            RulePeers::Any => true,
            RulePeers::OneOf(peers) => peers.iter().any(|wanted| peer.peers.binary_search(wanted).is_ok()),
        };
        matches
            && match &self.ports {
                RulePorts::Any => true,
                RulePorts::OneOf { ranges, names } => {
                    let by_number = |range: &PortRange| {
                        range.protocol == protocol && (range.first..=range.last).contains(&port)
                    };
                    let by_name = |(name, of): &(Arc<str>, Protocol)| {
                        let meant = NamedPort { name: Arc::clone(name), protocol: *of, number: port };
                        *of == protocol && named.contains(&meant)
                    };
                    protocol.has_ports() && (ranges.iter().any(by_number) || names.iter().any(by_name))
                }
            }
    }
}
