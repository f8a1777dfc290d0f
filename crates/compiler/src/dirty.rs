//! What has to be derived anew.
//!
//! A mark is taken away when its thing has been derived, and not before: a derivation that stops half-way leaves the
//! rest for the next one.

use flow::{Address, Protocol};

use crate::classes::ClassKey;
use crate::intern::Id;
use crate::peers::PeerKey;
use crate::policies::PolicyKey;
use crate::population::{IdentityKey, NodeName, PodKey};
use crate::ranges::Range;
use crate::rows::RowKey;
use crate::words::Symbol;

/// Things by number, each at most once.
pub(crate) struct Marks<K> {
    marked: Vec<Id<K>>,
    is_marked: Vec<bool>,
}

/// Everything that is waiting, in the order in which it is derived.
#[derive(Default)]
pub(crate) struct Dirty {
    /// Addresses whose claimants changed.
    pub(crate) claims: Vec<Address>,
    /// Nodes whose addresses changed.
    pub(crate) nodes: Marks<NodeName>,
    /// Pods of which the table may have to know something new.
    pub(crate) residents: Marks<PodKey>,
    /// Judged pods that other policies may select.
    pub(crate) subjects: Marks<PodKey>,
    /// Policies that changed.
    pub(crate) policies: Marks<PolicyKey>,
    /// Policies that may decide about judged pods from now on, or no more.
    pub(crate) liveness: Marks<PolicyKey>,
    /// Port names that rules may ask for from now on, or no more.
    pub(crate) names: Vec<(Symbol, Protocol)>,
    /// Namespaces whose labels changed.
    pub(crate) namespaces: Marks<Box<str>>,
    /// Peers that may be live from now on, or no more.
    pub(crate) peers: Marks<PeerKey>,
    /// Identities that other peers may select.
    pub(crate) identities: Marks<IdentityKey>,
    /// Addresses that other blocks cover.
    pub(crate) ranges: Vec<Range>,
    /// Addresses of pods and nodes whose entry may change.
    pub(crate) hosts: Vec<Address>,
    /// Classes that have no cells yet.
    pub(crate) classes: Marks<ClassKey>,
    /// Rows whose cells are to be made anew.
    pub(crate) rows: Marks<RowKey>,
}

impl<K> Marks<K> {
    /// Marks one.
    pub(crate) fn mark(&mut self, id: Id<K>) {
        let at = id.number() as usize;
        if at >= self.is_marked.len() {
            self.is_marked.resize((at + 1).next_power_of_two(), false);
        }
        if !self.is_marked[at] {
            self.is_marked[at] = true;
            self.marked.push(id);
        }
    }

    /// Takes one, and its mark.
    pub(crate) fn pop(&mut self) -> Option<Id<K>> {
        let id = self.marked.pop()?;
        self.is_marked[id.number() as usize] = false;
        Some(id)
    }

    /// Makes [`pop`](Self::pop) take them by number.
    pub(crate) fn order(&mut self) {
        self.marked.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Whether one is marked.
    pub(crate) fn has(&self, id: Id<K>) -> bool {
        self.is_marked.get(id.number() as usize).copied().unwrap_or_default()
    }

    /// How many are marked.
    pub(crate) const fn len(&self) -> usize {
        self.marked.len()
    }

    /// All that are marked.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Id<K>> {
        self.marked.iter().copied()
    }
}

impl<K> Default for Marks<K> {
    fn default() -> Self {
        Self { marked: Vec::new(), is_marked: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_set_once_and_taken_in_order() {
        let mut marks: Marks<PodKey> = Marks::default();
        [5, 1, 5, 3].into_iter().for_each(|number| marks.mark(Id::new(number)));
        assert!(marks.has(Id::new(3)) && !marks.has(Id::new(4)) && !marks.has(Id::new(99)));
        marks.order();
        assert_eq!(marks.pop(), Some(Id::new(1)));
        marks.mark(Id::new(1));
        assert_eq!((marks.len(), marks.pop(), marks.pop()), (3, Some(Id::new(1)), Some(Id::new(3))));
    }
}
