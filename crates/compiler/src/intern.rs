//! Things that are kept once, under a number, as long as somebody refers to them.
//!
//! What loses its last reference stays until it is [swept](Interner::sweep): a change that removes something and brings it
//! back within one step finds it under the same number, with all that hangs on it.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::marker::PhantomData;

use hashbrown::{DefaultHashBuilder, Equivalent, HashTable};

/// The number of a `K` in its [`Interner`]. Reused after the `K` has been swept.
pub(crate) struct Id<K> {
    number: u32,
    of: PhantomData<fn() -> K>,
}

/// Keeps each `K` once, counts who refers to it, and keeps a `V` beside it.
pub(crate) struct Interner<K, V = ()> {
    slots: Vec<Option<Slot<K, V>>>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: Vec<u32>,
    /// Those that have lost their last reference since the last sweep, and may have found one again.
    dying: Vec<u32>,
    /// Bytes that the keys hold outside of their slots.
    heap: usize,
}

struct Slot<K, V> {
    key: K,
    references: u32,
    value: V,
}

/// How much memory a key holds besides itself.
pub(crate) trait Heap {
    /// In bytes.
    fn heap(&self) -> usize;
}

impl<K: Hash + Eq + Heap, V: Default> Interner<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            free: Vec::new(),
            dying: Vec::new(),
            heap: 0,
        }
    }

    /// The number of `key`, if it is kept; no reference is counted.
    pub(crate) fn find<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<Id<K>> {
        let hash = self.hasher.hash_one(key);
        self.index
            .find(hash, |&at| self.slots[at as usize].as_ref().is_some_and(|slot| key.equivalent(&slot.key)))
            .map(|&at| Id::new(at))
    }

    /// Refers to `key` once more, keeping it if it is new. A key that is kept already comes back, so that the caller
    /// can let go of what it holds.
    pub(crate) fn acquire(&mut self, key: K) -> (Id<K>, Option<K>) {
        match self.find(&key) {
            Some(id) => {
                self.retain(id);
                (id, Some(key))
            }
            None => (self.insert(key), None),
        }
    }

    /// Refers to `key` once more; `make` gives it in its own form if it is new.
    pub(crate) fn acquire_as<Q: Hash + Equivalent<K> + ?Sized>(
        &mut self,
        key: &Q,
        make: impl FnOnce() -> K,
    ) -> Id<K> {
        match self.find(key) {
            Some(id) => {
                self.retain(id);
                id
            }
            None => self.insert(make()),
        }
    }

    /// Refers to a key that is known to be new.
    fn insert(&mut self, key: K) -> Id<K> {
        let hash = self.hasher.hash_one(&key);
        self.heap += key.heap();
        let slot = Some(Slot { key, references: 1, value: V::default() });
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 of anything")
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hash, at, |&at| {
            slots[at as usize].as_ref().map_or(0, |slot| hasher.hash_one(&slot.key))
        });
        Id::new(at)
    }

    /// Counts one more reference.
    pub(crate) fn retain(&mut self, id: Id<K>) {
        self.slot_mut(id).references += 1;
    }

    /// Counts one reference less.
    pub(crate) fn release(&mut self, id: Id<K>) {
        let slot = self.slot_mut(id);
        slot.references -= 1;
        if slot.references == 0 {
            self.dying.push(id.number);
        }
    }

    /// Whether there is one with this number.
    pub(crate) fn holds(&self, id: Id<K>) -> bool {
        self.slots.get(id.number as usize).is_some_and(Option::is_some)
    }

    /// Whether anybody refers to it.
    pub(crate) fn is_alive(&self, id: Id<K>) -> bool {
        self.slot(id).references > 0
    }

    /// Drops one that nobody refers to, and hands over what it held.
    pub(crate) fn sweep(&mut self) -> Option<(Id<K>, K, V)> {
        while let Some(at) = self.dying.pop() {
            let slot = &mut self.slots[at as usize];
            let Some(Slot { key, value, .. }) = slot.take_if(|slot| slot.references == 0) else { continue };
            let hash = self.hasher.hash_one(&key);
            if let Ok(entry) = self.index.find_entry(hash, |&other| other == at) {
                entry.remove();
            }
            self.heap -= key.heap();
            self.free.push(at);
            return Some((Id::new(at), key, value));
        }
        None
    }

    /// The key with this number.
    pub(crate) fn key(&self, id: Id<K>) -> &K {
        &self.slot(id).key
    }

    /// What is kept beside it.
    pub(crate) fn value(&self, id: Id<K>) -> &V {
        &self.slot(id).value
    }

    /// What is kept beside it, to change it.
    pub(crate) fn value_mut(&mut self, id: Id<K>) -> &mut V {
        &mut self.slot_mut(id).value
    }

    /// The key, and what is kept beside it.
    pub(crate) fn entry_mut(&mut self, id: Id<K>) -> (&K, &mut V) {
        let slot = self.slot_mut(id);
        (&slot.key, &mut slot.value)
    }

    /// All of them, by number, those that are about to be swept included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id<K>, &K, &V)> {
        let numbered = (0..).zip(&self.slots);
        numbered.filter_map(|(at, slot)| slot.as_ref().map(|slot| (Id::new(at), &slot.key, &slot.value)))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes held, what the values hold outside of their slots left out.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Slot<K, V>>>() + self.index.allocation_size() + self.heap
    }

    fn slot(&self, id: Id<K>) -> &Slot<K, V> {
        self.slots[id.number as usize].as_ref().expect("a number is used only while somebody refers to it")
    }

    fn slot_mut(&mut self, id: Id<K>) -> &mut Slot<K, V> {
        self.slots[id.number as usize].as_mut().expect("a number is used only while somebody refers to it")
    }
}

impl<K> Id<K> {
    /// The number `number`.
    pub(crate) const fn new(number: u32) -> Self {
        Self { number, of: PhantomData }
    }

    /// The number.
    pub(crate) const fn number(self) -> u32 {
        self.number
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.number.cmp(&other.number)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// What an allocation takes beyond what was asked for, about.
const HEADER: usize = 8;

impl Heap for Box<str> {
    fn heap(&self) -> usize {
        self.len() + HEADER
    }
}

impl<T> Heap for Box<[T]> {
    fn heap(&self) -> usize {
        if self.is_empty() { 0 } else { size_of_val::<[T]>(self) + HEADER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Interner<Box<str>, Vec<u32>> {
        Interner::new()
    }

    #[test]
    fn a_key_is_kept_once_and_as_long_as_it_is_referred_to() {
        let mut words = words();
        let a = words.acquire_as("a", || "a".into());
        let (again, back) = words.acquire("a".into());
        assert_eq!((again, back.as_deref(), words.len()), (a, Some("a"), 1));
        words.release(a);
        assert!(words.sweep().is_none());
        words.release(a);
        assert!(!words.is_alive(a));
        assert!(words.sweep().is_some());
        assert_eq!((words.find("a"), words.len()), (None, 0));
        let b = words.acquire_as("b", || "b".into());
        assert_eq!(b.number(), a.number(), "numbers are used again");
    }

    #[test]
    fn what_comes_back_before_the_sweep_keeps_its_number_and_value() {
        let mut words = words();
        let a = words.acquire_as("a", || "a".into());
        words.value_mut(a).push(7);
        for _ in 0..3 {
            words.release(a);
            assert_eq!(words.acquire_as("a", || "a".into()), a);
        }
        assert!(words.sweep().is_none());
        assert_eq!((words.value(a).as_slice(), &**words.key(a)), (&[7][..], "a"));
    }

    #[test]
    fn bytes_follow_the_keys() {
        let mut words = words();
        let ids: Vec<_> =
            (0..100).map(|n| words.acquire_as(&*n.to_string(), || n.to_string().into())).collect();
        let held = words.heap;
        assert_eq!(held, 10 + 90 * 2 + 100 * HEADER);
        ids.into_iter().for_each(|id| words.release(id));
        assert_eq!(std::iter::from_fn(|| words.sweep()).count(), 100);
        assert_eq!(words.heap, 0);
    }
}
