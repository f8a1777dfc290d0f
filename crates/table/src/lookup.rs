//! The lookup: from keys to verdicts, a batch at a time.
//!
//! ```text
//! address ──> entry {class, pod, node}       IPv4: four loads. IPv6: a bucket, and for what is no host a search of
//!                                            fixed length
//! pod, direction ──> row                     one load
//! row, class of the other end ──> set        two loads
//! set, protocol, port ──> bit                two loads
//! ```
//!
//! Each load but those of the IPv4 trie has one before it, of the page's place in a small directory that mostly stays
//! in a cache. The number of steps depends neither on rules nor on policies nor on pods. Each step runs over the whole
//! batch before the next begins: its loads do not wait for each other, so that what is not in a cache comes in
//! together.

use flow::{Direction, FlowKey, Verdict};

use crate::entry::Entry;
use crate::layout::{PolicyTable, Subject};
use crate::sets::{bit, part};
use crate::v6::Bucket;

/// Keys that are judged together.
const BATCH: usize = 32;
/// As few as these are judged in less space.
const FEW: usize = 2;

/// Entries of both ends of the keys of a batch, where they stand.
type Ends<'a, const N: usize> = [[&'a Entry; 2]; N];

/// One side of a connection that a row has to answer.
#[derive(Clone, Copy, Default)]
struct Question {
    peer: Entry,
    /// `pod << 32 | side << 31 | key << 24 | part << 16 | port`: the judged pod, egress or ingress, the place of
    /// the connection in the batch, the part of a set that speaks of its protocol, its destination port.
    asked: u64,
}

impl Question {
    const INGRESS: u64 = 1 << 31;

    const fn pod(self) -> u32 {
        (self.asked >> 32) as u32
    }

    /// The place of the direction in [`Subject::rows`].
    const fn side(self) -> usize {
        (self.asked >> 31 & 1) as usize
    }

    const fn key(self) -> u32 {
        (self.asked >> 24) as u32 % BATCH as u32
    }

    const fn part(self) -> usize {
        (self.asked >> 16 & 3) as usize
    }

    const fn port(self) -> u16 {
        self.asked as u16
    }
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
            let denied =
                if keys.len() <= FEW { self.denied::<FEW>(keys) } else { self.denied::<BATCH>(keys) };
            for (at, verdict) in verdicts.iter_mut().enumerate() {
                *verdict = if denied >> at & 1 == 1 { Verdict::Deny } else { Verdict::Allow };
            }
        }
    }

    /// Which of at most `N` keys are denied, a bit for each.
    fn denied<const N: usize>(&self, keys: &[FlowKey]) -> u32 {
        let mut ends = [[&Entry::NOBODY; 2]; N];
        if self.locate_v4(keys, &mut ends) {
            return self.judge(keys, &ends);
        }
        let mut found = [[Entry::NOBODY; 2]; N];
        self.locate_mixed(keys, &mut found);
        self.judge(keys, &found.each_ref().map(|ends| ends.each_ref()))
    }

    /// The same, of keys whose ends are found. Each step follows where the one before it points, and asks for where
    /// it points itself.
    fn judge<const N: usize>(&self, keys: &[FlowKey], ends: &Ends<'_, N>) -> u32 {
        // Without a judged pod there is nothing to ask.
        let mut questions = [[Question::default(); 2]; N];
        let questions = questions.as_flattened_mut();
        let mut count = 0;
        for ((key, [src, dst]), at) in keys.iter().zip(ends).zip(0_u64..) {
            let common = at << 24 | (part(key.protocol) as u64) << 16 | u64::from(key.dst.port);
            let mut ask = |own: Entry, peer: Entry, side| {
                let asked = u64::from(own.pod()) << 32 | side | common;
                questions[count % (2 * N)] = Question { peer, asked };
                count += usize::from(own.pod() != 0);
            };
            ask(**src, **dst, 0);
            ask(**dst, **src, Question::INGRESS);
        }
        let questions = &questions[..count];

        let mut places = [[&0; 2]; N];
        let places = places.as_flattened_mut();
        for (it, place) in questions.iter().zip(&mut *places) {
            let subject = self.subjects.at(it.pod());
            let exempt = it.peer.is_somebody() && self.exempts(it.pod(), subject, it.peer);
            let row = if exempt { 0 } else { subject.rows[it.side()] };
            *place = self.rows.page(row, it.peer.class());
            cpu::prefetch(*place);
        }
        for (it, place) in questions.iter().zip(&mut *places) {
            *place = self.rows.cell(**place, it.peer.class());
            cpu::prefetch(*place);
        }
        for (it, place) in questions.iter().zip(&mut *places) {
            *place = self.sets.block(**place, it.part(), it.port());
            cpu::prefetch(*place);
        }
        let mut denied = 0;
        for (it, place) in questions.iter().zip(&*places) {
            let word = *self.sets.word(**place, it.port());
            denied |= ((bit(word, it.port()) ^ 1) as u32) << it.key();
        }
        denied
    }

    /// Where the entries of both ends of each key stand, if all are of IPv4.
    #[inline]
    fn locate_v4<'a, const N: usize>(&'a self, keys: &[FlowKey], ends: &mut Ends<'a, N>) -> bool {
        for (key, ends) in keys.iter().zip(ends) {
            let (Some(src), Some(dst)) = (key.src.address.v4_bits(), key.dst.address.v4_bits()) else {
                return false;
            };
            *ends = [self.v4.find(src), self.v4.find(dst)];
            cpu::prefetch(ends[0]);
            cpu::prefetch(ends[1]);
        }
        true
    }

    /// The entries of both ends of each key, of any family.
    fn locate_mixed<const N: usize>(&self, keys: &[FlowKey], ends: &mut [[Entry; 2]; N]) {
        let nowhere = Bucket::default();
        let mut buckets = [[&nowhere; 2]; N];
        for (key, buckets) in keys.iter().zip(&mut buckets) {
            *buckets = [key.src.address, key.dst.address].map(|address| self.hosts.bucket(address.bits()));
            buckets.iter().for_each(|bucket| bucket.prefetch());
        }
        for ((key, buckets), ends) in keys.iter().zip(&buckets).zip(ends) {
            for ((address, bucket), end) in
                [key.src.address, key.dst.address].into_iter().zip(buckets).zip(ends)
            {
                *end = match address.v4_bits() {
                    Some(ip) => *self.v4.find(ip),
                    None => self.locate_v6(address.bits(), bucket),
                };
            }
        }
    }

    /// Whether `peer` is the own node of the pod with this slot and subject, or the pod itself.
    #[inline]
    pub(crate) fn exempts(&self, pod: u32, subject: &Subject, peer: Entry) -> bool {
        pod == peer.pod() || self.is_on(subject, peer)
    }
}

/// The place of a direction in [`Subject::rows`].
pub(crate) const fn side(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}
