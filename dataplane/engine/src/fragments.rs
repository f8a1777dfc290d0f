//! The memory of first fragments: what later ones, which have no ports, follow.
//!
//! A first fragment that was allowed is remembered with the epochs of its pods. A later one goes where the first
//! went while these epochs hold, and if it neither overlaps what has come of the datagram nor contradicts its
//! length; without a first one it goes nowhere. Nothing is kept of fragments' data: nothing is put together here.
//!
//! Bounded in memory and in time: each port has its own places, taken when the table is made, so no port can crowd
//! out another; a datagram has a handful of places where it may be, all looked at in one step, and what is found too
//! old there makes room for the next. There is nothing to sweep.

use std::hash::{BuildHasher, RandomState};

use flow::{DropReason, Epoch, FlowKey, Protocol};
use packet::{Datagram, Fragment, LaterFragment, Packet};

use crate::flows::Millis;
use crate::wiring::PortId;

/// How long after the first fragment later ones may come, in milliseconds (RFC 791, section 3.2: "the initial timer
/// setting be 15 seconds").
const LIFETIME: u64 = 15_000;
/// Datagrams of one port that are remembered at a time.
const PLACES: usize = SETS * WAYS;
const SETS: usize = 32;
/// Places where one datagram may be.
const WAYS: usize = 8;
/// Runs of a datagram that may come with gaps between them.
const RUNS: usize = 8;

/// The epochs of the local pods at both ends, in the direction of the fragments.
pub(crate) type Epochs = [Option<Epoch>; 2];

/// The first fragments that came by the ports of one worker. A datagram comes by one port: its fragments have the
/// same addresses, and no others that a link or a queue could be chosen by.
#[derive(Debug)]
pub(crate) struct Fragments {
    ports: Vec<PortId>,
    /// `PLACES` for each port, in the same order.
    places: Box<[Option<Remembered>]>,
    /// Seeded anew each time, so that nobody can choose datagrams that meet in one place.
    hasher: RandomState,
    displaced: u64,
}

/// A datagram whose first fragment was allowed.
#[derive(Clone, Debug)]
struct Remembered {
    datagram: Datagram,
    protocol: Protocol,
    ports: (u16, u16),
    epochs: Epochs,
    since: Millis,
    seen: Seen,
}

impl Remembered {
    const fn is_live(&self, now: Millis) -> bool {
        now.since(self.since) < LIFETIME
    }

    fn key(&self) -> FlowKey {
        let Datagram { src, dst, .. } = self.datagram;
        FlowKey::new(self.protocol, (src, self.ports.0), (dst, self.ports.1))
    }

    /// What to overwrite first: the old, then the complete, then the eldest.
    const fn worth(&self, now: Millis) -> (bool, bool, Millis) {
        (self.is_live(now), !self.seen.is_complete(), self.since)
    }
}

impl Fragments {
    pub(crate) fn new(ports: &[PortId]) -> Self {
        let places = vec![None; ports.len() * PLACES].into_boxed_slice();
        Self { ports: ports.to_vec(), places, hasher: RandomState::new(), displaced: 0 }
    }

    /// How many datagrams lost their place to others, before they were old or whole.
    pub(crate) const fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Remembers the datagram whose first fragment `packet` has come by `port` and was allowed.
    ///
    /// # Errors
    ///
    /// `FragmentOverlap` when the datagram is remembered already and has not come whole yet: this would be a second
    /// beginning of it.
    pub(crate) fn remember(
        &mut self,
        port: PortId,
        packet: &Packet,
        epochs: Epochs,
        now: Millis,
    ) -> Result<(), DropReason> {
        let (Some(datagram), Some(fragment)) = (packet.datagram(), packet.fragment) else { return Ok(()) };
        let fresh = Remembered {
            datagram,
            protocol: packet.key.protocol,
            ports: (packet.key.src.port, packet.key.dst.port),
            epochs,
            since: now,
            seen: Seen::first(fragment),
        };
        let set = self.set(port, &datagram);
        if let Some(known) = find(set, &datagram, now) {
            if !known.seen.is_complete() && known.epochs == epochs {
                return known.seen.add(fragment);
            }
            *known = fresh;
            return Ok(());
        }
        // The newest is the last of its set, so that of equals the eldest goes.
        let worth = |place: &Option<Remembered>| place.as_ref().map(|known| known.worth(now));
        if let Some(at) = (0..set.len()).min_by_key(|at| worth(&set[*at])) {
            let displaces =
                set[at].as_ref().is_some_and(|known| known.is_live(now) && !known.seen.is_complete());
            set[at] = Some(fresh);
            set[at..].rotate_left(1);
            self.displaced += u64::from(displaces);
        }
        Ok(())
    }

    /// The packet that a later fragment is, which came by `port`. `epochs` are those of now.
    ///
    /// # Errors
    ///
    /// `FragmentUnmatched` when no first fragment of it was allowed under these epochs, or too long ago;
    /// `FragmentOverlap` when it does not fit in with what has come of its datagram.
    pub(crate) fn follow(
        &mut self,
        port: PortId,
        later: &LaterFragment,
        epochs: Epochs,
        now: Millis,
    ) -> Result<Packet, DropReason> {
        let set = self.set(port, &later.datagram);
        let known = find(set, &later.datagram, now).filter(|known| known.epochs == epochs);
        let known = known.ok_or(DropReason::FragmentUnmatched)?;
        known.seen.add(later.fragment)?;
        later.following(known.key()).ok_or(DropReason::FragmentUnmatched)
    }

    /// The places where this datagram may be; none for a port that is not among ours.
    fn set(&mut self, port: PortId, datagram: &Datagram) -> &mut [Option<Remembered>] {
        let Some(index) = self.ports.iter().position(|known| *known == port) else { return &mut [] };
        let set = self.hasher.hash_one(datagram) as usize % SETS;
        let start = index * PLACES + set * WAYS;
        &mut self.places[start..start + WAYS]
    }
}

fn find<'s>(
    set: &'s mut [Option<Remembered>],
    datagram: &Datagram,
    now: Millis,
) -> Option<&'s mut Remembered> {
    set.iter_mut().flatten().find(|known| known.datagram == *datagram && known.is_live(now))
}

/// What has come of one datagram: runs of bytes that do not touch, in order.
#[derive(Clone, Copy, Debug)]
struct Seen {
    runs: [Run; RUNS],
    count: u8,
    /// Where the datagram ends, once that is known.
    end: Option<u16>,
    /// Something did not fit. RFC 5722, section 4: the datagram "and any constituent fragments, including those not
    /// yet received, MUST be silently discarded".
    spoilt: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    start: u16,
    end: u16,
}

impl Seen {
    fn first(fragment: Fragment) -> Self {
        let mut runs = [Run::default(); RUNS];
        runs[0] = Run { start: fragment.offset, end: fragment.end };
        Self { runs, count: 1, end: None, spoilt: false }
    }

    const fn is_complete(&self) -> bool {
        matches!(self.end, Some(end) if self.count == 1 && self.runs[0].start == 0 && self.runs[0].end == end)
    }

    /// Enters one more fragment, if it fits.
    fn add(&mut self, fragment: Fragment) -> Result<(), DropReason> {
        const MISFIT: DropReason = DropReason::FragmentOverlap;
        let Fragment { offset: start, end, more, .. } = fragment;
        if self.spoilt {
            return Err(MISFIT);
        }
        let runs = &self.runs[..usize::from(self.count)];
        // All of it has come before: a duplicate, which spoils nothing (RFC 8200, section 4.5).
        if runs.iter().any(|run| run.start <= start && end <= run.end) {
            return Err(MISFIT);
        }
        let overlaps = runs.iter().any(|run| start < run.end && run.start < end);
        let last = runs.last().map_or(0, |run| run.end);
        let contradicts = match self.end {
            Some(known) => end > known || (!more && end != known),
            None => !more && end < last,
        };
        if overlaps || contradicts {
            self.spoilt = true;
            return Err(MISFIT);
        }
        self.insert(Run { start, end })?;
        if !more {
            self.end = Some(end);
        }
        Ok(())
    }

    /// Enters a run that overlaps none, joined to those that it touches.
    fn insert(&mut self, new: Run) -> Result<(), DropReason> {
        let count = usize::from(self.count);
        let at = self.runs[..count].iter().take_while(|run| run.start < new.start).count();
        let joins_before = at > 0 && self.runs[at - 1].end == new.start;
        let joins_after = at < count && self.runs[at].start == new.end;
        match (joins_before, joins_after) {
            (true, true) => {
                self.runs[at - 1].end = self.runs[at].end;
                self.runs.copy_within(at + 1..count, at);
                self.count -= 1;
            }
            (true, false) => self.runs[at - 1].end = new.end,
            (false, true) => self.runs[at].start = new.start,
            (false, false) if count < RUNS => {
                self.runs.copy_within(at..count, at + 1);
                self.runs[at] = new;
                self.count += 1;
            }
            (false, false) => return Err(DropReason::FragmentOverlap),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flow::Address;
    use packet::Kind;
    use proptest::prelude::*;
    use testkit::frames::{FrameBuilder, frame};

    use super::*;

    const PORT: PortId = PortId(7);
    const OTHER: PortId = PortId(9);
    const NOBODY: Epochs = [None; 2];
    const UNMATCHED: DropReason = DropReason::FragmentUnmatched;
    const OVERLAP: DropReason = DropReason::FragmentOverlap;

    fn table() -> Fragments {
        Fragments::new(&[OTHER, PORT])
    }

    fn datagram() -> FrameBuilder {
        frame().ip("10.0.0.1", "10.0.0.2").udp(4000, 80).payload(&[0; 4000])
    }

    fn first(id: u32, end: usize) -> Packet {
        Packet::parse(&datagram().piece(id, 0..end, true)).unwrap()
    }

    fn later(id: u32, range: std::ops::Range<usize>, more: bool) -> LaterFragment {
        LaterFragment::parse(&datagram().piece(id, range, more)).unwrap()
    }

    #[test]
    fn a_later_fragment_goes_where_the_first_went() {
        let mut table = table();
        let second = later(1, 1480..2960, true);
        assert_eq!(table.follow(PORT, &second, NOBODY, Millis(0)), Err(UNMATCHED));
        assert_eq!(table.remember(PORT, &first(1, 1480), NOBODY, Millis(0)), Ok(()));
        let packet = table.follow(PORT, &second, NOBODY, Millis(0)).unwrap();
        assert_eq!((packet.key, packet.kind), (first(1, 1480).key, Kind::Other));
        assert_eq!(table.follow(PORT, &later(2, 1480..2960, true), NOBODY, Millis(0)), Err(UNMATCHED));
        assert_eq!(table.follow(OTHER, &later(1, 2960..4008, false), NOBODY, Millis(0)), Err(UNMATCHED));
        assert!(table.follow(PORT, &later(1, 2960..4008, false), NOBODY, Millis(0)).is_ok());
    }

    #[test]
    fn whole_packets_are_not_remembered() {
        let mut table = table();
        let whole = Packet::parse(&datagram().build()).unwrap();
        assert_eq!(table.remember(PORT, &whole, NOBODY, Millis(0)), Ok(()));
        assert!(table.places.iter().all(Option::is_none));
    }

    #[test]
    fn what_was_allowed_under_another_epoch_or_long_ago_is_forgotten() {
        let mut table = table();
        let then = [Some(Epoch::FIRST), None];
        let now = [Some(Epoch::FIRST.next()), None];
        table.remember(PORT, &first(1, 1480), then, Millis(5)).unwrap();
        assert_eq!(table.follow(PORT, &later(1, 1480..1488, true), now, Millis(5)), Err(UNMATCHED));
        assert!(table.follow(PORT, &later(1, 1480..1488, true), then, Millis(5 + LIFETIME - 1)).is_ok());
        assert_eq!(
            table.follow(PORT, &later(1, 1488..1496, true), then, Millis(5 + LIFETIME)),
            Err(UNMATCHED)
        );
        // Judged anew, it begins anew.
        table.remember(PORT, &first(1, 1480), now, Millis(6)).unwrap();
        assert!(table.follow(PORT, &later(1, 1480..1488, true), now, Millis(6)).is_ok());
    }

    #[test]
    fn overlaps_and_contradictions_spoil_the_datagram() {
        type Step = (std::ops::Range<usize>, bool, Result<(), DropReason>);
        let cases: [(&str, &[Step]); 7] = [
            (
                "a duplicate alone is harmless",
                &[(1480..2960, true, Ok(())), (1480..2960, true, Err(OVERLAP)), (2960..4008, false, Ok(()))],
            ),
            ("teardrop", &[(1440..1488, false, Err(OVERLAP)), (1480..2960, true, Err(OVERLAP))]),
            ("inside the first one", &[(80..88, true, Err(OVERLAP)), (1480..2960, true, Ok(()))]),
            (
                "around another",
                &[
                    (1600..1608, true, Ok(())),
                    (1480..2960, true, Err(OVERLAP)),
                    (2960..4008, false, Err(OVERLAP)),
                ],
            ),
            (
                "beyond the end",
                &[
                    (1480..1488, false, Ok(())),
                    (1488..1496, true, Err(OVERLAP)),
                    (1488..1496, false, Err(OVERLAP)),
                ],
            ),
            ("two ends", &[(2960..4008, false, Ok(())), (1480..1488, false, Err(OVERLAP))]),
            ("an end before what came", &[(2960..2968, true, Ok(())), (1480..2000, false, Err(OVERLAP))]),
        ];
        for (what, steps) in cases {
            let mut table = table();
            table.remember(PORT, &first(1, 1480), NOBODY, Millis(0)).unwrap();
            for (range, more, expected) in steps.iter().cloned() {
                let got = table.follow(PORT, &later(1, range.clone(), more), NOBODY, Millis(0));
                assert_eq!(got.map(|_| ()), expected, "{what}: {range:?}");
            }
        }
    }

    #[test]
    fn a_second_beginning_is_an_overlap_until_the_datagram_is_whole() {
        let mut table = table();
        table.remember(PORT, &first(1, 1480), NOBODY, Millis(0)).unwrap();
        assert_eq!(table.remember(PORT, &first(1, 1480), NOBODY, Millis(0)), Err(OVERLAP), "a duplicate");
        assert!(table.follow(PORT, &later(1, 2960..4008, false), NOBODY, Millis(0)).is_ok(), "out of order");
        assert!(table.follow(PORT, &later(1, 1480..2960, true), NOBODY, Millis(0)).is_ok());
        assert_eq!(
            table.remember(PORT, &first(1, 800), NOBODY, Millis(0)),
            Ok(()),
            "the identification came round"
        );
        assert_eq!(table.remember(PORT, &first(1, 1480), NOBODY, Millis(0)), Err(OVERLAP), "a longer one");
        assert_eq!(
            table.follow(PORT, &later(1, 1480..2960, true), NOBODY, Millis(0)),
            Err(OVERLAP),
            "spoilt"
        );
    }

    #[test]
    fn gaps_are_bounded() {
        let mut table = table();
        table.remember(PORT, &first(1, 80), NOBODY, Millis(0)).unwrap();
        let mut follow =
            |at: usize| table.follow(PORT, &later(1, at..at + 8, true), NOBODY, Millis(0)).map(|_| ());
        for gap in 1..RUNS {
            assert_eq!(follow(72 + gap * 16), Ok(()), "{gap}");
        }
        assert_eq!(follow(72 + RUNS * 16), Err(OVERLAP), "one gap too many");
        assert_eq!(follow(80), Ok(()), "filling a gap makes room");
        assert_eq!(follow(72 + RUNS * 16), Ok(()));
    }

    /// F22: 10^6 datagrams that never come whole.
    #[test]
    fn a_flood_stays_in_its_ports_places_and_the_newest_are_known() {
        let mut table = table();
        table.remember(OTHER, &first(0, 1480), NOBODY, Millis(0)).unwrap();
        let mut sample = first(0, 1480);
        for number in 0..1_000_000u32 {
            sample.key.src.address = Address::v4((0x0a00_0000 | (number >> 16)).to_be_bytes());
            sample.fragment = sample.fragment.map(|fragment| Fragment { id: number & 0xffff, ..fragment });
            table.remember(PORT, &sample, NOBODY, Millis(1)).unwrap();
        }
        assert_eq!(table.places.len(), 2 * PLACES);
        let mine: Vec<u32> = table.places[PLACES..]
            .iter()
            .flatten()
            .map(|known| u32::from(known.datagram.src.octets()[15]) << 16 | known.datagram.id)
            .collect();
        assert_eq!(mine.len(), PLACES);
        assert!(mine.iter().all(|number| *number > 980_000), "the newest are kept: {mine:?}");
        assert!(table.follow(OTHER, &later(0, 1480..2960, true), NOBODY, Millis(1)).is_ok(), "untouched");
        // What comes in order gets through a flood: the first makes itself a place, and the rest is behind it.
        table.remember(PORT, &first(1, 1480), NOBODY, Millis(1)).unwrap();
        assert!(table.follow(PORT, &later(1, 1480..4008, false), NOBODY, Millis(1)).is_ok());
    }

    /// A datagram in units of eight bytes: what came, and where it ends.
    #[derive(Default)]
    struct Model {
        came: std::collections::BTreeSet<u16>,
        end: Option<u16>,
        spoilt: bool,
    }

    impl Model {
        fn add(&mut self, start: u16, end: u16, more: bool) -> Result<(), DropReason> {
            let units = || start..end;
            if self.spoilt || units().all(|unit| self.came.contains(&unit)) {
                return Err(OVERLAP);
            }
            let beyond = |limit: u16| self.came.iter().any(|unit| *unit >= limit);
            let fits = match self.end {
                Some(known) => end <= known && (more || end == known),
                None => more || !beyond(end),
            };
            if !fits || units().any(|unit| self.came.contains(&unit)) {
                self.spoilt = true;
                return Err(OVERLAP);
            }
            let mut came = self.came.clone();
            came.extend(units());
            if came.iter().filter(|unit| !came.contains(&(*unit + 1))).count() > RUNS {
                return Err(OVERLAP);
            }
            self.came = came;
            self.end = if more { self.end } else { Some(end) };
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn runs_are_a_set_of_units(
            steps in proptest::collection::vec((10..60u16, 1..6u16, prop::bool::weighted(0.9)), 1..40)
        ) {
            let mut model = Model { came: (0..10).collect(), ..Model::default() };
            let mut seen = Seen::first(Fragment { id: 0, offset: 0, end: 80, more: true });
            for (start, length, more) in steps {
                let end = start + length;
                let fragment = Fragment { id: 0, offset: start * 8, end: end * 8, more };
                prop_assert_eq!(seen.add(fragment), model.add(start, end, more), "{:?} {:?}", fragment, seen);
                let whole = model.end.is_some_and(|end| (0..end).all(|unit| model.came.contains(&unit)));
                prop_assert_eq!(seen.is_complete(), whole);
                let count = usize::from(seen.count);
                prop_assert!(seen.runs[..count].windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", seen);
            }
        }
    }
}
