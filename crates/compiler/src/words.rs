//! Labels and selectors as numbers.

use policy::model::Labels;
use policy::selector::Operator;

use crate::intern::{Heap, Id, Interner};

/// A key, value or name, kept once.
pub(crate) type Symbol = Id<Box<str>>;

/// Labels as pairs of key and value, sorted by the key's number.
pub(crate) type Pairs = Box<[(Symbol, Symbol)]>;

/// A label selector over symbols. Equal here whatever the order of requirements and values.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Selector {
    requirements: Box<[Requirement]>,
}

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Requirement {
    In(Symbol, Box<[Symbol]>),
    NotIn(Symbol, Box<[Symbol]>),
    Exists(Symbol),
    DoesNotExist(Symbol),
}

/// All words, and all selectors made of them.
pub(crate) struct Words {
    pub(crate) symbols: Interner<Box<str>>,
    pub(crate) selectors: Interner<Selector>,
    /// Room for one set of labels.
    scratch: Vec<(Symbol, Symbol)>,
}

impl Words {
    pub(crate) fn new() -> Self {
        Self { symbols: Interner::new(), selectors: Interner::new(), scratch: Vec::new() }
    }

    /// Refers to a word.
    pub(crate) fn symbol(&mut self, word: &str) -> Symbol {
        self.symbols.acquire_as(word, || word.into())
    }

    /// The text of a symbol.
    pub(crate) fn text(&self, symbol: Symbol) -> &str {
        self.symbols.key(symbol)
    }

    /// The pairs of some labels, if all of their words are known; nothing is referred to.
    pub(crate) fn known(&mut self, labels: &Labels) -> Option<&[(Symbol, Symbol)]> {
        self.scratch.clear();
        for (key, value) in labels {
            self.scratch.push((self.symbols.find(key.as_str())?, self.symbols.find(value.as_str())?));
        }
        self.scratch.sort_unstable();
        Some(&self.scratch)
    }

    /// Refers to the words of some labels.
    pub(crate) fn pairs(&mut self, labels: &Labels) -> Pairs {
        let mut pairs: Vec<_> =
            labels.iter().map(|(key, value)| (self.symbol(key), self.symbol(value))).collect();
        pairs.sort_unstable();
        pairs.into()
    }

    /// Lets go of the words of some labels.
    pub(crate) fn release_pairs(&mut self, pairs: &[(Symbol, Symbol)]) {
        for &(key, value) in pairs {
            self.symbols.release(key);
            self.symbols.release(value);
        }
    }

    /// Refers to a selector.
    pub(crate) fn selector(&mut self, written: &policy::selector::Selector) -> Id<Selector> {
        let mut requirements: Vec<_> = written
            .requirements
            .iter()
            .map(|requirement| {
                let key = self.symbol(&requirement.key);
                match &requirement.operator {
                    Operator::In(values) => Requirement::In(key, self.values(values)),
                    Operator::NotIn(values) => Requirement::NotIn(key, self.values(values)),
                    Operator::Exists => Requirement::Exists(key),
                    Operator::DoesNotExist => Requirement::DoesNotExist(key),
                }
            })
            .collect();
        requirements.sort_unstable();
        let (id, back) = self.selectors.acquire(Selector { requirements: requirements.into() });
        if let Some(known) = back {
            self.release_words_of(&known);
        }
        id
    }

    fn values(&mut self, values: &[String]) -> Box<[Symbol]> {
        let mut symbols: Vec<_> = values.iter().map(|value| self.symbol(value)).collect();
        symbols.sort_unstable();
        symbols.dedup_by(|again, first| {
            let twice = again == first;
            if twice {
                self.symbols.release(*again);
            }
            twice
        });
        symbols.into()
    }

    fn release_words_of(&mut self, selector: &Selector) {
        for requirement in &selector.requirements {
            match requirement {
                Requirement::In(key, values) | Requirement::NotIn(key, values) => {
                    self.symbols.release(*key);
                    values.iter().for_each(|&value| self.symbols.release(value));
                }
                Requirement::Exists(key) | Requirement::DoesNotExist(key) => self.symbols.release(*key),
            }
        }
    }

    /// Drops what nobody refers to.
    pub(crate) fn sweep(&mut self) {
        while let Some((_, selector, ())) = self.selectors.sweep() {
            self.release_words_of(&selector);
        }
        while self.symbols.sweep().is_some() {}
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.symbols.bytes() + self.selectors.bytes()
    }
}

impl Selector {
    /// Whether some labels satisfy every requirement.
    pub(crate) fn matches(&self, labels: &[(Symbol, Symbol)]) -> bool {
        let value_of =
            |key: Symbol| labels.binary_search_by_key(&key, |&(key, _)| key).ok().map(|at| labels[at].1);
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => value_of(*key).is_some_and(|value| holds(values, value)),
            Requirement::NotIn(key, values) => value_of(*key).is_none_or(|value| !holds(values, value)),
            Requirement::Exists(key) => value_of(*key).is_some(),
            Requirement::DoesNotExist(key) => value_of(*key).is_none(),
        })
    }

    /// Labels of which exactly one is on everything that matches; `None` where no requirement gives such.
    pub(crate) fn one_of(&self) -> Option<impl Iterator<Item = (Symbol, Symbol)> + '_> {
        let mut wanted = self.requirements.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((*key, values)),
            _ => None,
        });
        let first = wanted.next()?;
        // The fewest values tell the most.
        let (key, values) =
            wanted.fold(first, |best, next| if next.1.len() < best.1.len() { next } else { best });
        Some(values.iter().map(move |&value| (key, value)))
    }
}

fn holds(values: &[Symbol], value: Symbol) -> bool {
    values.binary_search(&value).is_ok()
}

impl Heap for Selector {
    fn heap(&self) -> usize {
        let values = self.requirements.iter().map(|requirement| match requirement {
            Requirement::In(_, values) | Requirement::NotIn(_, values) => values.heap(),
            _ => 0,
        });
        self.requirements.heap() + values.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use testkit::arbitrary;

    fn of(key: &str, operator: Operator) -> policy::selector::Requirement {
        policy::selector::Requirement { key: key.into(), operator }
    }

    proptest! {
        #[test]
        fn a_selector_of_symbols_matches_what_the_selector_matches(cluster in arbitrary::clusters()) {
            let mut words = Words::new();
            for policy in &cluster.policies {
                let id = words.selector(&policy.subjects);
                for pod in &cluster.pods {
                    let pairs = words.pairs(&pod.labels);
                    let matches = words.selectors.key(id).matches(&pairs);
                    prop_assert_eq!(matches, policy.subjects.matches(&pod.labels));
                    if let Some(labels) = words.selectors.key(id).one_of() {
                        let found = labels.filter(|label| pairs.contains(label)).count();
                        prop_assert!(found <= 1 && (!matches || found == 1));
                    }
                    words.release_pairs(&pairs);
                }
                words.selectors.release(id);
            }
            words.sweep();
            prop_assert_eq!((words.symbols.len(), words.selectors.len()), (0, 0));
        }
    }

    #[test]
    fn how_a_selector_was_written_does_not_matter() {
        let mut words = Words::new();
        let twice = Operator::In(vec!["b".into(), "a".into(), "b".into()]);
        let once = Operator::In(vec!["a".into(), "b".into()]);
        let one = [of("x", twice), of("y", Operator::Exists)];
        let other = [of("y", Operator::Exists), of("x", once)];
        let ids = [one, other].map(|requirements| {
            words.selector(&policy::selector::Selector { requirements: requirements.into() })
        });
        assert_eq!(ids[0], ids[1]);
        ids.into_iter().for_each(|id| words.selectors.release(id));
        words.sweep();
        assert_eq!(words.symbols.len(), 0);
    }
}
