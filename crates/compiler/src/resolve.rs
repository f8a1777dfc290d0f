//! One rule to pieces that know neither selectors nor port names.

use std::collections::BTreeMap;
use std::sync::Arc;

use flow::{Address, Protocol};
use policy::model::{NetworkPolicy, Peer, PortMatch, PortSet, Rule};
use table::{Block, Peers, Piece, PortRange, Ports};

use crate::population::{Population, Resident};

/// One rule, its peers resolved; what its port names stand for depends on the destination.
pub(crate) struct Resolved<'a> {
    peers: Peers,
    ports: Wanted<'a>,
}

/// The ports of a rule.
enum Wanted<'a> {
    Any,
    OneOf { numbers: Vec<PortRange>, names: Vec<(&'a str, Protocol)> },
}

impl<'a> Resolved<'a> {
    pub(crate) fn of(policy: &NetworkPolicy, rule: &'a Rule, population: &Population<'_>) -> Self {
        Self { peers: peers(policy, rule, population), ports: Wanted::of(&rule.ports) }
    }

    /// The pieces of an ingress rule; `None` where its port names depend on the subject.
    pub(crate) fn ingress_of_all(&self) -> Option<Arc<[Piece]>> {
        match &self.ports {
            Wanted::Any => Some(self.with(Ports::Any)),
            Wanted::OneOf { numbers, names } if names.is_empty() => {
                Some(self.with(Ports::OneOf(numbers.clone())))
            }
            Wanted::OneOf { .. } => None,
        }
    }

    /// The pieces of an ingress rule of a policy that selects `subject`.
    pub(crate) fn ingress(&self, subject: &Resident<'_>) -> Arc<[Piece]> {
        let Wanted::OneOf { numbers, names } = &self.ports else { return self.with(Ports::Any) };
        let named = names.iter().flat_map(|&(name, protocol)| subject.named(name, protocol));
        self.with(Ports::OneOf(sorted(numbers.iter().copied().chain(named).collect())))
    }

    fn with(&self, ports: Ports) -> Arc<[Piece]> {
        pieces([Piece { peers: self.peers.clone(), ports }])
    }

    /// The pieces of an egress rule: one for the port numbers, and one for each set of destinations at which the
    /// port names stand for the same numbers.
    pub(crate) fn egress(&self, population: &Population<'_>) -> Arc<[Piece]> {
        let Wanted::OneOf { numbers, names } = &self.ports else {
            return self.with(Ports::Any);
        };
        let mut alike: BTreeMap<Vec<PortRange>, Vec<Address>> = BTreeMap::new();
        for destination in population.residents.iter().filter(|_| !names.is_empty()) {
            let named = names.iter().flat_map(|&(name, protocol)| destination.named(name, protocol));
            let peers = destination.addresses.iter().copied().filter(|&address| self.peers.hold(address));
            alike.entry(sorted(named.collect())).or_default().extend(peers);
        }
        let numbered = Piece { peers: self.peers.clone(), ports: Ports::OneOf(numbers.clone()) };
        let named = alike.into_iter().map(|(ports, addresses)| Piece {
            peers: Peers::OneOf { addresses: sorted(addresses), blocks: Vec::new() },
            ports: Ports::OneOf(ports),
        });
        pieces([numbered].into_iter().chain(named))
    }
}

impl<'a> Wanted<'a> {
    fn of(ports: &'a policy::model::Ports) -> Self {
        let policy::model::Ports::OneOf(ports) = ports else { return Self::Any };
        let mut numbers = Vec::new();
        let mut names = Vec::new();
        for PortMatch { protocol, port } in ports.iter().filter(|wanted| wanted.protocol.has_ports()) {
            let protocol = *protocol;
            match port {
                PortSet::All => numbers.push(PortRange { protocol, first: 0, last: u16::MAX }),
                PortSet::Range(first, last) => {
                    numbers.push(PortRange { protocol, first: *first, last: *last });
                }
                PortSet::Named(name) => names.push((name.as_str(), protocol)),
            }
        }
        Self::OneOf { numbers: sorted(numbers), names: sorted(names) }
    }
}

fn peers(policy: &NetworkPolicy, rule: &Rule, population: &Population<'_>) -> Peers {
    let policy::model::Peers::OneOf(peers) = &rule.peers else { return Peers::Any };
    let mut addresses = Vec::new();
    let mut blocks = Vec::new();
    for peer in peers {
        match peer {
            Peer::Pods { namespaces, pods } => {
                addresses.extend(population.select(&policy.name.namespace, namespaces, pods));
                // Many peers may select the same pods: what they take together stays within twice all pods.
                if addresses.len() > 2 * population.addresses() {
                    addresses = sorted(addresses);
                }
            }
            Peer::Block(block) => {
                blocks.push(Block { cidr: block.cidr, except: sorted(block.except.clone()) });
            }
        }
    }
    Peers::OneOf { addresses: sorted(addresses), blocks: sorted(blocks) }
}

/// The pieces that can match anything.
fn pieces(pieces: impl IntoIterator<Item = Piece>) -> Arc<[Piece]> {
    let somebody = |peers: &Peers| match peers {
        Peers::Any => true,
        Peers::OneOf { addresses, blocks } => !addresses.is_empty() || !blocks.is_empty(),
    };
    let somewhere = |ports: &Ports| match ports {
        Ports::Any => true,
        Ports::OneOf(ranges) => !ranges.is_empty(),
    };
    pieces.into_iter().filter(|piece| somebody(&piece.peers) && somewhere(&piece.ports)).collect()
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items.dedup();
    items
}
