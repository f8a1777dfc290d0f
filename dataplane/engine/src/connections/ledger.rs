//! What only changes under a shard's lock: which slots are free, who waits for its end in which queue, and
//! which port has opened how many connections.

use super::slot::{Chain, Slot};
use crate::clock::Ticks;
use crate::state::Queue;

/// No slot: the end of a queue.
pub(super) const NONE: u16 = u16::MAX;

/// How far a queue is searched for a connection of one port.
const GLANCE: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u16,
    tail: u16,
}

/// The books of one shard.
#[derive(Debug)]
pub(super) struct Ledger {
    free: Vec<u16>,
    queues: [Ends; Queue::ALL.len()],
    /// By port.
    opened: Box<[u16]>,
}

impl Ledger {
    pub(super) fn new(slots: u16, ports: usize) -> Self {
        Self {
            free: (0..slots).rev().collect(),
            queues: [Ends { head: NONE, tail: NONE }; Queue::ALL.len()],
            opened: vec![0; ports].into(),
        }
    }

    /// A free slot for a connection that `port` opens; it counts for the port from now on.
    pub(super) fn take(&mut self, port: u16) -> Option<u16> {
        let slot = self.free.pop()?;
        if let Some(opened) = self.opened.get_mut(usize::from(port)) {
            *opened += 1;
        }
        Some(slot)
    }

    /// Whether no slot is free.
    pub(super) const fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Gives a slot back that `port` has opened.
    pub(super) fn give_back(&mut self, slot: u16, port: u16) {
        if let Some(opened) = self.opened.get_mut(usize::from(port)) {
            *opened -= 1;
        }
        self.free.push(slot);
    }

    /// How many connections `port` has opened.
    pub(super) fn opened_by(&self, port: u16) -> u16 {
        self.opened.get(usize::from(port)).copied().unwrap_or(0)
    }

    /// Counts a connection for another port than before.
    pub(super) fn reassign(&mut self, from: u16, to: u16) {
        if let Some(opened) = self.opened.get_mut(usize::from(from)) {
            *opened -= 1;
        }
        if let Some(opened) = self.opened.get_mut(usize::from(to)) {
            *opened += 1;
        }
    }

    /// The slot that has waited longest in a queue.
    pub(super) fn oldest(&self, queue: Queue) -> Option<u16> {
        Some(self.queues[queue as usize].head).filter(|slot| *slot != NONE)
    }

    /// The slots that have waited longest, a few at most.
    pub(super) fn old<'a>(&self, queue: Queue, slots: &'a [Slot]) -> impl Iterator<Item = u16> + 'a {
        let behind = |slot: &u16| Some(slots[usize::from(*slot)].chain().next).filter(|next| *next != NONE);
        std::iter::successors(self.oldest(queue), behind).take(GLANCE)
    }

    /// Puts a slot at the end of a queue.
    pub(super) fn append(&mut self, queue: Queue, slot: u16, since: Ticks, slots: &[Slot]) {
        let ends = &mut self.queues[queue as usize];
        slots[usize::from(slot)].set_chain(Chain { next: NONE, previous: ends.tail, since });
        match slots.get(usize::from(ends.tail)) {
            Some(last) => last.set_chain(Chain { next: slot, ..last.chain() }),
            None => ends.head = slot,
        }
        ends.tail = slot;
    }

    /// Takes a slot out of its queue.
    pub(super) fn unlink(&mut self, queue: Queue, slot: u16, slots: &[Slot]) {
        let ends = &mut self.queues[queue as usize];
        let Chain { next, previous, .. } = slots[usize::from(slot)].chain();
        match slots.get(usize::from(previous)) {
            Some(before) => before.set_chain(Chain { next, ..before.chain() }),
            None => ends.head = next,
        }
        match slots.get(usize::from(next)) {
            Some(behind) => behind.set_chain(Chain { previous, ..behind.chain() }),
            None => ends.tail = previous,
        }
    }

    /// The memory that it takes beside itself, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.free.capacity() * size_of::<u16>() + self.opened.len() * size_of::<u16>()
    }
}
