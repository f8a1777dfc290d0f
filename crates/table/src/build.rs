//! From rows to a table, and which pods keep their epoch.

use std::sync::Arc;

use flow::{Address, Direction, Epoch};

use crate::lookup::LocalPod;
use crate::{Name, PolicyId, PolicyInfo, PolicyTable, Row, RuleId, RuleInfo};

/// Collects what a table is made of. The order of policies and rules is the order in which `why` prefers
/// them; the order of pods means nothing.
#[derive(Debug, Default)]
pub struct TableBuilder {
    pods: Vec<LocalPod>,
    policies: Vec<PolicyInfo>,
    rules: Vec<RuleInfo>,
}

impl TableBuilder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a policy, `origin` being where it was written.
    pub fn policy(&mut self, name: Name, origin: impl Into<String>) -> PolicyId {
        self.policies.push(PolicyInfo { name, origin: origin.into() });
        PolicyId(number(self.policies.len() - 1))
    }

    /// Adds the rule at `index` of one direction of a policy, `origin` being where it was written.
    pub fn rule(
        &mut self,
        policy: PolicyId,
        direction: Direction,
        index: usize,
        origin: impl Into<String>,
    ) -> RuleId {
        self.rules.push(RuleInfo { policy, direction, index, origin: origin.into() });
        RuleId(number(self.rules.len() - 1))
    }

    /// Adds a local pod: the addresses that it owns, those of its node, and its rows.
    pub fn pod(
        &mut self,
        name: Name,
        uid: impl Into<String>,
        mut addresses: Vec<Address>,
        node: Arc<[Address]>,
        egress: Arc<Row>,
        ingress: Arc<Row>,
    ) {
        addresses.sort_unstable();
        addresses.dedup();
        let uid = uid.into();
        self.pods.push(LocalPod { name, uid, addresses, node, egress, ingress, epoch: Epoch::FIRST });
    }

    /// The table, as the successor of `previous`.
    ///
    /// A pod keeps its epoch if it is the same pod (name, uid and addresses) and both tables say the same about
    /// it; the names of the rules do not count. All others share one epoch that was not in use before.
    ///
    /// # Panics
    ///
    /// When two pods own one address.
    #[must_use]
    pub fn build(self, previous: Option<&PolicyTable>) -> PolicyTable {
        let Self { mut pods, policies, rules } = self;
        pods.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        let fresh = previous.map_or(Epoch::FIRST, fresh_epoch);
        for pod in &mut pods {
            let kept = previous.and_then(|table| unchanged(table, pod));
            pod.epoch = kept.unwrap_or(fresh);
        }
        let mut addresses: Vec<_> = pods
            .iter()
            .enumerate()
            .flat_map(|(index, pod)| pod.addresses.iter().map(move |&address| (address, index)))
            .collect();
        addresses.sort_unstable();
        assert!(addresses.windows(2).all(|pair| pair[0].0 != pair[1].0), "two pods own one address");
        // An epoch that no pod of this table took may be given out by the next one.
        let taken = pods.iter().any(|pod| pod.epoch == fresh);
        let newest = if taken { fresh } else { previous.map_or(fresh, |table| table.newest) };
        let generation = previous.map_or(0, |table| table.generation) + 1;
        PolicyTable { generation, newest, pods, addresses, policies, rules }
    }
}

/// The epoch after the newest of `table` that none of its pods has: after a wrap-around, a pod may have kept
/// one of the first ones all the time.
fn fresh_epoch(table: &PolicyTable) -> Epoch {
    let mut epoch = table.newest.next();
    while table.pods.iter().any(|pod| pod.epoch == epoch) {
        epoch = epoch.next();
    }
    epoch
}

/// The epoch of `pod` in `table`, if the table says the same about it.
fn unchanged(table: &PolicyTable, pod: &LocalPod) -> Option<Epoch> {
    let at = table.pods.binary_search_by(|old| (&old.name, &old.uid).cmp(&(&pod.name, &pod.uid))).ok()?;
    let old = &table.pods[at];
    (old.addresses == pod.addresses
        && old.node == pod.node
        && old.egress.says_the_same(&pod.egress)
        && old.ingress.says_the_same(&pod.ingress))
    .then_some(old.epoch)
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 policies and rules")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Address = Address::v4([10, 0, 0, 1]);
    const TWO: Address = Address::v4([10, 0, 0, 2]);

    fn with(pods: &[(&str, Address, Row)], previous: Option<&PolicyTable>) -> PolicyTable {
        let mut builder = TableBuilder::new();
        for (name, address, row) in pods {
            let row = match row {
                Row::Open => Row::Open,
                Row::Isolated { .. } => closed(),
            };
            let (name, node) = (Name::new("x", *name), Arc::from([]));
            builder.pod(name, "", vec![*address], node, Arc::new(Row::Open), Arc::new(row));
        }
        builder.build(previous)
    }

    const fn closed() -> Row {
        Row::Isolated { policies: Vec::new(), rules: Vec::new() }
    }

    #[test]
    fn a_wrap_around_skips_the_epochs_in_use() {
        let first = with(&[("still", ONE, Row::Open), ("busy", TWO, Row::Open)], None);
        // Two to the thirty-second tables later, `still` has never changed.
        let mut old = with(&[("still", ONE, Row::Open), ("busy", TWO, closed())], Some(&first));
        assert_eq!(old.epoch_of(ONE), Some(Epoch::FIRST));
        old.newest = Epoch::from_number(u32::MAX).unwrap();
        let new = with(&[("still", ONE, Row::Open), ("busy", TWO, Row::Open)], Some(&old));
        // 1 is held by `still`, 2 by `busy` until now.
        assert_eq!(new.epoch_of(ONE), Some(Epoch::FIRST));
        assert_eq!(new.epoch_of(TWO), Epoch::from_number(3));
    }

    #[test]
    fn an_epoch_that_nobody_took_is_not_spent() {
        let first = with(&[("a", ONE, Row::Open)], None);
        let same = with(&[("a", ONE, Row::Open)], Some(&first));
        let gone = with(&[], Some(&same));
        let back = with(&[("a", ONE, Row::Open)], Some(&gone));
        assert_eq!(same.epoch_of(ONE), Some(Epoch::FIRST));
        assert_eq!(gone.epoch_of(ONE), None);
        assert_eq!(back.epoch_of(ONE), Epoch::from_number(2));
    }

    #[test]
    #[should_panic(expected = "two pods own one address")]
    fn an_address_has_one_owner() {
        drop(with(&[("a", ONE, Row::Open), ("b", ONE, Row::Open)], None));
    }
}
