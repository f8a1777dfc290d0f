//! What a worker tells of single connections and frames, to whoever listens: a bounded ring that loses what does
//! not fit, and never holds the worker up.
//!
//! There is a record of every verdict on a connection and of every dropped frame, within a rate for each kind: so
//! many of each drop reason, and of allowed connections, a [`TICK`](crate::clock::TICK). A flood of one kind hides
//! no other. Frames that follow an allowed connection are no records: they would be the whole traffic.

use std::fmt;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use flow::{DropReason, FlowKey, Verdict};

use crate::flows::Millis;
use crate::wiring::PortId;

/// How many records a worker's ring holds.
pub const RING: usize = 2048;
/// How many bytes of its frame a record keeps.
pub const HEAD: usize = 128;

/// One verdict, or one dropped frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by the workers' clock.
    pub at: Millis,
    /// What it tells of.
    pub occasion: Occasion,
    /// The connection in its original direction, or the packet's own key where only a frame is told of; `None`
    /// for a frame whose headers could not be believed.
    pub key: Option<FlowKey>,
    /// The port by which the frame came; `None` when another worker took it in.
    pub ingress: Option<PortId>,
    /// The port by which it leaves or would have left, as far as that is known.
    pub egress: Option<PortId>,
    /// Why it went no further; `None` when it did.
    pub reason: Option<DropReason>,
    /// The generation of the policy table in force; zero before the first.
    pub generation: u64,
    /// The frame's length, in bytes.
    pub length: u32,
    /// Its first bytes.
    pub head: Head,
}

impl Record {
    /// What became of it.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self.reason {
            None => Verdict::Allow,
            Some(_) => Verdict::Deny,
        }
    }
}

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A connection that nobody knew was judged.
    NewConnection,
    /// A known connection was judged again, because policy about one of its pods had changed.
    JudgedAgain,
    /// A frame was dropped; no connection was judged for it.
    Frame,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; HEAD],
    length: u8,
}

impl Head {
    /// The first bytes of this frame.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        let mut bytes = [0; HEAD];
        let length = frame.len().min(HEAD);
        bytes[..length].copy_from_slice(&frame[..length]);
        Self { bytes, length: length as u8 }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({} bytes)", self.length)
    }
}

/// The records of one worker, on their way to another thread.
#[derive(Debug)]
pub struct Records {
    ring: ArrayQueue<Record>,
    rate: AtomicU16,
    lost: CachePadded<AtomicU64>,
}

impl Default for Records {
    fn default() -> Self {
        Self { ring: ArrayQueue::new(RING), rate: AtomicU16::new(0), lost: CachePadded::default() }
    }
}

impl Records {
    /// Asks for at most so many records of each kind a [`TICK`](crate::clock::TICK), from the worker's next turn
    /// on; zero for none.
    pub fn ask_for(&self, rate: u16) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// The oldest record that nobody has taken.
    #[must_use]
    pub fn take(&self) -> Option<Record> {
        self.ring.pop()
    }

    /// How many records there should have been and are not, since the worker began: beyond the rate, or because
    /// the ring was full. While none are asked for, none are lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn rate(&self) -> u16 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Puts a record into the ring. False when it is full.
    pub(crate) fn put(&self, record: Record) -> bool {
        self.ring.push(record).is_ok()
    }

    /// Only the worker writes it, so it need not be added to.
    pub(crate) fn set_lost(&self, lost: u64) {
        self.lost.store(lost, Ordering::Relaxed);
    }
}
