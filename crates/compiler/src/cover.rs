//! Which live blocks cover which addresses: all addresses, cut into intervals of one class each.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::classes::{ClassAt, ClassKey, Classes, OUTSIDE};
use crate::dirty::Dirty;
use crate::peers::{PeerAt, PeerKey, Peers};
use crate::ports::Ports;
use crate::ranges::Range;

/// The intervals. Neighbours are of different classes, so that what there is depends on the blocks only, and not on
/// how they came.
pub(crate) struct Cover {
    /// The class of the addresses from here up to the next one. Each refers to its class.
    starts: BTreeMap<u128, ClassAt>,
}

impl Cover {
    /// Nothing is covered.
    pub(crate) fn new(classes: &mut Classes) -> Self {
        classes.all.retain(OUTSIDE);
        Self { starts: BTreeMap::from([(0, OUTSIDE)]) }
    }

    /// The class of addresses that are neither pods nor nodes.
    pub(crate) fn at(&self, number: u128) -> ClassAt {
        self.starts.range(..=number).next_back().map_or(OUTSIDE, |(_, &class)| class)
    }

    /// The intervals of a range, cut at its ends.
    pub(crate) fn within(&self, range: Range) -> impl Iterator<Item = (Range, ClassAt)> {
        let first = [(range.first, self.at(range.first))].into_iter();
        let rest = range.first.checked_add(1).filter(|&next| next <= range.last);
        let rest = rest.into_iter().flat_map(move |next| self.starts.range(next..=range.last));
        let mut starts = first.chain(rest.map(|(&start, &class)| (start, class))).peekable();
        std::iter::from_fn(move || {
            let (first, class) = starts.next()?;
            let last = starts.peek().map_or(range.last, |&(next, _)| next - 1);
            Some((Range { first, last }, class))
        })
    }

    /// A block begins or ceases to cover its addresses.
    pub(crate) fn set(
        &mut self,
        block: PeerAt,
        covers: bool,
        classes: &mut Classes,
        peers: &mut Peers,
        ports: &mut Ports,
        dirty: &mut Dirty,
    ) {
        let PeerKey::Block(ranges) = peers.peers.key(block) else { return };
        let ranges = ranges.clone();
        // Intervals of one class go to one class.
        let mut known: HashMap<ClassAt, ClassAt> = HashMap::new();
        for &range in &ranges {
            self.split(range.first, classes);
            if let Some(after) = range.last.checked_add(1) {
                self.split(after, classes);
            }
            for (_, class) in self.starts.range_mut(range.first..=range.last) {
                let new = match known.get(class) {
                    Some(&new) => {
                        classes.all.retain(new);
                        new
                    }
                    None => {
                        let key = *classes.all.key(*class);
                        let cover = peers.list_with(key.cover, block, covers);
                        let (new, is_new) = classes.class(ClassKey { cover, ..key }, peers, ports);
                        peers.lists.release(cover);
                        if is_new {
                            dirty.classes.mark(new);
                        }
                        known.insert(*class, new);
                        new
                    }
                };
                classes.all.release(*class);
                *class = new;
            }
            self.unite(range.first, classes);
            if let Some(after) = range.last.checked_add(1) {
                self.unite(after, classes);
            }
            dirty.ranges.push(range);
        }
    }

    /// Begins an interval here.
    fn split(&mut self, start: u128, classes: &mut Classes) {
        if !self.starts.contains_key(&start) {
            let class = self.at(start);
            classes.all.retain(class);
            self.starts.insert(start, class);
        }
    }

    /// Ends the interval that begins here, if the one before it is of the same class.
    fn unite(&mut self, start: u128, classes: &mut Classes) {
        let before = self.starts.range(..start).next_back();
        if let (Some((_, before)), Some(class)) = (before, self.starts.get(&start))
            && before == class
        {
            classes.all.release(*class);
            self.starts.remove(&start);
        }
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> usize {
        self.starts.len() * (size_of::<(u128, ClassAt)>() * 3 / 2)
    }
}
