//! One writer publishes versions of a value; readers see each whole, never wait, and never free one.
//!
//! A version lies in a slot behind a lock, and the slot counts its versions. A reader looks at the count, with one
//! relaxed load, and comes to the slot only when it has changed. Should the publisher be at the slot just then, the
//! reader stays with what it has until its next call. Versions come seldom, so nothing finer than a lock is needed.
//!
//! A version that has left the slot can only be given on by those who hold it. So once the publisher alone does,
//! nobody can reach it any more, and it is freed: on the publisher's thread, whoever was the last to read it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
#[cfg(not(test))]
use std::sync::{RwLock, atomic::AtomicU64};

#[cfg(test)]
use shuttle::sync::{RwLock, atomic::AtomicU64};

/// The writing end. It keeps every version alive until no reader holds it, so the memory of a version is
/// returned on the publisher's thread.
#[derive(Debug)]
pub struct Publisher<T> {
    slot: Arc<Slot<T>>,
    /// From the oldest that is still held to the current one.
    versions: Vec<Arc<T>>,
}

/// A reading end, one for each worker. One that outlives its publisher frees itself what it holds.
#[derive(Debug)]
pub struct Reader<T> {
    slot: Arc<Slot<T>>,
    /// The number of `version`.
    seen: u64,
    version: Option<Arc<T>>,
}

/// Where the current version changes hands.
#[derive(Debug)]
struct Slot<T> {
    /// How many versions there were. It changes under the lock only.
    number: AtomicU64,
    current: RwLock<Option<Arc<T>>>,
}

impl<T> Publisher<T> {
    /// Nothing is published yet.
    #[must_use]
    pub fn new() -> Self {
        let slot = Slot { number: AtomicU64::new(0), current: RwLock::new(None) };
        Self { slot: Arc::new(slot), versions: Vec::new() }
    }

    /// A new reading end.
    #[must_use]
    pub fn reader(&self) -> Reader<T> {
        Reader { slot: Arc::clone(&self.slot), seen: 0, version: None }
    }

    /// Publishes a version in place of the current one, and frees what readers have left behind. From now on
    /// [`Reader::get`] gives this one.
    pub fn publish(&mut self, version: T) -> Arc<T> {
        let version = Arc::new(version);
        self.versions.push(Arc::clone(&version));
        self.slot.put(Arc::clone(&version));
        self.collect();
        version
    }

    /// The version that readers see.
    #[must_use]
    pub fn current(&self) -> Option<Arc<T>> {
        self.versions.last().cloned()
    }

    /// Frees the old versions that nobody else holds. How many are left.
    pub fn collect(&mut self) -> usize {
        if let Some(current) = self.versions.pop() {
            self.versions.retain(|old| Arc::strong_count(old) > 1);
            self.versions.push(current);
        }
        self.versions.len().saturating_sub(1)
    }
}

impl<T> Default for Publisher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Reader<T> {
    /// The current version; `None` before the first. One relaxed load if it is the one of the last call, nothing
    /// allocated, nothing waited for.
    #[inline]
    pub fn get(&mut self) -> Option<&T> {
        if self.slot.number.load(Ordering::Relaxed) != self.seen {
            self.catch_up();
        }
        self.version.as_deref()
    }

    #[cold]
    fn catch_up(&mut self) {
        // Held by the publisher for as long as it takes to change a pointer. It has the old version still, so
        // what is given back here is never the last of it.
        let Ok(current) = self.slot.current.try_read() else { return };
        self.seen = self.slot.number.load(Ordering::Relaxed);
        self.version.clone_from(&current);
    }
}

impl<T> Slot<T> {
    fn put(&self, version: Arc<T>) {
        let mut current = self.current.write().expect("nobody panics at the slot");
        self.number.store(self.number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        *current = Some(version);
    }
}

#[cfg(test)]
mod tests {
    //! On shuttle: each test runs once for every order in which its threads may take turns at the slot.
    //! `tests/publication.rs` is the same in the open: threads of the system, and tables.

    use std::sync::atomic::AtomicUsize;

    use shuttle::scheduler::{DfsScheduler, PctScheduler, Scheduler};
    use shuttle::sync::atomic::AtomicBool;
    use shuttle::thread::{self, ThreadId};
    use shuttle::{Config, Runner};

    use super::*;

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
        // It warns that it knows no relaxed loads. What a reader takes from the slot is ordered by its lock.
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
                    assert_eq!(read(&mut reader), 2, "left behind at {before}");
                }
                reader
            });
            publisher.publish(press.version(2));
            published.store(true, Ordering::Release);
            let mut reader = reader.join().unwrap();
            assert_eq!(read(&mut reader), 2, "left behind");
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
            // The second was never read, the first still is.
            assert_eq!((publisher.collect(), press.alive()), (1, 2));
            assert_eq!(read(&mut reader), 3);
            assert_eq!((publisher.collect(), press.alive()), (0, 1));
            drop(publisher.publish(press.version(4)));
            assert_eq!((publisher.collect(), third.number), (1, 3));
            drop(third);
            assert_eq!((read(&mut reader), publisher.collect()), (4, 0));
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
