//! Services in inline mode: with the rules of both kube-proxies in the node, policy is asked about backends. Needs
//! root.

mod cluster_ips;
mod scene;

use std::time::Duration;

use cluster_ips::{Fates, cluster_ip, fates, pods, service};
use lab::{Family, Host, Masquerade, Outcome, Place, Probe, RulesOf, Transport, probe_all};
use scene::*;

/// How long an answer that should come may take, and how long one that should not is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(1);

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

#[test]
fn of_the_backends_of_a_service_just_those_answer_that_policy_allows() {
    for rules in RulesOf::ALL {
        let scene = cluster_ips::scene();
        scene.home.apply("policy.yaml", MIXED).expect("a manifest");
        let _servers = scene.servers();
        let mut services = Vec::new();
        // One Service each, that connections of before do not count.
        for number in [1, 2] {
            services.extend(service(&scene, number, &BACKENDS, 80));
        }
        services.extend(service(&scene, 3, &BACKENDS, 81));
        scene.lab.serve(&services, rules, Masquerade::Hairpins).expect("rules");
        let open = |from: &Place, number, expected: Fates| {
            for family in Family::ALL {
                for fates in fates(&scene, from, number, family, MANY) {
                    assert_eq!(fates, expected, "{from} to {number}, {family}, {rules:?}");
                }
            }
        };
        let all = || Fates { chosen: pods(BACKENDS), answering: pods(BACKENDS), ..Fates::default() };
        open(&pod("x/a"), 1, all());
        let agent = scene.agent();
        let judged = |answering, silent| Fates { chosen: pods(BACKENDS), answering, silent };
        open(&pod("x/a"), 2, judged(pods(["y/a", "z/c"]), pods(["y/b", "y/c", "z/b"])));
        open(&pod("x/b"), 2, judged(pods(["y/a", "y/c", "z/b", "z/c"]), pods(["y/b"])));
        open(&pod("x/a"), 3, judged(pods([]), pods(BACKENDS)));
        open(&pod("z/a"), 3, all());
        drop(agent);
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
        for family in Family::ALL {
            let of = |answering, silent| Fates { chosen: pods(["x/a", "y/a"]), answering, silent };
            for (from, expected) in [
                (pod("x/a"), of(pods(["x/a"]), pods(["y/a"]))),
                (pod("x/b"), of(pods(["y/a"]), pods(["x/a"]))),
            ] {
                for fates in fates(&scene, &from, 1, family, MANY) {
                    assert_eq!(fates, expected, "{from}, {family}, {rules:?}");
                }
            }
        }
    }
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
    assert!(ask(PATIENCE).iter().all(|outcome| outcome.reached(&stranger)), "without an agent");
    let mut agent = scene.agent();
    assert!(ask(SILENCE).iter().all(|outcome| *outcome == Outcome::TimedOut));
    agent
        .wait_until("has not counted them", |figures| {
            figures["portcullis_drops_total{reason=\"service_untranslated\"}"] >= probes.len() as u64
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
    let services = service(&scene, 1, &["z/c"], 80);
    scene.lab.serve(&services, RulesOf::Nftables, Masquerade::All).expect("rules");
    let sent = || -> u64 {
        let listing = text(&scene.node("ip -s -j link show overlay"));
        let listing: serde_json::Value = serde_json::from_str(&listing).expect("JSON");
        listing[0]["stats64"]["tx"]["packets"].as_u64().expect("a count")
    };
    let ask = |from: &str| {
        let probes: Vec<Probe> = Family::ALL
            .iter()
            .flat_map(|family| Transport::ALL.map(|transport| (cluster_ip(1, *family), transport)))
            .map(|(to, transport)| Probe { from: pod(from), to, port: cluster_ips::PORT, transport })
            .collect();
        probe_all(&scene.lab, &probes, SILENCE).expect("probes");
    };
    let before = sent();
    ask("x/a");
    assert!(sent() >= before + 6, "without an agent");
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
