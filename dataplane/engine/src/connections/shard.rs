//! One part of the connection table, with a lock of its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam::utils::CachePadded;

use super::Full;
use super::hash::{Seed, Words};
use super::index::Index;
use super::ledger::Ledger;
use super::slot::{Entry, Mark, Slot};
use crate::clock::Ticks;
use crate::state::{Queue, Sender};

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) index: Index,
    pub(super) slots: Box<[Slot]>,
    pub(super) marks: Box<[Mark]>,
    ledger: Mutex<Ledger>,
    /// The most connections that one port may have opened.
    quota: u16,
    pub(super) count: AtomicU32,
}

impl Shard {
    pub(super) fn new(slots: u16, ports: usize) -> Self {
        let empty = |_| {
            let slot = Slot::default();
            slot.clear();
            slot
        };
        Self {
            index: Index::new(usize::from(slots)),
            slots: (0..slots).map(empty).collect(),
            marks: (0..slots).map(|_| Mark::default()).collect(),
            ledger: Mutex::new(Ledger::new(slots, ports)),
            quota: if ports > 1 { slots.div_ceil(2) } else { u16::MAX },
            count: AtomicU32::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A thread that panics ends the process; its last change is whole or not begun.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Ledger>> {
        self.ledger.try_lock().ok()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<CachePadded<Self>>()
            + self.index.bytes()
            + size_of_val(&*self.slots)
            + size_of_val(&*self.marks)
            + self.lock().bytes()
    }

    #[inline]
    pub(super) fn find(&self, words: &Words, hash: u64) -> Option<(u16, u32, Ticks, Sender, Entry)> {
        self.index.find(self.index.place(hash), |number| {
            let slot = &self.slots[usize::from(number)];
            let look = || Some((slot.sender(words)?, slot.entry()?));
            let (generation, seen, found) = self.marks[usize::from(number)].read(look);
            let (sender, entry) = found?;
            Some((number, generation, seen, sender, entry))
        })
    }

    pub(super) fn change(
        &self,
        ledger: &mut Ledger,
        number: u16,
        before: &Entry,
        words: &Words,
        entry: &Entry,
        now: Ticks,
    ) {
        let slot = &self.slots[usize::from(number)];
        self.marks[usize::from(number)].write(now, || slot.write(words, entry));
        if before.opener != entry.opener {
            ledger.reassign(before.opener, entry.opener);
        }
        if before.state.queue() != entry.state.queue() {
            ledger.unlink(before.state.queue(), number, &self.slots);
            ledger.append(entry.state.queue(), number, now, &self.slots);
        }
    }

    /// Enters a connection that is not there. How many others it gave up for it that still lived.
    pub(super) fn insert(
        &self,
        ledger: &mut Ledger,
        hash: u64,
        words: &Words,
        entry: &Entry,
        now: Ticks,
        seed: &Seed,
    ) -> Result<u32, Full> {
        let mut given_up = 0;
        let place = self.index.place(hash);
        if ledger.opened_by(entry.opener) >= self.quota {
            let mut old = Queue::EXPENDABLE.iter().flat_map(|queue| ledger.old(*queue, &self.slots));
            let own = old.find(|number| self.entry(*number).is_some_and(|old| old.opener == entry.opener));
            given_up += self.give_up(ledger, own, now, seed).ok_or(Full::Port)?;
        }
        if ledger.is_full() {
            let spent = Queue::ALL.iter().filter_map(|queue| ledger.oldest(*queue));
            let spent = spent.into_iter().find(|number| self.is_expired(*number, now));
            let oldest = || Queue::EXPENDABLE.iter().find_map(|queue| ledger.oldest(*queue));
            let victim = spent.or_else(oldest);
            given_up += self.give_up(ledger, victim, now, seed).ok_or(Full::Table)?;
        }
        if self.index.is_full(place) {
            let expendable = |number: &u16| {
                self.is_expired(*number, now)
                    || self.entry(*number).is_some_and(|old| Queue::EXPENDABLE.contains(&old.state.queue()))
            };
            let neighbour = self.index.neighbours(place).find(expendable);
            given_up += self.give_up(ledger, neighbour, now, seed).ok_or(Full::Table)?;
        }
        let number = ledger.take(entry.opener).ok_or(Full::Table)?;
        let slot = &self.slots[usize::from(number)];
        self.marks[usize::from(number)].write(now, || slot.write(words, entry));
        self.index.enter(place, number);
        ledger.append(entry.state.queue(), number, now, &self.slots);
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(given_up)
    }

    /// Removes `victim` for another: one if it still lived, else none; `None` if there is no victim.
    fn give_up(&self, ledger: &mut Ledger, victim: Option<u16>, now: Ticks, seed: &Seed) -> Option<u32> {
        let number = victim?;
        let entry = self.entry(number)?;
        let lived = !self.is_expired(number, now);
        self.remove(ledger, number, &entry, seed);
        Some(u32::from(lived))
    }

    fn remove(&self, ledger: &mut Ledger, number: u16, entry: &Entry, seed: &Seed) {
        let slot = &self.slots[usize::from(number)];
        self.index.leave(self.index.place(seed.hash_words(&slot.words())), number);
        self.marks[usize::from(number)].write(Ticks(0), || slot.clear());
        ledger.unlink(entry.state.queue(), number, &self.slots);
        ledger.give_back(number, entry.opener);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    fn entry(&self, number: u16) -> Option<Entry> {
        self.slots[usize::from(number)].entry()
    }

    fn is_expired(&self, number: u16, now: Ticks) -> bool {
        let (_, seen) = self.marks[usize::from(number)].load();
        self.entry(number).is_some_and(|entry| now.expired(seen, entry.state.timeout()))
    }

    /// Looks at what has waited for a whole timeout, and removes what no packet has prolonged. How many looks.
    pub(super) fn expire(&self, ledger: &mut Ledger, now: Ticks, steps: usize, seed: &Seed) -> usize {
        let mut taken = 0;
        for queue in Queue::ALL {
            while taken < steps
                && let Some(number) = ledger.oldest(queue)
            {
                let slot = &self.slots[usize::from(number)];
                if !now.expired(slot.chain().since, queue.timeout()) {
                    break;
                }
                taken += 1;
                let (_, seen) = self.marks[usize::from(number)].load();
                match self.entry(number) {
                    Some(entry) if now.expired(seen, queue.timeout()) => {
                        self.remove(ledger, number, &entry, seed);
                    }
                    _ => {
                        ledger.unlink(queue, number, &self.slots);
                        ledger.append(queue, number, seen, &self.slots);
                    }
                }
            }
        }
        taken
    }
}
