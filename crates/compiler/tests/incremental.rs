//! A table after changes against one made from nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stream;

use std::collections::{BTreeMap, BTreeSet};

use compiler::{Budget, Compiler, Scope, compile};
use flow::{Address, FlowKey, Protocol, Verdict};
use policy::model::Cluster;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use stream::{Model, epochs, from_scratch, new_compiler, walks};
use table::{LocalPod, PolicyTable};
use testkit::arbitrary::places;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(800))]

    #[test]
    fn after_every_change_the_table_is_the_one_from_scratch((before, donor, steps) in walks(12)) {
        let mut compiler = new_compiler();
        let mut model = Model::of(&before);
        compiler.update(&before).unwrap();
        for steps in steps {
            let mut changes = Vec::new();
            for step in &steps {
                changes.extend(model.change(step, &donor));
                changes.last().into_iter().for_each(|change| model.apply(change));
            }
            let table = compiler.apply(changes.clone()).unwrap();
            let scratch = from_scratch(&model.cluster());
            prop_assert_eq!(table.canonical_hash(), scratch.canonical_hash(), "after {:?}", changes);
            prop_assert_eq!(table.sizes(), scratch.sizes());
        }
    }

    #[test]
    fn a_table_of_some_pods_is_the_one_from_scratch(
        (before, donor, steps) in walks(6),
        taken in proptest::collection::vec(any::<bool>(), 16),
    ) {
        let names = before.pods.iter().chain(&donor.pods).map(|pod| pod.name.clone());
        let judged = names.zip(taken.into_iter().cycle()).filter(|(_, taken)| *taken).map(|(name, _)| name);
        let scope = Scope::Pods(judged.collect());
        let mut compiler = Compiler::new(scope.clone(), Budget::default());
        let mut model = Model::of(&before);
        compiler.update(&before).unwrap();
        for change in steps.concat() {
            let Some(change) = model.change(&change, &donor) else { continue };
            model.apply(&change);
            let table = compiler.apply([change.clone()]).unwrap();
            let scratch = compile(&model.cluster(), &scope).unwrap();
            prop_assert_eq!(table.canonical_hash(), scratch.canonical_hash(), "after {:?}", change);
        }
    }

    #[test]
    fn a_cluster_follows_another_as_its_changes_do((before, after, _) in walks(1)) {
        let (mut by_update, mut by_apply) = (new_compiler(), new_compiler());
        by_update.update(&before).unwrap();
        by_apply.update(&before).unwrap();
        let changes = Model::of(&after).changes_from(&Model::of(&before));
        let one = by_update.update(&after).unwrap();
        let other = by_apply.apply(changes).unwrap();
        prop_assert_eq!(one.canonical_hash(), from_scratch(&after).canonical_hash());
        prop_assert_eq!(one.canonical_hash(), other.canonical_hash());
        prop_assert_eq!(epochs(&one), epochs(&other));
        // And away again: what came is forgotten.
        let empty = by_update.update(&Cluster::default()).unwrap();
        prop_assert_eq!(empty.canonical_hash(), from_scratch(&Cluster::default()).canonical_hash());
    }
}

/// Whoever is told something else gets a new epoch; whoever is told the same keeps his, but for cells of which nobody
/// is told: those of the pod itself and of its node.
#[test]
fn epochs_change_with_what_is_said() {
    let mut runner = TestRunner::deterministic();
    let (mut kept, mut spent) = (0, 0);
    for _ in 0..60 {
        let (before, donor, steps) = walks(4).new_tree(&mut runner).unwrap().current();
        let mut compiler = new_compiler();
        let mut model = Model::of(&before);
        let mut last = compiler.update(&before).unwrap();
        for steps in steps {
            let earlier = model.clone();
            let mut changes = Vec::new();
            for step in &steps {
                changes.extend(model.change(step, &donor));
                changes.last().into_iter().for_each(|change| model.apply(change));
            }
            let table = compiler.apply(changes.clone()).unwrap();
            let (old, new) = (epochs(&last), epochs(&table));
            // How the compiler came to where it was does not matter.
            let mut fresh = new_compiler();
            let (was, is) =
                (epochs(&fresh.update(&earlier.cluster()).unwrap()), epochs(&fresh.apply(changes).unwrap()));
            let places = edges(&[earlier.cluster(), model.cluster()]);
            let (said, says) = (answers(&last, &places), answers(&table, &places));
            for (pod, answers) in &says {
                let keeps = old.get(pod) == new.get(pod);
                assert_eq!(keeps, was.get(pod) == is.get(pod), "{pod:?}");
                if said.get(pod) == Some(answers) {
                    kept += u32::from(keeps);
                    spent += u32::from(!keeps);
                } else {
                    assert!(!keeps, "{pod:?} is told something else");
                }
            }
            last = table;
        }
    }
    assert!(spent * 20 < kept, "{kept} epochs were kept, and {spent} spent for nothing");
}

/// An address of every range that the blocks of the clusters cut out, and all pods and nodes.
fn edges(clusters: &[Cluster]) -> BTreeSet<Address> {
    let places = clusters.iter().flat_map(places);
    // The first and last of each block are places; so are those beyond.
    let beyond = |place: Address| {
        let bits = u128::from_be_bytes(place.octets());
        [bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(|bits| Address::v6(bits.to_be_bytes()))
    };
    places.flat_map(beyond).collect()
}

/// A pod's own addresses, and what the table says about it to each place and back.
type Answers = (Vec<Address>, Vec<&'static str>);

fn answers(table: &PolicyTable, places: &BTreeSet<Address>) -> BTreeMap<(String, String), Answers> {
    let pods = table.local_pods();
    let named = |pod: &LocalPod| (pod.name().to_string(), pod.uid().to_owned());
    pods.map(|pod| (named(pod), (pod.addresses().to_vec(), answers_about(table, pod, places)))).collect()
}

fn answers_about(table: &PolicyTable, pod: &LocalPod, places: &BTreeSet<Address>) -> Vec<&'static str> {
    const PORTS: [u16; 9] = [0, 1, 53, 54, 79, 80, 81, 82, 65535];
    let own = pod.addresses()[0];
    let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].into_iter();
    let ports = protocols.flat_map(|protocol| PORTS.map(|port| (protocol, port)));
    let ports: Vec<_> = ports.chain([(Protocol::ICMP, 0)]).collect();
    let kind = |side| match side {
        table::Side::Open | table::Side::AllowedBy(_) => "allowed",
        table::Side::Exempt => "exempt",
        table::Side::Isolated(_) => "denied",
    };
    let mut answers = Vec::new();
    for &place in places {
        let judged = table.pod_of(place).is_some();
        answers.push(if !judged && table.between_pod_and_node(own, place) { "node" } else { "other" });
        for &(protocol, port) in &ports {
            let out = FlowKey::new(protocol, (own, 1), (place, port));
            let into = FlowKey::new(protocol, (place, 1), (own, port));
            if judged {
                answers.extend([kind(table.why(&out).egress), kind(table.why(&into).ingress)]);
            } else {
                let mut verdicts = [Verdict::Deny; 2];
                table.classify(&[out, into], &mut verdicts);
                answers.extend(
                    verdicts.map(|verdict| if verdict == Verdict::Allow { "allowed" } else { "denied" }),
                );
            }
        }
    }
    answers
}
