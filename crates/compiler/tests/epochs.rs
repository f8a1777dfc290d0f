//! Which pods keep their epoch from one table to the next.

use compiler::{Budget, Compiler, Scope, compile};
use flow::FlowKey;
use policy::model::{Cluster, ObjectName, Phase};
use table::{LocalPod, PolicyTable};
use testkit::cluster::{ClusterBuilder, address, cluster, connection, pods, policy, rule};

/// Two web pods and a client, all on one node.
fn shop() -> ClusterBuilder {
    cluster()
        .node("node", "192.168.0.1")
        .pod("shop/client", "10.0.1.1", "app=client")
        .pod("shop/web-1", "10.0.1.2", "app=web")
        .named("http", "TCP/8080")
        .pod("shop/web-2", "10.0.1.3", "app=web")
        .named("http", "TCP/8080")
}

/// Clients may use the port that web pods call `http`, as both sides see it.
fn guarded() -> ClusterBuilder {
    shop()
        .policy(
            policy("shop/web").subjects("app=web").ingress([rule().with(pods("app=client")).on("TCP/http")]),
        )
        .policy(
            policy("shop/client")
                .subjects("app=client")
                .egress([rule().with(pods("app=web")).on("TCP/http")]),
        )
}

/// The tables of a cluster that changes.
struct Tables(Compiler);

/// The first one.
fn first(cluster: &Cluster) -> (Tables, PolicyTable) {
    let mut tables = Tables(Compiler::new(Scope::AllPods, Budget::default()));
    let table = tables.next(cluster);
    (tables, table)
}

/// The pods that `changed` finds when one cluster follows the other.
fn changes(before: &Cluster, after: &Cluster) -> Vec<String> {
    let (mut tables, old) = first(before);
    changed(&old, &tables.next(after))
}

impl Tables {
    fn next(&mut self, cluster: &Cluster) -> PolicyTable {
        self.0.update(cluster).expect("within the budget")
    }
}

/// The pods of `new` that have another epoch than in `old`, or that were not there.
fn changed(old: &PolicyTable, new: &PolicyTable) -> Vec<String> {
    let epoch = |table: &PolicyTable, pod: &LocalPod| table.epoch_of(pod.addresses()[0]);
    let same = |pod: &LocalPod| {
        old.local_pods().any(|other| other.name() == pod.name() && epoch(old, other) == epoch(new, pod))
    };
    new.local_pods().filter(|pod| !same(pod)).map(|pod| pod.name().to_string()).collect()
}

#[test]
fn an_unchanged_cluster_keeps_every_epoch() {
    let (mut tables, old) = first(&guarded().build());
    let new = tables.next(&guarded().build());
    assert_eq!(changed(&old, &new), [""; 0]);
    assert_eq!((old.generation(), new.generation()), (1, 2));
}

#[test]
fn a_new_policy_changes_those_it_isolates() {
    let (mut tables, old) = first(&shop().build());
    let new = tables.next(&shop().policy(policy("shop/web").subjects("app=web").ingress([])).build());
    assert_eq!(changed(&old, &new), ["shop/web-1", "shop/web-2"]);
    // Isolated in the other direction too: the row for ingress alone would not tell.
    let newer = shop().policy(policy("shop/web").subjects("app=web").ingress([]).egress([])).build();
    assert_eq!(changed(&new, &tables.next(&newer)), ["shop/web-1", "shop/web-2"]);
}

#[test]
fn another_name_for_the_same_rules_changes_nobody() {
    let (mut tables, old) =
        first(&shop().policy(policy("shop/web").subjects("app=web").ingress([rule().on("TCP/80")])).build());
    let renamed = shop()
        .policy(policy("shop/a-first-one").subjects("app=nobody").ingress([rule()]))
        .policy(policy("shop/www").subjects("app=web").ingress([rule().on("TCP/80")]))
        .build();
    let new = tables.next(&renamed);
    assert_eq!(changed(&old, &new), [""; 0]);
    // The names are the new ones all the same.
    let opened = connection("10.0.1.1 -> 10.0.1.2 TCP/80");
    let why = new.why(&FlowKey::new(opened.protocol, (opened.src, 1), (opened.dst, opened.port)));
    let table::Side::AllowedBy(id) = why.ingress else { panic!("{why:?}") };
    assert_eq!(new.describe(id).to_string(), "shop/www ingress[0] (test.yaml:2)");
}

#[test]
fn a_peer_changes_those_whose_rules_reach_it() {
    let before = guarded().build();
    // Its label makes the pod a peer of the web pods, and a subject of the client's policy.
    let one_more = guarded().pod("shop/second", "10.0.1.4", "app=client").build();
    assert_eq!(changes(&before, &one_more), ["shop/second", "shop/web-1", "shop/web-2"]);
    // A bystander is nobody's peer.
    let bystander = guarded().pod("shop/other", "10.0.1.4", "app=other").build();
    assert_eq!(changes(&before, &bystander), ["shop/other"]);
}

#[test]
fn another_number_for_a_port_name_changes_both_sides() {
    let mut moved = guarded().build();
    moved.pods[2].ports[0].number = 9090;
    assert_eq!(changes(&guarded().build(), &moved), ["shop/client", "shop/web-2"]);
}

#[test]
fn another_address_of_the_node_changes_its_pods() {
    let before = shop().pod("shop/far", "10.0.2.1", "").on("far").build();
    let moved = shop().node("node", "192.168.0.9").pod("shop/far", "10.0.2.1", "").on("far").build();
    assert_eq!(changes(&before, &moved), ["shop/client", "shop/web-1", "shop/web-2"]);
}

#[test]
fn another_pod_under_the_same_name_or_address_gets_a_new_epoch() {
    let before = shop().pod("shop/job", "10.0.1.9", "").uid("1").build();
    let recreated = shop().pod("shop/job", "10.0.1.9", "").uid("2").build();
    assert_eq!(changes(&before, &recreated), ["shop/job"]);
    let moved = shop().pod("shop/job", "10.0.1.8", "").uid("1").build();
    assert_eq!(changes(&before, &moved), ["shop/job"]);
    // The old pod has ended, and its address went to a new one.
    let taken = shop()
        .pod("shop/job", "10.0.1.9", "")
        .uid("1")
        .phase(Phase::Ended)
        .pod("shop/heir", "10.0.1.9", "")
        .build();
    assert_eq!(changes(&before, &taken), ["shop/heir"]);
}

#[test]
fn a_pod_that_returns_gets_an_epoch_that_it_never_had() {
    let job = address("10.0.1.9");
    let with_job = shop().pod("shop/job", "10.0.1.9", "").build();
    let (mut tables, first) = first(&with_job);
    let gone = tables.next(&shop().build());
    assert_eq!(gone.epoch_of(job), None);
    assert_eq!(changed(&first, &gone), [""; 0]);
    let back = tables.next(&with_job);
    assert_eq!(changed(&gone, &back), ["shop/job"]);
    assert_ne!(back.epoch_of(job), first.epoch_of(job));
    tables.next(&shop().build());
    let again = tables.next(&with_job);
    assert_ne!(again.epoch_of(job), back.epoch_of(job));
    assert_ne!(again.epoch_of(job), first.epoch_of(job));
}

#[test]
fn a_table_knows_the_pods_that_it_judges_only() {
    let cluster = shop()
        .node("far", "192.168.0.2")
        .pod("shop/far", "10.0.2.1", "")
        .on("far")
        .policy(policy("shop/closed").ingress([]))
        .build();
    let scope = Scope::Pods([ObjectName::new("shop", "far"), ObjectName::new("shop", "nobody")].into());
    let table = compile(&cluster, &scope).unwrap();
    let names: Vec<_> = table.local_pods().map(|pod| pod.name().to_string()).collect();
    assert_eq!(names, ["shop/far"]);
    assert_eq!(table.epoch_of(address("10.0.1.1")), None);
    // Its own node is the node that it names, whatever other pods are judged here.
    let ingress_from = |src: &str| {
        let opened = connection(&format!("{src} -> 10.0.2.1 TCP/80"));
        table.why(&FlowKey::new(opened.protocol, (opened.src, 1), (opened.dst, opened.port))).ingress
    };
    assert_eq!(ingress_from("192.168.0.2"), table::Side::Exempt);
    assert!(matches!(ingress_from("192.168.0.1"), table::Side::Isolated(_)));
}
