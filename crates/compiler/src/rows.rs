//! Rows: what the policies of a pod say in one direction, shared by all pods with the same policies.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use flow::Direction;
use table::{Draft, PortRange, RowId, SetId};

use crate::intern::{Heap, Id, Interner};
use crate::policies::PolicyAt;
use crate::ports::{ANY, NamedAt, Ports, PortsAt};

/// Where a row is kept.
pub(crate) type RowAt = Id<RowKey>;

/// The row of a pod that no policy isolates.
pub(crate) const OPEN: RowAt = Id::new(0);

/// What makes pods share a row.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct RowKey {
    pub(crate) direction: Direction,
    /// In the order of their names. None: the row is open.
    pub(crate) policies: Box<[PolicyAt]>,
    /// The named ports of the pod, as far as the rules ask for them.
    pub(crate) ports: NamedAt,
}

#[derive(Default)]
pub(crate) struct RowSlot {
    pub(crate) id: Option<RowId>,
    /// The ports that the rules for everybody allow, sorted.
    pub(crate) usual: Box<[PortsAt]>,
}

/// All rows. A row is referred to by the pods that have it.
pub(crate) struct Rows {
    pub(crate) all: Interner<RowKey, RowSlot>,
    /// Rows in which rules for everybody ask for port names at the destination.
    pub(crate) naming: BTreeSet<RowAt>,
    /// The sets that are known until the next freeze, by the rules' ports and the destination's named ports.
    sets: HashMap<(Box<[PortsAt]>, NamedAt), SetId>,
    /// Room for the ranges of one set.
    ranges: Vec<PortRange>,
}

impl Rows {
    pub(crate) fn new() -> Self {
        let mut all: Interner<RowKey, RowSlot> = Interner::new();
        let key =
            RowKey { direction: Direction::Egress, policies: Box::default(), ports: crate::ports::NO_NAMES };
        let open = all.acquire(key).0;
        assert!(open == OPEN, "the first number");
        all.value_mut(open).id = Some(RowId::OPEN);
        Self { all, naming: BTreeSet::new(), sets: HashMap::new(), ranges: Vec::new() }
    }

    /// Its place in the table.
    pub(crate) fn id(&self, row: RowAt) -> RowId {
        self.all.value(row).id.expect("a row is told to the table when it is made")
    }

    /// The set of what some rules allow at a destination with these named ports.
    pub(crate) fn set(
        &mut self,
        rules: Vec<PortsAt>,
        named: NamedAt,
        ports: &Ports,
        draft: &mut Draft,
    ) -> SetId {
        // Sorted, so any port comes first.
        if rules.first() == Some(&ANY) {
            return SetId::EVERY;
        }
        let ranges = &mut self.ranges;
        *self.sets.entry((rules.into(), named)).or_insert_with_key(|(rules, named)| {
            ranges.clear();
            rules.iter().for_each(|&rule| ports.ranges_at(rule, *named, ranges));
            draft.ports(ranges)
        })
    }

    /// The table has been frozen: numbers of sets that no row holds may be given to others.
    pub(crate) fn forget_sets(&mut self) {
        self.sets.clear();
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let known = self.sets.capacity() * size_of::<(Box<[PortsAt]>, NamedAt, SetId)>();
        self.all.bytes() + self.naming.len() * size_of::<RowAt>() * 2 + known
    }
}

impl Heap for RowKey {
    fn heap(&self) -> usize {
        self.policies.heap()
    }
}
