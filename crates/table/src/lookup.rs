//! The lookup: from keys to verdicts, a batch at a time.
//!
//! ```text
//! address ──> entry {class, pod, node}       IPv4: three loads. IPv6: a bucket, or a search of fixed length
//! pod, direction ──> row                     one load
//! row, class of the other end ──> set        two loads
//! set, protocol, port ──> bit                two loads
//! ```
//!
//! The number of steps depends neither on rules nor on policies nor on pods. Each step runs over the whole batch
//! before the next begins: its loads do not wait for each other, so that what is not in a cache comes in together.

use flow::{Direction, FlowKey, Verdict};

use crate::entry::Entry;
use crate::layout::{PolicyTable, Subject};
use crate::sets::{bit, part};
use crate::v6::Bucket;

/// Keys that are judged together.
const BATCH: usize = 32;

/// One side of a connection that a row has to answer.
#[derive(Clone, Copy, Default)]
struct Question {
    own: Entry,
    peer: Entry,
    /// Whose connection it is, by its place in the batch.
    key: u8,
    /// Egress, ingress.
    side: u8,
    part: u8,
    port: u16,
}

impl PolicyTable {
    /// Judges a burst: `verdicts[i]` becomes the verdict for `keys[i]`, taken as the first packet of a
    /// connection from `src` to `dst`.
    ///
    /// # Panics
    ///
    /// When the lengths differ.
    pub fn classify(&self, keys: &[FlowKey], verdicts: &mut [Verdict]) {
        assert_eq!(keys.len(), verdicts.len(), "one verdict for each key");
        for (keys, verdicts) in keys.chunks(BATCH).zip(verdicts.chunks_mut(BATCH)) {
            let denied = self.denied(keys);
            for (at, verdict) in verdicts.iter_mut().enumerate() {
                *verdict = if denied >> at & 1 == 1 { Verdict::Deny } else { Verdict::Allow };
            }
        }
    }

    /// Which of at most [`BATCH`] keys are denied, a bit for each.
    ///
    /// Each step follows where the one before it points, and asks for where it points itself.
    fn denied(&self, keys: &[FlowKey]) -> u32 {
        let mut ends = [[Entry::default(); 2]; BATCH];
        self.locate_all(keys, &mut ends);

        // Without a judged pod there is nothing to ask.
        let mut questions = [Question::default(); 2 * BATCH];
        let mut asked = 0;
        for ((key, [src, dst]), at) in keys.iter().zip(ends).zip(0..) {
            let (part, port) = (part(key.protocol) as u8, key.dst.port);
            questions[asked % (2 * BATCH)] = Question { own: src, peer: dst, key: at, side: 0, part, port };
            asked += usize::from(src.pod() != 0);
            questions[asked % (2 * BATCH)] = Question { own: dst, peer: src, key: at, side: 1, part, port };
            asked += usize::from(dst.pod() != 0);
        }
        let questions = &questions[..asked];

        let mut places = [&0; 2 * BATCH];
        for (it, place) in questions.iter().zip(&mut places) {
            let subject = self.subjects.at(it.own.pod());
            let row = subject.rows[usize::from(it.side & 1)];
            let row = if self.exempts(it.own, subject, it.peer) { 0 } else { row };
            *place = self.rows.page(row, it.peer.class());
            cpu::prefetch(*place);
        }
        for (it, place) in questions.iter().zip(&mut places) {
            *place = self.rows.cell(**place, it.peer.class());
            cpu::prefetch(*place);
        }
        for (it, place) in questions.iter().zip(&mut places) {
            *place = self.sets.block(**place, it.part.into(), it.port);
            cpu::prefetch(*place);
        }
        let mut words = [&0; 2 * BATCH];
        for ((it, place), word) in questions.iter().zip(&places).zip(&mut words) {
            *word = self.sets.word(**place, it.port);
            cpu::prefetch(*word);
        }
        let mut denied = 0;
        for (it, word) in questions.iter().zip(&words) {
            denied |= ((bit(**word, it.port) ^ 1) as u32) << (it.key % 32);
        }
        denied
    }

    /// The entries of both ends of each key.
    fn locate_all(&self, keys: &[FlowKey], ends: &mut [[Entry; 2]; BATCH]) {
        let mut v4 = true;
        for key in keys {
            v4 &= key.src.address.is_v4() & key.dst.address.is_v4();
        }
        if v4 { self.locate_v4(keys, ends) } else { self.locate_mixed(keys, ends) }
    }

    fn locate_v4(&self, keys: &[FlowKey], ends: &mut [[Entry; 2]; BATCH]) {
        let nowhere = Entry::default();
        let mut places = [(0, &nowhere); 2 * BATCH];
        let ips = keys
            .iter()
            .flat_map(|key| [key.src.address, key.dst.address])
            .map(|address| address.bits() as u32);
        for (ip, place) in ips.zip(&mut places) {
            *place = (ip, self.v4.first(ip));
            cpu::prefetch(place.1);
        }
        for (ip, place) in &mut places[..2 * keys.len()] {
            *place = self.v4.below(place, *ip >> 8);
            cpu::prefetch(*place);
        }
        for (ip, place) in &mut places[..2 * keys.len()] {
            *place = self.v4.below(place, *ip);
            cpu::prefetch(*place);
        }
        for ((_, place), end) in places[..2 * keys.len()].iter().zip(ends.as_flattened_mut()) {
            *end = **place;
        }
    }

    fn locate_mixed(&self, keys: &[FlowKey], ends: &mut [[Entry; 2]; BATCH]) {
        let nowhere = Bucket::default();
        let mut buckets = [&nowhere; 2 * BATCH];
        let addresses = || keys.iter().flat_map(|key| [key.src.address, key.dst.address]);
        for (address, bucket) in addresses().zip(&mut buckets) {
            *bucket = self.hosts.bucket(address.bits());
            bucket.prefetch();
        }
        for ((address, bucket), end) in addresses().zip(&buckets).zip(ends.as_flattened_mut()) {
            *end = match address.v4_bits() {
                Some(ip) => self.v4.find(ip),
                None => self.v6_entry(address.bits(), bucket),
            };
        }
    }

    #[inline]
    fn v6_entry(&self, bits: u128, bucket: &Bucket) -> Entry {
        self.hosts.find(bits, bucket).unwrap_or_else(|| Entry::painted(self.v6.find(bits)))
    }

    /// Whether `peer` is the pod's own node or the pod itself.
    #[inline]
    pub(crate) fn exempts(&self, own: Entry, subject: &Subject, peer: Entry) -> bool {
        own.pod() == peer.pod() || self.is_on(subject, peer)
    }
}

/// The place of a direction in [`Subject::rows`].
pub(crate) const fn side(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}
