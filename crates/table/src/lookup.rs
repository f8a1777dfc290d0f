//! The lookup: from keys to verdicts, a batch at a time.
//!
//! ```text
//! address ──> entry {class, pod, node}       IPv4: three loads. IPv6: a bucket, or a search of fixed length
//! pod, direction ──> row                     one load
//! row, class of the other end ──> set        two loads
//! set, protocol, port ──> bit                three loads
//! ```
//!
//! The number of steps depends neither on rules nor on policies nor on pods. Each step runs over the whole batch
//! before the next begins: its loads do not wait for each other, so that what is not in a cache comes in together.

use flow::{Direction, FlowKey, Verdict};

use crate::entry::Entry;
use crate::layout::{PolicyTable, Subject};
use crate::sets::part;

/// Keys that are judged together.
const BATCH: usize = 32;

/// One side of a connection that a row has to answer.
#[derive(Clone, Copy, Default)]
struct Question {
    /// Whose connection it is, by its place in the batch.
    key: u8,
    part: u8,
    port: u16,
    class: u32,
    /// What was found so far: a row, a page of it, a set, a map, a block.
    at: u32,
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
            self.judge(keys, verdicts);
        }
    }

    fn judge(&self, keys: &[FlowKey], verdicts: &mut [Verdict]) {
        let mut ends = [[Entry::default(); 2]; BATCH];
        self.locate_all(keys, &mut ends);

        let mut questions = [Question::default(); 2 * BATCH];
        let mut asked = 0;
        for (at, (key, [src, dst])) in keys.iter().zip(&ends).enumerate() {
            verdicts[at] = Verdict::Allow;
            for (own, peer, direction) in [(src, dst, Direction::Egress), (dst, src, Direction::Ingress)] {
                questions[asked % (2 * BATCH)] = Question {
                    key: at as u8,
                    part: part(key.protocol) as u8,
                    port: key.dst.port,
                    class: peer.class(),
                    at: self.row(*own, *peer, direction),
                };
                // Without a judged pod there is nothing to ask.
                asked += usize::from(own.pod() != 0);
            }
        }
        let questions = &mut questions[..asked];
        questions.iter_mut().for_each(|it| it.at = self.rows.page(it.at, it.class));
        questions.iter_mut().for_each(|it| it.at = self.rows.cell(it.at, it.class));
        questions.iter_mut().for_each(|it| it.at = self.sets.map(it.at, it.part.into()));
        questions.iter_mut().for_each(|it| it.at = self.sets.block(it.at, it.port));
        for it in questions {
            if self.sets.bit(it.at, it.port) == 0 {
                verdicts[usize::from(it.key)] = Verdict::Deny;
            }
        }
    }

    /// The entries of both ends of each key.
    fn locate_all(&self, keys: &[FlowKey], ends: &mut [[Entry; 2]; BATCH]) {
        for (key, ends) in keys.iter().zip(ends) {
            *ends = [self.locate(key.src.address), self.locate(key.dst.address)];
        }
    }

    /// The row that says with whom `own` may talk; the open one where nothing needs to be asked.
    #[inline]
    fn row(&self, own: Entry, peer: Entry, direction: Direction) -> u32 {
        let subject = self.subjects.at(own.pod());
        if self.exempts(own, subject, peer) { 0 } else { subject.row(direction) }
    }

    /// Whether `peer` is the pod's own node or the pod itself.
    #[inline]
    pub(crate) fn exempts(&self, own: Entry, subject: &Subject, peer: Entry) -> bool {
        own.pod() == peer.pod() || self.is_on(subject, peer)
    }
}

impl Subject {
    #[inline]
    pub(crate) const fn row(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }
}
