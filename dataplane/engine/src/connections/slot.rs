//! One connection in memory, and how it is read while others write.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use flow::Epoch;

use super::hash::{KEY_BITS, Words};
use crate::clock::Ticks;
use crate::state::{Sender, State};

/// The epochs of the local pods at both ends of a connection, in its original direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// Of the pod that opened it; `None` if that is no local pod.
    pub src: Option<Epoch>,
    /// Of the pod that it was opened to.
    pub dst: Option<Epoch>,
}

/// What is known of one connection, besides its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its state.
    pub state: State,
    /// What its verdict was read under.
    pub epochs: Epochs,
    /// What each end (initiator, responder) has acknowledged last, as far as was looked: where the other end's
    /// sequence numbers are. Zero is not known.
    pub acknowledged: [u32; 2],
    /// The number of the port by which it was opened.
    pub opener: u16,
}

/// One cache line: a connection's key in its original direction, its [`Entry`], and its place in a queue.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    addresses: [AtomicU64; 4],
    /// From the lowest bit: destination port, source port, protocol, state, opener.
    service: AtomicU64,
    epochs: AtomicU64,
    acknowledged: [AtomicU32; 2],
    /// Only under the shard's lock. From the lowest bit: the next slot in the queue, the one before, since when.
    chain: AtomicU64,
}

/// A slot's place in its queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) next: u16,
    pub(super) previous: u16,
    pub(super) since: Ticks,
}

/// The number of no state: an empty slot.
const EMPTY: u64 = 0xff << 40;

impl Slot {
    /// Whose packet this is: the initiator's or the responder's of the connection in this slot, if any. Only
    /// true if the mark is the same before and after.
    #[inline]
    pub(super) fn sender(&self, words: &Words) -> Option<Sender> {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| self.addresses[i].load(Ordering::Relaxed));
        let service = self.service.load(Ordering::Relaxed) & KEY_BITS;
        if service == words.service && (a, b) == words.src && (c, d) == words.dst {
            Some(Sender::Initiator)
        } else if service == words.reversed && (a, b) == words.dst && (c, d) == words.src {
            Some(Sender::Responder)
        } else {
            None
        }
    }

    /// What the slot holds; `None` when it is empty. Only true if the mark is the same before and after.
    #[inline]
    pub(super) fn entry(&self) -> Option<Entry> {
        let service = self.service.load(Ordering::Relaxed);
        let epochs = self.epochs.load(Ordering::Relaxed);
        Some(Entry {
            state: State::from_number((service >> 40) as u8)?,
            epochs: Epochs {
                src: Epoch::from_number((epochs >> 32) as u32),
                dst: Epoch::from_number(epochs as u32),
            },
            acknowledged: [0, 1].map(|i: usize| self.acknowledged[i].load(Ordering::Relaxed)),
            opener: (service >> 48) as u16,
        })
    }

    /// Remembers an acknowledgment number. A number that comes too late for its connection does no harm: it
    /// makes a reset implausible.
    #[inline]
    pub(super) fn acknowledge(&self, sender: Sender, number: u32) {
        self.acknowledged[sender as usize].store(number, Ordering::Relaxed);
    }

    pub(super) fn write(&self, words: &Words, entry: &Entry) {
        for (word, half) in self.addresses.iter().zip([words.src.0, words.src.1, words.dst.0, words.dst.1]) {
            word.store(half, Ordering::Relaxed);
        }
        let service = words.service | (entry.state as u64) << 40 | u64::from(entry.opener) << 48;
        self.service.store(service, Ordering::Relaxed);
        let number = |epoch: Option<Epoch>| epoch.map_or(0, |epoch| u64::from(epoch.number()));
        self.epochs.store(number(entry.epochs.src) << 32 | number(entry.epochs.dst), Ordering::Relaxed);
        for (word, number) in self.acknowledged.iter().zip(entry.acknowledged) {
            word.store(number, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self) {
        self.service.store(EMPTY, Ordering::Relaxed);
    }

    /// The key in its original direction.
    pub(super) fn words(&self) -> Words {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| self.addresses[i].load(Ordering::Relaxed));
        Words::new((a, b), (c, d), self.service.load(Ordering::Relaxed) & KEY_BITS)
    }

    pub(super) fn chain(&self) -> Chain {
        let chain = self.chain.load(Ordering::Relaxed);
        Chain { next: chain as u16, previous: (chain >> 16) as u16, since: Ticks((chain >> 32) as u32) }
    }

    pub(super) fn set_chain(&self, chain: Chain) {
        let Chain { next, previous, since } = chain;
        let chain = u64::from(next) | u64::from(previous) << 16 | u64::from(since.0) << 32;
        self.chain.store(chain, Ordering::Relaxed);
    }
}

/// A slot's generation and the tick of its connection's last packet, in one word beside the slot: what a
/// worker's own cache looks at for each packet, eight of them in a cache line.
///
/// The generation changes whenever anything in the slot does, so that a cached answer cannot outlive what it
/// was read from. It is odd while the slot is being written.
#[derive(Debug, Default)]
pub(super) struct Mark(AtomicU64);

impl Mark {
    /// Generation and tick.
    #[inline]
    pub(super) fn load(&self) -> (u32, Ticks) {
        let mark = self.0.load(Ordering::Acquire);
        ((mark >> 32) as u32, Ticks(mark as u32))
    }

    /// What `look` sees between two changes, with the generation and tick at that time.
    #[inline]
    pub(super) fn read<T>(&self, look: impl Fn() -> T) -> (u32, Ticks, T) {
        for attempt in 0u32.. {
            let (generation, seen) = self.load();
            let found = look();
            fence(Ordering::Acquire);
            let after = (self.0.load(Ordering::Relaxed) >> 32) as u32;
            if generation == after && generation.is_multiple_of(2) {
                return (generation, seen, found);
            }
            // A change takes a few nanoseconds, unless its thread has lost the processor.
            if attempt < 64 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        unreachable!("a change ends")
    }

    /// Lets `change` write the slot. Only under the shard's lock.
    pub(super) fn write(&self, seen: Ticks, change: impl FnOnce()) {
        let generation = (self.0.load(Ordering::Relaxed) >> 32) as u32;
        self.0.store(u64::from(generation | 1) << 32, Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        let next = u64::from(generation.wrapping_add(2)) << 32;
        self.0.store(next | u64::from(seen.0), Ordering::Release);
    }

    /// Notes a packet at `now`. False when the generation is another by now.
    #[inline]
    pub(super) fn touch(&self, generation: u32, now: Ticks) -> bool {
        let (current, seen) = self.load();
        if current != generation {
            return false;
        }
        if now.since(seen) == 0 {
            return true;
        }
        let mark = |ticks: Ticks| u64::from(generation) << 32 | u64::from(ticks.0);
        // Another worker that has just noted a packet of its own has done it for us.
        match self.0.compare_exchange(mark(seen), mark(now), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(other) => (other >> 32) as u32 == generation,
        }
    }
}
