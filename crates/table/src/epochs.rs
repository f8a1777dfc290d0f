//! Which pods keep their epoch: those about which two tables say the same.

use std::collections::{HashMap, HashSet};

use flow::{Address, Epoch};

use crate::interned::Marks;
use crate::layout::PolicyTable;
use crate::rows::CELLS;

/// What was written between two tables of one draft.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// From which class to which some painted address went.
    pub(crate) moves: HashSet<(u32, u32)>,
    /// Addresses that are, or were, hosts.
    pub(crate) hosts: Vec<Address>,
    /// Rows with other cells.
    pub(crate) rows: Marks,
    /// Pods that are new or not the same any more.
    pub(crate) pods: Marks,
}

/// What changed between two tables of one draft.
pub(crate) struct Changes<'a> {
    last: &'a PolicyTable,
    new: &'a PolicyTable,
    written: &'a Written,
    /// From which class to which some address went.
    moves: Vec<(u32, u32)>,
    /// What was found of pairs of rows, of the last table and the new one.
    differ: HashMap<(u32, u32), bool>,
}

impl<'a> Changes<'a> {
    pub(crate) fn between(last: &'a PolicyTable, new: &'a PolicyTable, written: &'a Written) -> Self {
        let class = |table: &PolicyTable, address| table.locate(address).class();
        let hosts = written.hosts.iter().map(|&address| (class(last, address), class(new, address)));
        let ways = ways(last, new, &written.moves);
        let moves: HashSet<_> = ways.into_iter().chain(hosts).filter(|(old, new)| old != new).collect();
        Self { last, new, written, moves: moves.into_iter().collect(), differ: HashMap::new() }
    }

    /// Whether the new table says something else than the last one about the pod in this slot.
    pub(crate) fn concern(&mut self, pod: u32) -> bool {
        // Written more than once, it may be what it was.
        let other = match self.last.pods.at_checked(pod) {
            Some(old @ Some(_)) => self.written.pods.has(pod) && old != self.new.pods.at(pod),
            _ => true,
        };
        if other {
            return true;
        }
        let rows = self.last.subjects.at(pod).rows.into_iter().zip(self.new.subjects.at(pod).rows);
        rows.into_iter().any(|(old_row, row)| self.differ(old_row, row))
    }

    fn differ(&mut self, old_row: u32, row: u32) -> bool {
        if let Some(&known) = self.differ.get(&(old_row, row)) {
            return known;
        }
        let written = old_row != row || self.written.rows.has(row);
        let found = (written && self.cells_differ(old_row, row)) || self.moves_matter(old_row, row);
        self.differ.insert((old_row, row), found);
        found
    }

    /// Whether the rows say different things about a class that both tables have.
    fn cells_differ(&self, old_row: u32, row: u32) -> bool {
        let Self { last, new, .. } = self;
        let pages = last.rows.pages_of(old_row).zip(new.rows.pages_of(row)).zip(0..);
        pages.filter(|((old, new), _)| old != new).any(|((old_page, page), at)| {
            let mut classes = at * CELLS as u32..(at + 1) * CELLS as u32;
            classes.any(|class| {
                *last.rows.cell(old_page, class) != *new.rows.cell(page, class)
                    && last.has_class(class)
                    && new.has_class(class)
            })
        })
    }

    /// Whether an address went to a class of which `row` says something else than `old_row` said of the old one.
    fn moves_matter(&self, old_row: u32, row: u32) -> bool {
        let mut moves = self.moves.iter();
        moves.any(|&(old_class, class)| {
            self.last.rows.set(old_row, old_class) != self.new.rows.set(row, class)
        })
    }
}

/// From which class of the last table to which class of the new one some address may have gone, by way of classes
/// that the last table did not have.
fn ways(last: &PolicyTable, new: &PolicyTable, moves: &HashSet<(u32, u32)>) -> Vec<(u32, u32)> {
    let mut onward: HashMap<u32, Vec<u32>> = HashMap::new();
    for &(between, class) in moves.iter().filter(|(between, _)| !last.has_class(*between)) {
        onward.entry(between).or_default().push(class);
    }
    let mut ways = Vec::new();
    for &(old, first) in moves.iter().filter(|(old, _)| last.has_class(*old)) {
        let (mut seen, mut next) = (HashSet::from([first]), vec![first]);
        while let Some(class) = next.pop() {
            if new.has_class(class) {
                ways.push((old, class));
            }
            next.extend(
                onward.get(&class).into_iter().flatten().copied().filter(|&class| seen.insert(class)),
            );
        }
    }
    ways
}

/// The epoch after the newest of `table` that none of its pods has: after a wrap-around, a pod may have kept one
/// of the first ones all the time.
pub(crate) fn fresh(table: &PolicyTable) -> Epoch {
    let mut epoch = table.newest.next();
    while table.subjects.iter().any(|subject| subject.epoch == epoch.number()) {
        epoch = epoch.next();
    }
    epoch
}
