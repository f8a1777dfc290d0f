//! One writer publishes versions of a value; readers see each whole, never wait, and never free one.
//!
//! The only home of `arc-swap`: the current version lies in one, and beside it stands its number. A reader looks at
//! the number, with one relaxed load, and takes the version only when the number has changed; then it says which
//! number it has seen.
//!
//! A version that has left the slot is freed on the publisher's thread, once nobody else holds it and every reader
//! has seen a newer one. The second condition is for a reader that is held up inside `arc-swap`, which looks at a
//! pointer first and protects it afterwards: in between, that memory must not become a version of another slot.

use std::sync::Arc;
#[cfg(not(test))]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

#[cfg(not(test))]
use arc_swap::ArcSwapOption;
#[cfg(test)]
use shuttle::sync::atomic::AtomicU64;
#[cfg(test)]
use tests::ArcSwapOption;

/// The writing end. It keeps every version alive until it is out of every reader's reach, so the memory of a
/// version is returned on the publisher's thread.
#[derive(Debug)]
pub struct Publisher<T> {
    slot: Arc<Slot<T>>,
    /// With their numbers, from the oldest that somebody may reach to the current one.
    versions: Vec<(u64, Arc<T>)>,
    /// The number that each reader has seen.
    readers: Vec<Arc<AtomicU64>>,
}

/// A reading end, one for each worker. It has to look now and then: all versions since it looked last stay in
/// memory. One that outlives its publisher frees itself what it holds.
#[derive(Debug)]
pub struct Reader<T> {
    slot: Arc<Slot<T>>,
    version: Option<Arc<T>>,
    /// The number of `version`, or a smaller one.
    number: u64,
    /// The same, for the publisher.
    seen: Arc<AtomicU64>,
}

/// Where the current version changes hands.
#[derive(Debug)]
struct Slot<T> {
    current: ArcSwapOption<T>,
    /// The number of the current version; zero before the first.
    number: AtomicU64,
}

impl<T> Publisher<T> {
    /// Nothing is published yet.
    #[must_use]
    pub fn new() -> Self {
        let slot = Slot { current: ArcSwapOption::empty(), number: AtomicU64::new(0) };
        Self { slot: Arc::new(slot), versions: Vec::new(), readers: Vec::new() }
    }

    /// A new reading end.
    #[must_use]
    pub fn reader(&mut self) -> Reader<T> {
        let number = self.number();
        let seen = Arc::new(AtomicU64::new(number));
        self.readers.push(Arc::clone(&seen));
        Reader { slot: Arc::clone(&self.slot), version: self.current(), number, seen }
    }

    /// Publishes a version in place of the current one, and frees what is out of reach. From now on
    /// [`Reader::get`] gives this one.
    pub fn publish(&mut self, version: T) -> Arc<T> {
        let (number, version) = (self.number() + 1, Arc::new(version));
        self.versions.push((number, Arc::clone(&version)));
        self.slot.current.store(Some(Arc::clone(&version)));
        self.slot.number.store(number, Ordering::Release);
        self.collect();
        version
    }

    /// The version that readers see.
    #[must_use]
    pub fn current(&self) -> Option<Arc<T>> {
        self.versions.last().map(|(_, version)| Arc::clone(version))
    }

    /// Frees the old versions that are out of everybody's reach. How many are left.
    pub fn collect(&mut self) -> usize {
        // A reader that is gone has left its number behind.
        self.readers.retain(|seen| Arc::strong_count(seen) > 1);
        let current = self.number();
        let seen = self.readers.iter().map(|seen| seen.load(Ordering::Acquire));
        let seen_by_all = seen.min().unwrap_or(current);
        self.versions.retain(|(number, version)| {
            *number == current || *number >= seen_by_all || Arc::strong_count(version) > 1
        });
        self.versions.len().saturating_sub(1)
    }

    /// The number of the current version.
    fn number(&self) -> u64 {
        self.versions.last().map_or(0, |(number, _)| *number)
    }
}

impl<T> Default for Publisher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Reader<T> {
    /// The current version; `None` before the first. One relaxed load if it is the one of the last call, and
    /// nothing is waited for.
    ///
    /// Allocates nothing, but for the very first call of a thread that finds a change: `arc-swap` then sets up that
    /// thread's slot.
    #[inline]
    pub fn get(&mut self) -> Option<&T> {
        if self.slot.number.load(Ordering::Relaxed) != self.number {
            self.catch_up();
        }
        self.version.as_deref()
    }

    #[cold]
    fn catch_up(&mut self) {
        // With the number comes the version of that number, or a newer one. What is given back is not the last of
        // it: the publisher keeps it until it hears, below, that it was given back.
        self.number = self.slot.number.load(Ordering::Acquire);
        self.version = self.slot.current.load_full();
        self.seen.store(self.number, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    //! On shuttle: each test runs once for every order in which its threads may take turns at the slot.
    //! `tests/publication.rs` is the same in the open: threads of the system, and tables.

    use std::sync::atomic::AtomicUsize;

    use shuttle::scheduler::{DfsScheduler, PctScheduler, Scheduler};
    use shuttle::sync::Mutex;
    use shuttle::sync::atomic::AtomicBool;
    use shuttle::thread::{self, ThreadId};
    use shuttle::{Config, Runner};

    use super::*;

    /// What `arc-swap` promises, with turns in between: one value at a time, stored and loaded whole.
    #[derive(Debug)]
    pub(super) struct ArcSwapOption<T>(Mutex<Option<Arc<T>>>);

    impl<T> ArcSwapOption<T> {
        pub(super) fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub(super) fn store(&self, value: Option<Arc<T>>) {
            let before = std::mem::replace(&mut *self.0.lock().unwrap(), value);
            drop(before);
        }

        pub(super) fn load_full(&self) -> Option<Arc<T>> {
            self.0.lock().unwrap().clone()
        }
    }

    /// A version that two fields tell, and that may die on one thread only.
    struct Version {
        number: u64,
        twice: u64,
        home: ThreadId,
        alive: Arc<AtomicUsize>,
    }

    /// Makes versions on the thread that may free them.
    struct Press {
        alive: Arc<AtomicUsize>,
    }

    impl Press {
        fn version(&self, number: u64) -> Version {
            self.alive.fetch_add(1, Ordering::Relaxed);
            let alive = Arc::clone(&self.alive);
            Version { number, twice: number * 2, home: here(), alive }
        }

        fn alive(&self) -> usize {
            self.alive.load(Ordering::Relaxed)
        }
    }

    impl Drop for Version {
        fn drop(&mut self) {
            self.alive.fetch_sub(1, Ordering::Relaxed);
            assert_eq!(here(), self.home, "version {} dies on a reader's thread", self.number);
        }
    }

    fn here() -> ThreadId {
        thread::current().id()
    }

    /// Runs `model` once for every order in which its threads may take turns.
    fn in_every_order(model: impl Fn(Press) + Send + Sync + 'static) {
        run(DfsScheduler::new(None, false), model);
    }

    /// Runs `model` in many random orders, in each of which a few threads are held up at the worst of times.
    fn in_many_orders(model: impl Fn(Press) + Send + Sync + 'static) {
        run(PctScheduler::new(4, 2000), model);
    }

    fn run(scheduler: impl Scheduler + 'static, model: impl Fn(Press) + Send + Sync + 'static) {
        let mut config = Config::new();
        // It warns that it knows no relaxed loads. What a reader takes is ordered by the number that it acquires.
        config.silence_warnings = true;
        Runner::new(scheduler, config).run(move || model(Press { alive: Arc::default() }));
    }

    /// The number of the version that `reader` sees; zero before the first.
    fn read(reader: &mut Reader<Version>) -> u64 {
        reader.get().map_or(0, |version| {
            assert_eq!(version.twice, version.number * 2, "a mix of two versions");
            version.number
        })
    }

    /// Some readers read twice each while versions come out.
    fn readers_among_publications(press: &Press, readers: usize, last: u64) {
        let mut publisher = Publisher::new();
        let readers: Vec<_> = (0..readers)
            .map(|_| {
                let mut reader = publisher.reader();
                thread::spawn(move || {
                    let seen = [read(&mut reader), read(&mut reader)];
                    assert!(seen[0] <= seen[1], "went back: {seen:?}");
                    // The reader ends here, with whatever version it holds.
                })
            })
            .collect();
        for number in 1..=last {
            assert_eq!(publisher.publish(press.version(number)).number, number);
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!((publisher.collect(), press.alive()), (0, 1), "the current version is left");
        drop(publisher);
        assert_eq!(press.alive(), 0);
    }

    #[test]
    fn readers_see_whole_versions_in_order_and_free_none() {
        in_every_order(|press| readers_among_publications(&press, 1, 3));
        in_many_orders(|press| readers_among_publications(&press, 3, 4));
    }

    #[test]
    fn who_knows_of_a_publication_sees_it() {
        in_every_order(|press| {
            let mut publisher = Publisher::new();
            publisher.publish(press.version(1));
            let published = Arc::new(AtomicBool::new(false));
            let (mut reader, told) = (publisher.reader(), Arc::clone(&published));
            let reader = thread::spawn(move || {
                let before = read(&mut reader);
                if told.load(Ordering::Acquire) {
                    assert_eq!(read(&mut reader), 3, "left behind at {before}");
                }
                reader
            });
            publisher.publish(press.version(2));
            publisher.publish(press.version(3));
            published.store(true, Ordering::Release);
            let mut reader = reader.join().unwrap();
            assert_eq!(read(&mut reader), 3, "left behind");
            assert_eq!((publisher.collect(), press.alive()), (0, 1));
            drop(reader);
        });
    }

    #[test]
    fn a_reader_that_comes_and_one_that_goes_cost_no_version_its_home() {
        in_every_order(|press| {
            let mut publisher = Publisher::new();
            publisher.publish(press.version(1));
            let mut going = publisher.reader();
            assert_eq!(read(&mut going), 1);
            let going = thread::spawn(move || drop(going));
            publisher.publish(press.version(2));
            let mut coming = publisher.reader();
            let coming = thread::spawn(move || read(&mut coming));
            let held = publisher.publish(press.version(3));
            assert!(publisher.collect() <= 2);
            going.join().unwrap();
            assert!([0, 2, 3].contains(&coming.join().unwrap()));
            assert_eq!((publisher.collect(), press.alive(), held.number), (0, 1, 3));
        });
    }

    #[test]
    fn a_version_lives_while_anybody_holds_it() {
        in_every_order(|press| {
            let mut publisher = Publisher::new();
            let mut reader = publisher.reader();
            assert_eq!(read(&mut reader), 0);
            assert!(publisher.current().is_none());
            drop(publisher.publish(press.version(1)));
            assert_eq!(read(&mut reader), 1);
            drop(publisher.publish(press.version(2)));
            let third = publisher.publish(press.version(3));
            // The first is still read, and the reader may be about to take the second.
            assert_eq!((publisher.collect(), press.alive()), (2, 3));
            assert_eq!(read(&mut reader), 3);
            assert_eq!((publisher.collect(), press.alive()), (0, 1));
            drop(publisher.publish(press.version(4)));
            assert_eq!((publisher.collect(), third.number), (1, 3));
            assert_eq!((read(&mut reader), publisher.collect()), (4, 1), "the third is still held here");
            drop(third);
            assert_eq!(publisher.collect(), 0);
            assert_eq!(publisher.current().map(|version| version.number), Some(4));
        });
    }

    #[test]
    fn a_reader_outlives_its_publisher() {
        in_every_order(|press| {
            let mut publisher = Publisher::new();
            let mut reader = publisher.reader();
            drop(publisher.publish(press.version(7)));
            drop(publisher);
            assert_eq!((read(&mut reader), press.alive()), (7, 1));
            drop(reader);
            assert_eq!(press.alive(), 0);
        });
    }
}
