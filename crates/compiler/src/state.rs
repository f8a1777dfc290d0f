//! Everything that the compiler remembers between two tables.

use hashbrown::HashMap;

use table::{Draft, NodeId, PodId};

use crate::budget::Footprint;
use crate::classes::Classes;
use crate::cover::Cover;
use crate::dirty::Dirty;
use crate::hosts::Hosts;
use crate::peers::Peers;
use crate::policies::{Policies, PolicyAt};
use crate::population::{NodeAt, PodAt, Population};
use crate::ports::Ports;
use crate::rows::Rows;
use crate::scope::Scope;
use crate::words::Words;

/// What was written, what follows from it, and what has yet to follow.
pub(crate) struct State {
    pub(crate) scope: Scope,
    // What was written.
    pub(crate) words: Words,
    pub(crate) population: Population,
    pub(crate) ports: Ports,
    pub(crate) peers: Peers,
    pub(crate) policies: Policies,
    // What follows from it.
    pub(crate) hosts: Hosts,
    pub(crate) nodes: NodeNumbers,
    pub(crate) classes: Classes,
    pub(crate) cover: Cover,
    pub(crate) rows: Rows,
    pub(crate) draft: Draft,
    // What has yet to follow.
    pub(crate) dirty: Dirty,
    /// Pods of the table that are judged no more; each may come back before the table is told.
    pub(crate) leaving: HashMap<PodAt, PodId>,
    /// How many bytes there may be; `None` while a change is taken back.
    pub(crate) limit: Option<usize>,
    /// By how many bytes each policy made things grow since the last table.
    pub(crate) grown: HashMap<PolicyAt, usize>,
    /// After how many looks at the budget, before addresses are written, it is taken for spent.
    #[cfg(test)]
    pub(crate) fuse: std::cell::Cell<Option<u32>>,
}

/// The numbers of the nodes that the table knows: those of judged pods.
#[derive(Default)]
pub(crate) struct NodeNumbers {
    known: HashMap<NodeAt, NodeId>,
    free: Vec<NodeId>,
}

/// The byte budget is spent.
#[derive(Debug)]
pub(crate) struct Spent;

impl State {
    pub(crate) fn new(scope: Scope) -> Self {
        let mut classes = Classes::new();
        Self {
            scope,
            words: Words::new(),
            population: Population::new(),
            ports: Ports::new(),
            peers: Peers::new(),
            policies: Policies::new(),
            hosts: Hosts::new(),
            nodes: NodeNumbers::default(),
            cover: Cover::new(&mut classes),
            classes,
            rows: Rows::new(),
            draft: Draft::new(),
            dirty: Dirty::default(),
            leaving: HashMap::new(),
            limit: None,
            grown: HashMap::new(),
            #[cfg(test)]
            fuse: std::cell::Cell::default(),
        }
    }

    /// Drops what nobody refers to any more, those first that refer to others.
    pub(crate) fn sweep(&mut self) {
        let Self { words, population, ports, peers, policies, classes, draft, .. } = self;
        classes.sweep(peers, ports, draft);
        for list in population.sweep(words) {
            peers.lists.release(list);
        }
        while peers.lists.sweep().is_some() {}
        policies.sweep(population);
        peers.sweep(words, population);
        ports.sweep(words);
        while let Some((namespace, _, slot)) = population.namespaces.sweep() {
            peers.forget_namespace(namespace, &slot.parts);
            words.release_pairs(&slot.labels);
        }
        words.sweep();
    }

    /// What is held, by structure.
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint { table: self.draft.bytes(), ..self.footprint_beside_the_table() }
    }

    /// The same without the table, which takes longer to ask.
    pub(crate) fn footprint_beside_the_table(&self) -> Footprint {
        Footprint {
            table: 0,
            words: self.words.bytes(),
            pods: self.population.bytes(),
            addresses: self.hosts.bytes() + self.cover.bytes(),
            policies: self.policies.bytes() + self.ports.bytes(),
            peers: self.peers.bytes(),
            classes: self.classes.bytes(),
            rows: self.rows.bytes(),
        }
    }

    /// Whether there is room for more, before addresses are written.
    pub(crate) fn check(&self) -> Result<(), Spent> {
        #[cfg(test)]
        if let (Some(left), Some(_)) = (self.fuse.get(), self.limit) {
            self.fuse.set(left.checked_sub(1));
            if left == 0 {
                return Err(Spent);
            }
        }
        self.check_written()
    }

    /// Whether there is room for more.
    pub(crate) fn check_written(&self) -> Result<(), Spent> {
        let Some(limit) = self.limit else { return Ok(()) };
        let full = self.classes.all.len() >= Draft::MAX_CLASSES as usize
            || self.population.pods.len() > Draft::MAX_PODS as usize
            || self.nodes.known.len() >= usize::from(Draft::MAX_NODES);
        if full || self.footprint().total() > limit { Err(Spent) } else { Ok(()) }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.footprint().total()
    }

    /// Remembers who made things grow.
    pub(crate) fn blame(&mut self, policies: &[PolicyAt], grown: usize) {
        if grown == 0 || policies.is_empty() {
            return;
        }
        for policy in policies {
            *self.grown.entry(*policy).or_default() += grown / policies.len();
        }
    }
}

impl NodeNumbers {
    /// The number of a node that the table knows.
    pub(crate) fn get(&self, node: NodeAt) -> Option<NodeId> {
        self.known.get(&node).copied()
    }

    /// A judged pod is on the node.
    pub(crate) fn add(&mut self, node: NodeAt) {
        let next = self.known.len();
        let free = &mut self.free;
        self.known.entry(node).or_insert_with(|| {
            free.pop()
                .unwrap_or_else(|| NodeId(u16::try_from(next).expect("nodes are checked with the budget")))
        });
    }

    /// No judged pod is on the node any more.
    pub(crate) fn remove(&mut self, node: NodeAt) {
        self.free.extend(self.known.remove(&node));
    }
}
