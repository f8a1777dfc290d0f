//! The compiled table against the oracle, on random clusters.

use std::collections::{BTreeMap, BTreeSet};

use compiler::{Budget, Compiler, Scope, compile};
use flow::{Direction, Epoch, FlowKey, Verdict};
use policy::model::{Cluster, ObjectName};
use policy::{Connection, Decision, evaluate};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use table::PolicyTable;
use testkit::arbitrary::{clusters, clusters_with_connections, places};

fn key(connection: &Connection) -> FlowKey {
    FlowKey::new(connection.protocol, (connection.src, 40_000), (connection.dst, connection.port))
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// What the table says, in the words of the oracle.
fn explained(table: &PolicyTable, connection: &Connection) -> Decision {
    let side = |side: table::Side, direction: Direction| match side {
        table::Side::Open => policy::Side::Open,
        table::Side::Exempt => policy::Side::Exempt,
        table::Side::AllowedBy(id) => {
            assert_eq!(id.direction(), direction);
            policy::Side::AllowedBy { policy: name(table, id.policy()), rule: id.index() }
        }
        table::Side::Isolated(policies) => {
            policy::Side::Isolated { policies: policies.iter().map(|&policy| name(table, policy)).collect() }
        }
    };
    let why = table.why(&key(connection));
    Decision { egress: side(why.egress, Direction::Egress), ingress: side(why.ingress, Direction::Ingress) }
}

fn name(table: &PolicyTable, policy: table::PolicyId) -> ObjectName {
    let name = &table.policy(policy).name;
    ObjectName::new(&name.namespace, &name.name)
}

/// What the oracle says where only these pods are judged.
fn judging(cluster: &Cluster, judged: &BTreeSet<ObjectName>, connection: &Connection) -> Decision {
    let owners = cluster.owners();
    let elsewhere =
        |address| owners.get(&address).is_some_and(|&pod| !judged.contains(&cluster.pods[pod].name));
    let mut decision = evaluate(cluster, connection);
    if elsewhere(connection.src) {
        decision.egress = policy::Side::Open;
    }
    if elsewhere(connection.dst) {
        decision.ingress = policy::Side::Open;
    }
    decision
}

/// Holds every answer of the table against the expected decisions.
fn agree(
    table: &PolicyTable,
    connections: &[Connection],
    expected: impl Fn(&Connection) -> Decision,
) -> Result<(), TestCaseError> {
    let keys: Vec<_> = connections.iter().map(key).collect();
    let mut verdicts = vec![Verdict::Deny; keys.len()];
    table.classify(&keys, &mut verdicts);
    for (connection, verdict) in connections.iter().zip(verdicts) {
        let expected = expected(connection);
        prop_assert_eq!(verdict, expected.verdict(), "{:?}: {:?}", connection, expected);
        prop_assert_eq!(table.why(&key(connection)).verdict(), verdict);
        prop_assert_eq!(explained(table, connection), expected, "{:?}", connection);
    }
    Ok(())
}

fn of_all_pods() -> Compiler {
    Compiler::new(Scope::AllPods, Budget::default())
}

fn all_pods(cluster: &Cluster) -> PolicyTable {
    compile(cluster, &Scope::AllPods).expect("within the budget")
}

fn epochs(table: &PolicyTable) -> BTreeMap<String, Epoch> {
    let epoch = |pod: &table::LocalPod| table.epoch_of(pod.addresses()[0]).expect("it is judged");
    table.local_pods().map(|pod| (pod.name().to_string(), epoch(pod))).collect()
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn the_table_says_what_the_oracle_says((cluster, connections) in clusters_with_connections(100)) {
        let table = all_pods(&cluster);
        agree(&table, &connections, |connection| evaluate(&cluster, connection))?;
    }
}

/// The same for longer: `CLUSTERS=100000 CONNECTIONS=1000 cargo test --release -p portcullis-compiler --test oracle
/// for_as_long_as_asked -- --ignored --nocapture` holds 10^8 answers against the oracle.
/// Run on 2026-11-21, beside a build: 100,000 clusters, 100,000,000 answers, all the same, in 333 s.
#[test]
#[ignore = "takes minutes"]
fn for_as_long_as_asked() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (clusters, connections) = (number("CLUSTERS", 100_000), number("CONNECTIONS", 1_000));
    let mut runner = TestRunner::new(cases(1));
    for done in 1..=clusters {
        let tree = clusters_with_connections(connections).new_tree(&mut runner).unwrap();
        let (cluster, connections) = tree.current();
        let agreed = agree(&all_pods(&cluster), &connections, |connection| evaluate(&cluster, connection));
        agreed.unwrap_or_else(|error| panic!("{error}: {cluster:?}"));
        if done % 1_000 == 0 {
            eprintln!("{done} clusters, {} answers", done * connections.len());
        }
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_table_judges_the_pods_of_its_scope(
        (cluster, connections) in clusters_with_connections(50),
        taken in proptest::collection::vec(any::<bool>(), 16),
    ) {
        // Of any nodes: what counts is the pod's name, and its own node stays the one that it names.
        let judged: BTreeSet<_> = cluster
            .pods
            .iter()
            .zip(taken.into_iter().cycle())
            .filter(|(_, taken)| *taken)
            .map(|(pod, _)| pod.name.clone())
            .collect();
        let table = compile(&cluster, &Scope::Pods(judged.clone())).unwrap();
        agree(&table, &connections, |connection| judging(&cluster, &judged, connection))?;
        let owners = cluster.owners();
        for address in places(&cluster) {
            let local = owners.get(&address).is_some_and(|&pod| judged.contains(&cluster.pods[pod].name));
            prop_assert_eq!(table.epoch_of(address).is_some(), local, "{}", address);
        }
    }

    #[test]
    fn the_order_of_objects_means_nothing(
        (cluster, connections) in clusters_with_connections(30),
        turns in any::<[Index; 4]>(),
        backwards: bool,
    ) {
        let mut compiler = of_all_pods();
        let table = compiler.update(&cluster).unwrap();
        let mut turned = cluster.clone();
        fn turn<T>(items: &mut [T], by: Index, backwards: bool) {
            items.rotate_left(by.index(items.len() + 1));
            if backwards {
                items.reverse();
            }
        }
        turn(&mut turned.namespaces, turns[0], backwards);
        turn(&mut turned.pods, turns[1], backwards);
        turn(&mut turned.nodes, turns[2], backwards);
        turn(&mut turned.policies, turns[3], backwards);
        let again = compiler.update(&turned).unwrap();
        agree(&again, &connections, |connection| evaluate(&cluster, connection))?;
        prop_assert_eq!(epochs(&again), epochs(&table));
        prop_assert_eq!(again.generation(), table.generation() + 1);
    }

    /// One thing changes. Where a pod keeps its epoch, its side of every connection says what it said before, so
    /// that a verdict cached under the epoch is still true. Where it does not, the new epoch is new to everybody.
    #[test]
    fn an_epoch_that_stays_keeps_its_promise(
        (before, connections) in clusters_with_connections(50),
        donor in clusters(),
        at: Index,
        what in 0..6,
    ) {
        let mut after = before.clone();
        match what {
            0 if !after.policies.is_empty() && !donor.policies.is_empty() => {
                let policy = &mut after.policies[at.index(before.policies.len())];
                let given = at.get(&donor.policies).clone();
                (policy.subjects, policy.ingress, policy.egress) = (given.subjects, given.ingress, given.egress);
            }
            1 if !after.policies.is_empty() => {
                after.policies.remove(at.index(before.policies.len()));
            }
            2 if !after.pods.is_empty() && !donor.pods.is_empty() => {
                let pod = &mut after.pods[at.index(before.pods.len())];
                let given = at.get(&donor.pods).clone();
                (pod.labels, pod.ports) = (given.labels, given.ports);
            }
            3 if !after.pods.is_empty() => {
                after.pods.remove(at.index(before.pods.len()));
            }
            4 => after.namespaces = donor.namespaces,
            _ => after.nodes = donor.nodes,
        }
        let mut compiler = of_all_pods();
        let old = compiler.update(&before).unwrap();
        let new = compiler.update(&after).unwrap();
        let allows = |side: &policy::Side| !matches!(side, policy::Side::Isolated { .. });
        for connection in &connections {
            let (was, is) = (evaluate(&before, connection), evaluate(&after, connection));
            if old.epoch_of(connection.src) == new.epoch_of(connection.src) {
                prop_assert_eq!(allows(&was.egress), allows(&is.egress), "{:?}", connection);
            }
            if old.epoch_of(connection.dst) == new.epoch_of(connection.dst) {
                prop_assert_eq!(allows(&was.ingress), allows(&is.ingress), "{:?}", connection);
            }
        }
        let known = epochs(&old);
        for (pod, epoch) in epochs(&new) {
            if known.get(&pod) != Some(&epoch) {
                prop_assert!(known.values().all(|other| *other != epoch), "{} has an old epoch", pod);
            }
        }
    }

    /// One policy changes. Pods that it selects neither before nor after keep their epochs.
    #[test]
    fn a_policy_touches_nobody_but_its_subjects(
        before in clusters(),
        (subjects, ingress, egress) in testkit::arbitrary::policy_body(),
        at: Index,
    ) {
        prop_assume!(!before.policies.is_empty());
        let mut after = before.clone();
        let changed = at.index(before.policies.len());
        let policy = &mut after.policies[changed];
        (policy.subjects, policy.ingress, policy.egress) = (subjects, ingress, egress);
        let mut compiler = of_all_pods();
        let old = compiler.update(&before).unwrap();
        let new = compiler.update(&after).unwrap();
        let owners = before.owners();
        for pod in owners.values().map(|&pod| &before.pods[pod]) {
            let selected = pod.name.namespace == before.policies[changed].name.namespace
                && [&before, &after].iter().any(|c| c.policies[changed].subjects.matches(&pod.labels));
            let name = pod.name.to_string();
            if !selected {
                prop_assert_eq!(epochs(&old)[&name], epochs(&new)[&name], "{}", name);
            }
        }
    }
}

/// The random clusters are worth something: every kind of answer comes often.
#[test]
fn the_clusters_reach_every_kind_of_answer() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..300 {
        let tree = clusters_with_connections(50).new_tree(&mut runner).unwrap();
        let (cluster, connections) = tree.current();
        for connection in &connections {
            let decision = evaluate(&cluster, connection);
            for side in [decision.egress, decision.ingress] {
                *seen.entry(kind(&side)).or_default() += 1;
            }
        }
    }
    let total: u32 = seen.values().sum();
    for kind in ["open", "exempt", "allowed", "isolated"] {
        assert!(seen[kind] * 20 > total, "{kind} is rare: {seen:?}");
    }
}

const fn kind(side: &policy::Side) -> &'static str {
    match side {
        policy::Side::Open => "open",
        policy::Side::Exempt => "exempt",
        policy::Side::AllowedBy { .. } => "allowed",
        policy::Side::Isolated { .. } => "isolated",
    }
}
