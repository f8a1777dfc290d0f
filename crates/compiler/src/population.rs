//! Who is there: namespaces, pods and nodes, as compact records.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use flow::Address;
use hashbrown::Equivalent;
use policy::model::{Labels, Namespace, Phase};

use crate::intern::{Heap, Id, Interner};
use crate::peers::{ListAt, PartAt};
use crate::policies::PolicyAt;
use crate::ports::NamedAt;
use crate::rows::RowAt;
use crate::words::{Pairs, Symbol, Words};

/// Where a namespace is kept.
pub(crate) type NamespaceAt = Id<Box<str>>;
/// Where a node is kept.
pub(crate) type NodeAt = Id<NodeName>;
/// Where an identity is kept.
pub(crate) type IdentityAt = Id<IdentityKey>;
/// Where a pod is kept.
pub(crate) type PodAt = Id<PodKey>;

/// Everybody.
pub(crate) struct Population {
    pub(crate) namespaces: Interner<Box<str>, NamespaceSlot>,
    pub(crate) identities: Interner<IdentityKey, Identity>,
    pub(crate) pods: Interner<PodKey, PodSlot>,
    pub(crate) nodes: Interner<NodeName, NodeSlot>,
    /// Bytes that the records of pods hold outside of their slots.
    pub(crate) heap: usize,
}

/// A namespace that is declared, or that a pod, policy or peer names.
#[derive(Default)]
pub(crate) struct NamespaceSlot {
    pub(crate) declared: bool,
    /// Its labels, its name always among them.
    pub(crate) labels: Pairs,
    pub(crate) identities: Vec<IdentityAt>,
    pub(crate) policies: Vec<PolicyAt>,
    /// The halves of live peers that speak of this namespace, sorted.
    pub(crate) parts: Vec<PartAt>,
}

/// What selectors see of a pod: its namespace and labels.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct IdentityKey {
    pub(crate) namespace: NamespaceAt,
    pub(crate) labels: Pairs,
}

/// The same, borrowed.
#[derive(Hash)]
struct IdentityQuery<'a> {
    namespace: NamespaceAt,
    labels: &'a [(Symbol, Symbol)],
}

/// All pods that selectors cannot tell apart.
#[derive(Default)]
pub(crate) struct Identity {
    pub(crate) pods: Vec<PodAt>,
    /// Its place among the identities of its namespace.
    at: u32,
    /// The live peers that select it; `None` before that was asked.
    pub(crate) matches: Option<ListAt>,
}

/// The name and uid of a pod.
#[derive(PartialEq, Eq)]
pub(crate) struct PodKey {
    pub(crate) namespace: NamespaceAt,
    /// Name and uid, one after the other.
    text: Box<str>,
    name_ends: u32,
}

/// The same, borrowed.
pub(crate) struct PodQuery<'a> {
    pub(crate) namespace: NamespaceAt,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
}

/// A pod, or the place of one that has just gone.
#[derive(Default)]
pub(crate) struct PodSlot {
    pub(crate) record: Option<PodRecord>,
    /// Whether its connections are judged as soon as it owns an address.
    pub(crate) judged: bool,
    /// Its place among the pods of its identity.
    at: u32,
    /// Its place in the table, if it is judged.
    pub(crate) subject: Option<Subject>,
}

/// What is known of a pod. It refers to its identity, node and ports.
#[derive(PartialEq, Eq)]
pub(crate) struct PodRecord {
    pub(crate) identity: IdentityAt,
    pub(crate) node: NodeAt,
    pub(crate) ports: NamedAt,
    /// Sorted, none twice.
    pub(crate) addresses: Box<[Address]>,
    pub(crate) started: Box<str>,
    pub(crate) phase: Phase,
    pub(crate) host_network: bool,
}

/// A pod that is judged.
pub(crate) struct Subject {
    pub(crate) id: table::PodId,
    pub(crate) node: NodeAt,
    pub(crate) egress: RowAt,
    pub(crate) ingress: RowAt,
}

/// The name of a node.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct NodeName(pub(crate) Box<str>);

/// A node that is known, or that a pod names.
#[derive(Default)]
pub(crate) struct NodeSlot {
    /// Its addresses, sorted; `None` where nobody has told of it.
    pub(crate) addresses: Option<Arc<[Address]>>,
    /// How many judged pods are on it.
    pub(crate) subjects: u32,
}

impl Population {
    pub(crate) fn new() -> Self {
        Self {
            namespaces: Interner::new(),
            identities: Interner::new(),
            pods: Interner::new(),
            nodes: Interner::new(),
            heap: 0,
        }
    }

    /// Refers to a namespace; true if it is new.
    pub(crate) fn namespace(&mut self, words: &mut Words, name: &str) -> (NamespaceAt, bool) {
        let at = self.namespaces.acquire_as(name, || name.into());
        let slot = self.namespaces.value_mut(at);
        // A namespace has the label of its name at least.
        let new = slot.labels.is_empty();
        if new {
            slot.labels = words.pairs(&policy::labels_of(name, None));
        }
        (at, new)
    }

    /// Refers to the labels that a namespace has where this is written.
    pub(crate) fn labels_of(words: &mut Words, name: &str, written: Option<Labels>) -> Pairs {
        let declared = written.map(|labels| Namespace { name: name.to_owned(), labels });
        words.pairs(&policy::labels_of(name, declared.as_ref()))
    }

    /// Refers to the identity with these labels; true if it is new.
    pub(crate) fn identity(
        &mut self,
        words: &mut Words,
        namespace: NamespaceAt,
        labels: &Labels,
    ) -> (IdentityAt, bool) {
        let known = words.known(labels).and_then(|labels| {
            let query = IdentityQuery { namespace, labels };
            self.identities.find(&query)
        });
        if let Some(at) = known {
            self.identities.retain(at);
            return (at, false);
        }
        self.namespaces.retain(namespace);
        let (at, _) = self.identities.acquire(IdentityKey { namespace, labels: words.pairs(labels) });
        let siblings = &mut self.namespaces.value_mut(namespace).identities;
        self.identities.value_mut(at).at = position(siblings.len());
        siblings.push(at);
        (at, true)
    }

    /// The pod at a place joins or leaves the pods of an identity.
    pub(crate) fn join(&mut self, pod: PodAt, identity: IdentityAt) {
        let pods = &mut self.identities.value_mut(identity).pods;
        self.pods.value_mut(pod).at = position(pods.len());
        pods.push(pod);
    }

    /// Undoes [`join`](Self::join).
    pub(crate) fn leave(&mut self, pod: PodAt, identity: IdentityAt) {
        let at = self.pods.value(pod).at;
        let pods = &mut self.identities.value_mut(identity).pods;
        pods.swap_remove(at as usize);
        if let Some(&moved) = pods.get(at as usize) {
            self.pods.value_mut(moved).at = at;
        }
    }

    /// The labels of an identity.
    pub(crate) fn labels(&self, identity: IdentityAt) -> &[(Symbol, Symbol)] {
        &self.identities.key(identity).labels
    }

    /// The record of a pod that is there.
    pub(crate) fn record(&self, pod: PodAt) -> Option<&PodRecord> {
        self.pods.value(pod).record.as_ref()
    }

    /// The addresses of a node, sorted; none where it is not known.
    pub(crate) fn node_addresses(&self, node: NodeAt) -> &[Address] {
        self.nodes.value(node).addresses.as_deref().unwrap_or_default()
    }

    /// Lets go of what a record refers to.
    pub(crate) fn release(&mut self, record: &PodRecord, ports: &mut crate::ports::Ports) {
        self.identities.release(record.identity);
        self.nodes.release(record.node);
        ports.named.release(record.ports);
    }

    /// Drops pods and identities that nobody refers to; the lists of peers that they matched come back.
    pub(crate) fn sweep(&mut self, words: &mut Words) -> Vec<ListAt> {
        while let Some((_, key, _)) = self.pods.sweep() {
            self.namespaces.release(key.namespace);
        }
        let mut lists = Vec::new();
        while let Some((_, key, identity)) = self.identities.sweep() {
            let siblings = &mut self.namespaces.value_mut(key.namespace).identities;
            siblings.swap_remove(identity.at as usize);
            if let Some(&moved) = siblings.get(identity.at as usize) {
                self.identities.value_mut(moved).at = identity.at;
            }
            words.release_pairs(&key.labels);
            self.namespaces.release(key.namespace);
            lists.extend(identity.matches);
        }
        while self.nodes.sweep().is_some() {}
        lists
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.namespaces.bytes() + self.identities.bytes() + self.pods.bytes() + self.nodes.bytes() + self.heap
    }
}

fn position(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 2^32 of anything")
}

// === impl PodKey ===

impl PodKey {
    /// Its name in its namespace.
    pub(crate) fn name(&self) -> &str {
        &self.text[..self.name_ends as usize]
    }

    /// Its uid.
    pub(crate) fn uid(&self) -> &str {
        &self.text[self.name_ends as usize..]
    }
}

impl PodQuery<'_> {
    /// The key itself.
    pub(crate) fn key(&self) -> PodKey {
        PodKey {
            namespace: self.namespace,
            text: [self.name, self.uid].concat().into(),
            name_ends: position(self.name.len()),
        }
    }
}

impl Hash for PodKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        PodQuery { namespace: self.namespace, name: self.name(), uid: self.uid() }.hash(state);
    }
}

impl Hash for PodQuery<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.namespace, self.name, self.uid).hash(state);
    }
}

impl Equivalent<PodKey> for PodQuery<'_> {
    fn equivalent(&self, key: &PodKey) -> bool {
        self.namespace == key.namespace && self.name == key.name() && self.uid == key.uid()
    }
}

impl Equivalent<IdentityKey> for IdentityQuery<'_> {
    fn equivalent(&self, key: &IdentityKey) -> bool {
        self.namespace == key.namespace && *self.labels == *key.labels
    }
}

impl Equivalent<NodeName> for str {
    fn equivalent(&self, key: &NodeName) -> bool {
        *self == *key.0
    }
}

impl PodRecord {
    /// Whether it may own addresses: an ended pod has given them back, those of a pod in its node's network are
    /// the node's.
    pub(crate) fn claims(&self) -> &[Address] {
        if self.phase == Phase::Ended || self.host_network { &[] } else { &self.addresses }
    }
}

impl Heap for PodKey {
    fn heap(&self) -> usize {
        self.text.heap()
    }
}

impl Heap for PodRecord {
    fn heap(&self) -> usize {
        self.addresses.heap() + self.started.heap()
    }
}

impl Heap for IdentityKey {
    fn heap(&self) -> usize {
        self.labels.heap()
    }
}

impl Heap for NodeName {
    fn heap(&self) -> usize {
        self.0.heap()
    }
}
