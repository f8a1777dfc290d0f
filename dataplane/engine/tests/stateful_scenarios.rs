//! What a connection means, packet by packet: tables of packets and what becomes of each.
//!
//! Where the standard leaves it open, docs/semantics.md says what is chosen and why. Services are absent: router
//! mode has no translation of addresses.

mod scene;

use engine::events::Event;
use engine::wiring::PortId;
use flow::Verdict;
use policy::model::Phase;
use scene::*;
use testkit::cluster::{PolicyBuilder, namespaces, policy, rule};
use testkit::frames::{DESTINATION_OPTIONS, HOP_BY_HOP, arp_request, neighbour_solicitation};

/// x/a accepts TCP to port 80 from namespace y; what it sends is open.
fn x_a_accepts_y() -> PolicyBuilder {
    policy("x/a-accepts-y").subjects("pod=a").ingress([rule().with(namespaces("ns=y")).on("TCP/80")])
}

/// Nothing comes to x/a.
fn nothing_to_x_a() -> PolicyBuilder {
    policy("x/nothing-to-a").subjects("pod=a").ingress([])
}

/// Nothing comes to x/a, and nothing leaves it.
fn x_a_is_alone() -> PolicyBuilder {
    nothing_to_x_a().egress([])
}

#[test]
fn a_server_that_may_open_nothing_still_answers() {
    let mut scene = Scene::of(&with([x_a_accepts_y().egress([])]));
    scene.play([
        ("y/b:40000 > x/a:80 TCP SYN", Passes, "ingress allows it"),
        ("x/a:80 > y/b:40000 TCP SYN,ACK", Passes, "the answer belongs to the connection"),
        ("y/b:40000 > x/a:80 TCP ACK", Passes, "and goes on"),
        ("x/a:80 > y/b:40000 TCP ACK", Passes, "in both directions"),
        ("x/a:41000 > y/b:80 TCP SYN", Drops(DefaultDeny), "egress allows nothing"),
        (
            "x/a:80 > y/b:40000 TCP SYN",
            Drops(DefaultDeny),
            "nor on the ports of a connection that it answers",
        ),
    ]);
}

#[test]
fn the_same_without_a_handshake() {
    let dns = policy("x/dns").subjects("pod=a").ingress([rule().on("UDP/53")]).egress([]);
    let mut scene = Scene::of(&with([dns]));
    scene.play([
        ("y/b:40000 > x/a:53 UDP", Passes, "a query"),
        ("x/a:53 > y/b:40000 UDP", Passes, "its answer"),
        ("x/a:53 > y/b:40001 UDP", Drops(DefaultDeny), "nobody asked from this port"),
        ("x/a:53 > y/c:40000 UDP", Drops(DefaultDeny), "nor from this address"),
    ]);
    scene.now += 31_000;
    scene.play([("x/a:53 > y/b:40000 UDP", Passes, "answered, the exchange may pause")]);
    scene.now += 121_000;
    scene.play([("x/a:53 > y/b:40000 UDP", Drops(DefaultDeny), "but not for ever")]);
    scene.play([("y/b:40001 > x/a:53 UDP", Passes, "another query")]);
    scene.now += 31_000;
    scene.play([("x/a:53 > y/b:40001 UDP", Drops(DefaultDeny), "an answer as late as this is none")]);
}

#[test]
fn a_segment_of_no_connection_opens_none() {
    for cluster in [with([x_a_is_alone()]), with([])] {
        Scene::of(&cluster).play([
            ("x/a:80 > y/b:40000 TCP SYN,ACK", Drops(NoFlow), "an answer to nothing"),
            ("x/a:80 > y/b:40000 TCP ACK", Drops(NoFlow), "data of nothing"),
            ("x/a:80 > y/b:40000 TCP RST", Drops(NoFlow), "the end of nothing"),
            ("x/a:80 > y/b:40000 TCP SYN,FIN", Drops(NoFlow), "no opening, whatever it says"),
            ("y/b:7 > x/a PONG", Drops(NoFlow), "the echo of nothing"),
        ]);
    }
}

#[test]
fn two_datagrams_of_a_new_flow_share_its_verdict() {
    let dns = policy("x/dns").subjects("pod=a").egress([rule().on("UDP/53")]);
    let mut scene = Scene::of(&with([dns]));
    let (port, query) = scene.frame("x/a:40000 > y/b:53 UDP");
    assert_eq!(scene.fates(port, &[query.build(), query.build()]), [Passes, Passes]);
    assert_eq!(scene.shared.flows.len(), 1);
    scene.play([
        ("y/b:53 > x/a:40000 UDP", Passes, "the answer"),
        ("y/b:53 > x/a:40000 UDP", Passes, "to both"),
    ]);
}

#[test]
fn what_a_new_policy_denies_ends_at_once() {
    let mut scene = Scene::of(&with([]));
    scene.play([
        ("y/b:40000 > x/a:80 TCP SYN", Passes, "nobody is isolated"),
        ("x/a:80 > y/b:40000 TCP SYN,ACK", Passes, ""),
        ("y/b:40000 > x/a:80 TCP ACK", Passes, ""),
        ("y/b:40000 > x/a:80 TCP ACK", Passes, "the worker knows it by itself now"),
        ("y/c:40000 > z/a:80 UDP", Passes, "others talk, too"),
    ]);
    let judged = scene.worker.tally().judged;
    scene.publish(&with([nothing_to_x_a()]));
    scene.play([
        ("y/b:40000 > x/a:80 TCP ACK", Drops(DefaultDeny), "judged again, as the connection that it is"),
        ("x/a:80 > y/b:40000 TCP ACK", Drops(DefaultDeny), "as a whole"),
        ("y/b:40001 > x/a:80 TCP SYN", Drops(DefaultDeny), "a new one"),
    ]);
    assert_eq!(scene.worker.tally().judged, judged + 2);
    scene.play([("y/c:40000 > z/a:80 UDP", Passes, "this is not x/a's business")]);
    assert_eq!(scene.worker.tally().judged, judged + 2, "and nobody asked");
    scene.publish(&with([]));
    scene.play([("y/b:40000 > x/a:80 TCP ACK", Passes, "allowed again, it lives on")]);
}

#[test]
fn who_loses_the_label_loses_the_connection() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    scene.play([
        ("y/b:40000 > x/a:80 TCP SYN", Passes, "y may"),
        ("x/a:80 > y/b:40000 TCP SYN,ACK", Passes, ""),
    ]);
    let mut cluster = with([x_a_accepts_y()]);
    cluster.namespaces.iter_mut().filter(|namespace| &*namespace.name == "y").for_each(|y| y.labels.clear());
    scene.publish(&cluster);
    scene.play([
        ("y/b:40000 > x/a:80 TCP ACK", Drops(DefaultDeny), "the namespace is not y's any more"),
        ("y/b:40001 > x/a:80 TCP SYN", Drops(DefaultDeny), ""),
    ]);
}

#[test]
fn answers_follow_their_connection_through_a_change() {
    let mut scene = Scene::of(&with([]));
    scene.play([("x/a:40000 > y/b:80 TCP SYN", Passes, "x/a opens")]);
    scene.publish(&with([nothing_to_x_a()]));
    scene.play([
        ("y/b:80 > x/a:40000 TCP SYN,ACK", Passes, "judged as x/a's connection to y/b, not the other way"),
        ("y/b:80 > x/a:40000 TCP SYN", Drops(DefaultDeny), "an opening is judged as what it is"),
    ]);
}

#[test]
fn errors_ride_with_the_connection_that_they_quote() {
    let to_y = policy("x/to-y").subjects("pod=a").egress([rule().with(namespaces("ns=y")).on("TCP/80")]);
    for v in ["", "v6 "] {
        let mut scene = Scene::of(&with([to_y.clone()]));
        let error = |scene: &Scene, from: &str, about: &str| {
            let quoted = scene.frame(&format!("{v}{about}")).1.syn().build();
            let (port, frame) = scene.frame(&format!("{v}{from} > x/a PING"));
            let (kind, code) = if v.is_empty() { (3, 4) } else { (2, 0) };
            (port, frame.icmp_error(kind, code, &quoted).build())
        };
        let (port, early) = error(&scene, "router", "x/a:40000 > y/b:80 TCP");
        assert_eq!(scene.fate(port, &early), Drops(IcmpUnrelated), "{v}before the connection");
        scene.play([(&*format!("{v}x/a:40000 > y/b:80 TCP SYN"), Passes, "egress allows it")]);
        for (from, about, fate) in [
            ("router", "x/a:40000 > y/b:80 TCP", Passes),
            ("y/b", "x/a:40000 > y/b:80 TCP", Passes),
            ("router", "x/a:40000 > y/b:9999 TCP", Drops(IcmpUnrelated)),
            ("router", "x/a:40000 > y/c:80 TCP", Drops(IcmpUnrelated)),
            ("z/a", "x/a:40000 > y/b:80 TCP", Drops(IcmpUnrelated)),
        ] {
            let (port, frame) = error(&scene, from, about);
            assert_eq!(scene.fate(port, &frame), fate, "{v}{from} about {about}");
        }
    }
}

#[test]
fn an_echo_is_judged_and_its_answer_is_not() {
    for v in ["", "v6 "] {
        let mut scene = Scene::of(&with([nothing_to_x_a()]));
        scene.play([
            (&*format!("{v}y/b:7 > x/a PING"), Drops(DefaultDeny), "isolation holds for every protocol"),
            (&*format!("{v}x/a:7 > y/b PING"), Passes, "egress is open"),
            (&*format!("{v}y/b:7 > x/a PONG"), Passes, "the answer"),
            (&*format!("{v}y/b:8 > x/a PONG"), Drops(NoFlow), "to another question"),
        ]);
    }
}

#[test]
fn neighbours_are_found_whatever_the_policy() {
    let mut scene = Scene::of(&with([x_a_is_alone()]));
    scene.wire(&PODS, false);
    // What the pod itself says of itself is never policy's; the XDP program has passed it to the kernel, and what
    // comes here tells us its MAC.
    let (v4, v6) = (PODS[0].1, PODS[0].2);
    for frame in [arp_request(pod_mac(0), v4, "192.0.2.1"), neighbour_solicitation(pod_mac(0), v6, "fe80::1")]
    {
        assert_eq!(scene.fate(0, &frame), Drops(MacUnknown));
        assert_eq!(scene.events(), [Event::MacSeen(PortId(0), pod_mac(0))]);
    }
    let forged = arp_request(pod_mac(0), PODS[1].1, "192.0.2.1");
    assert_eq!((scene.fate(0, &forged), scene.events()), (Drops(MacUnknown), vec![]));
    scene.wire(&PODS, true);
    assert_eq!(scene.fate(0, &forged), Drops(NeighbourSpoofed));
}

#[test]
fn only_the_pods_own_node_is_exempt_and_only_where_it_is() {
    let mut scene = Scene::of(&with([policy("x/alone").ingress([]).egress([])]));
    let probe = "192.0.2.1 -> 10.1.0.1 TCP/80";
    assert_eq!(scene.verdict(probe), Verdict::Allow, "policy never stands between a pod and its node");
    assert_eq!(scene.verdict("10.1.0.1 -> 192.0.2.1 TCP/10250"), Verdict::Allow, "in both directions");
    scene.play([
        ("node-a:50000 > x/a:80 TCP SYN", Drops(SpoofedSource), "the node is not behind the uplink"),
        ("x/a:50000 > node-a:10250 TCP SYN", Drops(NoRoute), "the kernel carries it; not denied, not ours"),
        ("node-b:50000 > x/a:80 TCP SYN", Drops(DefaultDeny), "another node is nobody special"),
    ]);
}

#[test]
fn a_pod_reaches_itself() {
    Scene::of(&with([x_a_is_alone()])).play([
        ("x/a:40000 > x/a:80 TCP SYN", Passes, "nothing stands between"),
        ("x/a:80 > x/a:40000 TCP SYN,ACK", Passes, ""),
        ("v6 x/a:40000 > x/a:80 UDP", Passes, ""),
    ]);
}

#[test]
fn fragments_follow_their_first() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    let datagram = |scene: &Scene, sentence: &str| {
        let (port, frame) = scene.frame(sentence);
        (port, frame.payload(&[7; 1000]))
    };
    let (port, udp) = datagram(&scene, "y/b:1 > x/a:80 UDP");
    let pieces = udp.fragments(1, 400);
    assert_eq!(scene.fate(port, &pieces[0]), Drops(DefaultDeny), "only TCP may come");
    assert_eq!(scene.fate(port, &pieces[1]), Drops(FragmentUnmatched), "its first one was not let in");
    let (port, tcp) = scene.frame("y/b:40000 > x/a:80 TCP SYN");
    let pieces = tcp.payload(&[7; 1000]).fragments(2, 400);
    assert_eq!(scene.fate(port, &pieces[1]), Drops(FragmentUnmatched), "before its first one");
    for piece in &pieces {
        assert_eq!(scene.fate(port, piece), Passes);
    }
    let (_, other) = datagram(&scene, "y/b:40001 > x/a:80 TCP");
    assert_eq!(
        scene.fate(port, &other.fragments(3, 400)[1]),
        Drops(FragmentUnmatched),
        "of another datagram"
    );
}

#[test]
fn fragments_that_hide_a_header_go_nowhere() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    let (port, syn) = scene.frame("y/b:40000 > x/a:80 TCP SYN");
    let syn = syn.payload(&[7; 200]);
    assert_eq!(scene.fate(port, &syn.piece(1, 0..8, true)), Drops(FragmentTiny), "ports, but no flags");
    assert_eq!(scene.fate(port, &syn.piece(2, 0..104, true)), Passes, "a first one as it should be");
    assert_eq!(
        scene.fate(port, &syn.piece(2, 8..112, true)),
        Drops(FragmentTiny),
        "a second that rewrites it"
    );
}

#[test]
fn extension_headers_are_walked_to_the_end_or_not_passed() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    let (port, syn) = scene.frame("v6 y/b:40000 > x/a:80 TCP SYN");
    let options = syn.clone().extension(HOP_BY_HOP, &[]).extension(DESTINATION_OPTIONS, &[]);
    assert_eq!(scene.fate(port, &options.build()), Passes);
    let late = syn.clone().extension(DESTINATION_OPTIONS, &[]).extension(HOP_BY_HOP, &[]);
    assert_eq!(
        scene.fate(port, &late.build()),
        Drops(Ipv6ExtInvalid),
        "hop-by-hop comes first or not at all"
    );
    let many = (0..9).fold(syn, |syn, _| syn.extension(DESTINATION_OPTIONS, &[]));
    assert_eq!(scene.fate(port, &many.build()), Drops(Ipv6ExtInvalid));
}

#[test]
fn a_protocol_without_ports_needs_a_rule_without_ports() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    scene.play([
        ("y/b > x/a GRE", Drops(DefaultDeny), "the rule names a port"),
        ("y/b > z/a GRE", Passes, "nobody isolates z/a"),
        ("x/a > y/b GRE", Passes, "nor what x/a sends"),
        ("y/b > x/a GRE", Passes, "which may be answered: a pair of addresses is one connection"),
    ]);
    let anything = policy("x/from-y").subjects("pod=a").ingress([rule().with(namespaces("ns=y"))]);
    Scene::of(&with([anything])).play([("y/b > x/a GRE", Passes, "a rule without ports")]);
}

#[test]
fn an_address_has_the_rights_of_who_has_it_now() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    scene.play([
        ("y/b:40000 > x/a:80 TCP SYN", Passes, "y/b's own connection"),
        ("x/a:80 > y/b:40000 TCP SYN,ACK", Passes, ""),
        ("y/b:40000 > x/a:80 TCP ACK", Passes, ""),
        ("y/b:40000 > x/a:80 TCP ACK", Passes, ""),
    ]);
    // y/b goes, and z/q starts behind another port with its addresses.
    let [x_a, y_b, y_c, z_a] = PODS;
    let z_q = ("z/q", y_b.1, y_b.2, SPARE);
    let mut cluster = pod(model().policy(x_a_accepts_y()), z_q).build();
    cluster.pods.retain(|pod| pod.name.to_string() != "y/b");
    scene.wire(&[x_a, y_c, z_a, z_q], true);
    scene.publish(&cluster);
    scene.play([
        ("z/q:40001 > x/a:80 TCP SYN", Drops(DefaultDeny), "a pod of z"),
        ("z/q:40000 > x/a:80 TCP ACK", Drops(DefaultDeny), "which inherits no connection"),
    ]);
}

#[test]
fn a_pod_that_has_ended_owns_nothing() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    let (job, run) = (("y/job", "10.9.9.9", "fd09::9", SPARE), ("z/run", "10.9.9.9", "fd09::9", SPARE));
    let cluster = pod(pod(model().policy(x_a_accepts_y()), job).phase(Phase::Ended), run).build();
    scene.wire(&[PODS[0], PODS[1], PODS[2], PODS[3], run], true);
    scene.publish(&cluster);
    scene.play([("z/run:40000 > x/a:80 TCP SYN", Drops(DefaultDeny), "the address is z/run's")]);
}

#[test]
fn a_terminating_pod_is_who_it_was() {
    // Nothing in the model says that a pod terminates: it runs until it has ended or is gone.
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    scene.publish(&with([x_a_accepts_y()]));
    scene.play([
        ("y/b:40000 > x/a:80 TCP SYN", Passes, "y/b, terminating, is still of y"),
        ("z/a:40000 > x/a:80 TCP SYN", Drops(DefaultDeny), "x/a, terminating, is still isolated"),
    ]);
}

#[test]
fn a_policy_that_is_gone_isolates_nobody() {
    let mut scene = Scene::of(&with([nothing_to_x_a()]));
    scene.play([("z/a:40000 > x/a:80 TCP SYN", Drops(DefaultDeny), "isolated")]);
    scene.publish(&with([]));
    scene.play([(
        "z/a:40000 > x/a:80 TCP SYN",
        Passes,
        "as the API says, also while the namespace terminates",
    )]);
}

#[test]
fn a_new_pod_is_closed_until_a_table_knows_it() {
    let new = ("x/new", "10.1.0.9", "fd01::9", SPARE);
    let alone = || policy("x/alone").ingress([]).egress([]);
    let mut scene = Scene::of(&with([alone()]));
    scene.wire(&[PODS[0], PODS[1], PODS[2], PODS[3], new], true);
    let rows =
        |fate| [("x/new:40000 > y/b:80 TCP SYN", fate, "out"), ("y/b:40000 > x/new:80 TCP SYN", fate, "in")];
    scene.play(rows(Drops(UnknownPod)));
    scene.publish(&pod(model().policy(alone()), new).build());
    scene.play(rows(Drops(DefaultDeny)));
    scene.publish(&pod(model(), new).build());
    scene.play(rows(Passes));
}

#[test]
fn a_new_peer_may_have_to_wait() {
    let new = ("y/new", "10.2.0.9", "fd02::9", SPARE);
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    scene.wire(&[PODS[0], PODS[1], PODS[2], PODS[3], new], true);
    scene.play([("y/new:40000 > x/a:80 TCP SYN", Drops(UnknownPod), "no table knows it yet")]);
    scene.publish(&pod(model().policy(x_a_accepts_y()), new).build());
    scene.play([("y/new:40000 > x/a:80 TCP SYN", Passes, "one of y")]);
}

#[test]
fn a_packet_sees_one_table_or_the_next() {
    let accepts = |who: &str| {
        with([policy("x/one").subjects("pod=a").ingress([rule().with(namespaces(who)).on("UDP/80")])])
    };
    let mut scene = Scene::of(&accepts("ns=y"));
    let (from_y, from_z) = (scene.frame("y/b:1 > x/a:80 UDP"), scene.frame("z/a:1 > x/a:80 UDP"));
    let (from_y, from_z) = ((from_y.0, vec![from_y.1.build(); 20]), (from_z.0, vec![from_z.1.build(); 20]));
    for round in 0..100 {
        let (first, second) = if round % 2 == 0 { (&from_y, &from_z) } else { (&from_z, &from_y) };
        assert_eq!(scene.fates(first.0, &first.1), [Passes; 20], "round {round}");
        assert_eq!(scene.fates(second.0, &second.1), [Drops(DefaultDeny); 20], "round {round}");
        scene.publish(&accepts(if round % 2 == 0 { "ns=z" } else { "ns=y" }));
    }
}

#[test]
fn groups_are_not_forwarded() {
    for cluster in [with([x_a_is_alone()]), with([])] {
        Scene::of(&cluster).play([
            ("x/a:5353 > 224.0.0.251:5353 UDP", Drops(Multicast), "to a group"),
            ("x/a:68 > 255.255.255.255:67 UDP", Drops(Multicast), "to everybody"),
            ("v6 x/a > ff02::fb GRE", Drops(Multicast), "in the other family"),
        ]);
    }
}

#[test]
fn nobody_borrows_an_address() {
    let mut scene = Scene::of(&with([x_a_accepts_y()]));
    scene.play([
        ("y/b:40000@z/a > x/a:80 TCP SYN", Drops(SpoofedSource), "y/b's address on z/a's port"),
        ("y/b:40000 > x/a:80 TCP SYN", Passes, "y/b itself"),
        ("x/a:80 > y/b:40000 TCP SYN,ACK", Passes, ""),
        ("y/b:40000 > x/a:80 TCP ACK", Passes, ""),
        ("y/b:40000 > x/a:80 TCP ACK", Passes, ""),
        ("y/b:40000@z/a > x/a:80 TCP ACK", Drops(SpoofedSource), "nor does z/a ride on its connection"),
        ("x/a:80@z/a > y/b:40001 TCP SYN,ACK", Drops(SpoofedSource), "an answer that prepares an attack"),
        ("y/b:40001 > x/a:81 TCP SYN", Drops(DefaultDeny), "prepares nothing"),
    ]);
    assert_eq!(scene.shared.flows.len(), 1);
}

#[test]
fn a_full_table_hurts_newcomers_only() {
    let mut scene = Scene::with_room(&with([x_a_accepts_y()]), 8);
    for port in 1..=4 {
        let rows = [
            (format!("y/b:{port} > x/a:80 TCP SYN"), Passes),
            (format!("x/a:80 > y/b:{port} TCP SYN,ACK"), Passes),
            (format!("y/b:{port} > x/a:80 TCP ACK"), Passes),
        ];
        rows.iter().for_each(|(sentence, fate)| scene.play([(sentence, *fate, "established")]));
    }
    scene.play([("y/b:5 > x/a:80 TCP SYN", Drops(FlowQuota), "y/b has its share of the table")]);
    for port in 1..=1000 {
        scene.play([(&*format!("y/c:{port} > x/a:80 TCP SYN"), Passes, "unanswered, the oldest makes room")]);
        assert!(scene.shared.flows.len() <= 8);
    }
    scene.play([
        ("x/a:80 > y/b:1 TCP ACK", Passes, "the established notice nothing"),
        ("y/b:4 > x/a:80 TCP ACK", Passes, ""),
        ("x/a:80 > y/c:1000 TCP SYN,ACK", Passes, "nor does the youngest of the flood"),
        ("z/a:1 > x/a:80 TCP SYN", Drops(DefaultDeny), "and what policy denies is denied"),
    ]);
}
