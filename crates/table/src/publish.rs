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
