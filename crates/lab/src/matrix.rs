//! Who reaches whom, expected against observed, as text.

use std::fmt;

use crate::probe::Outcome;
use crate::topology::Place;

/// A matrix of places that ask (rows) and places that are asked (columns).
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: Vec<Place>,
    columns: Vec<Place>,
    cells: Vec<Cell>,
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nobody has asked.
    Untried,
    /// All that was tried was allowed, and arrived.
    Allowed,
    /// All that was tried was denied, and did not arrive.
    Denied,
    /// Some was allowed and some denied, as expected.
    Mixed,
    /// Something that was allowed did not arrive, or something denied did, or somebody else answered.
    Unexpected,
}

impl Mark {
    /// The character in the text.
    #[must_use]
    pub const fn character(self) -> char {
        match self {
            Self::Untried => ' ',
            Self::Allowed => '.',
            Self::Denied => 'X',
            Self::Mixed => '~',
            Self::Unexpected => '!',
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    allowed: usize,
    denied: usize,
    unexpected: usize,
}

impl Cell {
    const fn mark(self) -> Mark {
        match (self.unexpected, self.allowed, self.denied) {
            (0, 0, 0) => Mark::Untried,
            (0, _, 0) => Mark::Allowed,
            (0, 0, _) => Mark::Denied,
            (0, _, _) => Mark::Mixed,
            _ => Mark::Unexpected,
        }
    }
}

impl Matrix {
    /// A matrix in which nobody has asked yet.
    #[must_use]
    pub fn new(rows: Vec<Place>, columns: Vec<Place>) -> Self {
        let cells = vec![Cell::default(); rows.len() * columns.len()];
        Self { rows, columns, cells }
    }

    /// Notes one outcome. A cell holds as many as are noted, over whichever protocols and families. Whether it
    /// was as expected; also `false` for places that the matrix does not have.
    pub fn note(&mut self, from: &Place, to: &Place, allowed: bool, observed: &Outcome) -> bool {
        let expected = match observed {
            Outcome::Reached(_) => allowed && observed.reached(to),
            _ => !allowed,
        };
        let Some(cell) = self.index(from, to).map(|index| &mut self.cells[index]) else { return false };
        match (expected, allowed) {
            (false, _) => cell.unexpected += 1,
            (true, true) => cell.allowed += 1,
            (true, false) => cell.denied += 1,
        }
        expected
    }

    /// What a cell shows; [`Mark::Untried`] outside the matrix.
    #[must_use]
    pub fn mark(&self, from: &Place, to: &Place) -> Mark {
        self.index(from, to).map_or(Mark::Untried, |index| self.cells[index].mark())
    }

    /// How many outcomes were noted, and how many of them were not as expected.
    #[must_use]
    pub fn totals(&self) -> (usize, usize) {
        self.cells.iter().fold((0, 0), |(all, unexpected), cell| {
            (all + cell.allowed + cell.denied + cell.unexpected, unexpected + cell.unexpected)
        })
    }

    fn index(&self, from: &Place, to: &Place) -> Option<usize> {
        let row = self.rows.iter().position(|place| place == from)?;
        let column = self.columns.iter().position(|place| place == to)?;
        Some(row * self.columns.len() + column)
    }
}

/// A line for each row, below one with the names of the columns; no trailing spaces, each line ended.
impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.columns.iter().map(Place::to_string).collect();
        let first = self.rows.iter().map(|row| row.to_string().len()).max().unwrap_or(0);
        write!(f, "{:first$}", "")?;
        names.iter().try_for_each(|name| write!(f, "  {name}"))?;
        writeln!(f)?;
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = format!("{row:first$}");
            let cells = &self.cells[index * names.len()..];
            for (name, cell) in names.iter().zip(cells) {
                let width = name.len();
                line += &format!("  {:^width$}", cell.mark().character());
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_shows_what_was_expected_and_what_was_not() {
        let [a, b, out] = [Place::pod("x", "a"), Place::pod("x", "b"), Place::outside("outside-1")];
        let mut matrix = Matrix::new(vec![a.clone(), out.clone()], vec![a.clone(), b.clone(), out.clone()]);
        let reached = |place: &Place| Outcome::Reached(place.to_string());
        assert!(matrix.note(&a, &a, true, &reached(&a)));
        assert!(matrix.note(&a, &b, false, &Outcome::TimedOut));
        assert!(matrix.note(&a, &b, true, &reached(&b)));
        assert!(!matrix.note(&a, &out, true, &reached(&b)), "somebody else answered");
        assert!(matrix.note(&out, &a, false, &Outcome::Refused));
        assert!(!matrix.note(&out, &b, false, &reached(&b)), "denied and yet reached");
        assert_eq!(
            matrix.to_string(),
            "           x/a  x/b  outside-1\n\
             x/a         .    ~       !\n\
             outside-1   X    !\n"
        );
        assert_eq!(matrix.totals(), (6, 2));
        assert_eq!(matrix.mark(&out, &out), Mark::Untried);
        assert!(!matrix.note(&b, &a, true, &reached(&a)), "no such row");
    }
}
