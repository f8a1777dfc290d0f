//! What the kernel knows of this node's links, addresses, routes and neighbours, and what of it the engine needs.
//!
//! ```text
//! kernel --(links/netlink.rs: snapshot, watch, solicit)--> NodeView --(wire, missing)--> engine's Wiring
//! ```
//!
//! Only the main table's unicast routes are read. Rules of policy routing, routes by source, TOS or tunnel
//! encapsulation, and reject routes have no counterpart in the engine and are left out.

mod netlink;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use engine::wiring::{Port, PortId, Role, Route, Speaker, Wiring};
use flow::{Address, MacAddr};

use crate::interface::InterfaceName;

pub use netlink::{Changes, LinksError, NodeLinks};

/// The interface that holds the service addresses of kube-proxy's IPVS mode. They lead to pods, past the forward
/// hook: they must not pass for addresses of the node.
const SERVICE_ADDRESSES: &str = "kube-ipvs0";

/// One moment of a node's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The interfaces, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Every address with the index of its interface, in the kernel's order.
    pub addresses: Vec<(u32, Address)>,
    /// The unicast routes of the main table, the lowest metric first.
    pub routes: Vec<NodeRoute>,
    /// The neighbours whose MAC address the kernel knows, by interface and address.
    pub neighbours: HashMap<(u32, Address), MacAddr>,
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index: normally not used again while the namespace lives.
    pub index: u32,
    /// Its MAC address; zero where it has none.
    pub mac: MacAddr,
    /// The largest IP packet that it sends, in bytes.
    pub mtu: u32,
    /// Whether somebody has set it up.
    pub up: bool,
    /// Whether there is somebody at the other end.
    pub carrier: bool,
    /// The index of the bridge, bond or VRF that it belongs to.
    pub controller: Option<u32>,
}

/// A route. One with several next hops appears once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    /// The network.
    pub network: Address,
    /// The prefix length in the family's own bits.
    pub length: u8,
    /// The index of the interface that it leaves by.
    pub index: u32,
    /// The gateway; `None` for a network on the link itself. It may be of the other family.
    pub via: Option<Address>,
}

/// A pod and the interface that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The host side of its veth pair.
    pub interface: InterfaceName,
    /// Its MAC address, once it is given or pinned.
    pub mac: Option<MacAddr>,
    /// Its addresses, as its object has them.
    pub addresses: Vec<Address>,
}

impl NodeView {
    /// The index of the interface of this name.
    #[must_use]
    pub fn index(&self, interface: &InterfaceName) -> Option<u32> {
        self.interfaces.get(interface.as_str()).map(|interface| interface.index)
    }

    /// The addresses under which the node's own processes are reached through these pods' interfaces: all but
    /// the loopback's, those of services, and the link-local ones of links that are not the pods'.
    #[must_use]
    pub fn node_addresses(&self, pods: &[PodLink]) -> BTreeSet<Address> {
        let theirs: BTreeSet<u32> = pods.iter().filter_map(|pod| self.index(&pod.interface)).collect();
        let services = self.interfaces.get(SERVICE_ADDRESSES).map(|interface| interface.index);
        let reachable = |(index, address): &&(u32, Address)| match address.ip() {
            _ if Some(*index) == services => false,
            ip if ip.is_loopback() => false,
            IpAddr::V4(ip) => !ip.is_link_local() || theirs.contains(index),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() || theirs.contains(index),
        };
        self.addresses.iter().filter(reachable).map(|(_, address)| *address).collect()
    }

    /// As whom the node speaks through an interface: its first address there, or elsewhere if it has none of a wider
    /// scope there. A pod's gateway is often link-local, and says nothing to who reads a traceroute.
    #[must_use]
    pub fn speaker(&self, interface: &InterfaceName) -> Speaker {
        let here = self.index(interface);
        let services = self.interfaces.get(SERVICE_ADDRESSES).map(|interface| interface.index);
        let first = |v4: bool| {
            let candidates = self.addresses.iter().filter(|(index, address)| {
                address.is_v4() == v4 && Some(*index) != services && !address.ip().is_loopback()
            });
            let ranked = candidates.filter_map(|(index, address)| {
                let narrow = match address.ip() {
                    IpAddr::V4(ip) => ip.is_link_local(),
                    IpAddr::V6(ip) => ip.is_unicast_link_local(),
                };
                let elsewhere = Some(*index) != here;
                (!(narrow && elsewhere)).then_some(((narrow, elsewhere), *address))
            });
            ranked.min_by_key(|(rank, _)| *rank).map(|(_, address)| address)
        };
        Speaker { v4: first(true), v6: first(false) }
    }

    /// The MAC address under which the kernel reached the pod, where it did: what to pin for a pod whose MAC
    /// address nobody gave.
    #[must_use]
    pub fn mac_of(&self, pod: &PodLink) -> Option<MacAddr> {
        let index = self.index(&pod.interface)?;
        let known = pod.addresses.iter().filter_map(|address| self.neighbours.get(&(index, *address)));
        known.copied().find(|mac| mac.is_usable())
    }

    /// The gateways behind these uplinks, once each. The kernel does not use the neighbours that the engine sends
    /// to, so it forgets to look after them: soliciting these now and then keeps them true.
    #[must_use]
    pub fn gateways(&self, uplinks: &[InterfaceName]) -> BTreeSet<(u32, Address)> {
        let indices: Vec<u32> = uplinks.iter().filter_map(|uplink| self.index(uplink)).collect();
        let theirs = self.routes.iter().filter(|route| indices.contains(&route.index));
        theirs.filter_map(|route| Some((route.index, route.via?))).collect()
    }

    /// Whom to [`solicit`](NodeLinks::solicit): the pods whose MAC address is not known, and the gateways behind
    /// the uplinks that the kernel has not resolved.
    #[must_use]
    pub fn missing(&self, pods: &[PodLink], uplinks: &[InterfaceName]) -> BTreeSet<(u32, Address)> {
        let mut missing = self.gateways(uplinks);
        missing.retain(|neighbour| !self.neighbours.contains_key(neighbour));
        for pod in pods.iter().filter(|pod| pod.mac.is_none()) {
            if let Some(index) = self.index(&pod.interface) {
                missing.extend(pod.addresses.iter().map(|address| (index, *address)));
            }
        }
        missing
    }
}

/// The engine's picture: the pods in the order given, then the uplinks, numbered from zero.
///
/// An interface that is not there keeps its number and its pod's addresses, so that nothing for that pod takes
/// another way; it has no MAC address, and nothing leaves by it.
#[must_use]
pub fn wire(view: &NodeView, pods: &[PodLink], uplinks: &[InterfaceName]) -> Wiring {
    let port = |name: &InterfaceName, role: Role| {
        let interface = view.interfaces.get(name.as_str());
        let (mac, mtu) = interface.map_or((MacAddr([0; 6]), 0), |found| (found.mac, found.mtu));
        Port { name: name.to_string(), mac, mtu, speaker: view.speaker(name), role }
    };
    let pod_ports = pods.iter().map(|pod| {
        let mac = pod.mac.filter(|_| view.index(&pod.interface).is_some());
        port(&pod.interface, Role::Pod { mac, addresses: pod.addresses.clone() })
    });
    let ports: Vec<Port> = pod_ports.chain(uplinks.iter().map(|uplink| port(uplink, Role::Uplink))).collect();

    let by_index: HashMap<u32, PortId> = uplinks
        .iter()
        .enumerate()
        .filter_map(|(n, uplink)| {
            let id = u16::try_from(pods.len() + n).ok()?;
            Some((view.index(uplink)?, PortId(id)))
        })
        .collect();
    let routes = view.routes.iter().map(|route| {
        let port = by_index.get(&route.index).copied();
        Route { network: route.network, length: route.length, port, via: route.via }
    });
    let neighbours = view
        .neighbours
        .iter()
        .filter_map(|((index, address), mac)| Some(((*by_index.get(index)?, *address), *mac)));
    Wiring::new(ports, view.node_addresses(pods), routes, neighbours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::wiring::Hop;
    use flow::DropReason;

    fn ip(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    const fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn pod(interface: &str, mac: Option<MacAddr>, addresses: &[&str]) -> PodLink {
        PodLink { interface: name(interface), mac, addresses: addresses.iter().map(|a| ip(a)).collect() }
    }

    /// A node with two pods, an uplink, a second way out that is not ours, and service addresses.
    fn view() -> NodeView {
        let interfaces =
            ["lo", "pod-a", "pod-b", "up0", "other", "kube-ipvs0"].iter().zip(1..).map(|(name, index)| {
                let mac = if index == 1 { MacAddr([0; 6]) } else { mac(index as u8) };
                (
                    (*name).to_owned(),
                    Interface { index, mac, mtu: 1500, up: true, carrier: true, controller: None },
                )
            });
        let route = |network, length, index, via: Option<&str>| NodeRoute {
            network: ip(network),
            length,
            index,
            via: via.map(ip),
        };
        NodeView {
            interfaces: interfaces.collect(),
            addresses: [
                (1, "127.0.0.1"),
                (1, "::1"),
                (1, "203.0.113.9"),
                (2, "fe80::2"),
                (4, "192.0.2.2"),
                (4, "fe80::4"),
                (5, "198.51.100.2"),
                (6, "10.96.0.1"),
            ]
            .map(|(index, address)| (index, ip(address)))
            .into(),
            routes: vec![
                route("0.0.0.0", 0, 4, Some("192.0.2.1")),
                route("0.0.0.0", 0, 5, Some("198.51.100.1")),
                route("192.0.2.0", 24, 4, None),
                route("198.51.100.0", 24, 5, None),
                route("10.0.0.1", 32, 2, None),
                route("::", 0, 4, Some("fe80::1")),
            ],
            neighbours: [
                ((4, ip("192.0.2.1")), mac(0x41)),
                ((5, ip("198.51.100.1")), mac(0x51)),
                ((2, ip("10.0.0.1")), mac(0x21)),
            ]
            .into(),
        }
    }

    #[test]
    fn pods_come_first_and_uplinks_after_them() {
        let pods = [pod("pod-a", Some(mac(0x21)), &["10.0.0.1"]), pod("pod-b", None, &["10.0.0.2"])];
        let wiring = wire(&view(), &pods, &[name("up0")]);
        let names: Vec<&str> = wiring.ports().iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["pod-a", "pod-b", "up0"]);
        assert_eq!(wiring.ports()[0].mac, mac(2));
        assert_eq!(wiring.next_hop(ip("10.0.0.1")), Ok(Hop { port: PortId(0), mac: mac(0x21) }));
        assert_eq!(wiring.next_hop(ip("10.0.0.2")), Err(DropReason::NoNeighbour));
        assert_eq!(wiring.next_hop(ip("8.8.8.8")), Ok(Hop { port: PortId(2), mac: mac(0x41) }));
        assert_eq!(wiring.route(ip("192.0.2.77")), Some((PortId(2), ip("192.0.2.77"))));
        assert_eq!(wiring.route(ip("2001:db8::1")), Some((PortId(2), ip("fe80::1"))));
    }

    #[test]
    fn only_configured_uplinks_lead_out() {
        assert_eq!(wire(&view(), &[], &[]).route(ip("8.8.8.8")), None);
        let wiring = wire(&view(), &[], &[name("other")]);
        assert_eq!(wiring.next_hop(ip("8.8.8.8")), Ok(Hop { port: PortId(0), mac: mac(0x51) }));
        assert_eq!(wiring.next_hop(ip("2001:db8::1")), Err(DropReason::NoRoute));
    }

    #[test]
    fn an_interface_that_is_gone_keeps_its_number_and_closes() {
        let mut view = view();
        view.interfaces.remove("pod-a");
        let pods =
            [pod("pod-a", Some(mac(0x21)), &["10.0.0.1"]), pod("pod-b", Some(mac(0x31)), &["10.0.0.2"])];
        let wiring = wire(&view, &pods, &[name("up0")]);
        assert_eq!(wiring.next_hop(ip("10.0.0.1")), Err(DropReason::NoNeighbour));
        assert_eq!(wiring.next_hop(ip("10.0.0.2")), Ok(Hop { port: PortId(1), mac: mac(0x31) }));
        view.interfaces.remove("up0");
        assert_eq!(wire(&view, &pods, &[name("up0")]).next_hop(ip("8.8.8.8")), Err(DropReason::NoRoute));
    }

    #[test]
    fn the_nodes_addresses_are_those_that_reach_its_processes() {
        let view = view();
        let expected = |list: &[&str]| list.iter().map(|a| ip(a)).collect::<BTreeSet<_>>();
        let everywhere = ["203.0.113.9", "192.0.2.2", "198.51.100.2"];
        assert_eq!(view.node_addresses(&[]), expected(&everywhere));
        let with_pod = [&everywhere[..], &["fe80::2"]].concat();
        assert_eq!(view.node_addresses(&[pod("pod-a", None, &[])]), expected(&with_pod));
    }

    #[test]
    fn the_node_speaks_as_who_it_is_on_a_link_or_elsewhere() {
        let mut view = view();
        view.addresses.insert(0, (2, ip("169.254.1.1")));
        let speaker = |view: &NodeView, interface| view.speaker(&name(interface));
        let said = |v4: &str, v6: &str| Speaker { v4: Some(ip(v4)), v6: Some(ip(v6)) };
        assert_eq!(
            speaker(&view, "pod-a"),
            said("203.0.113.9", "fe80::2"),
            "the first that is not link-local"
        );
        assert_eq!(speaker(&view, "up0"), said("192.0.2.2", "fe80::4"), "its own");
        assert_eq!(speaker(&view, "pod-b"), Speaker { v4: Some(ip("203.0.113.9")), v6: None });
        view.addresses.retain(|(index, _)| *index == 2 || *index == 6);
        assert_eq!(speaker(&view, "pod-a"), said("169.254.1.1", "fe80::2"), "no service's address");
        assert_eq!(wire(&view, &[pod("pod-a", None, &[])], &[]).ports()[0].speaker, speaker(&view, "pod-a"));
    }

    #[test]
    fn a_pods_mac_is_what_answered_on_its_own_interface() {
        let view = view();
        assert_eq!(view.mac_of(&pod("pod-a", None, &["fd00::1", "10.0.0.1"])), Some(mac(0x21)));
        assert_eq!(view.mac_of(&pod("pod-b", None, &["10.0.0.1"])), None);
        assert_eq!(view.mac_of(&pod("gone", None, &["10.0.0.1"])), None);
    }

    #[test]
    fn whom_to_solicit() {
        let view = view();
        let pods =
            [pod("pod-a", Some(mac(0x21)), &["10.0.0.1"]), pod("pod-b", None, &["10.0.0.2", "fd00::2"])];
        let expected = [(4, ip("fe80::1")), (3, ip("10.0.0.2")), (3, ip("fd00::2"))];
        assert_eq!(view.missing(&pods, &[name("up0")]), expected.into());
        assert_eq!(view.gateways(&[name("up0")]), [(4, ip("192.0.2.1")), (4, ip("fe80::1"))].into());
    }
}
