//! Services in the node of a scene, and what the node's kernel has made of connections to them.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::{Family, Lab, Outcome, Probe, Service, Topology, Transport, probe_all};

use crate::scene::{Scene, pod, text};

/// The settings of an agent that knows where services are.
pub(crate) const SETTINGS: &str = "mode: inline\nservices: [10.96.0.0/12, \"fd00:96::/108\"]\n";

/// The port of every Service here that has but one; its backends serve another.
pub(crate) const PORT: u16 = 8000;

/// How long an answer may take that is to come. Every round with an answer that is not to come takes as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The nine pods, of which z/b and z/c run on another node.
pub(crate) fn scene() -> Scene {
    scene_with("")
}

/// The same with further settings.
pub(crate) fn scene_with(settings: &str) -> Scene {
    let mut topology = Topology::nine(Lab::unique());
    for pod in &mut topology.pods {
        if ["z/b", "z/c"].contains(&pod.name.to_string().as_str()) {
            pod.node = "node-2".to_owned();
        }
    }
    let scene = Scene::of(&topology, &format!("{SETTINGS}{settings}"));
    // An association that goes no further than ours do is forgotten after 3 s.
    let remember = "echo 60 > /proc/sys/net/netfilter/nf_conntrack_sctp_timeout_cookie_wait";
    assert!(scene.node(remember).status.success());
    scene
}

/// The cluster IP with this number.
pub(crate) fn cluster_ip(number: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 96, 0, number]),
        Family::V6 => IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}

/// A Service of all transports and both families at [`PORT`], with a port of these pods behind it.
pub(crate) fn service(scene: &Scene, number: u8, pods: &[&str], port: u16) -> Vec<Service> {
    let mut services = Vec::new();
    for family in Family::ALL {
        let backends = pods.iter().map(|name| SocketAddr::new(scene.address(&pod(name), family), port));
        let backends: Vec<_> = backends.collect();
        services.extend(Transport::ALL.map(|transport| Service {
            address: cluster_ip(number, family),
            port: PORT,
            transport,
            backends: backends.clone(),
            node_port: None,
        }));
    }
    services
}

/// What came of connections to one Service, by the backend that each of them got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    /// Who was given connections.
    pub(crate) chosen: BTreeSet<String>,
    /// Who answered them all.
    pub(crate) answering: BTreeSet<String>,
    /// Who answered none.
    pub(crate) silent: BTreeSet<String>,
}

/// Opens so many connections of each transport and family from each of these clients to a Service, all at once, and says
/// what came of them, client by client: by what they got, and by what the node's connection tracking has seen. No other
/// connection may have gone from the client to the Service before.
pub(crate) fn fates(scene: &Scene, asked: &[(&str, u8)], times: usize) -> Vec<Vec<Fates>> {
    let kinds =
        || Family::ALL.into_iter().flat_map(|family| Transport::ALL.map(|transport| (family, transport)));
    let probes: Vec<Probe> = asked
        .iter()
        .flat_map(|(from, number)| kinds().map(move |kind| (from, number, kind)))
        .flat_map(|(from, number, (family, transport))| {
            let to = cluster_ip(*number, family);
            vec![Probe { from: pod(from), to, port: PORT, transport }; times]
        })
        .collect();
    let outcomes = probe_all(&scene.lab, &probes, PATIENCE).expect("probes");
    let fates = |asked: (&[Probe], &[Outcome])| {
        let Probe { from, to, transport, .. } = &asked.0[0];
        let answered: BTreeSet<String> = asked
            .1
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Reached(who) => Some(who.clone()),
                Outcome::TimedOut => None,
                other => panic!("{from} -> {to} {transport}: {other}"),
            })
            .collect();
        let seen = translated(scene, scene.address(from, Family::of(to)), *to);
        let fates = seen.get(&transport.protocol().0).map(|backends| fates_of(scene, backends));
        let fates = fates.unwrap_or_default();
        assert_eq!(answered, fates.answering, "{from} -> {to} {transport}: {fates:?}");
        fates
    };
    let each: Vec<Fates> = probes.chunks(times).zip(outcomes.chunks(times)).map(fates).collect();
    each.chunks(kinds().count()).map(<[Fates]>::to_vec).collect()
}

/// By protocol and backend: of how many connections an answer was seen, and of how many none.
type Translated = BTreeMap<u8, BTreeMap<IpAddr, (usize, usize)>>;

fn fates_of(scene: &Scene, backends: &BTreeMap<IpAddr, (usize, usize)>) -> Fates {
    let mut fates = Fates::default();
    for (backend, (answered, unanswered)) in backends {
        let place = scene
            .lab
            .places()
            .into_iter()
            .find(|place| scene.lab.topology().addresses(place).contains(backend));
        let who = place.expect("a place of the lab").to_string();
        fates.chosen.insert(who.clone());
        match (answered, unanswered) {
            (_, 0) => fates.answering.insert(who),
            (0, _) => fates.silent.insert(who),
            both => panic!("{who} answered some and not others: {both:?}"),
        };
    }
    fates
}

/// What the node's connection tracking knows of connections from here to a cluster IP.
fn translated(scene: &Scene, from: IpAddr, to: IpAddr) -> Translated {
    let table = text(&scene.node("cat /proc/net/nf_conntrack"));
    let mut seen = Translated::new();
    for line in table.lines() {
        let all = |key: &str| -> Vec<IpAddr> {
            let values = line.split_whitespace().filter_map(|word| word.strip_prefix(key));
            values.map(|value| value.parse().expect("an address")).collect()
        };
        // First the way that it was opened, then the way of answers.
        let (sources, targets) = (all("src="), all("dst="));
        if (sources[0], targets[0]) != (from, to) {
            continue;
        }
        let protocol = line.split_whitespace().nth(3).and_then(|word| word.parse().ok()).expect("a protocol");
        let counts = seen.entry(protocol).or_default().entry(sources[1]).or_default();
        match line.contains("[UNREPLIED]") {
            true => counts.1 += 1,
            false => counts.0 += 1,
        }
    }
    seen
}

/// Names of pods as a set.
pub(crate) fn pods<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
