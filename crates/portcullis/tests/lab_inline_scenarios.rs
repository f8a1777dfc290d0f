//! What becomes of connections by way of Services, in inline mode, scenario by scenario: st-16 to st-19 of the stateful
//! scenarios of the conformance data, and node ports. With rules of both kube-proxies, in both families. Needs root.

mod cluster_ips;
mod scene;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cluster_ips::{PORT, cluster_ip, service};
use lab::{Family, Host, Masquerade, Outcome, Place, Probe, RulesOf, Service, Transport, probe_all};
use scene::*;

/// How long an answer may take that should come, and how long one that should not is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(1);

/// Of Services that have one, at every address of the node.
const NODE_PORT: u16 = 30080;

/// A policy of namespace x on its pod a; `rest` is the rest of its `spec`.
fn x_a(rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: x}}\n\
         spec: {{podSelector: {{matchLabels: {{pod: a}}}}, {rest}}}\n"
    )
}

/// x/a may reach port 80 of namespace y by all transports.
const TO_Y: &str = "policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: \"y\"}}}], \
                    ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]}]";

/// One connection of a scenario: from whom, to which address of each family and which port, and who answers, if anybody.
type Row = (Place, fn(Family, &Scene) -> IpAddr, u16, Option<&'static str>);

/// Enforces `policy`, with these Services by rules of both kinds, and looks what becomes of these connections.
fn play(policy: &str, services: fn(&Scene) -> Vec<Service>, rows: &[Row]) {
    play_in(Masquerade::Hairpins, |_| (), policy, services, rows);
}

/// The same in a node that hides more, or is otherwise prepared.
fn play_in(
    masquerade: Masquerade,
    prepare: fn(&Scene),
    policy: &str,
    services: fn(&Scene) -> Vec<Service>,
    rows: &[Row],
) {
    for rules in RulesOf::ALL {
        let mut scene = cluster_ips::scene();
        let other_node = Host { name: "node-2".to_owned(), addresses: Vec::from(OTHER_NODE) };
        scene.lab.add_outside(vec![other_node]).expect("another node");
        scene.home.apply("policy.yaml", policy).expect("a manifest");
        let _servers = scene.servers();
        scene.lab.serve(&services(&scene), rules, masquerade).expect("rules");
        prepare(&scene);
        let _agent = scene.agent();
        let each =
            || Family::ALL.into_iter().flat_map(|family| Transport::ALL.map(|transport| (family, transport)));
        for (expected, patience) in [(true, PATIENCE), (false, SILENCE)] {
            let rows: Vec<&Row> = rows.iter().filter(|(.., who)| who.is_some() == expected).collect();
            let probes: Vec<Probe> = rows
                .iter()
                .flat_map(|(from, to, port, _)| {
                    let scene = &scene;
                    each().map(move |(family, transport)| {
                        let to = to(family, scene);
                        Probe { from: from.clone(), to, port: *port, transport }
                    })
                })
                .collect();
            let outcomes = probe_all(&scene.lab, &probes, patience).expect("probes");
            let rows = rows.iter().flat_map(|row| each().map(move |_| row));
            for (((.., who), probe), outcome) in rows.zip(&probes).zip(outcomes) {
                let expected = who.map_or(Outcome::TimedOut, |who| Outcome::Reached(who.to_owned()));
                assert_eq!(outcome, expected, "{rules:?}: {probe:?}");
            }
        }
    }
}

/// The addresses of another node.
const OTHER_NODE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 255, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd10, 0, 0xff, 0, 0, 0, 0, 2))];

fn first(family: Family, _: &Scene) -> IpAddr {
    cluster_ip(1, family)
}

fn second(family: Family, _: &Scene) -> IpAddr {
    cluster_ip(2, family)
}

fn third(family: Family, _: &Scene) -> IpAddr {
    cluster_ip(3, family)
}

fn node(family: Family, scene: &Scene) -> IpAddr {
    scene.address(&Place::Node, family)
}

/// A Service whose own port is that of the pod behind it.
fn on_80(scene: &Scene, number: u8, pod: &str) -> Vec<Service> {
    service(scene, number, &[pod], 80).into_iter().map(|service| Service { port: 80, ..service }).collect()
}

fn at_node_port(services: Vec<Service>, node_port: u16) -> Vec<Service> {
    let with = |service| Service { node_port: Some(node_port), ..service };
    services.into_iter().map(with).collect()
}

/// Services of y/b and z/a, which are here, and of z/c, which is elsewhere: [`TO_Y`] lets x/a reach the first.
fn of_three(scene: &Scene) -> Vec<Service> {
    [on_80(scene, 1, "y/b"), on_80(scene, 2, "z/c"), on_80(scene, 3, "z/a")].concat()
}

/// What becomes of connections to them.
fn fates_of_three() -> Vec<Row> {
    vec![
        (pod("x/a"), first, 80, Some("y/b")),
        (pod("x/a"), second, 80, None),
        (pod("x/a"), third, 80, None),
        (pod("x/b"), second, 80, Some("z/c")),
        (pod("x/b"), third, 80, Some("z/a")),
    ]
}

#[test]
fn st_16_a_pod_reaches_itself_through_its_service_however_isolated() {
    let services = |scene: &Scene| on_80(scene, 1, "x/a");
    play(
        &x_a("policyTypes: [Ingress, Egress]"),
        services,
        &[(pod("x/a"), first, 80, Some("x/a")), (pod("x/b"), first, 80, None)],
    );
}

#[test]
fn st_17_policy_sees_the_backend_and_not_the_cluster_ip() {
    play(&x_a(TO_Y), of_three, &fates_of_three());
}

#[test]
fn st_18_ports_in_a_policy_are_those_of_pods() {
    let services = |scene: &Scene| {
        let to_81 =
            service(scene, 2, &["y/b"], 81).into_iter().map(|service| Service { port: 80, ..service });
        [service(scene, 1, &["y/b"], 80), to_81.collect()].concat()
    };
    play(
        &x_a(TO_Y),
        services,
        &[
            (pod("x/a"), first, PORT, Some("y/b")),
            (pod("x/a"), second, 80, None),
            (pod("x/b"), second, 80, Some("y/b")),
        ],
    );
}

#[test]
fn st_19_a_client_behind_a_node_is_who_it_is_where_this_node_hides_it() {
    let from = "policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, \
                {ipBlock: {cidr: \"2001:db8:113::/48\"}}]}]";
    play(
        &x_a(from),
        |scene| at_node_port(on_80(scene, 1, "x/a"), NODE_PORT),
        &[
            // By this node, which knows whom it has hidden.
            (Place::outside("outside-3"), node, NODE_PORT, Some("x/a")),
            (Place::outside("outside-1"), node, NODE_PORT, None),
            // By another: all that is known is that node.
            (Place::outside("node-2"), |family, scene| scene.address(&pod("x/a"), family), 80, None),
            // A pod is who it is.
            (pod("x/b"), node, NODE_PORT, None),
        ],
    );
}

#[test]
fn pods_are_judged_by_way_of_node_ports_too() {
    let services = |scene: &Scene| {
        let each = [(1, "y/b"), (2, "z/c"), (3, "z/a")].into_iter().zip(NODE_PORT..);
        each.flat_map(|((number, pod), port)| at_node_port(on_80(scene, number, pod), port)).collect()
    };
    play(
        &x_a(TO_Y),
        services,
        &[
            (pod("x/a"), node, NODE_PORT, Some("y/b")),
            (pod("x/a"), node, NODE_PORT + 1, None),
            (pod("x/a"), node, NODE_PORT + 2, None),
            (pod("x/b"), node, NODE_PORT + 1, Some("z/c")),
            (pod("x/b"), node, NODE_PORT + 2, Some("z/a")),
            // Through the node, and not of it.
            (Place::outside("outside-1"), node, NODE_PORT + 1, Some("z/c")),
        ],
    );
}

#[test]
fn a_pod_is_who_it_is_under_an_address_that_is_not_even_the_nodes() {
    // All that pods send gets a source that no interface has.
    let pool = |scene: &Scene| {
        let rules = "nft -f - <<'END'\ntable inet pool {\n chain postrouting {\n  type nat hook postrouting priority 90\n  \
                     ip saddr 10.1.0.0/16 snat ip to 198.51.100.200\n  \
                     ip6 saddr fd10::/48 snat ip6 to 2001:db8:100::200\n }\n}\nEND\n";
        let output = scene.node(rules);
        assert!(output.status.success(), "{}", text(&output));
        let way_back = "ip route add 198.51.100.200 via 10.255.0.1 dev eth0 onlink && \
                        ip route add 2001:db8:100::200 via fe80::3 dev eth0";
        let output = scene.lab.outside().command("sh").args(["-c", way_back]).output().expect("sh runs");
        assert!(output.status.success(), "{}", text(&output));
    };
    let mut rows = fates_of_three();
    let of_y_b = |family: Family, scene: &Scene| scene.address(&pod("y/b"), family);
    let of_z_c = |family: Family, scene: &Scene| scene.address(&pod("z/c"), family);
    rows.extend([
        (pod("x/a"), of_y_b as fn(Family, &Scene) -> IpAddr, 80, Some("y/b")),
        (pod("x/a"), of_y_b, 81, None),
        (pod("x/a"), of_z_c, 80, None),
        (pod("x/b"), of_z_c, 80, Some("z/c")),
    ]);
    play_in(Masquerade::Hairpins, pool, &x_a(TO_Y), of_three, &rows);
}

#[test]
fn filters_of_others_on_the_ports_of_pods_hide_no_sender() {
    let filters = |scene: &Scene| {
        for pod in scene.lab.pods() {
            let interface = &pod.interface;
            // It writes a number of its own where ours have written whose packet that is.
            let line = format!(
                "tc qdisc add dev {interface} clsact && \
                 tc filter add dev {interface} ingress protocol all u32 match u32 0 0 classid 1:7"
            );
            let output = scene.node(&line);
            assert!(output.status.success(), "{}", text(&output));
        }
    };
    play_in(Masquerade::All, filters, &x_a(TO_Y), of_three, &fates_of_three());
}
