//! One writer publishes versions of a value; readers see each whole, and never free one.
//!
//! The only home of `arc-swap`: its `Cache` costs a reader one relaxed load while nothing has changed.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Cache};

/// The writing end. It keeps every version alive until no reader holds it, so the memory of a version is
/// returned on the publisher's thread.
#[derive(Debug)]
pub struct Publisher<T> {
    slot: Arc<ArcSwapOption<T>>,
    /// From the oldest that is still held to the current one.
    versions: Vec<Arc<T>>,
}

/// A reading end, one for each worker.
#[derive(Clone, Debug)]
pub struct Reader<T> {
    cache: Cache<Arc<ArcSwapOption<T>>, Option<Arc<T>>>,
}

impl<T> Publisher<T> {
    /// Nothing is published yet.
    #[must_use]
    pub fn new() -> Self {
        Self { slot: Arc::new(ArcSwapOption::empty()), versions: Vec::new() }
    }

    /// A new reading end.
    #[must_use]
    pub fn reader(&self) -> Reader<T> {
        Reader { cache: Cache::new(Arc::clone(&self.slot)) }
    }

    /// Publishes a version in place of the current one, and frees what readers have left behind.
    pub fn publish(&mut self, version: T) -> Arc<T> {
        let version = Arc::new(version);
        self.versions.push(Arc::clone(&version));
        self.slot.store(Some(Arc::clone(&version)));
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
            // An old version is out of the slot: once the count is one, nobody can raise it again.
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
    /// The current version; `None` before the first. One relaxed load if it is the one of the last call.
    ///
    /// Allocates nothing, but for the very first call of a thread that finds a change: `arc-swap` then sets up
    /// that thread's slot.
    pub fn get(&mut self) -> Option<&T> {
        self.cache.load().as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread::{self, ThreadId};

    /// A version that two fields tell, and that may die on one thread only.
    struct Version {
        number: u64,
        twice: Box<u64>,
        home: ThreadId,
        dropped: Arc<AtomicU64>,
        strayed: Arc<AtomicBool>,
    }

    impl Drop for Version {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            if thread::current().id() != self.home {
                self.strayed.store(true, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn readers_see_whole_versions_in_order_and_free_none() {
        const LAST: u64 = 20_000;
        let dropped = Arc::new(AtomicU64::new(0));
        let strayed = Arc::new(AtomicBool::new(false));
        let version = |number| Version {
            number,
            twice: Box::new(number * 2),
            home: thread::current().id(),
            dropped: Arc::clone(&dropped),
            strayed: Arc::clone(&strayed),
        };
        let mut publisher = Publisher::<Version>::new();
        let observed = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut reader = publisher.reader();
                let observed = Arc::clone(&observed);
                thread::spawn(move || {
                    let mut newest = 0;
                    while newest < LAST {
                        let Some(version) = reader.get() else { continue };
                        assert_eq!(*version.twice, version.number * 2, "a mix of two versions");
                        assert!(version.number >= newest, "went back from {newest} to {}", version.number);
                        if version.number > newest {
                            observed.fetch_add(1, Ordering::Relaxed);
                        }
                        newest = version.number;
                    }
                    // The reader still holds the last version when its thread ends.
                })
            })
            .collect();
        for number in 1..=LAST {
            let before = observed.load(Ordering::Relaxed);
            assert_eq!(publisher.publish(version(number)).number, number);
            // Now and then a reader catches up, however the threads are scheduled.
            while number % 1000 == 0
                && observed.load(Ordering::Relaxed) == before
                && !readers.iter().any(thread::JoinHandle::is_finished)
            {
                thread::yield_now();
            }
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(publisher.collect(), 0);
        assert_eq!(dropped.load(Ordering::Relaxed), LAST - 1, "every version but the current one");
        drop(publisher);
        assert_eq!(dropped.load(Ordering::Relaxed), LAST);
        assert!(!strayed.load(Ordering::Relaxed), "a version died on a reader's thread");
    }

    #[test]
    fn a_version_lives_while_a_reader_holds_it() {
        let mut publisher = Publisher::new();
        let mut reader = publisher.reader();
        assert_eq!(reader.get(), None);
        assert!(publisher.current().is_none());
        drop(publisher.publish(1));
        assert_eq!(reader.get(), Some(&1));
        drop(publisher.publish(2));
        drop(publisher.publish(3));
        // The second was never read, the first still is.
        assert_eq!(publisher.collect(), 1);
        let mut late = reader.clone();
        assert_eq!((reader.get(), late.get()), (Some(&3), Some(&3)));
        assert_eq!(publisher.collect(), 0);
        assert_eq!(publisher.current().as_deref(), Some(&3));
    }

    #[test]
    fn a_reader_outlives_its_publisher() {
        let mut publisher = Publisher::new();
        let mut reader = publisher.reader();
        drop(publisher.publish(7));
        drop(publisher);
        assert_eq!(reader.get(), Some(&7));
    }
}
