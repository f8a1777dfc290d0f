//! What a connection means, packet by packet, on real links. Needs root.
//!
//! The engine's own tests (dataplane/engine/tests/stateful_scenarios.rs) hold these tables and more, in memory: those
//! about time, full tables, pods that come, go or share an address, and packets between two versions of the policy. Here
//! run those that a link, the XDP program, or a pod's kernel could make different: openings and answers, policies that
//! change under a connection, ICMP errors, echo, fragments, extension headers, protocols without ports, groups, borrowed
//! addresses; and, with real sockets, the pod's own node. A restart is in lab_agent_faults.rs, neighbour discovery and
//! forged answers in lab_fault_spoof.rs. Services are absent: router mode has no translation of addresses.

mod scene;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use lab::{Family, Outcome, Place, RawPort, Transport};
use portcullis::lab_agent::LabAgent;
use scene::*;
use testkit::frames::{DESTINATION_OPTIONS, FrameBuilder, HOP_BY_HOP, frame};

/// How long a packet that should arrive may take, and how long one that should not is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_millis(250);

const PASSES: bool = true;
const DROPS: bool = false;

/// A policy of namespace x on its pod a; `rest` is the rest of its `spec`.
fn x_a(rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: x}}\n\
         spec: {{podSelector: {{matchLabels: {{pod: a}}}}, {rest}}}\n"
    )
}

const FROM_Y: &str =
    "ingress: [{from: [{namespaceSelector: {matchLabels: {ns: \"y\"}}}], ports: [{port: 80}]}]";

/// A lab whose pods say nothing by themselves: their kernels drop what they get, so that no reset of theirs ends what
/// a test has opened by hand.
struct Stage {
    scene: Scene,
    agent: LabAgent,
    ports: HashMap<String, RawPort>,
    number: Cell<u64>,
    dropped: Cell<u64>,
}

impl Stage {
    fn new(policy: Option<&str>) -> Self {
        // No segment in mid-stream opens a connection of before the start.
        let scene = Scene::new("recovery_window: 0s\n");
        set_policy(&scene, policy);
        let quiet = "nft -f - <<'END'\ntable inet quiet {\n chain input {\n  type filter hook input priority 0; policy drop;\n  \
                     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n }\n}\nEND\n";
        let mut ports = HashMap::new();
        for link in scene.lab.pods() {
            let output = link.namespace.command("sh").args(["-c", quiet]).output().expect("sh runs");
            assert!(output.status.success(), "{}", text(&output));
            let port = RawPort::open(&link.namespace, "eth0").expect("a raw socket");
            ports.insert(link.name.to_string(), port);
        }
        let agent = scene.agent();
        Self { scene, agent, ports, number: Cell::new(0), dropped: Cell::new(0) }
    }

    /// Replaces the policy under the running agent.
    fn publish(&mut self, policy: Option<&str>) {
        self.change(|scene| set_policy(scene, policy));
    }

    fn change(&mut self, change: impl FnOnce(&Scene)) {
        let before = self.agent.figures().expect("figures")["portcullis_table_generation"];
        change(&self.scene);
        let newer = |now: &HashMap<String, u64>| now["portcullis_table_generation"] > before;
        self.agent.wait_until("has no new table", newer).expect("a table");
    }

    /// The frame that a sentence speaks of, and who sends it and who should get it.
    ///
    /// `[v6 ]FROM[@WHOSE_LINK] > TO PROTOCOL[ FLAGS]`, as in the engine's scenarios.
    fn frame(&self, sentence: &str) -> (String, String, FrameBuilder) {
        let (family, words) = match sentence.strip_prefix("v6 ") {
            Some(rest) => (Family::V6, rest),
            None => (Family::V4, sentence),
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        let [from, ">", to, protocol, flags @ ..] = &*words else { panic!("{sentence}") };
        let (from, whose) = from.split_once('@').map_or((*from, None), |(from, whose)| (from, Some(whose)));
        let end = |text: &str| {
            let (name, port) = text.split_once(':').unwrap_or((text, "0"));
            let of_pod = name.contains('/').then(|| self.scene.address(&pod(name), family).to_string());
            let address = of_pod.unwrap_or_else(|| name.to_owned());
            (name.to_owned(), address, port.parse().expect("a port"))
        };
        let ((src_name, src, src_port), (dst_name, dst, dst_port)) = (end(from), end(to));
        let sender = whose.unwrap_or(&src_name).to_owned();
        let link = self.scene.lab.pods().iter().find(|link| link.name.to_string() == sender).expect("a pod");
        let frame = frame().from(link.pod_mac).to(link.host_mac).ip(&src, &dst);
        let frame = match *protocol {
            "TCP" => frame.tcp(src_port, dst_port),
            "UDP" => frame.udp(src_port, dst_port),
            "PING" => frame.ping(src_port),
            "PONG" => frame.pong(src_port),
            "GRE" => frame.protocol(47).payload(&[0; 8]),
            other => panic!("{other} in {sentence}"),
        };
        let flags = flags.iter().flat_map(|flags| flags.split(','));
        let frame = flags.fold(frame, |frame, flag| match flag {
            "SYN" => frame.syn(),
            "ACK" => frame.ack(),
            "RST" => frame.rst(),
            other => panic!("{other} in {sentence}"),
        });
        (sender, dst_name, frame)
    }

    /// A mark that no other packet of the test ends with.
    fn mark(&self) -> [u8; 8] {
        self.number.set(self.number.get() + 1);
        (0x7061_7373_0000_0000 | self.number.get()).to_be_bytes()
    }

    /// Plays a table of packets, one after the other.
    fn play<const N: usize>(&self, rows: [(&str, bool, &str); N]) {
        for (sentence, passes, why) in rows {
            let (from, to, frame) = self.frame(sentence);
            self.expect(&from, &to, frame, passes, &format!("{sentence}: {why}"));
        }
    }

    /// Sends a frame, which a mark makes unlike every other, and looks whether it reaches a pod.
    fn expect(&self, from: &str, to: &str, frame: FrameBuilder, passes: bool, what: &str) {
        let mark = self.mark();
        self.expect_frame(from, to, &frame.payload(&mark).build(), mark, passes, what);
    }

    fn expect_frame(&self, from: &str, to: &str, frame: &[u8], mark: [u8; 8], passes: bool, what: &str) {
        self.ports[from].send(frame).expect("the link is up");
        let patience = if passes { PATIENCE } else { SILENCE };
        let receive = |port: &RawPort| port.receive_where(patience, |frame| frame.ends_with(&mark));
        // A group has no link of its own.
        let arrived = self.ports.get(to).and_then(|port| receive(port).expect("a link"));
        assert_eq!(arrived.is_some(), passes, "{what}");
        self.dropped.set(self.dropped.get() + u64::from(!passes));
    }

    /// Every packet that should not arrive was dropped by the agent, and no other was.
    fn check_drops(mut self) {
        let expected = self.dropped.get();
        let drops = |now: &HashMap<String, u64>| -> u64 {
            let reasons = now.iter().filter(|(name, _)| name.starts_with("portcullis_drops_total"));
            // What pods' kernels say of themselves while the agent does not know them yet.
            let early = ["mac_unknown", "no_table", "neighbour_spoofed"];
            reasons
                .filter(|(name, _)| !early.iter().any(|early| name.contains(early)))
                .map(|(_, drops)| drops)
                .sum()
        };
        let what = format!("has not dropped just {expected} packets");
        self.agent.wait_until(&what, |now| drops(now) == expected).expect("figures");
    }
}

fn set_policy(scene: &Scene, policy: Option<&str>) {
    let set = match policy {
        Some(policy) => scene.home.apply("policy.yaml", policy).map(|_when| ()),
        None => fs::remove_file(scene.home.manifests().join("policy.yaml")),
    };
    set.expect("a manifest");
}

#[test]
fn answers_pass_and_openings_are_judged() {
    let mut stage = Stage::new(Some(&x_a(&format!("policyTypes: [Ingress, Egress], {FROM_Y}"))));
    stage.play([
        ("y/b:40000 > x/a:80 TCP SYN", PASSES, "ingress allows it"),
        ("x/a:80 > y/b:40000 TCP SYN,ACK", PASSES, "the answer leaves, though egress allows nothing"),
        ("y/b:40000 > x/a:80 TCP ACK", PASSES, "and goes on"),
        ("x/a:80 > y/b:40000 TCP ACK", PASSES, "in both directions"),
        ("x/a:41000 > y/b:80 TCP SYN", DROPS, "egress allows nothing"),
        ("x/a:80 > y/b:40000 TCP SYN", DROPS, "nor on the ports of a connection that it answers"),
        ("z/a:40000 > x/a:80 TCP SYN", DROPS, "z may not"),
        ("y/b:40000@z/a > x/a:80 TCP ACK", DROPS, "nor may it ride on the connection of y/b"),
        ("y/b > x/a GRE", DROPS, "the rule names a port"),
        ("y/b > z/a GRE", PASSES, "nobody isolates z/a"),
        ("x/a:5353 > 224.0.0.251:5353 UDP", DROPS, "groups are not forwarded"),
    ]);
    stage.publish(Some(&x_a(
        "policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 53, protocol: UDP}]}]",
    )));
    stage.play([
        ("y/b:40000 > x/a:53 UDP", PASSES, "a query"),
        ("y/b:40000 > x/a:53 UDP", PASSES, "and another of the same flow"),
        ("x/a:53 > y/b:40000 UDP", PASSES, "its answer"),
        ("x/a:53 > y/b:40001 UDP", DROPS, "nobody asked from this port"),
        ("x/a:53 > y/c:40000 UDP", DROPS, "nor from this address"),
    ]);
    stage.check_drops();
}

#[test]
fn a_segment_of_no_connection_opens_none() {
    let mut stage = Stage::new(Some(&x_a("policyTypes: [Ingress, Egress]")));
    let rows = [
        ("x/a:80 > y/b:40000 TCP SYN,ACK", DROPS, "an answer to nothing"),
        ("x/a:80 > y/b:40000 TCP ACK", DROPS, "data of nothing"),
        ("x/a:80 > y/b:40000 TCP RST", DROPS, "the end of nothing"),
        ("y/b:7 > x/a PONG", DROPS, "the echo of nothing"),
    ];
    stage.play(rows);
    stage.publish(None);
    stage.play(rows);
    stage.check_drops();
}

#[test]
fn a_connection_follows_the_policy() {
    let mut stage = Stage::new(None);
    stage.play([
        ("y/b:40000 > x/a:80 TCP SYN", PASSES, "nobody is isolated"),
        ("x/a:80 > y/b:40000 TCP SYN,ACK", PASSES, ""),
        ("y/b:40000 > x/a:80 TCP ACK", PASSES, ""),
        ("y/b:40000 > x/a:80 TCP ACK", PASSES, "the worker knows it by itself now"),
        ("x/a:50000 > y/b:80 TCP SYN", PASSES, "x/a opens one of its own"),
    ]);
    stage.publish(Some(&x_a("policyTypes: [Ingress]")));
    stage.play([
        ("y/b:40000 > x/a:80 TCP ACK", DROPS, "judged again, as the connection that it is"),
        ("x/a:80 > y/b:40000 TCP ACK", DROPS, "as a whole"),
        ("y/b:40001 > x/a:80 TCP SYN", DROPS, "a new one"),
        ("y/b:80 > x/a:50000 TCP SYN,ACK", PASSES, "x/a's own is judged in its own direction"),
        ("y/b:80 > x/a:50000 TCP SYN", DROPS, "an opening is judged as what it is"),
    ]);
    stage.publish(Some(&x_a(&format!("policyTypes: [Ingress], {FROM_Y}"))));
    stage.play([("y/b:40000 > x/a:80 TCP ACK", PASSES, "allowed again, it lives on")]);
    stage.change(|scene| {
        let mut topology = scene.lab.topology().clone();
        topology
            .namespaces
            .iter_mut()
            .filter(|namespace| namespace.name == "y")
            .for_each(|y| y.labels.clear());
        scene.home.apply("cluster.yaml", &topology.manifests()).expect("a manifest");
    });
    stage.play([
        ("y/b:40000 > x/a:80 TCP ACK", DROPS, "the namespace is not y's any more"),
        ("y/b:40002 > x/a:80 TCP SYN", DROPS, ""),
    ]);
    stage.check_drops();
}

#[test]
fn echoes_and_errors_belong_to_what_they_answer() {
    let stage = Stage::new(Some(&x_a("policyTypes: [Ingress]")));
    for v in ["", "v6 "] {
        stage.play([
            (&*format!("{v}y/b:7 > x/a PING"), DROPS, "isolation holds for every protocol"),
            (&*format!("{v}x/a:7 > y/b PING"), PASSES, "egress is open"),
            (&*format!("{v}y/b:7 > x/a PONG"), PASSES, "the answer"),
            (&*format!("{v}y/b:8 > x/a PONG"), DROPS, "to another question"),
            (&*format!("{v}x/a:40000 > y/b:80 TCP SYN"), PASSES, "x/a opens a connection"),
        ]);
        for (from, about, passes) in [
            ("y/b", "x/a:40000 > y/b:80 TCP", PASSES),
            ("y/b", "x/a:40000 > y/b:81 TCP", DROPS),
            ("y/b", "x/a:40000 > y/c:80 TCP", DROPS),
            ("z/a", "x/a:40000 > y/b:80 TCP", DROPS),
        ] {
            let quoted = stage.frame(&format!("{v}{about}")).2.syn().build();
            let (from, to, frame) = stage.frame(&format!("{v}{from} > x/a PING"));
            let error = frame.icmp_error(if v.is_empty() { 3 } else { 1 }, 1, &quoted);
            stage.expect(&from, &to, error, passes, &format!("{v}{from} about {about}"));
        }
    }
    stage.check_drops();
}

#[test]
fn headers_are_found_or_nothing_passes() {
    let both = "policyTypes: [Ingress], ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]";
    let stage = Stage::new(Some(&x_a(both)));
    for v in ["", "v6 "] {
        for (port, id, range, passes, why) in [
            (81, 1, 0..400, DROPS, "the first one of what is denied"),
            (81, 1, 400..808, DROPS, "and its second"),
            (80, 2, 400..808, DROPS, "a later one before its first"),
            (80, 3, 0..400, PASSES, "the first one of what is allowed"),
            (80, 3, 400..808, PASSES, "and its second"),
            (80, 4, 400..808, DROPS, "of another datagram"),
            (80, 5, 0..16, DROPS, "one too short for a header"),
            (80, 6, 0..400, PASSES, "a first one as it should be"),
            (80, 6, 8..808, DROPS, "a second that rewrites what is in it"),
        ] {
            let (from, to, datagram) = stage.frame(&format!("{v}y/b:40000 > x/a:{port} UDP"));
            let (mark, more) = (stage.mark(), range.end < 808);
            let piece = datagram.payload(&mark.repeat(100)).piece(id, range, more);
            stage.expect_frame(&from, &to, &piece, mark, passes, &format!("{v}{why}"));
        }
    }
    let (from, to, syn) = stage.frame("v6 y/b:40001 > x/a:80 TCP SYN");
    let options = syn.clone().extension(HOP_BY_HOP, &[]).extension(DESTINATION_OPTIONS, &[]);
    stage.expect(&from, &to, options, PASSES, "a chain in its order");
    let late = syn.clone().extension(DESTINATION_OPTIONS, &[]).extension(HOP_BY_HOP, &[]);
    stage.expect(&from, &to, late, DROPS, "hop-by-hop comes first or not at all");
    let many = (0..9).fold(syn, |syn, _| syn.extension(DESTINATION_OPTIONS, &[]));
    stage.expect(&from, &to, many, DROPS, "too many");
    stage.check_drops();
}

#[test]
fn only_the_pods_own_node_is_exempt() {
    let scene = Scene::new("");
    set_policy(&scene, Some(&x_a("policyTypes: [Ingress, Egress]")));
    let _servers = scene.servers();
    let outside = Place::outside(&scene.lab.topology().outside[0].name);
    let _agent = scene.agent();
    for family in Family::ALL {
        let reaches = |from: &Place, to: &Place| {
            let address = scene.address(to, family);
            let outcome =
                lab::probe(&scene.lab, from, address, 80, Transport::Tcp, TIMEOUT).expect("a probe");
            matches!(outcome, Outcome::Reached(_))
        };
        let isolated = pod("x/a");
        assert!(reaches(&Place::Node, &isolated), "{family}: policy never stands between a pod and its node");
        assert!(reaches(&isolated, &Place::Node), "{family}: in both directions");
        assert!(reaches(&isolated, &isolated), "{family}: a pod reaches itself");
        assert!(!reaches(&outside, &isolated), "{family}: a host outside is nobody special");
        assert!(!reaches(&isolated, &outside), "{family}");
        assert!(!reaches(&pod("y/b"), &isolated), "{family}");
    }
}
