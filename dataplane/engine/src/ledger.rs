//! A worker's books: figures of everything, and records for whoever listens.

use std::sync::Arc;

use flow::{DropReason, FlowKey};
use packet::{LaterFragment, Packet};

use crate::clock::Ticks;
use crate::counters::Tally;
use crate::flows::{Effect, Millis};
use crate::records::{Head, Occasion, Record, Records};
use crate::wiring::PortId;

/// One for each drop reason, in their order, and one for allowed connections.
const KINDS: usize = DropReason::ALL.len() + 1;
const ALLOWED: usize = KINDS - 1;

/// What a worker keeps of what it does.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) tally: Tally,
    /// Dropped since somebody asked last.
    recent_drops: u64,
    recorder: Recorder,
}

impl Ledger {
    /// Where the records can be taken.
    pub(crate) fn records(&self) -> Arc<Records> {
        Arc::clone(&self.recorder.records)
    }

    /// A turn begins, under this generation of the policy table.
    pub(crate) fn begin(&mut self, now: Millis, generation: u64) {
        self.recorder.begin(now, generation);
    }

    /// What follows came by this port; `None`: another worker took it in.
    pub(crate) const fn ingress(&mut self, port: Option<PortId>) {
        self.recorder.ingress = port;
    }

    /// How many frames were dropped since this was asked last.
    pub(crate) const fn take_drops(&mut self) -> u64 {
        std::mem::replace(&mut self.recent_drops, 0)
    }

    /// A frame goes no further, and would have left by `egress`. Never inlined: that would cost the packets that pass
    /// some nanoseconds each.
    #[inline(never)]
    pub(crate) fn drop_frame(&mut self, frame: &[u8], reason: DropReason, egress: Option<PortId>) {
        self.tally.drop_one(reason);
        self.recent_drops += 1;
        if self.recorder.wants(reason as usize) {
            self.recorder.record(Occasion::Frame, key_of(frame), Some(reason), egress, frame);
        }
    }

    /// A connection was judged and denied, and its frame goes no further.
    pub(crate) fn deny(&mut self, key: FlowKey, effect: Effect, reason: DropReason, frame: &[u8]) {
        self.tally.drop_one(reason);
        self.recent_drops += 1;
        if self.recorder.wants(reason as usize) {
            self.recorder.record(occasion(effect), Some(key), Some(reason), None, frame);
        }
    }

    /// A connection was judged and allowed; `egress` says where its frame leaves, and is asked only when somebody
    /// listens.
    #[inline]
    pub(crate) fn allow(
        &mut self,
        key: FlowKey,
        effect: Effect,
        egress: impl FnOnce() -> Option<PortId>,
        frame: &[u8],
    ) {
        // An ICMP error makes no connection.
        if effect != Effect::Quote && self.recorder.wants(ALLOWED) {
            self.recorder.record(occasion(effect), Some(key), None, egress(), frame);
        }
    }
}

/// What of the books goes out, and how much of it.
#[derive(Debug)]
struct Recorder {
    records: Arc<Records>,
    now: Millis,
    generation: u64,
    ingress: Option<PortId>,
    rate: u16,
    /// The tick for which `left` is.
    tick: Ticks,
    /// How many more records of each kind may go out.
    left: [u16; KINDS],
    lost: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            records: Arc::default(),
            now: Millis::default(),
            generation: 0,
            ingress: None,
            rate: 0,
            tick: Ticks::default(),
            left: [0; KINDS],
            lost: 0,
        }
    }
}

impl Recorder {
    fn begin(&mut self, now: Millis, generation: u64) {
        let (rate, tick) = (self.records.rate(), now.ticks());
        (self.now, self.generation) = (now, generation);
        if (rate, tick) != (self.rate, self.tick) {
            (self.rate, self.tick, self.left) = (rate, tick, [rate; KINDS]);
        }
    }

    /// Whether one more record of this kind may go out.
    #[inline]
    fn wants(&mut self, kind: usize) -> bool {
        let left = &mut self.left[kind];
        if *left > 0 {
            *left -= 1;
            return true;
        }
        if self.rate > 0 {
            self.lose();
        }
        false
    }

    fn lose(&mut self) {
        self.lost += 1;
        self.records.set_lost(self.lost);
    }

    #[cold]
    fn record(
        &mut self,
        occasion: Occasion,
        key: Option<FlowKey>,
        reason: Option<DropReason>,
        egress: Option<PortId>,
        frame: &[u8],
    ) {
        let Self { now: at, generation, ingress, .. } = *self;
        let (length, head) = (frame.len() as u32, Head::of(frame));
        let record = Record { at, occasion, key, ingress, egress, reason, generation, length, head };
        if !self.records.put(record) {
            self.lose();
        }
    }
}

const fn occasion(effect: Effect) -> Occasion {
    match effect {
        Effect::Open | Effect::Recover => Occasion::NewConnection,
        Effect::Renew => Occasion::JudgedAgain,
        Effect::Quote => Occasion::Frame,
    }
}

/// The key of the packet in a frame; without ports for a later fragment.
#[cold]
fn key_of(frame: &[u8]) -> Option<FlowKey> {
    let packet = Packet::parse(frame).map(|packet| packet.key);
    packet.ok().or_else(|| LaterFragment::parse(frame).map(|later| later.bare_key()))
}
