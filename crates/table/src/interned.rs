//! Equal values stored once, under ids that are used again.

use std::collections::HashMap;
use std::hash::Hash;

/// Ids of values. A value that nobody uses any more keeps its id until it is [swept](Self::sweep).
#[derive(Debug)]
pub(crate) struct Interned<K> {
    ids: HashMap<K, u32>,
    free: Vec<u32>,
    next: u32,
}

impl<K: Eq + Hash + Clone> Interned<K> {
    pub(crate) fn new() -> Self {
        Self { ids: HashMap::new(), free: Vec::new(), next: 0 }
    }

    /// The id of a value; `store` hears of a new one.
    pub(crate) fn id(&mut self, value: K, store: impl FnOnce(u32, &K)) -> u32 {
        *self.ids.entry(value).or_insert_with_key(|value| {
            let id = self.free.pop().unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            store(id, value);
            id
        })
    }

    pub(crate) fn has(&self, value: &K) -> bool {
        self.ids.contains_key(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Frees the ids that are not used.
    pub(crate) fn sweep(&mut self, used: &Marks) {
        let free = &mut self.free;
        self.ids.retain(|_, &mut id| {
            let used = used.has(id);
            if !used {
                free.push(id);
            }
            used
        });
    }

    /// What it holds beside the values themselves, which are stored elsewhere a second time.
    pub(crate) fn bytes(&self) -> usize {
        self.ids.capacity() * (size_of::<K>() + size_of::<u32>() + 1)
            + self.free.capacity() * size_of::<u32>()
    }
}

/// A set of ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    /// Marks an id. Whether it was new.
    pub(crate) fn mark(&mut self, id: u32) -> bool {
        let word = id as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let bit = 1 << (id % 64);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    pub(crate) fn has(&self, id: u32) -> bool {
        self.0.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().zip(0..).flat_map(|(&word, at)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swept_ids_are_used_again() {
        let mut interned = Interned::new();
        let mut ids = ["a", "b", "a", "c"].map(|value| interned.id(value, |_, _| ()));
        assert_eq!(ids, [0, 1, 0, 2]);
        let mut used = Marks::default();
        assert!(used.mark(0) && used.mark(2) && !used.mark(2));
        interned.sweep(&used);
        ids = ["d", "a", "e", "c"].map(|value| interned.id(value, |_, _| ()));
        assert_eq!(ids, [1, 0, 3, 2]);
        assert_eq!(used.iter().collect::<Vec<_>>(), [0, 2]);
    }
}
