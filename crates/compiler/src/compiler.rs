//! Changes in, tables out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use policy::model::{Cluster, Namespace, NetworkPolicy, Node, ObjectName, Pod};
use table::{PolicyId, PolicyTable};

use crate::budget::{Budget, Footprint, OverBudget};
use crate::dirty::Marks;
use crate::intake::Before;
use crate::scope::Scope;
use crate::state::{Spent, State};

/// What became of one object of the cluster. Objects are known by their names, pods by name and uid.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The pod is like this.
    Pod(Pod),
    /// There is no such pod any more.
    PodGone {
        /// Its name.
        name: ObjectName,
        /// Its uid.
        uid: String,
    },
    /// The namespace is like this.
    Namespace(Namespace),
    /// The namespace of this name is not declared any more.
    NamespaceGone(String),
    /// The node is like this. A node without a name is ignored.
    Node(Node),
    /// There is no such node any more.
    NodeGone(String),
    /// The policy is like this.
    Policy(NetworkPolicy),
    /// There is no such policy any more.
    PolicyGone(ObjectName),
}

/// Keeps the table of a cluster that changes.
///
/// What a table says depends on the cluster as it is then, and not on how it became so.
pub struct Compiler {
    state: State,
    budget: Budget,
}

/// One table of one cluster, within the default budget.
///
/// # Errors
///
/// When the budget is not enough.
pub fn compile(cluster: &Cluster, scope: &Scope) -> Result<PolicyTable, OverBudget> {
    Compiler::new(scope.clone(), Budget::default()).update(cluster)
}

impl Compiler {
    /// Of an empty cluster.
    #[must_use]
    pub fn new(scope: Scope, budget: Budget) -> Self {
        Self { state: State::new(scope), budget }
    }

    /// Applies all changes as one, in their order, and gives the next table. A pod about which nothing changes keeps
    /// its epoch.
    ///
    /// # Errors
    ///
    /// When the budget is not enough. Then it says what it said before; what the change took may stay as spare room,
    /// and some pods may get another epoch with the next table.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<PolicyTable, OverBudget> {
        self.step(|state, journal| {
            for change in changes {
                journal.extend(take(state, change));
                state.check()?;
            }
            Ok(())
        })
    }

    /// Applies the difference between what is known and a whole cluster, and gives the next table. The order of the
    /// cluster's objects changes nothing: only of namespaces of one name, of policies of one name and of pods of one
    /// name and uid does the first one count, and nodes of one name are united.
    ///
    /// # Errors
    ///
    /// When the budget is not enough. Then it is as after an [`apply`](Self::apply) that is refused.
    pub fn update(&mut self, cluster: &Cluster) -> Result<PolicyTable, OverBudget> {
        self.step(|state, journal| adopt(state, journal, cluster))
    }

    /// What is held, by structure.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.state.footprint()
    }

    /// Takes something in, lets everything follow from it, or takes it all back.
    fn step(
        &mut self,
        take_in: impl FnOnce(&mut State, &mut Vec<Before>) -> Result<(), Spent>,
    ) -> Result<PolicyTable, OverBudget> {
        let Self { state, budget } = self;
        let before = state.footprint();
        state.limit = Some(budget.limit(before.total()));
        state.grown.clear();
        let mut journal = Vec::new();
        let done = take_in(state, &mut journal).and_then(|()| state.derive());
        state.limit = None;
        match done {
            Ok(()) => {
                journal.into_iter().for_each(|before| state.forget(before));
                state.sweep();
                let table = state.draft.freeze();
                state.rows.forget_sets();
                Ok(table)
            }
            Err(Spent) => {
                let (before, reached) = (Box::new(before), Box::new(state.footprint()));
                let policy = state.culprit();
                journal.into_iter().rev().for_each(|before| state.restore(before));
                state.derive().expect("no budget, nothing to be over");
                state.sweep();
                // Their keys are numbers that the sweep has set free.
                state.rows.forget_sets();
                Err(OverBudget { limit: budget.bytes, before, reached, policy })
            }
        }
    }
}

/// Takes in one change.
fn take(state: &mut State, change: Change) -> Option<Before> {
    match change {
        Change::Pod(pod) => {
            let at = state.place_of_pod(&pod);
            state.pod(at, &pod)
        }
        Change::PodGone { name, uid } => state.pod_gone(&name, &uid),
        Change::Namespace(namespace) => state.declare(namespace).1,
        Change::NamespaceGone(name) => state.namespace_gone(&name),
        Change::Node(node) => state.node(&node)?.1,
        Change::NodeGone(name) => state.node_gone(&name),
        Change::Policy(policy) => {
            let at = state.place_of_policy(&policy);
            state.policy(at, &policy)
        }
        Change::PolicyGone(name) => state.policy_gone(&name),
    }
}

/// Takes in what a cluster has, and away what it has not.
fn adopt(state: &mut State, journal: &mut Vec<Before>, cluster: &Cluster) -> Result<(), Spent> {
    let mut declared = HashSet::new();
    for namespace in &cluster.namespaces {
        if declared.insert(namespace.name.as_str()) {
            journal.extend(state.declare(namespace.clone()).1);
        }
    }
    let undeclared = state.population.namespaces.iter().filter(|(_, _, slot)| slot.declared);
    let gone: Vec<_> = undeclared.map(|(_, name, _)| name.clone()).collect();
    for name in gone.into_iter().filter(|name| !declared.contains(&**name)) {
        journal.extend(state.namespace_gone(&name));
    }

    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for node in &cluster.nodes {
        let united = nodes.entry(&node.name).or_insert_with(|| Node {
            name: node.name.clone(),
            addresses: Vec::with_capacity(node.addresses.len()),
        });
        united.addresses.extend_from_slice(&node.addresses);
    }
    let mut seen = Marks::default();
    for node in nodes.values() {
        if let Some((at, before)) = state.node(node) {
            seen.mark(at);
            journal.extend(before);
        }
    }
    let known: Vec<_> = state.population.nodes.iter().map(|(at, ..)| at).collect();
    for at in known.into_iter().filter(|&at| !seen.has(at)) {
        journal.extend(state.remove_node(at));
    }

    // Before the pods: at first there is nobody whom a policy could select.
    let mut seen = Marks::default();
    for policy in &cluster.policies {
        let at = state.place_of_policy(policy);
        if seen.has(at) {
            state.policies.all.release(at);
            continue;
        }
        seen.mark(at);
        if let Some(before) = state.policy(at, policy) {
            journal.push(before);
            state.check()?;
        }
    }
    let known: Vec<_> = state.policies.all.iter().map(|(at, ..)| at).collect();
    for at in known.into_iter().filter(|&at| !seen.has(at)) {
        journal.extend(state.remove_policy(at));
    }

    let mut seen = Marks::default();
    for pod in &cluster.pods {
        let at = state.place_of_pod(pod);
        if seen.has(at) {
            state.population.pods.release(at);
            continue;
        }
        seen.mark(at);
        if let Some(before) = state.pod(at, pod) {
            journal.push(before);
            state.check()?;
        }
    }
    let known: Vec<_> = state.population.pods.iter().map(|(at, ..)| at).collect();
    for at in known.into_iter().filter(|&at| !seen.has(at)) {
        journal.extend(state.remove_pod(at));
    }
    Ok(())
}

impl State {
    /// Lets everything follow from what was taken in, each step from those before it. What a step has done is done
    /// when it stops: another call goes on from there.
    fn derive(&mut self) -> Result<(), Spent> {
        self.derive_owners();
        self.derive_subjects()?;
        self.derive_liveness();
        self.derive_names();
        self.derive_peers()?;
        self.derive_identities()?;
        self.derive_classes()?;
        self.derive_cells()?;
        self.write_addresses()?;
        self.write_policies();
        self.leaving.drain().for_each(|(_, pod)| self.draft.remove_pod(pod));
        Ok(())
    }

    fn write_policies(&mut self) {
        while let Some(policy) = self.dirty.policies.pop() {
            let info = self.policies.get(policy).map(|record| std::sync::Arc::clone(&record.info));
            self.draft.set_policy(PolicyId::new(policy.number()), info);
        }
    }

    /// The policy that made things grow most; of several, the first by name.
    fn culprit(&self) -> Option<ObjectName> {
        let named = self.grown.iter().map(|(&policy, &bytes)| {
            let key = self.policies.all.key(policy);
            let namespace = self.population.namespaces.key(key.namespace);
            (bytes, Reverse(ObjectName::new(&**namespace, &*key.name)))
        });
        named.max().map(|(_, Reverse(name))| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use testkit::arbitrary::clusters;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Wherever a step stops before addresses are written, it has not happened: what follows is what would have
        /// followed without it.
        #[test]
        fn a_change_is_taken_back_from_wherever_it_stopped(
            (before, refused, after) in (clusters(), clusters(), clusters()),
            stops in proptest::collection::vec(0_u32..60, 1..4),
        ) {
            let mut compiler = Compiler::new(Scope::AllPods, Budget::default());
            let table = compiler.update(&before).unwrap();
            let held = compiler.footprint();
            for stop in stops {
                compiler.state.fuse.set(Some(stop));
                if compiler.update(&refused).is_ok() {
                    // It was done before the fuse was.
                    compiler.state.fuse.set(None);
                    compiler.update(&before).unwrap();
                    continue;
                }
                prop_assert_eq!(compiler.state.fuse.get(), None);
                let old = compiler.apply([]).unwrap();
                prop_assert_eq!(old.canonical_hash(), table.canonical_hash());
                let known = compiler.footprint();
                prop_assert_eq!((held.classes > 0, known.classes > 0), (true, true));
            }
            let new = compiler.update(&after).unwrap();
            prop_assert_eq!(new.canonical_hash(), compile(&after, &Scope::AllPods).unwrap().canonical_hash());
        }

        #[test]
        fn who_is_untouched_by_a_refused_change_keeps_the_epoch(
            (before, refused) in (clusters(), clusters()),
            stop in 0_u32..60,
        ) {
            let mut compiler = Compiler::new(Scope::AllPods, Budget::default());
            let table = compiler.update(&before).unwrap();
            compiler.state.fuse.set(Some(stop));
            prop_assume!(compiler.update(&refused).is_err());
            let old = compiler.apply([]).unwrap();
            for pod in table.local_pods() {
                for &address in pod.addresses() {
                    prop_assert_eq!(old.epoch_of(address), table.epoch_of(address), "{}", pod.name());
                }
            }
        }

        /// What leaves nothing behind in the table leaves nothing behind in the compiler.
        #[test]
        fn an_empty_cluster_leaves_nothing(clusters in proptest::collection::vec(clusters(), 1..4)) {
            let mut compiler = Compiler::new(Scope::AllPods, Budget::default());
            for cluster in &clusters {
                compiler.update(cluster).unwrap();
            }
            compiler.update(&Cluster::default()).unwrap();
            let State { words, population, ports, peers, policies, classes, rows, .. } = &compiler.state;
            let people = [population.namespaces.len(), population.identities.len(), population.pods.len()];
            prop_assert_eq!(people, [0; 3]);
            prop_assert_eq!((population.nodes.len(), policies.all.len(), peers.peers.len()), (0, 0, 0));
            prop_assert_eq!((words.symbols.len(), words.selectors.len()), (0, 0));
            // What is always there: nobody, any port, no names, outside, open.
            let always = [peers.lists.len(), ports.rules.len(), ports.named.len(), classes.all.len(), rows.all.len()];
            prop_assert_eq!(always, [1; 5]);
            prop_assert_eq!((population.heap, policies.heap, compiler.state.hosts.all.len()), (0, 0, 0));
        }
    }
}
