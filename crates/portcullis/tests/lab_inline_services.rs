//! Services in inline mode: with the rules of both kube-proxies in the node, policy is asked about backends. Needs
//! root.

mod cluster_ips;
mod scene;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use cluster_ips::{Fates, PORT, cluster_ip, fates, pods, service};
use lab::{
    Connection, Family, Host, Masquerade, Outcome, Place, Probe, RulesOf, Service, Transport, probe_all,
};
use portcullis::lab_agent::LabAgent;
use scene::*;

/// How long an answer that should come may take, and how long one that should not is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(1);

/// Of a Service that has one, at every address of the node.
const NODE_PORT: u16 = 30080;

/// So many connections that it takes a long search to find a run in which one of five backends gets none.
const MANY: usize = 80;

/// x/a may reach port 80 of y/a, y/b and z/c, and y/b accepts nobody of x.
const MIXED: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {matchLabels: {ns: "y"}}
      podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}
    - namespaceSelector: {matchLabels: {ns: z}}
      podSelector: {matchLabels: {pod: c}}
    ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: "y"}
spec:
  podSelector: {matchLabels: {pod: b}}
  policyTypes: [Ingress]
  ingress:
  - from: [{namespaceSelector: {matchLabels: {ns: z}}}]
"#;

/// Three pods of this node, and two of another behind the uplink.
const BACKENDS: [&str; 5] = ["y/a", "y/b", "y/c", "z/b", "z/c"];

/// Opens many connections at once, and compares what came of them, of all transports and families alike.
fn compare<const N: usize>(scene: &Scene, what: &str, asked: [(&str, u8, Fates); N]) {
    let whom = asked.each_ref().map(|(from, number, _)| (*from, *number));
    for ((from, number, expected), fates) in asked.iter().zip(fates(scene, &whom, MANY)) {
        for fates in fates {
            assert_eq!(fates, *expected, "{from} to Service {number}, {what}");
        }
    }
}

#[test]
fn of_the_backends_of_a_service_just_those_answer_that_policy_allows() {
    for (rules, masquerade) in
        RulesOf::ALL.into_iter().flat_map(|rules| [Masquerade::Hairpins, Masquerade::All].map(|m| (rules, m)))
    {
        let scene = cluster_ips::scene();
        scene.home.apply("policy.yaml", MIXED).expect("a manifest");
        let _servers = scene.servers();
        let mut services = Vec::new();
        // One Service each, that connections of before do not count.
        for number in [1, 2] {
            services.extend(service(&scene, number, &BACKENDS, 80));
        }
        services.extend(service(&scene, 3, &BACKENDS, 81));
        scene.lab.serve(&services, rules, masquerade).expect("rules");
        let judged = |answering, silent| Fates { chosen: pods(BACKENDS), answering, silent };
        let all = || judged(pods(BACKENDS), pods([]));
        let what = format!("{rules:?}, {masquerade:?}");
        compare(&scene, &format!("{what}, without an agent"), [("x/a", 1, all())]);
        let _agent = scene.agent();
        compare(
            &scene,
            &what,
            [
                ("x/a", 2, judged(pods(["y/a", "z/c"]), pods(["y/b", "y/c", "z/b"]))),
                ("x/b", 2, judged(pods(["y/a", "y/c", "z/b", "z/c"]), pods(["y/b"]))),
                ("x/a", 3, judged(pods([]), pods(BACKENDS))),
                ("z/a", 3, all()),
            ],
        );
    }
}

/// A pod of x that policy isolates in both directions.
const X_A_ALONE: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: alone, namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}
"#;

#[test]
fn a_pod_reaches_itself_through_its_own_service_and_nobody_else() {
    for rules in RulesOf::ALL {
        let scene = cluster_ips::scene();
        scene.home.apply("policy.yaml", X_A_ALONE).expect("a manifest");
        let _servers = scene.servers();
        let services = service(&scene, 1, &["x/a", "y/a"], 80);
        scene.lab.serve(&services, rules, Masquerade::Hairpins).expect("rules");
        let _agent = scene.agent();
        let of = |answering, silent| Fates { chosen: pods(["x/a", "y/a"]), answering, silent };
        compare(
            &scene,
            &format!("{rules:?}"),
            [("x/a", 1, of(pods(["x/a"]), pods(["y/a"]))), ("x/b", 1, of(pods(["y/a"]), pods(["x/a"])))],
        );
    }
}

#[test]
fn a_connection_to_a_service_lives_as_long_as_its_backend_is_allowed() {
    let scene = cluster_ips::scene();
    let _servers = scene.servers();
    let to_backend = |port: u16| MIXED.replace("port: 80", &format!("port: {port}"));
    scene.home.apply("policy.yaml", &to_backend(80)).expect("a manifest");
    let mut services = service(&scene, 1, &["y/a"], 80);
    let remote = service(&scene, 2, &["z/c"], 80);
    services.extend(remote.into_iter().map(|service| Service { node_port: Some(NODE_PORT), ..service }));
    scene.lab.serve(&services, RulesOf::Nftables, Masquerade::Hairpins).expect("rules");
    let mut agent = scene.agent();
    let open = |to: IpAddr, port| {
        Connection::open(&scene.lab, &pod("x/a"), to, port, PATIENCE).expect("a connection")
    };
    let to = |family| {
        let node = scene.address(&Place::Node, family);
        [(cluster_ip(1, family), PORT), (cluster_ip(2, family), PORT), (node, NODE_PORT)]
    };
    let mut connections: Vec<Connection> =
        Family::ALL.into_iter().flat_map(to).map(|(to, port)| open(to, port)).collect();
    let mut answered = |expected: bool, when: &str| {
        for connection in &mut connections {
            // Several, that the kernel comes to know all that it may.
            for _ in 0..if expected { 3 } else { 1 } {
                let patience = if expected { PATIENCE } else { SILENCE };
                let outcome = connection.exchange(patience);
                assert_eq!(matches!(outcome, Outcome::Reached(_)), expected, "{when}: {outcome}");
            }
        }
    };
    let generation = |figures: &HashMap<String, u64>| figures["portcullis_table_generation"];
    let publish = |agent: &mut LabAgent, policy: &str| {
        let before = generation(&agent.figures().expect("figures"));
        scene.home.apply("policy.yaml", policy).expect("a manifest");
        agent.wait_until("has no new table", |now| generation(now) > before).expect("a table");
    };
    answered(true, "at first");
    publish(&mut agent, &to_backend(80).replace("name: a,", "name: renamed,"));
    answered(true, "after a change that concerns the client and takes nothing from it");
    agent.kill().expect("killed");
    answered(true, "without an agent");
    let mut agent = scene.agent();
    answered(true, "with a new one");
    publish(&mut agent, &to_backend(81));
    answered(false, "the port of the Service is none of the backend's");
    publish(&mut agent, &to_backend(80));
    answered(true, "allowed again");
}

#[test]
fn what_nothing_translates_does_not_leave_the_node() {
    let mut scene = cluster_ips::scene();
    let addresses: Vec<_> = Family::ALL.map(|family| cluster_ip(9, family)).into();
    let stranger = Host { name: "stranger".to_owned(), addresses: addresses.clone() };
    scene.lab.add_outside(vec![stranger]).expect("addresses outside");
    let _servers = scene.servers();
    let probes: Vec<Probe> = addresses
        .iter()
        .flat_map(|to| {
            Transport::ALL.map(|transport| Probe { from: pod("x/a"), to: *to, port: 80, transport })
        })
        .collect();
    let ask = |patience| probe_all(&scene.lab, &probes, patience).expect("probes");
    let stranger = Place::outside("stranger");
    let mut outcomes = Vec::new();
    // The first ones may come before neighbours know each other.
    for _ in 0..3 {
        outcomes = ask(PATIENCE);
    }
    assert!(outcomes.iter().all(|outcome| outcome.reached(&stranger)), "without an agent: {outcomes:?}");
    let mut agent = scene.agent();
    assert!(ask(SILENCE).iter().all(|outcome| *outcome == Outcome::TimedOut));
    agent
        .wait_until("has not counted them", |figures| {
            figures["portcullis_drops_total{reason=\"service_untranslated\"}"] >= probes.len() as u64
        })
        .expect("counted");
}

#[test]
fn whom_the_node_hides_where_tracking_does_not_see_it_is_let_in_nowhere() {
    let scene = cluster_ips::scene();
    let _servers = scene.servers();
    let mut rules =
        String::from("table inet blind {\n chain before {\n  type filter hook prerouting priority raw\n");
    let mut probes = Vec::new();
    let mut hides = String::new();
    for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let [from, node] = [pod("x/b"), Place::Node].map(|place| scene.address(&place, family));
        rules += &format!("  {ip} saddr {from} notrack\n");
        hides += &format!("  {ip} saddr {from} {ip} saddr set {node}\n");
        let to = scene.address(&pod("y/c"), family);
        probes.extend(Transport::ALL.map(|transport| Probe { from: pod("x/b"), to, port: 80, transport }));
    }
    rules += &format!(" }}\n chain after {{\n  type filter hook postrouting priority 0\n{hides} }}\n}}\n");
    let output = scene.node(&format!("nft -f - <<'END'\n{rules}END\n"));
    assert!(output.status.success(), "{}", text(&output));
    let mut agent = scene.agent();
    let outcomes = probe_all(&scene.lab, &probes, SILENCE).expect("probes");
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::TimedOut), "{outcomes:?}");
    agent
        .wait_until("has not counted them", |figures| {
            figures["portcullis_drops_total{reason=\"masqueraded_source\"}"] >= probes.len() as u64
        })
        .expect("counted");
}

#[test]
fn what_is_for_a_service_leaves_by_no_interface_that_nobody_watches() {
    let scene = cluster_ips::scene();
    scene.home.apply("policy.yaml", X_A_ALONE).expect("a manifest");
    let overlay =
        "ip link add overlay arp off type veth peer name far; ip link set overlay up; ip link set far up";
    assert!(scene.node(overlay).status.success());
    for family in Family::ALL {
        let (backend, bits) =
            (scene.address(&pod("z/c"), family), if family == Family::V4 { 32 } else { 128 });
        assert!(scene.node(&format!("ip route replace {backend}/{bits} dev overlay")).status.success());
    }
    let at_node_port = |service| Service { node_port: Some(NODE_PORT), ..service };
    let services: Vec<_> = service(&scene, 1, &["z/c"], 80).into_iter().map(at_node_port).collect();
    scene.lab.serve(&services, RulesOf::Nftables, Masquerade::All).expect("rules");
    let sent = || -> u64 {
        let listing = text(&scene.node("ip -s -j link show overlay"));
        let listing: serde_json::Value = serde_json::from_str(&listing).expect("JSON");
        listing[0]["stats64"]["tx"]["packets"].as_u64().expect("a count")
    };
    let ask = |from: &str| {
        let probes: Vec<Probe> = Family::ALL
            .iter()
            .flat_map(|family| {
                let node = scene.address(&Place::Node, *family);
                let at = [(cluster_ip(1, *family), PORT), (node, NODE_PORT)];
                at.into_iter().flat_map(|at| Transport::ALL.map(|transport| (at, transport)))
            })
            .map(|((to, port), transport)| Probe { from: pod(from), to, port, transport })
            .collect();
        probe_all(&scene.lab, &probes, SILENCE).expect("probes");
    };
    let before = sent();
    ask("x/a");
    assert!(sent() >= before + 12, "without an agent");
    let _agent = scene.agent();
    let before = sent();
    ask("x/a");
    ask("x/b");
    assert_eq!(sent(), before);
    // By itself the backend may be asked by whom no policy binds.
    let to = scene.address(&pod("z/c"), Family::V4);
    let probe = Probe { from: pod("x/b"), to, port: 80, transport: Transport::Udp };
    probe_all(&scene.lab, &[probe], SILENCE).expect("a probe");
    assert!(sent() > before, "its route leads there");
}
