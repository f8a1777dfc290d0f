//! Whom rules speak of, each kept once, and which of them select an identity.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use flow::Direction;
use policy::model::{Namespaces, Peer};

use crate::classes::ClassAt;
use crate::intern::{Heap, Id, Interner};
use crate::policies::PolicyAt;
use crate::population::{IdentityAt, NamespaceAt, Population};
use crate::ranges::{self, Range};
use crate::words::{Selector, Symbol, Words};

/// Where the half of a peer that speaks of namespaces is kept.
pub(crate) type PartAt = Id<Part>;
/// Where a peer is kept.
pub(crate) type PeerAt = Id<PeerKey>;
/// Where a list of peers, sorted, is kept.
pub(crate) type ListAt = Id<Box<[PeerAt]>>;

/// No peers.
pub(crate) const NOBODY: ListAt = Id::new(0);

/// The half of a peer that speaks of namespaces.
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// One namespace: that of the policy.
    Own(NamespaceAt),
    /// Those with such labels.
    Matching(Id<Selector>),
}

/// One peer, however often and in whatever words it was written.
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum PeerKey {
    /// Pods with such labels in such namespaces.
    Pods { part: PartAt, pods: Id<Selector> },
    /// Addresses.
    Block(Box<[Range]>),
}

/// A rule that speaks of a peer and decides about a judged pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct User {
    pub(crate) policy: PolicyAt,
    pub(crate) direction: Direction,
    pub(crate) rule: u32,
}

#[derive(Default)]
pub(crate) struct PeerSlot {
    /// Sorted. A peer with users is live.
    users: Vec<User>,
    /// Whether the indices know it as live.
    shown: bool,
    /// The classes that it matches.
    pub(crate) classes: BTreeSet<ClassAt>,
}

#[derive(Default)]
pub(crate) struct PartSlot {
    /// How many live peers have this half.
    peers: u32,
    /// Of a half that a live peer has: the namespaces that it speaks of.
    namespaces: Vec<NamespaceAt>,
    /// The live peers of this half that ask for no value of a label.
    vague: Vec<PeerAt>,
}

/// All peers.
pub(crate) struct Peers {
    pub(crate) peers: Interner<PeerKey, PeerSlot>,
    parts: Interner<Part, PartSlot>,
    pub(crate) lists: Interner<Box<[PeerAt]>>,
    /// The live peers of one half that ask for this label, so that an identity meets only those that may match.
    by_label: HashMap<(PartAt, Symbol, Symbol), Vec<PeerAt>>,
    /// The halves with a selector that live peers have.
    selecting: BTreeSet<PartAt>,
    /// How many users and classes all peers have.
    links: usize,
}

impl Peers {
    pub(crate) fn new() -> Self {
        let mut lists = Interner::new();
        let nobody = lists.acquire(Box::default()).0;
        assert!(nobody == NOBODY, "the first number");
        Self {
            peers: Interner::new(),
            parts: Interner::new(),
            lists,
            by_label: HashMap::new(),
            selecting: BTreeSet::new(),
            links: 0,
        }
    }

    /// Refers to a peer of a policy in namespace `own`.
    pub(crate) fn peer(
        &mut self,
        words: &mut Words,
        population: &mut Population,
        own: NamespaceAt,
        peer: &Peer,
    ) -> PeerAt {
        let key = match peer {
            Peer::Pods { namespaces, pods } => {
                let half = match namespaces {
                    Namespaces::SameAsPolicy => {
                        population.namespaces.retain(own);
                        Part::Own(own)
                    }
                    Namespaces::Matching(selector) => Part::Matching(words.selector(selector)),
                };
                let (part, back) = self.parts.acquire(half);
                if let Some(half) = back {
                    release_part(&half, words, population);
                }
                PeerKey::Pods { part, pods: words.selector(pods) }
            }
            Peer::Block(block) => PeerKey::Block(ranges::covered(block)),
        };
        let (at, back) = self.peers.acquire(key);
        if let Some(PeerKey::Pods { part, pods }) = back {
            self.parts.release(part);
            words.selectors.release(pods);
        }
        at
    }

    /// The rules that decide about judged pods and speak of a peer.
    pub(crate) fn users(&self, peer: PeerAt) -> &[User] {
        &self.peers.value(peer).users
    }

    /// A rule that speaks of a peer begins to decide.
    pub(crate) fn add_user(&mut self, peer: PeerAt, user: User) {
        let users = &mut self.peers.value_mut(peer).users;
        if let Err(at) = users.binary_search(&user) {
            users.insert(at, user);
            self.links += 1;
        }
    }

    /// A rule that speaks of a peer decides no more.
    pub(crate) fn remove_user(&mut self, peer: PeerAt, user: User) {
        let users = &mut self.peers.value_mut(peer).users;
        if let Ok(at) = users.binary_search(&user) {
            users.remove(at);
            self.links -= 1;
        }
    }

    /// Whether the indices do not know yet that a peer is live, or that it no longer is.
    pub(crate) fn is_stale(&self, peer: PeerAt) -> bool {
        let slot = self.peers.value(peer);
        slot.shown == slot.users.is_empty()
    }

    /// Whether a peer is live.
    pub(crate) fn is_live(&self, peer: PeerAt) -> bool {
        !self.peers.value(peer).users.is_empty()
    }

    /// Makes the indices know whether a block is live.
    pub(crate) fn show_block(&mut self, peer: PeerAt) {
        let slot = self.peers.value_mut(peer);
        slot.shown = !slot.users.is_empty();
    }

    /// Makes the indices know whether a peer of pods is live; gives the namespaces that it speaks of.
    pub(crate) fn show_pods(
        &mut self,
        words: &Words,
        population: &mut Population,
        peer: PeerAt,
    ) -> Vec<NamespaceAt> {
        let (key, slot) = self.peers.entry_mut(peer);
        let PeerKey::Pods { part, pods } = key else { return Vec::new() };
        let live = !slot.users.is_empty();
        slot.shown = live;
        let (half, part_slot) = self.parts.entry_mut(*part);
        if live && part_slot.peers == 0 {
            show_part(words, population, *part, half, part_slot, &mut self.selecting);
        }
        let selector = words.selectors.key(*pods);
        match selector.one_of() {
            Some(labels) => {
                for (key, value) in labels {
                    let place = (*part, key, value);
                    let bucket = self.by_label.entry(place).or_default();
                    put(bucket, peer, live);
                    if bucket.is_empty() {
                        self.by_label.remove(&place);
                    }
                }
            }
            None => put(&mut part_slot.vague, peer, live),
        }
        let namespaces = part_slot.namespaces.clone();
        if live {
            part_slot.peers += 1;
        } else {
            part_slot.peers -= 1;
            if part_slot.peers == 0 {
                for namespace in std::mem::take(&mut part_slot.namespaces) {
                    put(&mut population.namespaces.value_mut(namespace).parts, *part, false);
                }
                self.selecting.remove(part);
            }
        }
        namespaces
    }

    /// Asks anew which halves of live peers speak of a namespace; true if the answer is another.
    pub(crate) fn place_namespace(
        &mut self,
        words: &Words,
        population: &mut Population,
        namespace: NamespaceAt,
    ) -> bool {
        let slot = population.namespaces.value_mut(namespace);
        let mut changed = false;
        for &part in &self.selecting {
            let (half, part_slot) = self.parts.entry_mut(part);
            let Part::Matching(selector) = half else { continue };
            let matches = words.selectors.key(*selector).matches(&slot.labels);
            if slot.parts.binary_search(&part).is_ok() != matches {
                put(&mut slot.parts, part, matches);
                match part_slot.namespaces.iter().position(|&other| other == namespace) {
                    Some(at) => drop(part_slot.namespaces.swap_remove(at)),
                    None => part_slot.namespaces.push(namespace),
                }
                changed = true;
            }
        }
        changed
    }

    /// The halves forget a namespace that is swept.
    pub(crate) fn forget_namespace(&mut self, namespace: NamespaceAt, parts: &[PartAt]) {
        for &part in parts {
            self.parts.value_mut(part).namespaces.retain(|&other| other != namespace);
        }
    }

    /// Refers to the list of the live peers that select an identity.
    pub(crate) fn matching(
        &mut self,
        words: &Words,
        population: &Population,
        identity: IdentityAt,
    ) -> ListAt {
        let key = population.identities.key(identity);
        let mut found = Vec::new();
        for &part in &population.namespaces.value(key.namespace).parts {
            let by_label =
                key.labels.iter().filter_map(|&(key, value)| self.by_label.get(&(part, key, value)));
            let candidates = by_label.chain([&self.parts.value(part).vague]).flatten();
            found.extend(candidates.copied().filter(|&peer| {
                let PeerKey::Pods { pods, .. } = self.peers.key(peer) else { return false };
                words.selectors.key(*pods).matches(&key.labels)
            }));
        }
        found.sort_unstable();
        self.list(found)
    }

    /// Refers to a list of peers.
    pub(crate) fn list(&mut self, sorted: Vec<PeerAt>) -> ListAt {
        self.lists.acquire_as(sorted.as_slice(), || sorted.as_slice().into())
    }

    /// Refers to a list with one peer more or less.
    pub(crate) fn list_with(&mut self, list: ListAt, peer: PeerAt, member: bool) -> ListAt {
        let mut peers = self.lists.key(list).to_vec();
        put(&mut peers, peer, member);
        self.list(peers)
    }

    /// A class that these peers match comes or goes.
    pub(crate) fn link_class(&mut self, peers: &[PeerAt], class: ClassAt, member: bool) {
        for &peer in peers {
            let classes = &mut self.peers.value_mut(peer).classes;
            if member {
                classes.insert(class);
                self.links += 1;
            } else {
                classes.remove(&class);
                self.links -= 1;
            }
        }
    }

    /// Drops what nobody refers to.
    pub(crate) fn sweep(&mut self, words: &mut Words, population: &mut Population) {
        while let Some((_, key, slot)) = self.peers.sweep() {
            assert!(!slot.shown && slot.classes.is_empty(), "a peer that nobody refers to is in no index");
            if let PeerKey::Pods { part, pods } = key {
                self.parts.release(part);
                words.selectors.release(pods);
            }
        }
        while let Some((_, half, _)) = self.parts.sweep() {
            release_part(&half, words, population);
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        /// A label, a list of peers and its place in the index.
        const BUCKET: usize = 80;
        /// A user or a class of a peer.
        const LINK: usize = 16;
        self.peers.bytes()
            + self.parts.bytes()
            + self.lists.bytes()
            + self.by_label.capacity() * BUCKET
            + self.links * LINK
    }
}

fn show_part(
    words: &Words,
    population: &mut Population,
    part: PartAt,
    half: &Part,
    slot: &mut PartSlot,
    selecting: &mut BTreeSet<PartAt>,
) {
    slot.namespaces = match half {
        Part::Own(namespace) => vec![*namespace],
        Part::Matching(selector) => {
            selecting.insert(part);
            let selector = words.selectors.key(*selector);
            let all = population.namespaces.iter();
            all.filter(|(_, _, namespace)| selector.matches(&namespace.labels)).map(|(at, ..)| at).collect()
        }
    };
    for &namespace in &slot.namespaces {
        put(&mut population.namespaces.value_mut(namespace).parts, part, true);
    }
}

fn release_part(half: &Part, words: &mut Words, population: &mut Population) {
    match *half {
        Part::Own(namespace) => population.namespaces.release(namespace),
        Part::Matching(selector) => words.selectors.release(selector),
    }
}

/// Makes something a member of a sorted list, or no member.
fn put<T: Ord>(sorted: &mut Vec<T>, item: T, member: bool) {
    match sorted.binary_search(&item) {
        Ok(at) if !member => drop(sorted.remove(at)),
        Err(at) if member => sorted.insert(at, item),
        _ => {}
    }
}

impl Heap for Part {
    fn heap(&self) -> usize {
        0
    }
}

impl Heap for PeerKey {
    fn heap(&self) -> usize {
        match self {
            Self::Pods { .. } => 0,
            Self::Block(ranges) => ranges.heap(),
        }
    }
}
