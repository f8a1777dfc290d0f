//! Policies as compact records: rules over numbers of peers and ports.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use flow::Direction;
use hashbrown::Equivalent;
use policy::model::{self, Isolation, NetworkPolicy};
use table::{Name, PeerId, PolicyInfo, RuleInfo, RulePeers};

use crate::intern::{Heap, Id, Interner};
use crate::peers::{PeerAt, Peers};
use crate::population::{NamespaceAt, Population};
use crate::ports::{Ports, PortsAt};
use crate::rows::RowAt;
use crate::words::{Selector, Words};

/// Where a policy is kept.
pub(crate) type PolicyAt = Id<PolicyKey>;

/// The name of a policy.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct PolicyKey {
    pub(crate) namespace: NamespaceAt,
    pub(crate) name: Box<str>,
}

/// The same, borrowed.
pub(crate) struct PolicyQuery<'a> {
    pub(crate) namespace: NamespaceAt,
    pub(crate) name: &'a str,
}

/// A policy, or the place of one that has just gone.
#[derive(Default)]
pub(crate) struct PolicySlot {
    pub(crate) record: Option<Arc<PolicyRecord>>,
    /// The record whose rules are among the users of their peers, where the policy decides about a judged pod; by
    /// direction.
    pub(crate) counted: [Option<Arc<PolicyRecord>>; 2],
    /// The rows that it is part of, by direction.
    pub(crate) rows: [BTreeSet<RowAt>; 2],
}

/// What is known of a policy. It refers to its subjects, and to the peers and ports of its rules.
#[derive(PartialEq, Eq)]
pub(crate) struct PolicyRecord {
    pub(crate) subjects: Id<Selector>,
    /// Its rules by direction; `None` where it does not isolate.
    pub(crate) rules: [Option<Box<[Rule]>>; 2],
    /// What the table keeps of it.
    pub(crate) info: Arc<PolicyInfo>,
}

/// One rule.
#[derive(PartialEq, Eq)]
pub(crate) struct Rule {
    /// Sorted, none twice; `None` for everybody.
    pub(crate) peers: Option<Box<[PeerAt]>>,
    pub(crate) ports: PortsAt,
}

/// All policies.
pub(crate) struct Policies {
    pub(crate) all: Interner<PolicyKey, PolicySlot>,
    /// Bytes that the records hold.
    pub(crate) heap: usize,
}

/// Both directions, in the order in which they index.
pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// The place of a direction in an array of both.
pub(crate) const fn index(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}

impl Policies {
    pub(crate) fn new() -> Self {
        Self { all: Interner::new(), heap: 0 }
    }

    /// Refers to everything that a policy speaks of.
    pub(crate) fn record(
        namespace: NamespaceAt,
        policy: &NetworkPolicy,
        words: &mut Words,
        population: &mut Population,
        peers: &mut Peers,
        ports: &mut Ports,
    ) -> PolicyRecord {
        let mut rules = |isolation: &Isolation| match isolation {
            Isolation::Open => None,
            Isolation::Isolated { rules } => {
                let rules = rules.iter().map(|rule| Rule {
                    peers: match &rule.peers {
                        model::Peers::Any => None,
                        model::Peers::OneOf(written) => {
                            let mut kept: Vec<_> = written
                                .iter()
                                .map(|peer| peers.peer(words, population, namespace, peer))
                                .collect();
                            kept.sort_unstable();
                            kept.dedup_by(|again, first| {
                                let twice = again == first;
                                if twice {
                                    peers.peers.release(*again);
                                }
                                twice
                            });
                            Some(kept.into())
                        }
                    },
                    ports: ports.of_rule(words, &rule.ports),
                });
                Some(rules.collect::<Box<[_]>>())
            }
        };
        let rules = [rules(&policy.egress), rules(&policy.ingress)];
        let info = |direction: Direction, isolation: &Isolation| {
            let written = match isolation {
                Isolation::Open => &[][..],
                Isolation::Isolated { rules } => rules,
            };
            let rules = rules[index(direction)].iter().flatten();
            rules.zip(written).map(|(rule, written)| rule_info(rule, written, words, ports)).collect()
        };
        let info = PolicyInfo {
            name: Name::new(&policy.name.namespace, &policy.name.name),
            origin: policy.origin.to_string(),
            ingress: info(Direction::Ingress, &policy.ingress),
            egress: info(Direction::Egress, &policy.egress),
        };
        PolicyRecord { subjects: words.selector(&policy.subjects), rules, info: Arc::new(info) }
    }

    /// The record of a policy that is there.
    pub(crate) fn get(&self, policy: PolicyAt) -> Option<&Arc<PolicyRecord>> {
        self.all.value(policy).record.as_ref()
    }

    /// Lets go of what a record refers to.
    pub(crate) fn release(record: &PolicyRecord, words: &mut Words, peers: &mut Peers, ports: &mut Ports) {
        words.selectors.release(record.subjects);
        for rule in record.rules.iter().flatten().flatten() {
            ports.rules.release(rule.ports);
            rule.peers.iter().flatten().for_each(|&peer| peers.peers.release(peer));
        }
    }

    /// Drops what nobody refers to.
    pub(crate) fn sweep(&mut self, population: &mut Population) {
        while let Some((at, key, _)) = self.all.sweep() {
            population.namespaces.value_mut(key.namespace).policies.retain(|&other| other != at);
            population.namespaces.release(key.namespace);
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.all.bytes() + self.heap
    }
}

fn rule_info(rule: &Rule, written: &model::Rule, words: &Words, ports: &Ports) -> RuleInfo {
    RuleInfo {
        origin: written.origin.to_string(),
        peers: rule.peers.as_ref().map_or(RulePeers::Any, |peers| {
            RulePeers::OneOf(peers.iter().map(|peer| PeerId::new(peer.number())).collect())
        }),
        ports: ports.rule_for_table(words, rule.ports),
    }
}

impl PolicyRecord {
    /// Its rules for one direction; `None` where it does not isolate.
    pub(crate) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        self.rules[index(direction)].as_deref()
    }
}

impl Hash for PolicyQuery<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.namespace, self.name).hash(state);
    }
}

impl Equivalent<PolicyKey> for PolicyQuery<'_> {
    fn equivalent(&self, key: &PolicyKey) -> bool {
        self.namespace == key.namespace && *self.name == *key.name
    }
}

impl Heap for PolicyKey {
    fn heap(&self) -> usize {
        self.name.heap()
    }
}

impl Heap for PolicyRecord {
    fn heap(&self) -> usize {
        let rules = self.rules.iter().flatten();
        let held = rules.map(|rules| {
            rules.heap() + rules.iter().flat_map(|rule| &rule.peers).map(Heap::heap).sum::<usize>()
        });
        size_of::<Self>() + held.sum::<usize>()
    }
}
