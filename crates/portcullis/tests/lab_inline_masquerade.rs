//! Who goes on under an address of the node, in inline mode: nobody gets another's rights by it. Needs root.

mod cluster_ips;
mod scene;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use lab::{Family, Masquerade, Place, RulesOf, Service};
use scene::*;

/// How long a datagram may take that should arrive, and how long one that should not is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(1);

const NODE_PORT: u16 = 30080;

/// A client, and who receives what the node port hands on.
struct Asked<'a> {
    scene: &'a Scene,
    family: Family,
    server: UdpSocket,
}

impl<'a> Asked<'a> {
    fn new(scene: &'a Scene, family: Family, server: &Place, port: u16) -> Self {
        let address = scene.address(server, family);
        Self { scene, family, server: bind(scene, server, address, port) }
    }

    /// Whether a datagram arrives that is sent from here under this address to the node port.
    fn arrives(&self, from: &Place, source: IpAddr, port: u16, patience: Duration) -> bool {
        let client = bind(self.scene, from, source, port);
        let node = self.scene.address(&Place::Node, self.family);
        client.send_to(b"here", (node, NODE_PORT)).expect("sent");
        self.server.set_read_timeout(Some(patience)).expect("a timeout");
        self.server.recv(&mut [0; 16]).is_ok()
    }
}

fn bind(scene: &Scene, place: &Place, address: IpAddr, port: u16) -> UdpSocket {
    let namespace = scene.lab.namespace(place).expect("a namespace");
    let mut bound = None;
    // An IPv6 address may still be looked for among its neighbours.
    eventually("a socket", PATIENCE, || {
        bound = namespace.run(|| UdpSocket::bind((address, port))).expect("entered").ok();
        bound.is_some()
    });
    bound.expect("bound")
}

#[test]
fn nobody_outside_gets_the_rights_of_a_pod_by_a_node_port() {
    let scene = cluster_ips::scene();
    let services = cluster_ips::service(&scene, 1, &["y/a"], 80);
    let services = services.into_iter().map(|service| Service { node_port: Some(NODE_PORT), ..service });
    scene.lab.serve(&services.collect::<Vec<_>>(), RulesOf::Nftables, Masquerade::Hairpins).expect("rules");
    let loose = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done";
    assert!(scene.node(loose).status.success());
    let outside = Place::outside("outside-1");
    let pretend = |family| {
        let (address, bits) =
            (scene.address(&pod("x/b"), family), if family == Family::V4 { 32 } else { 128 });
        let mut ip = scene.lab.namespace(&outside).expect("a namespace").command("ip");
        let added = ip.args(["addr", "add", &format!("{address}/{bits}"), "dev", "lo"]).output();
        assert!(added.expect("ip runs").status.success());
        address
    };
    let families = Family::ALL.map(|family| (Asked::new(&scene, family, &pod("y/a"), 80), pretend(family)));
    for (asked, pretended) in &families {
        assert!(asked.arrives(&outside, *pretended, 5000, PATIENCE), "without an agent");
    }
    let _agent = scene.agent();
    for (asked, pretended) in &families {
        let own = scene.address(&outside, asked.family);
        assert!(!asked.arrives(&outside, own, 5001, SILENCE), "no policy lets it");
        assert!(!asked.arrives(&outside, *pretended, 5001, SILENCE), "under the address of x/b");
        assert!(asked.arrives(&pod("x/b"), *pretended, 5001, PATIENCE), "x/b itself");
        assert!(!asked.arrives(&outside, *pretended, 5001, SILENCE), "on its connection");
    }
}

#[test]
fn who_gets_an_address_and_port_of_the_node_after_another_gets_none_of_its_rights() {
    /// y/a accepts one host outside.
    const FROM_3: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: "y"}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Ingress]
  ingress:
  - from: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: "2001:db8:113::/48"}}]
"#;
    let scene = cluster_ips::scene();
    scene.home.apply("policy.yaml", FROM_3).expect("a manifest");
    let backend = |family| scene.address(&pod("y/a"), family);
    // Whoever asks, goes on from one port of the node's, when nobody has it.
    let rules = format!(
        "table inet node-port {{
          chain prerouting {{
            type nat hook prerouting priority dstnat;
            meta nfproto ipv4 fib daddr type local udp dport {NODE_PORT} dnat ip to {v4}:80
            meta nfproto ipv6 fib daddr type local udp dport {NODE_PORT} dnat ip6 to [{v6}]:80
          }}
          chain postrouting {{
            type nat hook postrouting priority srcnat;
            ct status dnat udp dport 80 masquerade to :6000
          }}
        }}",
        v4 = backend(Family::V4),
        v6 = backend(Family::V6),
    );
    assert!(scene.node(&format!("nft '{rules}'")).status.success());
    let forget = "echo 3 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout";
    assert!(scene.node(forget).status.success());
    let _agent = scene.agent();
    let [friend, stranger] = ["outside-3", "outside-1"].map(Place::outside);
    for family in Family::ALL {
        let asked = Asked::new(&scene, family, &pod("y/a"), 80);
        let address = |place| scene.address(place, family);
        assert!(asked.arrives(&friend, address(&friend), 5000, PATIENCE), "who is allowed");
        let table = || text(&scene.node("cat /proc/net/nf_conntrack"));
        assert!(table().contains("dport=6000 "), "{}", table());
        let forgotten = || {
            let start = std::time::Instant::now();
            while table().contains("dport=6000 ") {
                assert!(start.elapsed() < PATIENCE, "not forgotten: {}", table());
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        forgotten();
        assert!(!asked.arrives(&stranger, address(&stranger), 5000, SILENCE), "who is not");
        assert!(table().contains("dport=6000 "), "it has got the port");
        forgotten();
        assert!(asked.arrives(&friend, address(&friend), 5000, PATIENCE), "again");
        forgotten();
    }
}
