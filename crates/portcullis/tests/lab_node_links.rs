//! Snapshot, events and solicitation against the real kernel, in namespaces of the tests' own. Needs root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod space;

use std::net::IpAddr;
use std::time::Duration;

use flow::{Address, MacAddr};
use portcullis::links::{NodeLinks, NodeRoute, NodeView, PodLink, wire};
use space::Space;

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn in_runtime<R>(work: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn snapshot(space: &Space) -> NodeView {
    space.run(|| in_runtime(async { NodeLinks::open().unwrap().snapshot().await.unwrap() }))
}

/// A node with an uplink to a router in a namespace of its own.
fn node_and_router() -> (Space, Space) {
    let (node, router) = (Space::new(), Space::new());
    node.sh(&format!(
        "ip link add up0 address 02:00:00:00:00:01 type veth peer name far0 address 02:00:00:00:00:02 netns {}
         ip addr add 192.0.2.2/24 dev up0
         ip addr add 2001:db8::2/64 dev up0 nodad
         ip link set up0 mtu 1400 up",
        router.thread()
    ));
    router.sh("ip addr add 192.0.2.1/24 dev far0
         ip addr add 2001:db8::1/64 dev far0 nodad
         ip link set far0 up");
    (node, router)
}

#[test]
fn a_snapshot_holds_what_ip_configured() {
    let (node, _router) = node_and_router();
    node.sh("ip route add default via 192.0.2.1 metric 200
         ip route add default via 192.0.2.9 metric 100
         ip route add 203.0.113.0/24 via 192.0.2.7
         ip route add blackhole 198.51.100.0/24
         ip route add 10.9.0.0/16 via 192.0.2.1 table 1000
         ip route add default via 2001:db8::1
         ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0
         ip link add br0 address 02:00:00:00:00:0b type bridge
         ip link add pod0 type veth peer name eth0 && ip link set pod0 master br0");
    let view = snapshot(&node);
    let up = view.interfaces["up0"];
    assert_eq!((up.mac, up.mtu, up.up, up.controller), (MacAddr([2, 0, 0, 0, 0, 1]), 1400, true, None));
    assert_eq!(view.interfaces["pod0"].controller, Some(view.interfaces["br0"].index));
    assert!(!view.interfaces["pod0"].up);

    let own = view.node_addresses(&[]);
    assert_eq!(own, [ip("192.0.2.2"), ip("2001:db8::2")].into());
    assert!(view.addresses.contains(&(view.interfaces["lo"].index, ip("127.0.0.1"))));

    let route = |network: &str, length, via: &str| NodeRoute {
        network: ip(network),
        length,
        index: up.index,
        via: Some(ip(via)),
    };
    let v4: Vec<_> = view.routes.iter().filter(|r| r.network.is_v4() && r.via.is_some()).copied().collect();
    assert_eq!(
        v4,
        [
            route("203.0.113.0", 24, "192.0.2.7"),
            route("0.0.0.0", 0, "192.0.2.9"),
            route("0.0.0.0", 0, "192.0.2.1"),
        ],
        "the lower metric first; no other table, no blackhole"
    );
    assert!(view.routes.contains(&route("::", 0, "2001:db8::1")));
    assert!(view.routes.contains(&NodeRoute {
        network: ip("192.0.2.0"),
        length: 24,
        index: up.index,
        via: None
    }));

    let wiring = wire(&view, &[], &["up0".parse().unwrap()]);
    let hop = wiring.next_hop(ip("8.8.8.8")).unwrap();
    assert_eq!(hop.mac, MacAddr([2, 0, 0, 0, 0, 9]));
}

#[test]
fn a_solicited_neighbour_resolves_and_tells() {
    let (node, _router) = node_and_router();
    node.run(|| {
        in_runtime(async {
            let mut changes = NodeLinks::watch().unwrap();
            let links = NodeLinks::open().unwrap();
            let view = links.snapshot().await.unwrap();
            let index = view.interfaces["up0"].index;
            for address in [ip("192.0.2.1"), ip("2001:db8::1")] {
                assert!(!view.neighbours.contains_key(&(index, address)), "{address} before anybody asked");
                links.solicit(index, address).await.unwrap();
                let resolved = async {
                    while !links.snapshot().await.unwrap().neighbours.contains_key(&(index, address)) {
                        changes.next().await.unwrap();
                    }
                };
                tokio::time::timeout(Duration::from_secs(5), resolved)
                    .await
                    .expect("an answer tells of itself");
                // Asking again for what is known is no error and forgets nothing.
                links.solicit(index, address).await.unwrap();
                let view = links.snapshot().await.unwrap();
                assert_eq!(view.neighbours[&(index, address)], MacAddr([2, 0, 0, 0, 0, 2]));
            }
            let pod =
                PodLink { interface: "up0".parse().unwrap(), mac: None, addresses: vec![ip("192.0.2.1")] };
            assert_eq!(links.snapshot().await.unwrap().mac_of(&pod), Some(MacAddr([2, 0, 0, 0, 0, 2])));
            assert!(links.solicit(9999, ip("192.0.2.1")).await.is_err(), "no such interface");
        });
    });
}

#[test]
fn every_kind_of_change_is_told_once_it_settles() {
    let (node, _router) = node_and_router();
    let commands = [
        "ip link add pod0 type veth peer name pod1 && ip link set pod0 addrgenmode none",
        "ip link set pod0 up",
        "ip addr add 10.0.0.1/24 dev pod0",
        "ip route add 10.5.0.0/16 via 192.0.2.7",
        "ip -6 route add 2001:db8:5::/48 via 2001:db8::1",
        "ip neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev up0",
        "ip neigh del 192.0.2.50 dev up0",
        "ip addr del 10.0.0.1/24 dev pod0",
        "ip link del pod0",
    ];
    for command in commands {
        node.run(move || {
            in_runtime(async move {
                let mut changes = NodeLinks::watch().unwrap();
                let run = tokio::task::spawn_blocking({
                    let command = command.to_owned();
                    // A blocking thread starts in the namespace of the thread that starts it.
                    move || std::process::Command::new("sh").args(["-ec", &command]).status().unwrap()
                });
                let told = tokio::time::timeout(Duration::from_secs(5), changes.next()).await;
                assert_eq!(told, Ok(Some(())), "{command}");
                assert!(run.await.unwrap().success(), "{command}");
            });
        });
    }
    node.run(|| {
        in_runtime(async {
            let mut changes = NodeLinks::watch().unwrap();
            let quiet = tokio::time::timeout(Duration::from_millis(300), changes.next()).await;
            assert!(quiet.is_err(), "nothing happens, nothing is told");
        });
    });
}
