//! IPv4 addresses: a trie of eight bits a step. Four loads find any address.

use std::array;
use std::sync::Arc;

use crate::entry::Entry;

const FANOUT: usize = 256;

/// Entries by IPv4 address. Whole ranges are painted; hosts stand out of them. A clone shares all nodes; a write
/// copies the nodes on its way, where somebody else holds them.
#[derive(Clone, Debug)]
pub(crate) struct Trie {
    root: Arc<[Branch; FANOUT]>,
    size: Size,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    nodes: usize,
    pages: usize,
}

/// What the addresses of one prefix have.
#[derive(Clone, Debug)]
enum Branch {
    /// All the same.
    Leaf(Entry),
    /// Whatever the next eight bits lead to.
    Node(Arc<[Self; FANOUT]>),
    /// Each its own: the last eight bits are left.
    Page(Arc<[Entry; FANOUT]>),
}

impl Branch {
    /// The next step, by the low eight bits of `bits`.
    #[inline]
    fn below(&self, bits: u32) -> &Self {
        if let Self::Node(node) = self { &node[bits as usize % FANOUT] } else { self }
    }
}

impl Trie {
    /// Everything in class zero.
    pub(crate) fn new() -> Self {
        Self { root: Arc::new(array::from_fn(|_| Branch::Leaf(Entry::NOBODY))), size: Size::default() }
    }

    /// Where the entry of `ip` stands.
    #[inline]
    pub(crate) fn find(&self, ip: u32) -> &Entry {
        match self.root[(ip >> 24) as usize].below(ip >> 16).below(ip >> 8) {
            Branch::Page(page) => &page[ip as usize % FANOUT],
            Branch::Leaf(entry) => entry,
            Branch::Node(_) => unreachable!("three steps lead to the last eight bits"),
        }
    }

    /// Paints the range from `first` to `last`, both included. Hosts stay. `moved` hears of each class that some
    /// address has left.
    pub(crate) fn paint(&mut self, first: u32, last: u32, class: u32, moved: &mut impl FnMut(u32)) {
        let root = Arc::make_mut(&mut self.root);
        for slot in first >> 24..=last >> 24 {
            let start = slot << 24;
            let range = (first.max(start), last.min(start + 0xff_ffff));
            paint(&mut root[slot as usize], (start, 24), range, Entry::painted(class), &mut self.size, moved);
        }
    }

    /// Gives `ip` an entry of its own, or with a painted one takes it back.
    pub(crate) fn set(&mut self, ip: u32, entry: Entry) {
        set(&mut Arc::make_mut(&mut self.root)[(ip >> 24) as usize], 24, ip, entry, &mut self.size);
    }

    /// All ranges in order, as first address and entry; neighbours may say the same.
    pub(crate) fn ranges(&self) -> Vec<(u32, Entry)> {
        let mut ranges = Vec::new();
        for (branch, at) in self.root.iter().zip(0_u32..) {
            collect(branch, (at << 24, 24), &mut ranges);
        }
        ranges
    }

    pub(crate) const fn bytes(&self) -> usize {
        const COUNTS: usize = 2 * size_of::<usize>();
        let node = COUNTS + FANOUT * size_of::<Branch>();
        let page = COUNTS + FANOUT * size_of::<Entry>();
        (1 + self.size.nodes) * node + self.size.pages * page
    }
}

/// Paints `range` of the 2^`bits` addresses from `start`, which `branch` stands for.
fn paint(
    branch: &mut Branch,
    (start, bits): (u32, u32),
    range: (u32, u32),
    entry: Entry,
    size: &mut Size,
    moved: &mut impl FnMut(u32),
) {
    let last = start + (u32::MAX >> (32 - bits));
    if let Branch::Leaf(old) = branch {
        if *old == entry {
            return;
        }
        if range == (start, last) {
            moved(old.class());
            *old = entry;
            return;
        }
    }
    open(branch, bits, size);
    let below = bits - 8;
    let slot = |address: u32| ((address - start) >> below) as usize;
    match branch {
        Branch::Node(node) => {
            let slots = slot(range.0)..=slot(range.1);
            for (branch, at) in Arc::make_mut(node)[slots.clone()].iter_mut().zip(slots) {
                let start = start + ((at as u32) << below);
                let last = start + (u32::MAX >> (32 - below));
                let range = (range.0.max(start), range.1.min(last));
                paint(branch, (start, below), range, entry, size, moved);
            }
        }
        Branch::Page(page) => {
            for old in &mut Arc::make_mut(page)[slot(range.0)..=slot(range.1)] {
                if *old != entry && !old.is_host() {
                    moved(old.class());
                    *old = entry;
                }
            }
        }
        Branch::Leaf(_) => unreachable!("it was opened"),
    }
    close(branch, size);
}

/// Sets the entry of `ip`, one of 2^`bits` addresses that `branch` stands for.
fn set(branch: &mut Branch, bits: u32, ip: u32, entry: Entry, size: &mut Size) {
    open(branch, bits, size);
    let slot = (ip >> (bits - 8)) as usize % FANOUT;
    match branch {
        Branch::Node(node) => set(&mut Arc::make_mut(node)[slot], bits - 8, ip, entry, size),
        Branch::Page(page) => Arc::make_mut(page)[slot] = entry,
        Branch::Leaf(_) => unreachable!("it was opened"),
    }
    if !entry.is_host() {
        close(branch, size);
    }
}

/// Makes a leaf a node or a page that says the same.
fn open(branch: &mut Branch, bits: u32, size: &mut Size) {
    if let Branch::Leaf(entry) = *branch {
        *branch = if bits == 8 {
            size.pages += 1;
            Branch::Page(Arc::new([entry; FANOUT]))
        } else {
            size.nodes += 1;
            Branch::Node(Arc::new(array::from_fn(|_| Branch::Leaf(entry))))
        };
    }
}

/// Makes a leaf of a node or a page that says one and the same, and of no host.
fn close(branch: &mut Branch, size: &mut Size) {
    let entry = match branch {
        Branch::Leaf(_) => return,
        Branch::Node(node) => {
            let Branch::Leaf(first) = node[0] else { return };
            if !node.iter().all(|branch| matches!(branch, Branch::Leaf(entry) if *entry == first)) {
                return;
            }
            size.nodes -= 1;
            first
        }
        Branch::Page(page) => {
            let first = page[0];
            if first.is_host() || page.iter().any(|entry| *entry != first) {
                return;
            }
            size.pages -= 1;
            first
        }
    };
    *branch = Branch::Leaf(entry);
}

fn collect(branch: &Branch, (start, bits): (u32, u32), ranges: &mut Vec<(u32, Entry)>) {
    match branch {
        Branch::Leaf(entry) => ranges.push((start, *entry)),
        Branch::Page(page) => ranges.extend((start..=u32::MAX).zip(page.iter().copied())),
        Branch::Node(node) => {
            for (branch, at) in node.iter().zip(0..) {
                collect(branch, (start + (at << (bits - 8)), bits - 8), ranges);
            }
        }
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
    fn ranges_reach_the_last_address() {
        let mut trie = Trie::new();
        trie.set(u32::MAX, Entry::host(7, 3, 0));
        assert_eq!(trie.ranges().last(), Some(&(u32::MAX, Entry::host(7, 3, 0))));
    }

    #[test]
    fn what_is_taken_back_leaves_nothing_behind() {
        let mut trie = Trie::new();
        paint(&mut trie, 1, 0xffff_fffe, 1);
        trie.set(0x0a00_0001, Entry::host(7, 3, 0));
        trie.set(0, Entry::host(7, 3, 0));
        trie.set(u32::MAX, Entry::host(7, 3, 0));
        assert_eq!(trie.size, Size { nodes: 6, pages: 3 });
        for (ip, class) in [(0x0a00_0001, 1), (0, 0), (u32::MAX, 0)] {
            trie.set(ip, Entry::painted(class));
        }
        paint(&mut trie, 0, u32::MAX, 0);
        assert_eq!((trie.size, trie.ranges().len()), (Size::default(), FANOUT));
        assert!(trie.ranges().iter().all(|(_, entry)| *entry == Entry::NOBODY));
    }

    #[test]
    fn a_version_shares_the_pages_that_the_next_leaves_alone() {
        let mut old = Trie::new();
        for ip in 0..64 {
            old.set(0x0a00_0000 | ip << 8, Entry::host(1, 0, 0));
        }
        let mut new = old.clone();
        new.set(0x0a00_0001, Entry::host(2, 0, 0));
        let pages =
            |trie: &Trie| (0..64).map(|ip| std::ptr::from_ref(trie.find(0x0a00_0000 | ip << 8))).collect();
        let (before, after): (Vec<_>, Vec<_>) = (pages(&old), pages(&new));
        assert_eq!(before.iter().zip(&after).filter(|(before, after)| before == after).count(), 63);
        assert_eq!((old.find(0x0a00_0001).class(), new.find(0x0a00_0001).class()), (0, 2));
    }
}
