//! Through the kernel alone everybody in the lab reaches everybody else. Needs root.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::{
    Connection, Error, Family, Host, Lab, Mark, Matrix, Outcome, Place, Probe, Servers, Topology, Transport,
    probe, probe_all,
};

const PORT: u16 = 80;
const TIMEOUT: Duration = Duration::from_secs(1);

/// Every question that anybody may ask anybody, over everything.
fn all_questions(lab: &Lab, from: &[Place], to: &[Place]) -> Vec<(Place, Probe)> {
    let mut questions = Vec::new();
    for from in from {
        for to in to {
            for family in Family::ALL {
                for transport in Transport::ALL {
                    let address = lab.address(to, family).expect("an address of each family");
                    let probe = Probe { from: from.clone(), to: address, port: PORT, transport };
                    questions.push((to.clone(), probe));
                }
            }
        }
    }
    questions
}

fn ask(lab: &Lab, questions: &[(Place, Probe)]) -> Vec<Outcome> {
    let probes: Vec<_> = questions.iter().map(|(_, probe)| probe.clone()).collect();
    probe_all(lab, &probes, TIMEOUT).expect("sockets for all probes")
}

#[test]
fn every_pair_reaches_each_other_over_every_transport_and_both_families() {
    let begin = Instant::now();
    let lab = Lab::up(&Topology::nine(Lab::unique())).unwrap();
    let up = begin.elapsed();
    let places = lab.places();
    assert_eq!(places.len(), 9 + 4 + 1);
    let _servers = Servers::start(&lab, &[PORT]).unwrap();

    let pods = &places[..9];
    let questions = all_questions(&lab, pods, pods);
    let begin = Instant::now();
    let outcomes = ask(&lab, &questions);
    let nine_by_nine = begin.elapsed();
    assert_eq!(outcomes.len(), 9 * 9 * 6);

    let everybody = all_questions(&lab, &places, &places);
    let begin = Instant::now();
    let mut matrix = Matrix::new(places.clone(), places.clone());
    for ((to, probe), outcome) in everybody.iter().zip(ask(&lab, &everybody)) {
        assert!(matrix.note(&probe.from, to, true, &outcome), "{probe:?}: {outcome}");
    }
    let all = begin.elapsed();
    assert_eq!(matrix.totals(), (14 * 14 * 6, 0));
    for ((to, probe), outcome) in questions.iter().zip(outcomes) {
        assert!(outcome.reached(to), "{probe:?}: {outcome}");
    }

    let begin = Instant::now();
    lab.down().unwrap();
    let down = begin.elapsed();
    println!("up {up:?}, down {down:?}, 9x9 over everything {nine_by_nine:?}, 14x14 {all:?}\n{matrix}");
}

#[test]
fn sctp_is_never_taken_for_another_protocol() {
    let lab = Lab::up(&Topology::nine(Lab::unique())).unwrap();
    let (a, b) = (Place::pod("x", "a"), Place::pod("y", "b"));
    let _servers = Servers::start(&lab, &[PORT]).unwrap();
    for denied in Transport::ALL {
        let number = match denied {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        };
        let rules = format!(
            "add table inet t; flush table inet t; add chain inet t f {{ type filter hook forward priority 0; }}; \
             add rule inet t f meta l4proto {number} drop"
        );
        assert!(lab.node().command("nft").arg(rules).status().unwrap().success());
        for (transport, family) in Transport::ALL.into_iter().flat_map(|t| Family::ALL.map(|f| (t, f))) {
            let to = lab.address(&b, family).unwrap();
            let outcome = probe(&lab, &a, to, PORT, transport, Duration::from_millis(400)).unwrap();
            assert_eq!(outcome.reached(&b), transport != denied, "{transport} {family}, {denied} denied");
        }
    }
}

#[test]
fn what_does_not_answer_is_told_apart() {
    let lab = Lab::up(&Topology::nine(Lab::unique())).unwrap();
    let (a, b, c) = (Place::pod("x", "a"), Place::pod("x", "b"), Place::pod("x", "c"));
    let _servers = Servers::start_at(&lab, std::slice::from_ref(&b), &[PORT]).unwrap();
    let address = |place: &Place, family| lab.address(place, family).unwrap();

    // The node drops what goes to x/c, as the product would, and rejects what goes to y/a.
    let rules = "add table inet t; add chain inet t f { type filter hook forward priority 0; }; \
                 add rule inet t f ip daddr 10.1.1.3 drop; add rule inet t f ip6 daddr fd10:1::3 drop; \
                 add rule inet t f ip daddr 10.1.2.1 reject with icmpx type host-unreachable; \
                 add rule inet t f ip6 daddr fd10:2::1 reject with icmpx type host-unreachable";
    assert!(lab.node().command("nft").arg(rules).status().unwrap().success());

    for family in Family::ALL {
        for transport in Transport::ALL {
            let ask = |to: IpAddr, port, timeout| {
                let begin = Instant::now();
                let outcome = probe(&lab, &a, to, port, transport, timeout).unwrap();
                (outcome, begin.elapsed())
            };
            let case = format!("{transport} {family}");
            let (outcome, _) = ask(address(&b, family), PORT, TIMEOUT);
            assert_eq!(outcome, Outcome::Reached("x/b".to_owned()), "{case}");
            assert_eq!(ask(address(&b, family), PORT + 1, TIMEOUT).0, Outcome::Refused, "{case}");

            let timeout = Duration::from_millis(150);
            let (outcome, took) = ask(address(&c, family), PORT, timeout);
            assert_eq!(outcome, Outcome::TimedOut, "{case}");
            assert!(took >= timeout, "{case}: {took:?}");

            let rejected = address(&Place::pod("y", "a"), family);
            assert_eq!(ask(rejected, PORT, TIMEOUT).0, Outcome::Unreachable, "{case}");
        }
    }
}

#[test]
fn hundreds_of_denied_probes_cost_one_timeout() {
    let lab = Lab::up(&Topology::nine(Lab::unique())).unwrap();
    let _servers = Servers::start(&lab, &[PORT]).unwrap();
    let rules = "add table inet t; add chain inet t f { type filter hook forward priority 0; policy drop; }";
    assert!(lab.node().command("nft").arg(rules).status().unwrap().success());
    let pods = lab.places()[..9].to_vec();
    let questions = all_questions(&lab, &pods, &pods);
    let probes: Vec<_> = questions.iter().map(|(_, probe)| probe.clone()).collect();
    let begin = Instant::now();
    let outcomes = probe_all(&lab, &probes, Duration::from_millis(500)).unwrap();
    let took = begin.elapsed();
    let mut matrix = Matrix::new(pods.clone(), pods);
    for ((to, probe), outcome) in questions.iter().zip(&outcomes) {
        // A pod reaches itself without the node.
        assert!(matrix.note(&probe.from, to, probe.from == *to, outcome), "{probe:?}: {outcome}");
    }
    println!("{} denied of {}: {took:?}\n{matrix}", 8 * 9 * 6, probes.len());
    assert_eq!(matrix.mark(&Place::pod("x", "a"), &Place::pod("z", "c")), Mark::Denied);
    // One after the other they would take more than three minutes.
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn a_connection_that_is_cut_says_so() {
    let lab = Lab::up(&Topology::nine(Lab::unique())).unwrap();
    let (a, b) = (Place::pod("x", "a"), Place::pod("y", "b"));
    let servers = Servers::start_at(&lab, std::slice::from_ref(&b), &[PORT]).unwrap();
    let address = lab.address(&b, Family::V6).unwrap();
    let mut connection = Connection::open(&lab, &a, address, PORT, TIMEOUT).unwrap();
    assert!(connection.exchange(TIMEOUT).reached(&b));

    let nft = |rules: &str| assert!(lab.node().command("nft").arg(rules).status().unwrap().success());
    nft("add table inet t; add chain inet t f { type filter hook forward priority 0; policy drop; }");
    assert_eq!(connection.exchange(Duration::from_millis(200)), Outcome::TimedOut);
    nft("delete table inet t");
    assert!(connection.exchange(Duration::from_secs(3)).reached(&b), "the same connection goes on");

    drop(servers);
    assert_eq!(connection.exchange(TIMEOUT), Outcome::Refused);
    let error = Connection::open(&lab, &a, address, PORT, TIMEOUT).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn pods_of_other_nodes_are_outside() {
    let mut topology = Topology::nine(Lab::unique());
    topology.pods[8].node = "node-2".to_owned();
    let lab = Lab::up(&topology).unwrap();
    let (near, far) = (Place::pod("x", "a"), Place::pod("z", "c"));
    assert_eq!(lab.pods().len(), 8);
    assert_eq!(lab.namespace(&far).unwrap().name(), lab.outside().name());
    let _servers = Servers::start(&lab, &[PORT]).unwrap();
    for ((to, probe), outcome) in all_questions(&lab, &[near.clone(), far.clone()], &[near, far])
        .iter()
        .map(|question| (question, ask(&lab, std::slice::from_ref(question)).swap_remove(0)))
    {
        assert!(outcome.reached(to), "{probe:?}: {outcome}");
    }
}

#[test]
fn hosts_that_come_later_are_reached_like_the_others() {
    let mut lab = Lab::up(&Topology::nine(Lab::unique())).unwrap();
    let (pod, late) = (Place::pod("x", "a"), Place::outside("late"));
    let addresses = vec![IpAddr::from([192, 0, 2, 0]), IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, 0, 9])];
    let host = Host { name: "late".to_owned(), addresses };
    lab.add_outside(vec![host.clone()]).unwrap();
    assert!(matches!(lab.add_outside(vec![host]), Err(Error::Topology(_))), "twice the same");
    let _servers = Servers::start(&lab, &[PORT]).unwrap();
    let places = [pod, late];
    let questions = all_questions(&lab, &places, &places);
    for ((to, probe), outcome) in questions.iter().zip(ask(&lab, &questions)) {
        assert!(outcome.reached(to), "{probe:?}: {outcome}");
    }
}
