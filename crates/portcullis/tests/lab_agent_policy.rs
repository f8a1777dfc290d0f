//! The agent on real packets: what policy says is what arrives, and stops arriving when it changes.

mod scene;

use std::time::{Duration, Instant};

use flow::{Address, MacAddr, Verdict};
use lab::{Connection, Family, Outcome, Place, Probe, RawPort, Transport, probe_all};
use packet::{Kind, Packet};
use policy::evaluate;
use scene::*;
use testkit::frames::frame;

#[test]
fn every_pair_gets_what_the_oracle_says() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let cluster = control::load(&[scene.home.manifests()]).expect("manifests").cluster;
    let pods: Vec<Place> = scene.lab.pods().iter().map(|pod| Place::Pod(pod.name.clone())).collect();
    let outside = scene.lab.topology().outside.iter().map(|host| Place::outside(&host.name));
    let places: Vec<Place> = pods.iter().cloned().chain(outside).collect();
    let mut asked = Vec::new();
    for from in &places {
        for to in pods.iter().filter(|to| *to != from) {
            for (port, transport) in [(80, Transport::Tcp), (81, Transport::Tcp), (80, Transport::Udp)] {
                for family in Family::ALL {
                    let probe = Probe { from: from.clone(), to: scene.address(to, family), port, transport };
                    asked.push((to, scene.address(from, family), probe));
                }
            }
        }
    }
    let probes: Vec<Probe> = asked.iter().map(|(_, _, probe)| probe.clone()).collect();
    for outcome in probe_all(&scene.lab, &probes, TIMEOUT).expect("probes") {
        assert!(matches!(outcome, Outcome::Reached(_)), "without enforcement everything is open: {outcome}");
    }

    let _agent = scene.agent();
    let mut denied = 0;
    let outcomes = probe_all(&scene.lab, &probes, TIMEOUT).expect("probes");
    for ((to, src, probe), outcome) in asked.iter().zip(outcomes) {
        let protocol = probe.transport.protocol();
        let (src, dst) = (Address::from(*src), Address::from(probe.to));
        let connection = policy::Connection { src, dst, protocol, port: probe.port };
        let allowed = evaluate(&cluster, &connection).verdict() == Verdict::Allow;
        denied += usize::from(!allowed);
        assert_eq!(outcome.reached(to), allowed, "{} -> {to}: {probe:?}: {outcome}", probe.from);
        assert!(allowed || outcome == Outcome::TimedOut, "a denied packet is dropped in silence: {outcome}");
    }
    // Of 12 sources, 8 pods and 4 hosts may not all reach y/a: 3 pods may, over TCP and UDP 80.
    assert_eq!(denied, (5 + 4) * 3 * 2 + 3 * 2, "the policy denies what it is meant to");
}

#[test]
fn a_flow_that_stays_allowed_loses_nothing_when_policies_change() {
    let scene = Scene::new("");
    let _agent = scene.agent();
    let stream = scene.stream(&pod("x/b"), &pod("z/c"), 90, Transport::Udp, 2000);
    eventually("data flows", Duration::from_secs(5), || stream.report().delivered > 50);
    for text in [Y_A_FROM_Z, Y_A_FROM_X, Y_A_FROM_Z, Y_A_FROM_X] {
        scene.home.apply("policy.yaml", text).expect("a rename");
        std::thread::sleep(Duration::from_millis(100));
    }
    let report = stream.stop();
    assert_eq!(report.lost(), 0, "{report:?}");
}

#[test]
fn a_mistake_keeps_the_policy_in_force() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let agent = scene.agent();
    let generation = || agent.figures().expect("figures")["portcullis_table_generation"];
    assert_eq!(generation(), 1);

    let broken = Y_A_FROM_Z.replace("policyTypes", "types");
    scene.home.apply("policy.yaml", &broken).expect("a rename");
    eventually("the mistake is told", Duration::from_secs(2), || agent.log().contains("policyTypes"));
    let log = agent.log();
    assert!(log.contains("policy.yaml:7:3"), "file, line and column: {log}");
    assert!(scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Tcp));
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Tcp));
    assert_eq!(generation(), 1);

    scene.home.apply("policy.yaml", Y_A_FROM_Z).expect("a rename");
    eventually("the mended set is in force", Duration::from_secs(2), || {
        scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Tcp)
    });
    assert!(!scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Tcp));
}

#[test]
fn a_first_start_with_a_mistake_is_closed_until_it_is_mended() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    scene.home.apply("policy.yaml", "kind: [").expect("a rename");
    assert!(scene.reaches(&pod("x/a"), &pod("z/c"), 80, Transport::Tcp), "open before the agent starts");
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    agent
        .wait_until("does not count", |figures| figures.contains_key("portcullis_table_generation"))
        .expect("figures");
    for (from, to) in [("x/a", "z/c"), ("x/b", "y/a"), ("y/c", "x/a")] {
        assert!(!scene.reaches(&pod(from), &pod(to), 80, Transport::Tcp), "{from} -> {to}");
    }
    let outside = Place::outside(&scene.lab.topology().outside[0].name);
    assert!(!scene.reaches(&outside, &pod("x/a"), 80, Transport::Udp));
    agent
        .wait_until("counts no drop as no_table", |figures| {
            figures["portcullis_drops_total{reason=\"no_table\"}"] > 0
        })
        .expect("drops by name");

    scene.home.apply("policy.yaml", Y_A_FROM_X).expect("a rename");
    agent.wait_until_ready().expect("ready");
    assert!(scene.reaches(&pod("x/a"), &pod("z/c"), 80, Transport::Tcp));
    assert!(scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Tcp));
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Tcp));
}

#[test]
fn a_pod_and_its_node_always_reach_each_other_and_only_they() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let deny = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: all, namespace: x}, \
                spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}";
    scene.home.apply("deny.yaml", deny).expect("a rename");
    let _agent = scene.agent();
    for transport in Transport::ALL {
        assert!(scene.reaches(&pod("x/a"), &Place::Node, 80, transport));
        assert!(scene.reaches(&Place::Node, &pod("x/a"), 80, transport));
        assert!(scene.reaches(&pod("x/a"), &pod("x/a"), 80, transport));
        assert!(!scene.reaches(&pod("x/a"), &pod("x/b"), 80, transport));
    }
}

#[test]
fn a_pod_cannot_speak_for_another() {
    let scene = Scene::new("");
    let (attacker, victim) =
        (scene.lab.pod("z", "a").expect("a pod"), scene.lab.pod("y", "b").expect("a pod"));
    let ears = RawPort::open(&victim.namespace, "eth0").expect("a port");
    let mouth = RawPort::open(&attacker.namespace, "eth0").expect("a port");
    let from = frame().from(attacker.pod_mac).to(attacker.host_mac);
    let [v4, v6] = [0, 1].map(|family| victim.addresses[family].to_string());
    let x_a = scene.lab.pod("x", "a").expect("a pod");
    let forged = [
        from.clone().ip(&x_a.addresses[0].to_string(), &v4).udp(1, 4444),
        from.clone().ip(&x_a.addresses[1].to_string(), &v6).udp(1, 4444),
        from.clone().ip("127.0.0.1", &v4).udp(1, 4444),
        from.clone()
            .from(MacAddr([2, 9, 9, 9, 9, 9]))
            .ip(&attacker.addresses[0].to_string(), &v4)
            .udp(1, 4444),
    ];
    let heard = |what: &str| {
        forged.iter().for_each(|forged| mouth.send(&forged.build()).expect("a sent frame"));
        let ours = |frame: &[u8]| Packet::parse(frame).is_ok_and(|packet| packet.key.dst.port == 4444);
        let mut count = 0;
        while ears.receive_where(Duration::from_millis(300), ours).expect(what).is_some() {
            count += 1;
        }
        count
    };
    let before = heard("without enforcement");
    assert!(before >= 2, "the kernel forwards forged packets: {before}");
    let mut agent = scene.agent();
    assert_eq!(heard("with enforcement"), 0);
    agent
        .wait_until("has not counted them", |figures| {
            figures["portcullis_drops_total{reason=\"spoofed_source\"}"] == forged.len() as u64
        })
        .expect("drops by name");
}

#[test]
fn echo_requests_are_judged_and_replies_follow() {
    let scene = Scene::new("");
    let _agent = scene.agent();
    let answered = |from: &str, to: &str, family: usize| {
        let (namespace, name) = from.split_once('/').expect("a pod");
        let from = scene.lab.pod(namespace, name).expect("a pod");
        let port = RawPort::open(&from.namespace, "eth0").expect("a port");
        let Place::Pod(to) = pod(to) else { unreachable!("a pod") };
        let to = scene.lab.pod(&to.namespace, &to.name).expect("a pod");
        let [src, dst] = [from, to].map(|pod| pod.addresses[family].to_string());
        let ping =
            frame().from(from.pod_mac).to(from.host_mac).ip(&src, &dst).ping(77).payload(b"knock").build();
        port.send(&ping).expect("a sent frame");
        let reply = |frame: &[u8]| {
            Packet::parse(frame).is_ok_and(|packet| packet.kind == Kind::IcmpEcho { request: false })
        };
        port.receive_where(TIMEOUT, reply).expect("a port").is_some()
    };
    for family in [0, 1] {
        assert!(answered("x/a", "x/b", family));
        assert!(answered("y/a", "x/b", family), "y/a is isolated for what comes in, not for replies");
        assert!(!answered("x/b", "y/a", family), "no rule of y/a speaks of ICMP");
    }
}

#[test]
fn two_workers_share_the_ports() {
    let scene = Scene::new("workers: 2\n");
    let _servers = scene.servers();
    let _agent = scene.agent();
    for (from, to) in [("x/a", "x/b"), ("x/b", "x/a"), ("x/a", "z/c"), ("x/b", "y/a")] {
        assert!(scene.reaches(&pod(from), &pod(to), 80, Transport::Tcp), "{from} -> {to}");
    }
    assert!(!scene.reaches(&pod("z/a"), &pod("y/a"), 80, Transport::Tcp));
    let address = scene.address(&pod("z/c"), Family::V4);
    let mut connection =
        Connection::open(&scene.lab, &pod("x/a"), address, 80, TIMEOUT).expect("a connection");
    let start = Instant::now();
    for _ in 0..20 {
        assert!(matches!(connection.exchange(TIMEOUT), Outcome::Reached(_)));
    }
    println!("20 exchanges across workers took {:?}", start.elapsed());
}
