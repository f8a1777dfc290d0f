//! Rows: for each class of addresses, the ports on which a pod may talk with it in one direction.

use flow::Direction;
use std::sync::Arc;

use crate::ids::{ClassId, RowId};
use crate::interned::{Interned, Marks};
use crate::paged::Paged;
use crate::rules::{NamedPort, PolicyId};
use crate::sets::SetId;

/// Cells of a page.
pub(crate) const CELLS: usize = 64;

/// Cells in pages. Equal pages are stored once, so that rows which say nothing about most classes are small.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// The page of each 64 classes, `stride` of them for each row.
    directory: Paged<u32, 4096>,
    pages: Paged<Page, 64>,
    stride: u32,
    infos: Paged<Option<Arc<RowInfo>>, 64>,
}

/// The sets of 64 neighbouring classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Page(pub(crate) [u32; CELLS]);

impl Default for Page {
    fn default() -> Self {
        Self([SetId::NONE.0; CELLS])
    }
}

/// What a row was made from.
#[derive(Debug)]
pub(crate) struct RowInfo {
    pub(crate) direction: Direction,
    /// The policies that isolate, in the order in which `why` asks them.
    pub(crate) policies: Arc<[PolicyId]>,
    /// The named ports of the subject, where an ingress rule asks for them.
    pub(crate) ports: Arc<[NamedPort]>,
}

impl Rows {
    /// Where the page of a row that a class is in stands.
    #[inline]
    pub(crate) fn page(&self, row: u32, class: u32) -> &u32 {
        self.directory.at(row * self.stride + class / CELLS as u32)
    }

    /// Where the set of a class stands in its page.
    #[inline]
    pub(crate) fn cell(&self, page: u32, class: u32) -> &u32 {
        &self.pages.at(page).0[class as usize % CELLS]
    }

    /// The set of a class.
    pub(crate) fn set(&self, row: u32, class: u32) -> u32 {
        *self.cell(*self.page(row, class), class)
    }

    /// What a row was made from; `None` for [`RowId::OPEN`].
    pub(crate) fn info(&self, row: u32) -> Option<&RowInfo> {
        self.infos.at(row).as_deref()
    }

    /// The pages of a row.
    pub(crate) fn pages_of(&self, row: u32) -> impl Iterator<Item = u32> {
        (0..self.stride).map(move |at| *self.directory.at(row * self.stride + at))
    }

    /// How many classes have room.
    pub(crate) const fn classes(&self) -> u32 {
        self.stride * CELLS as u32
    }

    pub(crate) fn bytes(&self) -> usize {
        self.directory.bytes() + self.pages.bytes() + self.infos.bytes()
    }
}

/// Rows, and what is needed to write them.
#[derive(Debug)]
pub(crate) struct RowStore {
    rows: Rows,
    by_page: Interned<Page>,
    /// The default of each row in use.
    defaults: Vec<Option<SetId>>,
    free: Vec<u32>,
}

impl RowStore {
    /// [`RowId::OPEN`].
    pub(crate) fn new() -> Self {
        let rows = Rows { directory: Paged::new(), pages: Paged::new(), stride: 1, infos: Paged::new() };
        let mut store = Self { rows, by_page: Interned::new(), defaults: Vec::new(), free: Vec::new() };
        store.uniform(SetId::NONE);
        store.defaults.push(None);
        store.fill(RowId::OPEN, SetId::EVERY, &[]);
        store
    }

    /// The rows as they are, for a table.
    pub(crate) fn shared(&self) -> Rows {
        self.rows.clone()
    }

    pub(crate) const fn rows(&self) -> &Rows {
        &self.rows
    }

    /// A row that allows nothing yet.
    pub(crate) fn add(&mut self, info: RowInfo) -> RowId {
        let row = self.free.pop().unwrap_or(self.defaults.len() as u32);
        if row as usize == self.defaults.len() {
            self.defaults.push(None);
        }
        *self.rows.infos.at_mut(row) = Some(Arc::new(info));
        self.fill(RowId(row), SetId::NONE, &[]);
        RowId(row)
    }

    /// Forgets a row. Its id is used again after [`recycle`](Self::recycle).
    pub(crate) fn remove(&mut self, row: RowId) {
        self.defaults[row.0 as usize] = None;
        *self.rows.infos.at_mut(row.0) = None;
    }

    pub(crate) fn recycle(&mut self, rows: impl IntoIterator<Item = u32>) {
        self.free.extend(rows);
    }

    /// Replaces all cells of a row: these, sorted by class, and the default elsewhere.
    pub(crate) fn fill(&mut self, row: RowId, default: SetId, cells: &[(ClassId, SetId)]) {
        self.defaults[row.0 as usize] = Some(default);
        let uniform = self.uniform(default);
        self.rows.directory.reserve(self.defaults.len() * self.rows.stride as usize);
        let mut written = 0;
        for of_page in cells.chunk_by(|a, b| a.0.0 / CELLS as u32 == b.0.0 / CELLS as u32) {
            let at = of_page[0].0.0 / CELLS as u32;
            for between in written..at {
                self.point(row, between, uniform);
            }
            let mut page = Page([default.0; CELLS]);
            for (class, set) in of_page {
                page.0[class.0 as usize % CELLS] = set.0;
            }
            let page = self.intern(page);
            self.point(row, at, page);
            written = at + 1;
        }
        for rest in written..self.rows.stride {
            self.point(row, rest, uniform);
        }
    }

    /// Changes these cells of a row, sorted by class.
    pub(crate) fn change(&mut self, row: RowId, cells: &[(ClassId, SetId)]) {
        for of_page in cells.chunk_by(|a, b| a.0.0 / CELLS as u32 == b.0.0 / CELLS as u32) {
            let first = of_page[0].0.0;
            let mut page = self.rows.pages.at(*self.rows.page(row.0, first)).clone();
            for (class, set) in of_page {
                page.0[class.0 as usize % CELLS] = set.0;
            }
            let page = self.intern(page);
            self.point(row, first / CELLS as u32, page);
        }
    }

    /// Gives these classes, sorted, the default in every row.
    pub(crate) fn reset(&mut self, classes: &[u32]) {
        for row in 0..self.defaults.len() as u32 {
            let Some(default) = self.defaults[row as usize] else { continue };
            let uniform = self.uniform(default);
            for of_page in classes.chunk_by(|a, b| a / CELLS as u32 == b / CELLS as u32) {
                let page = *self.rows.page(row, of_page[0]);
                if page != uniform && of_page.iter().any(|&class| *self.rows.cell(page, class) != default.0) {
                    let cells: Vec<_> = of_page.iter().map(|&class| (ClassId(class), default)).collect();
                    self.change(RowId(row), &cells);
                }
            }
        }
    }

    /// Room for classes below `classes`. All rows move when there is none.
    pub(crate) fn reserve_classes(&mut self, classes: u32) {
        if classes <= self.rows.classes() {
            return;
        }
        let (old, mut stride) = (self.rows.stride, self.rows.stride);
        while stride * (CELLS as u32) < classes {
            stride *= 2;
        }
        let mut directory = Paged::new();
        directory.reserve(self.defaults.len() * stride as usize);
        for row in 0..self.defaults.len() as u32 {
            let Some(default) = self.defaults[row as usize] else { continue };
            let uniform = self.uniform(default);
            for at in 0..stride {
                let page = if at < old { *self.rows.directory.at(row * old + at) } else { uniform };
                *directory.at_mut(row * stride + at) = page;
            }
        }
        (self.rows.directory, self.rows.stride) = (directory, stride);
    }

    /// Frees the pages that no row holds any more. What the pages that stay hold.
    pub(crate) fn sweep(&mut self) -> Marks {
        let (mut pages, mut sets) = (Marks::default(), Marks::default());
        for row in (0..self.defaults.len() as u32).filter(|&row| self.defaults[row as usize].is_some()) {
            for page in self.rows.pages_of(row) {
                if pages.mark(page) {
                    self.rows.pages.at(page).0.iter().for_each(|&set| _ = sets.mark(set));
                }
            }
        }
        for default in self.defaults.iter().flatten() {
            sets.mark(default.0);
        }
        self.by_page.sweep(&pages);
        sets
    }

    /// How many different pages there are.
    pub(crate) fn pages(&self) -> usize {
        self.by_page.len()
    }

    /// What writing rows costs beside the rows themselves.
    pub(crate) fn bytes(&self) -> usize {
        self.by_page.bytes() + self.defaults.capacity() * 8
    }

    fn uniform(&mut self, set: SetId) -> u32 {
        self.intern(Page([set.0; CELLS]))
    }

    fn intern(&mut self, page: Page) -> u32 {
        self.by_page.id(page, |id, page| *self.rows.pages.at_mut(id) = page.clone())
    }

    fn point(&mut self, row: RowId, at: u32, page: u32) {
        let index = row.0 * self.rows.stride + at;
        if *self.rows.directory.at(index) != page {
            *self.rows.directory.at_mut(index) = page;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> RowInfo {
        RowInfo { direction: Direction::Ingress, policies: Arc::default(), ports: Arc::default() }
    }

    const A: SetId = SetId(7);
    const B: SetId = SetId(8);

    #[test]
    fn a_row_holds_its_cells_and_its_default() {
        let mut store = RowStore::new();
        store.reserve_classes(500);
        let row = store.add(info());
        store.fill(row, A, &[(ClassId(0), B), (ClassId(63), B), (ClassId(400), B)]);
        let set = |store: &RowStore, class| store.rows().set(row.0, class);
        assert_eq!([0, 1, 63, 64, 399, 400, 511].map(|class| set(&store, class)), [8, 7, 8, 7, 7, 8, 7]);
        store.reserve_classes(5000);
        assert_eq!([0, 1, 400, 4999].map(|class| set(&store, class)), [8, 7, 8, 7]);
        assert_eq!(store.rows().set(RowId::OPEN.0, 4999), SetId::EVERY.0);
        store.change(row, &[(ClassId(1), B), (ClassId(4999), B)]);
        assert_eq!([0, 1, 2, 4999].map(|class| set(&store, class)), [8, 8, 7, 8]);
        store.reset(&[0, 400]);
        assert_eq!([0, 1, 400, 4999].map(|class| set(&store, class)), [7, 8, 7, 8]);
    }

    #[test]
    fn equal_pages_are_one_and_unused_ones_go() {
        let mut store = RowStore::new();
        let rows = [(); 4].map(|()| store.add(info()));
        let before = store.pages();
        for row in rows {
            store.fill(row, SetId::NONE, &[(ClassId(3), A)]);
        }
        assert_eq!(store.pages(), before + 1);
        for row in &rows[..3] {
            store.remove(*row);
        }
        store.fill(rows[3], B, &[]);
        let sets = store.sweep();
        assert_eq!(store.pages(), 2, "of the open row, and of the one that is left");
        assert_eq!(sets.iter().collect::<Vec<_>>(), [SetId::EVERY.0, B.0]);
    }
}
