//! Ports of rules, and what the names of ports stand for at a pod.

use hashbrown::HashMap;
use std::sync::Arc;

use flow::Protocol;
use policy::model::{NamedPort, PortMatch, PortSet};
use table::{PortRange, RulePorts};

use crate::intern::{Heap, Id, Interner};
use crate::words::{Symbol, Words};

/// The destination ports of a rule.
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum RuleAllows {
    /// All ports of all protocols, also of those that have none.
    Any,
    /// Those of the ranges, and those that the pod calls by one of the names.
    OneOf { ranges: Box<[(Protocol, u16, u16)]>, names: Box<[(Symbol, Protocol)]> },
}

/// Named ports of a pod, sorted.
pub(crate) type NamedPorts = Box<[(Symbol, Protocol, u16)]>;

/// Where ports of rules are kept.
pub(crate) type PortsAt = Id<RuleAllows>;
/// Where named ports are kept.
pub(crate) type NamedAt = Id<NamedPorts>;

/// All ports that rules allow, and all named ports of pods.
pub(crate) struct Ports {
    pub(crate) rules: Interner<RuleAllows>,
    pub(crate) named: Interner<NamedPorts>,
    /// The names for which rules that decide about a judged pod's connections out ask at the destination.
    asked: HashMap<(Symbol, Protocol), Asked>,
}

/// A name that rules ask for.
#[derive(Default)]
struct Asked {
    /// How many.
    rules: u32,
    /// Whether the classes heed it.
    heeded: bool,
}

/// Any port.
pub(crate) const ANY: PortsAt = Id::new(0);
/// No named ports.
pub(crate) const NO_NAMES: NamedAt = Id::new(0);

impl Ports {
    pub(crate) fn new() -> Self {
        let (mut rules, mut named) = (Interner::new(), Interner::new());
        let any = rules.acquire(RuleAllows::Any).0;
        let none = named.acquire(NamedPorts::default()).0;
        assert!(any == ANY && none == NO_NAMES, "the first numbers");
        Self { rules, named, asked: HashMap::new() }
    }

    /// Refers to the ports of a rule.
    pub(crate) fn of_rule(&mut self, words: &mut Words, ports: &policy::model::Ports) -> PortsAt {
        let policy::model::Ports::OneOf(ports) = ports else {
            self.rules.retain(ANY);
            return ANY;
        };
        let (mut ranges, mut names) = (Vec::new(), Vec::new());
        for PortMatch { protocol, port } in ports.iter().filter(|wanted| wanted.protocol.has_ports()) {
            match port {
                PortSet::All => ranges.push((*protocol, 0, u16::MAX)),
                PortSet::Range(first, last) if first <= last => ranges.push((*protocol, *first, *last)),
                PortSet::Range(..) => {}
                PortSet::Named(name) => names.push((words.symbol(name), *protocol)),
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        names.sort_unstable();
        names.dedup_by(|again, first| {
            let twice = again == first;
            if twice {
                words.symbols.release(again.0);
            }
            twice
        });
        let (at, back) = self.rules.acquire(RuleAllows::OneOf { ranges: ranges.into(), names: names.into() });
        if let Some(RuleAllows::OneOf { names, .. }) = back {
            names.iter().for_each(|&(name, _)| words.symbols.release(name));
        }
        at
    }

    /// Refers to the named ports of a pod.
    pub(crate) fn of_pod(&mut self, words: &mut Words, ports: &[NamedPort]) -> NamedAt {
        let named = ports.iter().map(|port| (words.symbol(&port.name), port.protocol, port.number)).collect();
        let (at, back) = self.keep(named);
        back.iter().for_each(|&(name, ..)| words.symbols.release(name));
        at
    }

    /// Refers to those of some named ports for which `wanted` holds.
    pub(crate) fn narrowed(
        &mut self,
        words: &mut Words,
        ports: NamedAt,
        wanted: impl Fn((Symbol, Protocol)) -> bool,
    ) -> NamedAt {
        if ports == NO_NAMES {
            self.named.retain(NO_NAMES);
            return NO_NAMES;
        }
        let all = self.named.key(ports).iter().copied();
        let named: Vec<_> = all.filter(|&(name, protocol, _)| wanted((name, protocol))).collect();
        if let Some(at) = self.named.find(named.as_slice()) {
            self.named.retain(at);
            return at;
        }
        named.iter().for_each(|&(name, ..)| words.symbols.retain(name));
        self.keep(named).0
    }

    /// Refers to those of some named ports that rules ask for at a destination.
    pub(crate) fn asked_for(&mut self, words: &mut Words, ports: NamedAt) -> NamedAt {
        let asked = std::mem::take(&mut self.asked);
        let wanted = |name| asked.get(&name).is_some_and(|asked| asked.heeded);
        let at = self.narrowed(words, if asked.is_empty() { NO_NAMES } else { ports }, wanted);
        self.asked = asked;
        at
    }

    /// A rule begins, or ceases, to ask for its names at the destination. `touched`: which these are.
    pub(crate) fn ask(&mut self, rule: PortsAt, asks: bool, touched: &mut Vec<(Symbol, Protocol)>) {
        let RuleAllows::OneOf { names, .. } = self.rules.key(rule) else { return };
        for &name in names {
            let asked = self.asked.entry(name).or_default();
            asked.rules = if asks { asked.rules + 1 } else { asked.rules - 1 };
            touched.push(name);
        }
    }

    /// Whether some rule has begun to ask for a name that none asked for, or the last one ceased. Heeds it.
    pub(crate) fn take_news(&mut self, name: (Symbol, Protocol)) -> bool {
        let Some(asked) = self.asked.get_mut(&name) else { return false };
        let heeded = std::mem::replace(&mut asked.heeded, asked.rules > 0);
        if asked.rules == 0 {
            self.asked.remove(&name);
            return heeded;
        }
        !heeded
    }

    /// Refers to a list; gives back the entries that were there twice or in a list that is known.
    fn keep(&mut self, mut named: Vec<(Symbol, Protocol, u16)>) -> (NamedAt, Vec<(Symbol, Protocol, u16)>) {
        named.sort_unstable();
        let mut left = Vec::new();
        named.dedup_by(|again, first| {
            let twice = again == first;
            if twice {
                left.push(*again);
            }
            twice
        });
        let (at, back) = self.named.acquire(named.into());
        left.extend(back.into_iter().flatten());
        (at, left)
    }

    /// What the table keeps of named ports.
    pub(crate) fn named_for_table(&self, words: &Words, ports: NamedAt) -> Arc<[table::NamedPort]> {
        let named = self.named.key(ports).iter();
        let mut named: Vec<_> = named
            .map(|&(name, protocol, number)| table::NamedPort {
                name: words.text(name).into(),
                protocol,
                number,
            })
            .collect();
        named.sort_by(|a, b| (&a.name, a.protocol, a.number).cmp(&(&b.name, b.protocol, b.number)));
        named.into()
    }

    /// What the table keeps of a rule's ports.
    pub(crate) fn rule_for_table(&self, words: &Words, ports: PortsAt) -> RulePorts {
        let RuleAllows::OneOf { ranges, names } = self.rules.key(ports) else { return RulePorts::Any };
        let mut names: Vec<(Arc<str>, Protocol)> =
            names.iter().map(|&(name, protocol)| (words.text(name).into(), protocol)).collect();
        names.sort();
        RulePorts::OneOf { ranges: ranges.iter().copied().map(range).collect(), names: names.into() }
    }

    /// Adds the ranges that a rule allows at a pod with these named ports.
    pub(crate) fn ranges_at(&self, rule: PortsAt, pod: NamedAt, into: &mut Vec<PortRange>) {
        let RuleAllows::OneOf { ranges, names } = self.rules.key(rule) else { return };
        into.extend(ranges.iter().copied().map(range));
        if names.is_empty() {
            return;
        }
        for &(name, protocol, number) in self.named.key(pod) {
            if names.contains(&(name, protocol)) {
                into.push(range((protocol, number, number)));
            }
        }
    }

    /// The names that a rule asks for.
    pub(crate) fn names_of(&self, rule: PortsAt) -> &[(Symbol, Protocol)] {
        match self.rules.key(rule) {
            RuleAllows::Any => &[],
            RuleAllows::OneOf { names, .. } => names,
        }
    }

    /// Whether a rule allows no port at any pod.
    pub(crate) fn is_nothing(&self, rule: PortsAt) -> bool {
        matches!(self.rules.key(rule), RuleAllows::OneOf { ranges, names } if ranges.is_empty() && names.is_empty())
    }

    /// Drops what nobody refers to.
    pub(crate) fn sweep(&mut self, words: &mut Words) {
        while let Some((_, rule, ())) = self.rules.sweep() {
            if let RuleAllows::OneOf { names, .. } = rule {
                names.iter().for_each(|&(name, _)| words.symbols.release(name));
            }
        }
        while let Some((_, named, ())) = self.named.sweep() {
            named.iter().for_each(|&(name, ..)| words.symbols.release(name));
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.rules.bytes()
            + self.named.bytes()
            + self.asked.capacity() * size_of::<(Symbol, Protocol, Asked)>()
    }
}

const fn range((protocol, first, last): (Protocol, u16, u16)) -> PortRange {
    PortRange { protocol, first, last }
}

impl Heap for RuleAllows {
    fn heap(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::OneOf { ranges, names } => ranges.heap() + names.heap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, number: u16) -> NamedPort {
        NamedPort { name: name.into(), protocol: Protocol::TCP, number }
    }

    #[test]
    fn a_name_may_stand_for_several_ports_of_a_pod() {
        let (mut words, mut ports) = (Words::new(), Ports::new());
        let pod =
            ports.of_pod(&mut words, &[port("web", 81), port("dns", 53), port("web", 80), port("web", 80)]);
        let web = PortMatch { protocol: Protocol::TCP, port: PortSet::Named("web".into()) };
        let backwards = PortMatch { protocol: Protocol::TCP, port: PortSet::Range(9, 8) };
        let ping = PortMatch { protocol: Protocol::ICMP, port: PortSet::All };
        let rule = policy::model::Ports::OneOf(vec![web.clone(), web, backwards, ping]);
        let rule = ports.of_rule(&mut words, &rule);
        let mut found = Vec::new();
        ports.ranges_at(rule, pod, &mut found);
        assert_eq!(found, [range((Protocol::TCP, 80, 80)), range((Protocol::TCP, 81, 81))]);
        assert!(!ports.is_nothing(rule));

        let web = words.symbols.find("web").unwrap();
        let narrow = ports.narrowed(&mut words, pod, |(name, _)| name == web);
        assert_eq!(ports.named.key(narrow).len(), 2);
        let none = ports.narrowed(&mut words, pod, |_| false);
        assert_eq!(none, NO_NAMES);

        ports.rules.release(rule);
        [pod, narrow, none].into_iter().for_each(|named| ports.named.release(named));
        ports.sweep(&mut words);
        words.sweep();
        assert_eq!((words.symbols.len(), ports.rules.len(), ports.named.len()), (0, 1, 1));
    }

    #[test]
    fn a_rule_without_ports_allows_any_and_one_that_matches_none_nothing() {
        let (mut words, mut ports) = (Words::new(), Ports::new());
        assert_eq!(ports.of_rule(&mut words, &policy::model::Ports::Any), ANY);
        let none = ports.of_rule(&mut words, &policy::model::Ports::OneOf(Vec::new()));
        assert!(ports.is_nothing(none) && !ports.is_nothing(ANY));
    }
}
