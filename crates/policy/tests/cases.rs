//! The sentences of the API, each with a table of who reaches whom.
//!
//! `.` is allowed, `X` denied; sources stand on the left. Quotations are from the reference of
//! networking.k8s.io/v1 and from "Network Policies" in the Kubernetes documentation.

use flow::Verdict;
use policy::model::{Cluster, ObjectName, Phase};
use policy::{Connection, Side, evaluate};
use testkit::cluster::{
    ClusterBuilder, PolicyBuilder, RuleBuilder, block, cluster, connection, namespaces, pods, pods_in,
    policy as np, rule,
};
use testkit::truth::assert_truth;

/// Two namespaces; x has a web pod, a client and a database, y a client.
fn city() -> ClusterBuilder {
    cluster()
        .node("node", "192.168.0.1 fd00:99::1")
        .node("far", "192.168.0.2")
        .namespace("x", "team=a")
        .namespace("y", "team=b")
        .pod("x/web", "10.0.1.1 fd00::1:1", "app=web")
        .named("http", "TCP/8080")
        .named("dns", "UDP/53")
        .pod("x/client", "10.0.1.2 fd00::1:2", "app=client")
        .pod("x/db", "10.0.1.3", "app=db,tier=")
        .pod("y/client", "10.0.2.2", "app=client")
        .on("far")
}

fn judge(cluster: &Cluster) -> impl Fn(&Connection) -> Verdict + '_ {
    |connection| evaluate(cluster, connection).verdict()
}

/// The city with one policy, against one table.
fn holds(policy: PolicyBuilder, service: &str, drawn: &str) {
    holds_in(city().policy(policy), service, drawn);
}

fn holds_in(cluster: ClusterBuilder, service: &str, drawn: &str) {
    let cluster = cluster.build();
    assert_truth(&cluster, service, judge(&cluster), drawn);
}

/// Who reaches x/web where one ingress rule is all that it allows, in the order x/client, x/db, y/client, external.
fn reach_web(rule: RuleBuilder, service: &str, drawn: [&str; 4]) {
    let [client, db, other, external] = drawn;
    let drawn = format!(
        "            x/web
         x/client    {client}
         x/db        {db}
         y/client    {other}
         192.0.2.1   {external}"
    );
    holds(np("x/web").subjects("app=web").ingress([rule]), service, &drawn);
}

// --- isolation

/// > By default, a pod is non-isolated for ingress; all inbound connections are allowed.
#[test]
fn without_policies_everything_passes() {
    holds_in(
        city(),
        "TCP/80",
        "           x/web  y/client  192.0.2.1
        x/web       .      .         .
        y/client    .      .         .
        192.0.2.1   .      .         .",
    );
}

/// > A pod is isolated for ingress if there is any NetworkPolicy that both selects the pod and has "Ingress" in
/// > its policyTypes.
///
/// Only pods of the policy's own namespace are selected; "a pod cannot block access to itself".
#[test]
fn an_ingress_policy_without_rules_lets_nobody_in() {
    holds(
        np("x/deny").ingress([]),
        "TCP/80",
        "           x/web  x/client  y/client  192.0.2.1
        x/web       .      X         .         .
        x/client    X      .         .         .
        y/client    X      X         .         .
        192.0.2.1   X      X         .         .",
    );
}

/// > A pod is isolated for egress if there is any NetworkPolicy that both selects the pod and has "Egress" in its
/// > policyTypes.
#[test]
fn an_egress_policy_without_rules_lets_nothing_out() {
    holds(
        np("x/deny").egress([]),
        "UDP/53",
        "           x/web  x/client  y/client  192.0.2.1
        x/web       .      X         X         X
        y/client    .      .         .         .
        192.0.2.1   .      .         .         .",
    );
}

/// > For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source
/// > pod and the ingress policy on the destination pod need to allow the connection.
#[test]
fn both_sides_must_allow() {
    let both = |port| {
        city()
            .policy(np("x/web").subjects("app=web").ingress([rule().with(pods("app=client")).on("TCP/80")]))
            .policy(np("x/client").subjects("app=client").egress([rule().with(pods("app=web")).on(port)]))
    };
    let drawn = |cell| format!("x/web x/db\nx/client {cell} X");
    holds_in(both("TCP/80"), "TCP/80", &drawn("."));
    holds_in(both("TCP/81"), "TCP/80", &drawn("X"));
}

/// > Network policies do not conflict; they are additive.
#[test]
fn policies_are_a_union() {
    holds_in(
        city()
            .policy(np("x/deny").ingress([]))
            .policy(np("x/web").subjects("app=web").ingress([rule().with(pods("app=client"))])),
        "TCP/80",
        "           x/web  x/client
        x/client    .      .
        x/db        X      X",
    );
}

/// > traffic to and from the node where a Pod is running is always allowed, regardless of the IP address of the
/// > Pod or the node.
///
/// Only its own node, by any of its addresses.
#[test]
fn a_pods_own_node_always_passes() {
    let closed =
        || city().policy(np("x/deny").ingress([]).egress([])).policy(np("y/deny").ingress([]).egress([]));
    holds_in(
        closed(),
        "TCP/80",
        "             x/web  y/client  192.168.0.1  192.168.0.2
        192.168.0.1   .      X         .            .
        192.168.0.2   X      .         .            .
        x/web         .      X         .            X
        y/client      X      .         X            .",
    );
    holds_in(closed(), "TCP/80", "fd00::1:1\nfd00:99::1 .");
}

// --- peers

/// > If this field is empty or missing, this rule matches all sources (traffic not restricted by source).
#[test]
fn an_empty_rule_matches_everybody() {
    reach_web(rule(), "TCP/80", [".", ".", ".", "."]);
}

/// A list of peers that nothing can match is not an empty list.
#[test]
fn a_rule_for_nobody_matches_nobody() {
    reach_web(rule().with_nobody(), "TCP/80", ["X", "X", "X", "X"]);
}

/// > Otherwise it selects the pods matching podSelector in the policy's own namespace.
#[test]
fn a_pod_selector_alone_stays_in_the_namespace() {
    reach_web(rule().with(pods("app=client")), "TCP/80", [".", "X", "X", "X"]);
    reach_web(rule().with(pods("")), "TCP/80", [".", ".", "X", "X"]);
}

/// > Otherwise it selects all pods in the namespaces selected by namespaceSelector.
#[test]
fn a_namespace_selector_alone_takes_all_pods() {
    reach_web(rule().with(namespaces("team=b")), "TCP/80", ["X", "X", ".", "X"]);
    // > if present but empty, it selects all namespaces
    reach_web(rule().with(namespaces("")), "TCP/80", [".", ".", ".", "X"]);
}

/// > If podSelector is also set, then the NetworkPolicyPeer as a whole selects the pods matching podSelector in the
/// > namespaces selected by namespaceSelector.
#[test]
fn both_selectors_in_one_peer_are_an_and() {
    reach_web(rule().with(pods_in("team=a", "app=client")), "TCP/80", [".", "X", "X", "X"]);
    // > Items in this list are combined using a logical OR operation.
    reach_web(rule().with(namespaces("team=b")).with(pods("app=db")), "TCP/80", ["X", ".", ".", "X"]);
}

/// > The Kubernetes control plane sets an immutable label `kubernetes.io/metadata.name` on all namespaces, the value
/// > of the label is the namespace name.
#[test]
fn namespaces_are_selected_by_name() {
    let by_name = |name: &str| rule().with(namespaces(&format!("kubernetes.io/metadata.name={name}")));
    reach_web(by_name("y"), "TCP/80", ["X", "X", ".", "X"]);
    // Nobody declared z, and somebody wrote a false label on y.
    let odd = cluster()
        .namespace("y", "kubernetes.io/metadata.name=x")
        .pod("x/web", "10.0.1.1", "")
        .pod("y/pod", "10.0.2.1", "")
        .pod("z/pod", "10.0.3.1", "");
    let named = |name| odd.clone().policy(np("x/p").ingress([by_name(name)]));
    holds_in(named("x"), "TCP/80", "x/web\ny/pod X\nz/pod X");
    holds_in(named("z"), "TCP/80", "x/web\ny/pod X\nz/pod .");
    let unlabelled = odd.clone().policy(np("x/p").ingress([rule().with(namespaces("!team"))]));
    holds_in(unlabelled, "TCP/80", "x/web\ny/pod .\nz/pod .");
}

/// `In`: the key is present and its value listed. `NotIn`: the key is absent, or its value not listed. `Exists` and
/// `DoesNotExist`: the key is present, or absent. An empty value is a value. All requirements must hold.
#[test]
fn selectors_follow_label_selector_semantics() {
    let reach = |selector: &str, client, db| {
        reach_web(rule().with(pods(selector)), "TCP/80", [client, db, "X", "X"]);
    };
    reach("app in (client db)", ".", ".");
    reach("tier notin (a)", ".", ".");
    reach("app notin (client)", "X", ".");
    reach("tier", "X", ".");
    reach("!tier", ".", "X");
    reach("tier=", "X", ".");
    reach("tier!=", ".", "X");
    reach("app in (client db),tier", "X", ".");
    reach("app=client,tier", "X", "X");
}

/// > except is a slice of CIDRs that should not be included within an IPBlock
#[test]
fn except_is_a_hole() {
    let holed = || block("10.0.0.0/16", &["10.0.1.0/30", "10.0.9.0/24"]);
    // A block matches the addresses of pods like any other.
    reach_web(rule().with(holed()), "TCP/80", ["X", "X", ".", "X"]);
    // Not a denial: another peer may still allow what is in the hole.
    reach_web(rule().with(holed()).with(pods("app=client")), "TCP/80", [".", "X", ".", "X"]);
    reach_web(rule().with(holed()).with(block("10.0.1.2/32", &[])), "TCP/80", [".", "X", ".", "X"]);
    holds(
        np("x/out").subjects("app=client").egress([rule().with(block("192.0.2.0/24", &["192.0.2.128/25"]))]),
        "TCP/443",
        "           192.0.1.255  192.0.2.0  192.0.2.127  192.0.2.128  192.0.2.255  192.0.3.0
        x/client    X            .          .            X            X            X",
    );
}

/// Rules are a union also where their blocks overlap: each address has the ports of all blocks that cover it.
#[test]
fn overlapping_blocks_add_their_ports_up() {
    let wide_and_narrow = || {
        np("x/out").subjects("app=client").egress([
            rule().with(block("192.0.2.0/24", &["192.0.2.64/26"])).on("TCP/80"),
            rule().with(block("192.0.2.0/25", &[])).on("TCP/443"),
        ])
    };
    let drawn = |cells: [&str; 3]| {
        format!("192.0.2.1 192.0.2.65 192.0.2.129\nx/client {} {} {}", cells[0], cells[1], cells[2])
    };
    holds(wide_and_narrow(), "TCP/80", &drawn([".", "X", "."]));
    holds(wide_and_narrow(), "TCP/443", &drawn([".", ".", "X"]));
    holds(wide_and_narrow(), "TCP/8080", &drawn(["X", "X", "X"]));
}

/// A block of one family never covers the other.
#[test]
fn blocks_keep_to_their_family() {
    let to = |cidr| np("x/out").egress([rule().with(block(cidr, &[]))]);
    holds(to("0.0.0.0/0"), "TCP/80", "192.0.2.1\nx/web .");
    holds(to("0.0.0.0/0"), "TCP/80", "2001:db8::1\nfd00::1:1 X");
    holds(to("::/0"), "TCP/80", "192.0.2.1\nx/web X");
    holds(to("::/0"), "TCP/80", "2001:db8::1\nfd00::1:1 .");
}

/// Selectors cover all addresses of a pod.
#[test]
fn selectors_cover_both_families() {
    let web = || np("x/web").subjects("app=web").ingress([rule().with(pods("app=client"))]);
    holds(web(), "TCP/80", "fd00::1:1\nfd00::1:2 .\nfd00::1:3 X");
}

// --- ports

/// > If this field is empty or missing, this rule matches all ports (traffic not restricted by port).
///
/// Protocols without ports match such rules only.
#[test]
fn protocols_without_ports_match_rules_without_ports() {
    reach_web(rule().with(pods("app=client")), "ICMP", [".", "X", "X", "X"]);
    reach_web(rule().on("TCP").on("UDP").on("SCTP"), "ICMP", ["X", "X", "X", "X"]);
}

/// > If present, only traffic on the specified protocol AND port will be matched.
#[test]
fn a_port_has_a_protocol() {
    let all = [".", ".", ".", "."];
    let none = ["X", "X", "X", "X"];
    reach_web(rule().on("TCP/80"), "TCP/80", all);
    reach_web(rule().on("TCP/80"), "TCP/81", none);
    reach_web(rule().on("TCP/80"), "UDP/80", none);
    reach_web(rule().on("TCP/80"), "SCTP/80", none);
    // > Each item in this list is combined using a logical OR.
    reach_web(rule().on("TCP/80").on("UDP/53"), "UDP/53", all);
    // > If this field is not provided, this matches all port names and numbers.
    reach_web(rule().on("SCTP"), "SCTP/36412", all);
    reach_web(rule().on("SCTP"), "TCP/36412", none);
}

/// > endPort indicates that the range of ports from port to endPort if set, inclusive, should be allowed by the
/// > policy.
#[test]
fn ranges_hold_both_ends() {
    for (service, cell) in
        [("TCP/79", "X"), ("TCP/80", "."), ("TCP/90", "."), ("TCP/91", "X"), ("UDP/85", "X")]
    {
        reach_web(rule().on("TCP/80-90"), service, [cell; 4]);
    }
}

/// > This can either be a numerical or named port on a pod.
///
/// In an ingress rule, on the pod that the policy selects.
#[test]
fn an_ingress_port_name_is_the_subjects() {
    reach_web(rule().on("TCP/http"), "TCP/8080", ["."; 4]);
    reach_web(rule().on("TCP/http"), "TCP/80", ["X"; 4]);
    // Name and protocol must match.
    reach_web(rule().on("UDP/http"), "UDP/8080", ["X"; 4]);
    reach_web(rule().on("TCP/dns"), "TCP/53", ["X"; 4]);
    reach_web(rule().on("TCP/unknown"), "TCP/8080", ["X"; 4]);
    // One name may stand for several numbers.
    let twice = || {
        cluster()
            .pod("x/web", "10.0.1.1", "")
            .named("http", "TCP/8080")
            .named("http", "TCP/9090")
            .policy(np("x/p").ingress([rule().on("TCP/http")]))
    };
    for (service, cell) in [("TCP/8080", "."), ("TCP/9090", "."), ("TCP/8081", "X")] {
        holds_in(twice(), service, &format!("x/web\n192.0.2.1 {cell}"));
    }
}

/// In an egress rule, on the destination of each connection; who is no pod has no names.
#[test]
fn an_egress_port_name_is_the_destinations() {
    let named = cluster()
        .pod("x/client", "10.0.1.1", "")
        .named("http", "TCP/1")
        .pod("y/a", "10.0.2.1", "")
        .named("http", "TCP/80")
        .pod("y/b", "10.0.2.2", "")
        .named("http", "TCP/81")
        .policy(np("x/p").egress([rule().on("TCP/http")]));
    let drawn = |a, b| format!("y/a y/b 192.0.2.1\nx/client {a} {b} X");
    holds_in(named.clone(), "TCP/80", &drawn(".", "X"));
    holds_in(named.clone(), "TCP/81", &drawn("X", "."));
    holds_in(named, "TCP/1", &drawn("X", "X"));
}

// --- who counts as a pod

/// hostNetwork pods are neither subjects nor peers: their traffic is the node's.
#[test]
fn host_network_pods_are_their_node() {
    let cluster = || {
        cluster()
            .node("node", "192.168.0.1")
            .node("far", "192.168.0.2")
            .pod("x/web", "10.0.1.1", "")
            .pod("x/agent", "192.168.0.2", "app=agent")
            .on("far")
            .host_network()
    };
    let by_label = np("x/p").ingress([rule().with(pods("app=agent"))]).egress([]);
    holds_in(cluster().policy(by_label), "TCP/80", "x/web 192.0.2.1\n192.168.0.2 X .");
    let by_block = np("x/p").ingress([rule().with(block("192.168.0.2/32", &[]))]);
    holds_in(cluster().policy(by_block), "TCP/80", "x/web\n192.168.0.2 .");
}

/// Succeeded and failed pods keep their address in the API while another pod may already have it.
#[test]
fn ended_pods_own_nothing() {
    let cluster = cluster()
        .pod("x/web", "10.0.1.1", "app=web")
        .pod("x/job", "10.0.1.9", "app=job")
        .started("2024-01-02T00:00:00Z")
        .phase(Phase::Ended)
        .pod("x/heir", "10.0.1.9", "app=heir")
        .started("2024-01-01T00:00:00Z");
    let from = |peer| np("x/web").subjects("app=web").ingress([rule().with(pods(peer))]);
    holds_in(cluster.clone().policy(from("app=job")), "TCP/80", "x/web\n10.0.1.9 X");
    holds_in(cluster.policy(from("app=heir")), "TCP/80", "x/web\n10.0.1.9 .");
}

/// An address that two pods claim belongs to the newest running one, as subject and as peer.
#[test]
fn a_contested_address_is_the_newest_running_pods() {
    let contested = |policy| {
        let cluster = cluster()
            .pod("x/web", "10.0.1.1", "app=web")
            .pod("x/old", "10.0.1.9", "app=old")
            .started("2024-01-01T00:00:00Z")
            .pod("x/new", "10.0.1.9", "app=new")
            .started("2024-01-01T00:00:01Z")
            .pod("x/next", "10.0.1.9", "app=next")
            .started("2024-01-01T00:00:02Z")
            .phase(Phase::Pending);
        cluster.policy(policy)
    };
    for (app, cell) in [("old", "X"), ("new", "."), ("next", "X")] {
        let peer = pods(&format!("app={app}"));
        holds_in(
            contested(np("x/web").subjects("app=web").ingress([rule().with(peer)])),
            "TCP/80",
            &format!("x/web\n10.0.1.9 {cell}"),
        );
        let subject = np("x/closed").subjects(&format!("app={app}")).ingress([]);
        let cell = if app == "new" { "X" } else { "." };
        holds_in(contested(subject), "TCP/80", &format!("10.0.1.9\nx/web {cell}"));
    }
}

/// Labels of users stay what they are: none of them is taken for a name, a namespace or an address.
#[test]
fn labels_of_users_collide_with_nothing() {
    let odd = |peer| {
        cluster()
            .namespace("y", "name=x,namespace=x,pod=web")
            .pod("x/web", "10.0.1.1", "app=web")
            .pod("y/pod", "10.0.2.1", "kubernetes.io/metadata.name=x,namespace=x,name=web,app=,ip=10.0.1.1")
            .policy(np("x/web").subjects("app=web").ingress([rule().with(peer)]))
    };
    for (peer, cell) in [
        (namespaces("kubernetes.io/metadata.name=x"), "X"),
        (pods("kubernetes.io/metadata.name=x"), "X"),
        (namespaces("kubernetes.io/metadata.name=y"), "."),
        (namespaces("kubernetes.io/metadata.name in (x),name=x"), "X"),
        (pods_in("name=x", "kubernetes.io/metadata.name=x"), "."),
        (pods_in("kubernetes.io/metadata.name=y", "app="), "."),
        (pods_in("kubernetes.io/metadata.name=y", "!kubernetes.io/metadata.name"), "X"),
    ] {
        holds_in(odd(peer), "TCP/80", &format!("x/web\ny/pod {cell}"));
    }
}

// --- names

/// Of several rules that allow, the first by namespace, name and index is named; a denial names all that isolate.
#[test]
fn decisions_have_names() {
    let cluster = city()
        .policy(np("x/c").ingress([rule().on("TCP/80")]))
        .policy(np("x/b").ingress([rule().on("TCP/81"), rule().with(pods("app=db")), rule().on("TCP/80")]))
        .policy(np("x/a").subjects("app=other").ingress([rule()]))
        .build();
    let ingress = |text| evaluate(&cluster, &connection(text)).ingress;
    let by = |name, rule| Side::AllowedBy { policy: ObjectName::new("x", name), rule };
    assert_eq!(ingress("10.0.2.2 -> 10.0.1.1 TCP/80"), by("b", 2));
    assert_eq!(ingress("10.0.1.3 -> 10.0.1.1 TCP/80"), by("b", 1));
    let isolated = Side::Isolated { policies: vec![ObjectName::new("x", "b"), ObjectName::new("x", "c")] };
    assert_eq!(ingress("10.0.2.2 -> 10.0.1.1 TCP/443"), isolated);
    assert_eq!(ingress("192.168.0.1 -> 10.0.1.1 TCP/443"), Side::Exempt);
    assert_eq!(ingress("10.0.1.1 -> 10.0.1.1 TCP/443"), Side::Exempt);
    assert_eq!(ingress("10.0.1.1 -> 10.0.2.2 TCP/443"), Side::Open);
    assert_eq!(ingress("10.0.1.1 -> 192.0.2.1 TCP/443"), Side::Open);
}
