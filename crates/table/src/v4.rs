//! IPv4 addresses: a trie of sixteen, eight and eight bits. Three loads find any address.

use std::sync::Arc;

use crate::entry::Entry;
use crate::paged::Paged;

const ROOT: usize = 1 << 16;
const FANOUT: usize = 256;

/// Entries by IPv4 address. Whole ranges are painted; hosts stand out of them.
#[derive(Clone, Debug)]
pub(crate) struct Trie {
    root: Arc<[Entry]>,
    nodes: Paged<Node, 8>,
    /// Nodes in use, and those that were and are free again.
    used: u32,
    free: Arc<Vec<u32>>,
}

#[derive(Clone, Debug)]
struct Node([Entry; FANOUT]);

impl Default for Node {
    fn default() -> Self {
        Self([Entry::default(); FANOUT])
    }
}

impl Trie {
    /// Everything in class zero.
    pub(crate) fn new() -> Self {
        let root = vec![Entry::painted(0); ROOT].into();
        Self { root, nodes: Paged::new(), used: 0, free: Arc::default() }
    }

    /// The entry of `ip`.
    #[inline]
    pub(crate) fn find(&self, ip: u32) -> Entry {
        *self.below(self.below(self.first(ip), ip >> 8), ip)
    }

    /// Where the way to `ip` begins: at its entry, or at a child to go [`below`](Self::below).
    #[inline]
    pub(crate) fn first(&self, ip: u32) -> &Entry {
        &self.root[(ip >> 16) as usize]
    }

    /// The next step, by the low eight bits of `bits`; an entry that is no child stays what it is.
    #[inline]
    pub(crate) fn below<'a>(&'a self, entry: &'a Entry, bits: u32) -> &'a Entry {
        if entry.is_child() { &self.nodes.at(entry.index()).0[bits as usize % FANOUT] } else { entry }
    }

    /// Paints the range from `first` to `last`, both included. Hosts stay. `moved` hears of each class that some
    /// address has left.
    pub(crate) fn paint(&mut self, first: u32, last: u32, class: u32, moved: &mut impl FnMut(u32)) {
        let entry = Entry::painted(class);
        for slot in first >> 16..=last >> 16 {
            let (start, end) = (slot << 16, slot << 16 | 0xffff);
            let old = self.root[slot as usize];
            let new = self.painted(old, entry, (start, 16), (first.max(start), last.min(end)), moved);
            if new != old {
                Arc::make_mut(&mut self.root)[slot as usize] = new;
            }
        }
    }

    /// What `old`, which stands for the 2^`bits` addresses from `start`, becomes when `range` of it is painted.
    fn painted(
        &mut self,
        old: Entry,
        entry: Entry,
        (start, bits): (u32, u32),
        range: (u32, u32),
        moved: &mut impl FnMut(u32),
    ) -> Entry {
        if old == entry || old.is_host() {
            return old;
        }
        let whole = range == (start, start + ((1 << bits) - 1));
        if whole && !old.is_child() {
            moved(old.class());
            return entry;
        }
        let node = self.open(old);
        let below = bits - 8;
        let slot = |address: u32| ((address - start) >> below) as usize;
        for at in slot(range.0)..=slot(range.1) {
            let start = start + ((at as u32) << below);
            let end = start + ((1_u32 << below) - 1);
            let old = self.nodes.at(node).0[at];
            let new = self.painted(old, entry, (start, below), (range.0.max(start), range.1.min(end)), moved);
            if new != old {
                self.nodes.at_mut(node).0[at] = new;
            }
        }
        self.close(node)
    }

    /// Gives `ip` an entry of its own, or with a painted one takes it back.
    pub(crate) fn set(&mut self, ip: u32, entry: Entry) {
        let top = (ip >> 16) as usize;
        let upper = self.open(self.root[top]);
        let lower = self.open(self.nodes.at(upper).0[(ip >> 8) as usize % FANOUT]);
        self.nodes.at_mut(lower).0[ip as usize % FANOUT] = entry;
        let lower = if entry.is_host() { Entry::child(lower) } else { self.close(lower) };
        if self.nodes.at(upper).0[(ip >> 8) as usize % FANOUT] != lower {
            self.nodes.at_mut(upper).0[(ip >> 8) as usize % FANOUT] = lower;
        }
        let upper = if lower.is_child() { Entry::child(upper) } else { self.close(upper) };
        if self.root[top] != upper {
            Arc::make_mut(&mut self.root)[top] = upper;
        }
    }

    /// The node that `entry` leads to; a new one that says the same where it leads to none.
    fn open(&mut self, entry: Entry) -> u32 {
        if entry.is_child() {
            return entry.index();
        }
        let node = Arc::make_mut(&mut self.free).pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        self.nodes.at_mut(node).0 = [entry; FANOUT];
        node
    }

    /// The entry that leads to `node`, or what all of the node says if it is one and the same: then it goes.
    fn close(&mut self, node: u32) -> Entry {
        let Node(entries) = self.nodes.at(node);
        let first = entries[0];
        if first.is_child() || first.is_host() || entries.iter().any(|&entry| entry != first) {
            return Entry::child(node);
        }
        Arc::make_mut(&mut self.free).push(node);
        first
    }

    /// All ranges in order, as first address and entry; neighbours may say the same.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u32, Entry)> {
        let below = |(start, entry): (u32, Entry), bits: u32| {
            let node = entry.is_child().then(|| &self.nodes.at(entry.index()).0);
            let inner =
                node.into_iter().flatten().zip(0..).map(move |(&entry, at)| (start + (at << bits), entry));
            inner.chain((!entry.is_child()).then_some((start, entry)))
        };
        let root = self.root.iter().zip(0..).map(|(&entry, at)| (at << 16, entry));
        root.flat_map(move |range| below(range, 8)).flat_map(move |range| below(range, 0))
    }

    pub(crate) fn bytes(&self) -> usize {
        ROOT * size_of::<Entry>() + self.nodes.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paint(trie: &mut Trie, first: u32, last: u32, class: u32) -> Vec<u32> {
        let mut left = Vec::new();
        trie.paint(first, last, class, &mut |class| left.push(class));
        left.dedup();
        left
    }

    #[test]
    fn hosts_stand_out_of_what_is_painted() {
        let mut trie = Trie::new();
        assert_eq!(paint(&mut trie, 0x0a00_0000, 0x0aff_ffff, 1), [0]);
        trie.set(0x0a00_0001, Entry::host(7, 3, 0));
        assert_eq!(paint(&mut trie, 0x0a00_0000, 0x0a00_0007, 2), [1]);
        let classes = [0x09ff_ffff, 0x0a00_0000, 0x0a00_0001, 0x0a00_0007, 0x0a00_0008, 0x0b00_0000]
            .map(|ip| trie.find(ip).class());
        assert_eq!(classes, [0, 2, 7, 2, 1, 0]);
        assert_eq!(trie.find(0x0a00_0001).pod(), 3);
    }

    #[test]
    fn what_is_taken_back_leaves_no_node_behind() {
        let mut trie = Trie::new();
        paint(&mut trie, 1, 0xffff_fffe, 1);
        trie.set(0x0a00_0001, Entry::host(7, 3, 0));
        trie.set(0x0a00_0001, Entry::painted(1));
        paint(&mut trie, 0, u32::MAX, 0);
        assert_eq!(trie.free.len(), trie.used as usize);
        assert!(trie.root.iter().all(|&entry| entry == Entry::painted(0)));
        assert_eq!(trie.ranges().count(), ROOT);
    }

    #[test]
    fn a_version_shares_the_nodes_that_the_next_leaves_alone() {
        let mut old = Trie::new();
        for ip in 0..64 {
            old.set(0x0a00_0000 | ip << 8, Entry::host(1, 0, 0));
        }
        let mut new = old.clone();
        new.set(0x0a00_0001, Entry::host(2, 0, 0));
        assert!(Arc::ptr_eq(&old.root, &new.root));
        let (same, all) = new.nodes.shared_with(&old.nodes);
        assert_eq!(same, all - 1);
        assert_eq!((old.find(0x0a00_0001).class(), new.find(0x0a00_0001).class()), (0, 2));
    }
}
