//! The same objects, told in every way in which an API server may tell them: the same table.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stream;

use compiler::{Change, Compiler};
use flow::Verdict;
use policy::Connection;
use policy::model::{Cluster, Labels, Pod};
use proptest::prelude::*;
use proptest::sample::Index;
use stream::{Model, from_scratch, key, new_compiler, objects};
use table::PolicyTable;
use testkit::arbitrary::{clusters, clusters_with_connections, places};

/// What is told at once.
type Batches = Vec<Vec<Change>>;

/// A way to tell what makes a cluster of nothing.
struct Expander {
    name: &'static str,
    expand: fn(&Story) -> Batches,
}

/// What there is to tell.
struct Story {
    /// How it ends.
    last: Model,
    /// What the same and other objects were on the way there.
    other: Model,
    /// Where to cut.
    cuts: Vec<Index>,
}

const EXPANDERS: &[Expander] = &[
    Expander { name: "one by one", expand: |story| one_by_one(objects(&story.last.cluster())) },
    Expander { name: "squashed", expand: |story| vec![objects(&story.last.cluster())] },
    Expander { name: "reversed", expand: |story| one_by_one(reversed(objects(&story.last.cluster()))) },
    Expander {
        name: "reversed and squashed",
        expand: |story| vec![reversed(objects(&story.last.cluster()))],
    },
    Expander { name: "duplicated", expand: duplicated },
    Expander { name: "with empties", expand: with_empties },
    Expander { name: "split", expand: split },
    Expander { name: "told twice", expand: told_twice },
    Expander { name: "another cluster first", expand: another_first },
    Expander { name: "there and back and there", expand: there_and_back },
    Expander { name: "there and back, squashed", expand: |story| vec![there_and_back(story).concat()] },
    Expander { name: "gone before it came", expand: gone_before_it_came },
    Expander { name: "gone and back at once", expand: gone_and_back },
    Expander { name: "labels late", expand: labels_late },
];

fn one_by_one(changes: Vec<Change>) -> Batches {
    changes.into_iter().map(|change| vec![change]).collect()
}

fn reversed(mut changes: Vec<Change>) -> Vec<Change> {
    changes.reverse();
    changes
}

fn duplicated(story: &Story) -> Batches {
    objects(&story.last.cluster())
        .into_iter()
        .flat_map(|change| [vec![change.clone(); 2], vec![change]])
        .collect()
}

fn with_empties(story: &Story) -> Batches {
    objects(&story.last.cluster()).into_iter().flat_map(|change| [vec![], vec![change], vec![]]).collect()
}

fn split(story: &Story) -> Batches {
    let mut rest = objects(&story.last.cluster());
    let mut batches = Vec::new();
    for cut in &story.cuts {
        let tail = rest.split_off(cut.index(rest.len() + 1));
        batches.push(std::mem::replace(&mut rest, tail));
    }
    batches.push(rest);
    batches
}

fn told_twice(story: &Story) -> Batches {
    [split(story), vec![objects(&story.last.cluster())], split(story)].concat()
}

fn another_first(story: &Story) -> Batches {
    vec![objects(&story.other.cluster()), story.last.changes_from(&story.other)]
}

fn there_and_back(story: &Story) -> Batches {
    let there = story.last.changes_from(&story.other);
    let back = story.other.changes_from(&story.last);
    vec![objects(&story.other.cluster()), there.clone(), back, there]
}

fn gone_before_it_came(story: &Story) -> Batches {
    let gone = |change: &Change| match change.clone() {
        Change::Pod(pod) => Change::PodGone { name: pod.name, uid: pod.uid },
        Change::Namespace(namespace) => Change::NamespaceGone(namespace.name),
        Change::Node(node) => Change::NodeGone(node.name),
        Change::Policy(policy) => Change::PolicyGone(policy.name),
        other => other,
    };
    objects(&story.last.cluster())
        .into_iter()
        .flat_map(|change| [vec![gone(&change)], vec![change]])
        .collect()
}

fn gone_and_back(story: &Story) -> Batches {
    let all = objects(&story.last.cluster());
    let nothing = Model::default().changes_from(&story.last);
    vec![all.clone(), [nothing, all].concat()]
}

/// Pods come without labels and addresses, and get them later.
fn labels_late(story: &Story) -> Batches {
    let bare = |change: Change| match change {
        Change::Pod(pod) => Change::Pod(Pod { labels: Labels::new(), addresses: Vec::new(), ..pod }),
        other => other,
    };
    let all = objects(&story.last.cluster());
    let first: Vec<_> = all.iter().cloned().map(bare).collect();
    [vec![first], one_by_one(all)].concat()
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn told(compiler: &mut Compiler, batches: &Batches) -> Vec<PolicyTable> {
    batches.iter().map(|batch| compiler.apply(batch.iter().cloned()).unwrap()).collect()
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn however_it_is_told_the_table_is_the_same(
        (last, other) in (clusters(), clusters()),
        cuts in proptest::collection::vec(any::<Index>(), 0..6),
    ) {
        let story = Story { last: Model::of(&last), other: Model::of(&other), cuts };
        let expected = from_scratch(&last).canonical_hash();
        for Expander { name, expand } in EXPANDERS {
            let batches = expand(&story);
            let mut compiler = new_compiler();
            let tables = told(&mut compiler, &batches);
            let end = tables.last().map_or_else(|| from_scratch(&Cluster::default()).canonical_hash(), |table| table.canonical_hash());
            prop_assert_eq!(end, expected, "{}", name);
            // A relist on top, and nothing but what a relist says.
            prop_assert_eq!(compiler.update(&last).unwrap().canonical_hash(), expected, "{}, listed again", name);
            prop_assert_eq!(compiler.update(&other).unwrap().canonical_hash(), from_scratch(&other).canonical_hash());
        }
    }

    /// What is told at once is seen at once: no table says anything but what the cluster of that moment says.
    #[test]
    fn every_table_on_the_way_is_that_of_its_cluster(
        (last, other) in (clusters(), clusters()),
        cuts in proptest::collection::vec(any::<Index>(), 0..4),
    ) {
        let story = Story { last: Model::of(&last), other: Model::of(&other), cuts };
        for expand in [split, another_first, there_and_back, gone_and_back] {
            let (mut compiler, mut model) = (new_compiler(), Model::default());
            for batch in expand(&story) {
                batch.iter().for_each(|change| model.apply(change));
                let table = compiler.apply(batch).unwrap();
                prop_assert_eq!(table.canonical_hash(), from_scratch(&model.cluster()).canonical_hash());
            }
        }
    }

    /// One cluster becomes another, told as one, twice, listed again, and with the empty batches of a quiet watch: no
    /// table allows a connection that neither the table before it nor the one after it allows.
    #[test]
    fn no_table_is_more_permissive_than_both_its_neighbours(
        (before, connections) in clusters_with_connections(40),
        (after, more) in clusters_with_connections(40),
    ) {
        let mut compiler = new_compiler();
        let (old, new) = (Model::of(&before), Model::of(&after));
        let changes = new.changes_from(&old);
        // Everything goes and comes within one step, too.
        let restart = [Model::default().changes_from(&old), objects(&after)].concat();
        let back = old.changes_from(&new);
        let batches = vec![objects(&before), vec![], changes.clone(), changes, vec![], back, vec![], restart];
        let tables = told(&mut compiler, &batches);
        let everywhere = everywhere(&before, &after);
        for connection in connections.iter().chain(&more).chain(&everywhere) {
            let allowed: Vec<bool> = tables.iter().map(|table| allows(table, connection)).collect();
            for (at, three) in allowed.windows(3).enumerate() {
                prop_assert!(!three[1] || three[0] || three[2], "{:?} at {}", connection, at + 1);
            }
        }
    }
}

/// Connections between all places of two clusters.
fn everywhere(one: &Cluster, other: &Cluster) -> Vec<Connection> {
    let mut all: Vec<_> = places(one).into_iter().chain(places(other)).collect();
    all.sort_unstable();
    all.dedup();
    let pairs = all.iter().flat_map(|&src| all.iter().map(move |&dst| (src, dst)));
    pairs.map(|(src, dst)| Connection { src, dst, protocol: flow::Protocol::TCP, port: 80 }).collect()
}

fn allows(table: &PolicyTable, connection: &Connection) -> bool {
    let mut verdict = [Verdict::Deny];
    table.classify(&[key(connection)], &mut verdict);
    verdict == [Verdict::Allow]
}
