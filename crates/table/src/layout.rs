//! What a table is made of.

use std::sync::Arc;

use flow::{Address, Epoch};

use crate::entry::Entry;
use crate::paged::Paged;
use crate::rows::Rows;
use crate::rules::{Name, PolicyInfo, Signature};
use crate::sets::Sets;
use crate::v4::Trie;
use crate::v6::{Bucket, Canvas, Hosts, Intervals};

/// The compiled answer to every connection from or to a judged pod. It never changes.
///
/// A clone shares everything with the original.
#[derive(Clone, Debug)]
pub struct PolicyTable {
    pub(crate) generation: u64,
    /// The newest epoch ever given out, by this table or one before it.
    pub(crate) newest: Epoch,
    pub(crate) sizes: Sizes,

    // Step one: an address becomes an entry.
    pub(crate) v4: Trie,
    pub(crate) hosts: Hosts,
    pub(crate) v6: Intervals,
    // Step two: a judged pod has rows.
    pub(crate) subjects: Paged<Subject, 1024>,
    // Step three: a row and a class give a set of ports.
    pub(crate) rows: Rows,
    // Step four: a set and a port give the verdict.
    pub(crate) sets: Sets,

    // For people.
    pub(crate) pods: Paged<Option<Arc<LocalPod>>, 256>,
    pub(crate) classes: Paged<Option<Arc<Signature>>, 256>,
    pub(crate) policies: Paged<Option<Arc<PolicyInfo>>, 256>,
    /// The nodes behind the numbers from [`SHARED_NODES`](Self::SHARED_NODES) on, sorted.
    pub(crate) shared_nodes: Paged<Box<[u16]>, 64>,
}

/// What judging a pod needs. Slot zero is nobody: its rows are open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subject {
    /// Egress and ingress.
    pub(crate) rows: [u32; 2],
    /// The number of its node, or zero.
    pub(crate) node: u32,
    /// The number of its epoch; zero for nobody.
    pub(crate) epoch: u32,
}

/// A pod whose connections the table judges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalPod {
    name: Name,
    uid: String,
    /// Sorted.
    addresses: Vec<Address>,
    /// The addresses of its node, sorted.
    node: Arc<[Address]>,
}

/// How large a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Policies of the cluster, whether they select a judged pod or not.
    pub policies: usize,
    /// Their rules, of both directions.
    pub rules: usize,
    /// Judged pods.
    pub pods: usize,
}

impl PolicyTable {
    /// Numbers of nodes from here on stand for several nodes that have an address together.
    pub(crate) const SHARED_NODES: u16 = 0xc000;

    pub(crate) fn empty(rows: Rows, sets: Sets) -> Self {
        let mut subjects = Paged::new();
        *subjects.at_mut(0) = Subject::default();
        Self {
            generation: 0,
            newest: Epoch::FIRST,
            sizes: Sizes::default(),
            v4: Trie::new(),
            hosts: Hosts::new(),
            v6: Canvas::new().intervals(),
            subjects,
            rows,
            sets,
            pods: Paged::new(),
            classes: Paged::new(),
            policies: Paged::new(),
            shared_nodes: Paged::new(),
        }
    }

    /// What is known of an address.
    #[inline]
    pub(crate) fn locate(&self, address: Address) -> Entry {
        match address.v4_bits() {
            Some(ip) => *self.v4.find(ip),
            None => self.locate_v6(address.bits(), self.hosts.bucket(address.bits())),
        }
    }

    /// What is known of an IPv6 address that is looked for in `bucket` first.
    #[inline]
    pub(crate) fn locate_v6(&self, bits: u128, bucket: &Bucket) -> Entry {
        self.hosts.find(bits, bucket).unwrap_or_else(|| Entry::painted(self.v6.find(bits)))
    }

    /// Whether the table has a class of this number.
    pub(crate) fn has_class(&self, class: u32) -> bool {
        self.classes.at_checked(class).is_some_and(Option::is_some)
    }

    /// Whether a pod with this subject is on the node, or on one of the nodes, that has the address of `peer`.
    #[inline]
    pub(crate) fn is_on(&self, subject: &Subject, peer: Entry) -> bool {
        let node = peer.node();
        if node < Self::SHARED_NODES {
            node != 0 && u32::from(node) == subject.node
        } else {
            let nodes = self.shared_nodes.at(u32::from(node - Self::SHARED_NODES));
            u16::try_from(subject.node).is_ok_and(|own| nodes.binary_search(&own).is_ok())
        }
    }

    /// What its structures hold, in bytes and by name, pages shared with other tables included.
    #[must_use]
    pub fn bytes(&self) -> Vec<(&'static str, usize)> {
        let infos = self.policies.iter().flatten().map(|info| info.bytes()).sum::<usize>();
        let signatures =
            self.classes.iter().flatten().map(|class| size_of_val(&**class) + 16 + class.bytes());
        let signatures = signatures.sum::<usize>();
        let pods = self.pods.iter().flatten().map(|pod| pod.bytes()).sum::<usize>();
        vec![
            ("ipv4 addresses", self.v4.bytes()),
            ("ipv6 hosts", self.hosts.bytes()),
            ("ipv6 intervals", self.v6.bytes()),
            ("subjects", self.subjects.bytes()),
            ("rows", self.rows.bytes()),
            ("sets of ports", self.sets.bytes()),
            ("pods, for people", self.pods.bytes() + pods),
            ("classes, for people", self.classes.bytes() + signatures),
            ("policies, for people", self.policies.bytes() + infos),
        ]
    }

    /// The number of this table among those of its draft; the first has one.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How large it is.
    #[must_use]
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }
}

impl LocalPod {
    /// A pod, the addresses that it owns, and those of its node.
    #[must_use]
    pub fn new(name: Name, uid: String, mut addresses: Vec<Address>, node: Arc<[Address]>) -> Self {
        addresses.sort_unstable();
        Self { name, uid, addresses, node }
    }

    /// Namespace and name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The addresses that it owns, sorted; at least one.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    const fn bytes(&self) -> usize {
        size_of::<Self>()
            + 16
            + self.name.namespace.len()
            + self.name.name.len()
            + self.uid.len()
            + size_of_val(self.addresses.as_slice())
    }
}
