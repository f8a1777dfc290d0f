//! What a row says about a class: the union of what all matching rules allow.

use flow::Direction;
use table::{ClassId, SetId};

use crate::classes::ClassAt;
use crate::policies::{PolicyAt, PolicyRecord, Rule, index};
use crate::ports::{NO_NAMES, NamedAt, PortsAt};
use crate::rows::RowAt;
use crate::state::{Spent, State};

/// A rule of a row matches a class, and allows these ports.
type Match = (ClassAt, PortsAt);

/// Most matches that wait to become cells.
const MOST: usize = 1 << 16;

impl State {
    /// Fills rows that are new or have other rules, and the cells of new classes in all others.
    pub(crate) fn derive_cells(&mut self) -> Result<(), Spent> {
        let filled = self.dirty.rows.iter().filter(|&row| self.rows.all.holds(row)).count();
        if filled + 1 < self.rows.all.len() {
            self.fill_columns()?;
        }
        self.dirty.rows.order();
        while let Some(row) = self.dirty.rows.pop() {
            if !self.rows.all.holds(row) {
                continue;
            }
            let before = self.bytes();
            self.fill_row(row);
            let policies = self.rows.all.key(row).policies.clone();
            self.blame(&policies, self.bytes().saturating_sub(before));
            self.check()?;
        }
        while self.dirty.classes.pop().is_some() {}
        Ok(())
    }

    /// Fills a whole row.
    fn fill_row(&mut self, row: RowAt) {
        let key = self.rows.all.key(row);
        let (direction, named) = (key.direction, key.ports);
        let (mut usual, mut matches) = (Vec::new(), Vec::new());
        for record in key.policies.iter().filter_map(|&policy| self.policies.get(policy)) {
            for rule in record.rules(direction).unwrap_or_default() {
                self.note(rule, &mut usual, &mut matches);
            }
        }
        usual.sort_unstable();
        usual.dedup();
        let usual: Box<[PortsAt]> = usual.into();
        let asks = usual.iter().any(|&ports| !self.ports.names_of(ports).is_empty());
        if direction == Direction::Egress && asks {
            self.rows.naming.insert(row);
            for &class in &self.classes.named {
                matches.extend(usual.iter().map(|&ports| (class, ports)));
            }
        } else {
            self.rows.naming.remove(&row);
        }
        let id = self.rows.id(row);
        self.rows.all.value_mut(row).usual = usual.clone();
        let named = if direction == Direction::Egress { NO_NAMES } else { named };
        let default = self.rows.set(usual.to_vec(), named, &self.ports, &mut self.draft);
        let cells = if default == SetId::EVERY { Vec::new() } else { self.cells(row, matches) };
        self.draft.fill_row(id, default, &cells);
    }

    /// Adds what a rule allows: to everybody, or to the classes that its peers match.
    fn note(&self, rule: &Rule, usual: &mut Vec<PortsAt>, matches: &mut Vec<Match>) {
        if self.ports.is_nothing(rule.ports) {
            return;
        }
        let Some(peers) = &rule.peers else {
            usual.push(rule.ports);
            return;
        };
        for &peer in peers {
            let classes = self.peers.peers.value(peer).classes.iter();
            matches.extend(classes.map(|&class| (class, rule.ports)));
        }
    }

    /// The cells of a row for the classes that are spoken of, sorted by class.
    fn cells(&mut self, row: RowAt, mut matches: Vec<Match>) -> Vec<(ClassId, SetId)> {
        matches.sort_unstable();
        matches.dedup();
        let key = self.rows.all.key(row);
        let (direction, own) = (key.direction, key.ports);
        let usual = self.rows.all.value(row).usual.clone();
        let mut cells = Vec::new();
        for of_class in matches.chunk_by(|a, b| a.0 == b.0) {
            let class = of_class[0].0;
            let mut rules: Vec<PortsAt> = of_class.iter().map(|&(_, ports)| ports).collect();
            if !usual.is_empty() {
                rules.extend_from_slice(&usual);
                rules.sort_unstable();
                rules.dedup();
            }
            let named = match direction {
                Direction::Egress => self.classes.all.key(class).ports,
                Direction::Ingress => own,
            };
            let named = self.heeded(&rules, named);
            cells.push((self.classes.id(class), self.rows.set(rules, named, &self.ports, &mut self.draft)));
        }
        cells.sort_unstable();
        cells
    }

    /// The named ports, if one of the rules asks for any.
    fn heeded(&self, rules: &[PortsAt], named: NamedAt) -> NamedAt {
        let asks = named != NO_NAMES && rules.iter().any(|&rule| !self.ports.names_of(rule).is_empty());
        if asks { named } else { NO_NAMES }
    }

    /// Fills the cells of new classes in the rows that are not filled as a whole.
    fn fill_columns(&mut self) -> Result<(), Spent> {
        let mut found: Vec<(RowAt, Match)> = Vec::new();
        // They stay marked until all rows are filled.
        let classes: Vec<_> = self.dirty.classes.iter().collect();
        for class in classes {
            if !self.classes.all.is_alive(class) {
                continue;
            }
            self.matches_of(class, &mut found);
            if found.len() > MOST {
                self.set_cells(std::mem::take(&mut found));
                self.check()?;
            }
        }
        self.set_cells(found);
        self.check()
    }

    /// The rows with rules that match a class.
    fn matches_of(&self, class: ClassAt, found: &mut Vec<(RowAt, Match)>) {
        let key = self.classes.all.key(class);
        let lists = [key.matches, key.cover].map(|list| self.peers.lists.key(list));
        for user in lists.into_iter().flatten().flat_map(|&peer| self.peers.users(peer)) {
            let Some(rule) = self.rule(user.policy, user.direction, user.rule) else { continue };
            if self.ports.is_nothing(rule.ports) {
                continue;
            }
            let rows = self.policies.all.value(user.policy).rows[index(user.direction)].iter();
            found.extend(
                rows.filter(|&&row| !self.dirty.rows.has(row)).map(|&row| (row, (class, rule.ports))),
            );
        }
        if key.ports != NO_NAMES {
            for &row in self.rows.naming.iter().filter(|&&row| !self.dirty.rows.has(row)) {
                let usual = self.rows.all.value(row).usual.iter();
                found.extend(usual.map(|&ports| (row, (class, ports))));
            }
        }
    }

    fn rule(&self, policy: PolicyAt, direction: Direction, rule: u32) -> Option<&Rule> {
        let record: &PolicyRecord = self.policies.get(policy)?;
        record.rules(direction)?.get(rule as usize)
    }

    fn set_cells(&mut self, mut found: Vec<(RowAt, Match)>) {
        found.sort_unstable();
        for of_row in found.chunk_by(|a, b| a.0 == b.0) {
            let row = of_row[0].0;
            // Everything passes anyway.
            if self.rows.all.value(row).usual.first() == Some(&crate::ports::ANY) {
                continue;
            }
            let cells = self.cells(row, of_row.iter().map(|&(_, found)| found).collect());
            self.draft.set_cells(self.rows.id(row), &cells);
        }
    }
}
