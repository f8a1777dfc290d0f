//! Classes of addresses that all live rules treat alike.

use std::collections::BTreeSet;
use std::sync::Arc;

use table::{ClassId, Draft, PeerId, Signature};

use crate::intern::{Heap, Id, Interner};
use crate::peers::{ListAt, NOBODY, Peers};
use crate::ports::{NO_NAMES, NamedAt, Ports};
use crate::words::Words;

/// Where a class is kept.
pub(crate) type ClassAt = Id<ClassKey>;

/// The class of what no live rule speaks of.
pub(crate) const OUTSIDE: ClassAt = Id::new(0);

/// What puts an address into its class.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClassKey {
    /// The live peers that select the pod; nobody where there is no pod.
    pub(crate) matches: ListAt,
    /// The live blocks that cover the address.
    pub(crate) cover: ListAt,
    /// The pod's named ports, as far as rules ask for them.
    pub(crate) ports: NamedAt,
}

#[derive(Default)]
pub(crate) struct ClassSlot {
    /// Its place in the table, once it is known that somebody is in it.
    pub(crate) id: Option<ClassId>,
}

/// All classes. A class is referred to by the addresses of pods and nodes that are in it, and by the intervals.
pub(crate) struct Classes {
    pub(crate) all: Interner<ClassKey, ClassSlot>,
    /// Those of pods with named ports that rules ask for.
    pub(crate) named: BTreeSet<ClassAt>,
}

impl Classes {
    pub(crate) fn new() -> Self {
        let mut all: Interner<ClassKey, ClassSlot> = Interner::new();
        let outside = all.acquire(ClassKey { matches: NOBODY, cover: NOBODY, ports: NO_NAMES }).0;
        assert!(outside == OUTSIDE, "the first number");
        all.value_mut(outside).id = Some(ClassId::OUTSIDE);
        Self { all, named: BTreeSet::new() }
    }

    /// Refers to a class; true if the table does not know it yet.
    pub(crate) fn class(&mut self, key: ClassKey, peers: &mut Peers, ports: &mut Ports) -> (ClassAt, bool) {
        let (at, back) = self.all.acquire(key);
        if back.is_none() {
            peers.lists.retain(key.matches);
            peers.lists.retain(key.cover);
            ports.named.retain(key.ports);
        }
        (at, self.all.value(at).id.is_none())
    }

    /// Makes a class known to the table, without cells.
    pub(crate) fn show(
        &mut self,
        class: ClassAt,
        peers: &mut Peers,
        ports: &Ports,
        words: &Words,
        draft: &mut Draft,
    ) {
        let key = *self.all.key(class);
        let mut matching = peers.lists.key(key.matches).to_vec();
        matching.extend_from_slice(peers.lists.key(key.cover));
        matching.sort_unstable();
        peers.link_class(&matching, class, true);
        if key.ports != NO_NAMES {
            self.named.insert(class);
        }
        let signature = Signature {
            peers: matching.iter().map(|peer| PeerId::new(peer.number())).collect::<Arc<_>>(),
            ports: ports.named_for_table(words, key.ports),
        };
        self.all.value_mut(class).id = Some(draft.add_class(signature));
    }

    /// Its place in the table.
    pub(crate) fn id(&self, class: ClassAt) -> ClassId {
        self.all.value(class).id.expect("who is in a class is told to the table after the class")
    }

    /// Drops classes in which nobody is.
    pub(crate) fn sweep(&mut self, peers: &mut Peers, ports: &mut Ports, draft: &mut Draft) {
        while let Some((at, key, slot)) = self.all.sweep() {
            if let Some(id) = slot.id {
                for list in [key.matches, key.cover] {
                    let list = peers.lists.key(list).clone();
                    peers.link_class(&list, at, false);
                }
                self.named.remove(&at);
                draft.remove_class(id);
            }
            peers.lists.release(key.matches);
            peers.lists.release(key.cover);
            ports.named.release(key.ports);
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.all.bytes() + self.named.len() * size_of::<ClassAt>() * 2
    }
}

impl Heap for ClassKey {
    fn heap(&self) -> usize {
        0
    }
}
