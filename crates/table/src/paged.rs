//! A vector in pages that versions of a table share until one of them is written.

use std::sync::Arc;

/// Values by index, `N` (a power of two) to a page. A clone shares every page; a write copies the page that it
/// hits, and only if somebody else holds it. An index that was never written holds the default.
#[derive(Clone, Debug)]
pub(crate) struct Paged<T, const N: usize> {
    pages: Arc<[Arc<[T; N]>]>,
}

impl<T: Clone + Default, const N: usize> Paged<T, N> {
    pub(crate) fn new() -> Self {
        Self { pages: Arc::from([Self::empty_page()]) }
    }

    /// The value at `index`.
    ///
    /// # Panics
    ///
    /// When `index` lies beyond all that was ever written, by a page or more.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> &T {
        &self.pages[index as usize / N][index as usize % N]
    }

    /// The value at `index`; `None` beyond all that was ever written.
    pub(crate) fn at_checked(&self, index: u32) -> Option<&T> {
        self.pages.get(index as usize / N).map(|page| &page[index as usize % N])
    }

    /// The value at `index`, to be written.
    pub(crate) fn at_mut(&mut self, index: u32) -> &mut T {
        let (page, within) = (index as usize / N, index as usize % N);
        if page >= self.pages.len() {
            self.grow(page + 1);
        }
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.pages)[page])[within]
    }

    /// Room for indices below `len`, in whole pages.
    pub(crate) fn reserve(&mut self, len: usize) {
        if len.div_ceil(N) > self.pages.len() {
            self.grow(len.div_ceil(N));
        }
    }

    /// Everything that has room, in the order of the indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.iter())
    }

    /// What its pages hold, in bytes, whether they are shared or not.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len() * (N * size_of::<T>() + size_of::<usize>())
    }

    /// How many pages two versions have in common, and how many this one has.
    #[cfg(test)]
    pub(crate) fn shared_with(&self, other: &Self) -> (usize, usize) {
        let same = self.pages.iter().zip(&*other.pages).filter(|(ours, theirs)| Arc::ptr_eq(ours, theirs));
        (same.count(), self.pages.len())
    }

    fn grow(&mut self, pages: usize) {
        // By half at least, so that growing one by one costs little.
        let more = pages.max(self.pages.len() + self.pages.len() / 2) - self.pages.len();
        let empty = Self::empty_page();
        self.pages = self.pages.iter().cloned().chain(std::iter::repeat_n(empty, more)).collect();
    }

    fn empty_page() -> Arc<[T; N]> {
        const { assert!(N.is_power_of_two()) };
        Arc::new(std::array::from_fn(|_| T::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_copies_one_page_of_a_shared_vector() {
        let mut old = Paged::<u32, 4>::new();
        *old.at_mut(17) = 7;
        let mut new = old.clone();
        *new.at_mut(17) = 8;
        *new.at_mut(16) = 9;
        assert_eq!((*old.at(16), *old.at(17)), (0, 7));
        assert_eq!((*new.at(16), *new.at(17)), (9, 8));
        let (same, all) = new.shared_with(&old);
        assert_eq!(same, all - 1);
    }

    #[test]
    fn what_was_never_written_holds_the_default() {
        let mut paged = Paged::<u8, 8>::new();
        paged.reserve(100);
        assert!(paged.iter().all(|&byte| byte == 0));
        assert!(paged.iter().count() >= 100);
        assert_eq!(*paged.at(99), 0);
    }
}
