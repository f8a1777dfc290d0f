//! What the policies of one pod say in one direction, resolved to addresses and port numbers.

use std::sync::Arc;

use flow::{Address, Protocol};
use ipnet::IpNet;

use crate::{PolicyId, RuleId};

/// What the policies of a pod say in one direction.
#[derive(Debug, PartialEq, Eq)]
pub enum Row {
    /// No policy isolates the pod.
    Open,
    /// Only what a rule allows passes.
    Isolated {
        /// The policies that isolate it, by namespace and name.
        policies: Vec<PolicyId>,
        /// Their rules, by namespace, name and index, without those that can match nothing.
        rules: Vec<RowRule>,
    },
}

/// One rule of a row.
#[derive(Debug, PartialEq, Eq)]
pub struct RowRule {
    /// Its name.
    pub id: RuleId,
    /// What it allows: whatever one of these matches.
    pub pieces: Arc<[Piece]>,
}

/// Some peers, and the destination ports on which they are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// With whom.
    pub peers: Peers,
    /// On which destination ports.
    pub ports: Ports,
}

/// Addresses at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Every address.
    Any,
    /// The addresses of a list, and those that a block covers.
    OneOf {
        /// Single addresses, sorted.
        addresses: Vec<Address>,
        /// Blocks, which may overlap.
        blocks: Vec<Block>,
    },
}

/// A block of addresses with holes. Sorted and compared by its parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// The addresses covered; of one family only.
    pub cidr: IpNet,
    /// The holes.
    pub except: Vec<IpNet>,
}

/// Destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// All ports of all protocols, also of those that have none.
    Any,
    /// Ports that one of these ranges holds.
    OneOf(Vec<PortRange>),
}

/// A range of ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The first port of the range.
    pub first: u16,
    /// The last port of the range.
    pub last: u16,
}

impl Row {
    /// Whether a connection with `peer` to destination port `port` passes.
    pub(crate) fn allows(&self, peer: Address, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Open => true,
            Self::Isolated { rules, .. } => rules.iter().any(|rule| rule.allows(peer, protocol, port)),
        }
    }

    /// Whether both rows give the same answer by the same steps, whatever their rules are called.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Open, Self::Open) => true,
            (Self::Isolated { rules: ours, .. }, Self::Isolated { rules: theirs, .. }) => {
                ours.iter().map(|rule| &rule.pieces).eq(theirs.iter().map(|rule| &rule.pieces))
            }
            _ => false,
        }
    }
}

impl RowRule {
    pub(crate) fn allows(&self, peer: Address, protocol: Protocol, port: u16) -> bool {
        self.pieces.iter().any(|piece| piece.ports.hold(protocol, port) && piece.peers.hold(peer))
    }
}

impl Peers {
    /// Whether `address` is one of these.
    #[must_use]
    pub fn hold(&self, address: Address) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf { addresses, blocks } => {
                addresses.binary_search(&address).is_ok() || blocks.iter().any(|block| block.covers(address))
            }
        }
    }
}

impl Block {
    /// Whether `address` is in the block and in none of its holes.
    #[must_use]
    pub fn covers(&self, address: Address) -> bool {
        let ip = address.ip();
        self.cidr.contains(&ip) && !self.except.iter().any(|hole| hole.contains(&ip))
    }
}

impl Ports {
    fn hold(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(ranges) => ranges
                .iter()
                .any(|range| range.protocol == protocol && (range.first..=range.last).contains(&port)),
        }
    }
}
