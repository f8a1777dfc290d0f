//! A change that would make the table too large is refused, and has not happened.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use compiler::{Budget, Change, Compiler, OverBudget, Scope, compile};
use flow::{Address, FlowKey, Protocol, Verdict};
use policy::model::{Cluster, IpBlock, NetworkPolicy, ObjectName, Peer};
use table::PolicyTable;
use testkit::cluster::{cluster, pods, policy, rule};

/// 50 pods that take TCP 80 from each other.
fn shop() -> Cluster {
    let mut shop = cluster().node("node", "192.168.0.1");
    for at in 1..=50 {
        shop = shop.pod(&format!("shop/pod-{at}"), &format!("10.0.1.{at}"), &format!("app=a{}", at % 5));
    }
    shop.policy(policy("shop/web").ingress([rule().with(pods("app=a1")).on("TCP/80")])).build()
}

/// A policy with blocks of many holes, each of them other addresses.
fn wide(name: &str, blocks: u8, holes: u16) -> NetworkPolicy {
    let mut all = rule();
    for block in 0..blocks {
        let hole = |at: u16| format!("{}.{}.{}.0/32", 20 + block, at / 250, at % 250).parse().unwrap();
        let cidr = format!("{}.0.0.0/8", 20 + block).parse().unwrap();
        all = all.with(Peer::Block(IpBlock { cidr, except: (0..holes).map(hole).collect() }));
    }
    let built = cluster().policy(policy(name).egress([all])).build();
    built.policies.into_iter().next().unwrap()
}

fn within(bytes: usize) -> Compiler {
    Compiler::new(Scope::AllPods, Budget { bytes })
}

/// A compiler with the shop, and room for `more` bytes beside it.
fn with_room(more: usize) -> (Compiler, PolicyTable) {
    let mut roomy = within(usize::MAX);
    roomy.update(&shop()).unwrap();
    let mut compiler = within(roomy.footprint().total() + more);
    let table = compiler.update(&shop()).unwrap();
    (compiler, table)
}

fn allows(table: &PolicyTable, src: [u8; 4], dst: [u8; 4]) -> bool {
    let key = FlowKey::new(Protocol::TCP, (Address::v4(src), 1), (Address::v4(dst), 80));
    let mut verdict = [Verdict::Deny];
    table.classify(&[key], &mut verdict);
    verdict == [Verdict::Allow]
}

#[test]
fn a_refusal_names_the_policy_and_changes_nothing() {
    let (mut compiler, before) = with_room(256 << 10);
    let small = wide("shop/small", 1, 3);
    let refusal: OverBudget = compiler
        .apply([Change::Policy(small.clone()), Change::Policy(wide("shop/wide", 100, 1000))])
        .unwrap_err();
    assert_eq!(refusal.policy, Some(ObjectName::new("shop", "wide")));
    assert!(refusal.reached.total() > refusal.limit && refusal.grew().1 > 0, "{refusal}");
    let same = compiler.apply([]).unwrap();
    assert_eq!(same.canonical_hash(), before.canonical_hash());
    for pod in before.local_pods() {
        let address = pod.addresses()[0];
        assert_eq!(same.epoch_of(address), before.epoch_of(address));
    }
    // What fits is taken afterwards.
    let after = compiler.apply([Change::Policy(small.clone())]).unwrap();
    let mut expected = shop();
    expected.policies.push(small);
    assert_eq!(after.canonical_hash(), compile(&expected, &Scope::AllPods).unwrap().canonical_hash());
    assert!(allows(&after, [10, 0, 1, 7], [20, 0, 0, 4]) && !allows(&after, [10, 0, 1, 7], [20, 0, 2, 0]));
}

#[test]
fn pods_alone_may_be_too_many() {
    let (mut compiler, before) = with_room(64 << 10);
    let mut crowd = shop();
    for at in 0..5_000_u32 {
        let mut pod = crowd.pods[0].clone();
        pod.name.name = format!("crowd-{at}");
        pod.labels.insert("pod".into(), at.to_string());
        pod.addresses = vec![Address::v4((0x0b00_0000 + at).to_be_bytes())];
        crowd.pods.push(pod);
    }
    let refusal = compiler.update(&crowd).unwrap_err();
    assert!(refusal.to_string().contains("MiB before"), "{refusal}");
    assert_eq!(compiler.update(&shop()).unwrap().canonical_hash(), before.canonical_hash());
}

#[test]
fn a_thousand_holes_and_all_ports_are_little() {
    let mut wide = shop();
    wide.policies.push(self::wide("shop/wide", 1, 1000));
    wide.policies.extend(
        cluster()
            .policy(
                policy("shop/ports")
                    .ingress([rule().with(pods("app=a2")).on("TCP/1-65535").on("UDP/1-65535")]),
            )
            .build()
            .policies,
    );
    let mut compiler = within(Budget::default().bytes);
    let table = compiler.update(&wide).unwrap();
    assert!(compiler.footprint().total() < 8 << 20, "{:?}", compiler.footprint());
    assert!(allows(&table, [10, 0, 1, 1], [20, 0, 0, 1]) && !allows(&table, [10, 0, 1, 1], [20, 3, 249, 0]));
}

#[test]
fn removing_is_never_refused_for_what_it_frees() {
    let (mut compiler, before) = with_room(0);
    let names: Vec<ObjectName> = shop().pods.into_iter().map(|pod| pod.name).collect();
    let gone = |name: &ObjectName| Change::PodGone { name: name.clone(), uid: String::new() };
    for name in &names[1..] {
        compiler.apply([gone(name)]).unwrap();
    }
    assert_eq!(compiler.apply([gone(&names[0])]).unwrap().local_pods().count(), 0);
    assert_eq!(compiler.update(&shop()).unwrap().canonical_hash(), before.canonical_hash());
}
