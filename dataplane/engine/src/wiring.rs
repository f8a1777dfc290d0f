//! Which port leads where: the engine's picture of the node, published whole like the policy table.

use std::collections::{HashMap, HashSet};

use flow::{Address, DropReason, MacAddr};

/// One port of the node, the same number for every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// What the engine knows of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface's name, for people.
    pub name: String,
    /// The MAC address of our side of it.
    pub mac: MacAddr,
    /// The largest IP packet that may leave by it, in bytes.
    pub mtu: u32,
    /// As whom the node speaks through it.
    pub speaker: Speaker,
    /// Who is behind it.
    pub role: Role,
}

/// The node's addresses from which ICMP errors leave by a port (RFC 1812, section 4.3.2.4). Without one of a family,
/// packets of that family are dropped in silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speaker {
    /// The IPv4 address.
    pub v4: Option<Address>,
    /// The IPv6 address.
    pub v6: Option<Address>,
}

impl Speaker {
    /// The address of the family of `other`.
    #[must_use]
    pub const fn facing(self, other: Address) -> Option<Address> {
        if other.is_v4() { self.v4 } else { self.v6 }
    }
}

/// Who is behind a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// One pod.
    Pod {
        /// The pod's MAC address, once it is known.
        mac: Option<MacAddr>,
        /// The pod's addresses: the only ones that it may send from.
        addresses: Vec<Address>,
    },
    /// The rest of the network.
    Uplink,
}

/// A prefix and where it leads, from the kernel's route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network address, in the form of [`Address`].
    pub network: Address,
    /// The prefix length in the family's own bits: 0 to 32, or 0 to 128.
    pub length: u8,
    /// The uplink it leaves by; `None` when it leads where the engine sends nothing, so that no wider route
    /// takes its packets.
    pub port: Option<PortId>,
    /// The gateway; `None` for a network on the link itself.
    pub via: Option<Address>,
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The port it leaves by.
    pub port: PortId,
    /// The MAC address it is sent to.
    pub mac: MacAddr,
}

/// Ports, addresses, routes and neighbours, immutable once built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wiring {
    ports: Vec<Port>,
    pods: HashMap<Address, PortId>,
    /// Addresses that more than one pod claims.
    contested: HashSet<Address>,
    node: HashSet<Address>,
    /// Longest prefix first.
    routes: Vec<Networks>,
    neighbours: HashMap<(PortId, Address), MacAddr>,
    priority_tags: PriorityTags,
    /// Of addresses that the node's kernel translates, with prefix lengths.
    services: Vec<(Address, u8)>,
}

/// What becomes of frames with a priority tag: one that names no VLAN (IEEE 802.1Q), but hides the packet from whoever
/// does not look behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PriorityTags {
    /// They are dropped, like those with any other tag.
    #[default]
    Refused,
    /// One tag is taken off, and what is left is judged.
    Stripped,
}

/// The networks of one family and prefix length that a route leads to.
#[derive(Clone, Debug, PartialEq)]
struct Networks {
    v4: bool,
    length: u8,
    hops: HashMap<Address, (Option<PortId>, Option<Address>)>,
}

impl Wiring {
    /// The wiring of these ports, which get their [`PortId`]s in order.
    ///
    /// `node` holds the node's own addresses. An address that two pod ports claim belongs to neither:
    /// ambiguity is closed, not guessed.
    #[must_use]
    pub fn new(
        ports: Vec<Port>,
        node: impl IntoIterator<Item = Address>,
        routes: impl IntoIterator<Item = Route>,
        neighbours: impl IntoIterator<Item = ((PortId, Address), MacAddr)>,
    ) -> Self {
        let mut pods = HashMap::new();
        let mut contested = HashSet::new();
        for (index, port) in ports.iter().enumerate() {
            if let Role::Pod { addresses, .. } = &port.role {
                for address in addresses {
                    if pods.insert(*address, PortId(index as u16)).is_some() {
                        contested.insert(*address);
                    }
                }
            }
        }
        pods.retain(|address, _| !contested.contains(address));

        let mut by_length: Vec<Networks> = Vec::new();
        for route in routes {
            let (v4, length) = (route.network.is_v4(), route.length);
            let known = by_length.iter().position(|networks| (networks.v4, networks.length) == (v4, length));
            let at = known.unwrap_or_else(|| {
                by_length.push(Networks { v4, length, hops: HashMap::new() });
                by_length.len() - 1
            });
            // The first route to a network by a port wins: they come in the order of their metrics.
            let hop = by_length[at].hops.entry(masked(route.network, length)).or_insert((None, None));
            if hop.0.is_none() {
                *hop = (route.port, route.via);
            }
        }
        by_length.sort_by_key(|networks| std::cmp::Reverse(networks.length));
        Self {
            ports,
            pods,
            contested,
            node: node.into_iter().collect(),
            routes: by_length,
            neighbours: neighbours.into_iter().collect(),
            priority_tags: PriorityTags::default(),
            services: Vec::new(),
        }
    }

    /// The same wiring with another rule for priority tags; [`new`](Self::new) refuses them.
    #[must_use]
    pub fn with_priority_tags(self, priority_tags: PriorityTags) -> Self {
        Self { priority_tags, ..self }
    }

    /// What becomes of frames with a priority tag.
    #[must_use]
    pub const fn priority_tags(&self) -> PriorityTags {
        self.priority_tags
    }

    /// The same, when the node's kernel translates the addresses of these networks to those of backends. Lengths
    /// are those of the family.
    #[must_use]
    pub fn with_services(mut self, services: impl IntoIterator<Item = (Address, u8)>) -> Self {
        self.services = services.into_iter().collect();
        self
    }

    /// Whether this is the address of a service.
    #[must_use]
    pub fn is_service(&self, address: Address) -> bool {
        let within = |(network, length): &(Address, u8)| {
            network.is_v4() == address.is_v4() && masked(address, *length) == masked(*network, *length)
        };
        self.services.iter().any(within)
    }

    /// All ports, in the order of their [`PortId`]s.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// One port; `None` for one that is not wired (yet, or any more).
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))
    }

    /// The port of the local pod that owns this address.
    #[must_use]
    pub fn pod_port(&self, address: Address) -> Option<PortId> {
        self.pods.get(&address).copied()
    }

    /// The node's own addresses.
    pub fn node(&self) -> impl Iterator<Item = Address> {
        self.node.iter().copied()
    }

    /// Whether this is one of the node's own addresses.
    #[must_use]
    pub fn is_node(&self, address: Address) -> bool {
        self.node.contains(&address)
    }

    /// Where a packet to `dst` goes next.
    ///
    /// # Errors
    ///
    /// `NoRoute` when nothing leads there, `NoNeighbour` while the next hop's MAC address is unknown.
    pub fn next_hop(&self, dst: Address) -> Result<Hop, DropReason> {
        if let Some(port) = self.pod_port(dst) {
            return match self.port(port).map(|p| &p.role) {
                Some(Role::Pod { mac: Some(mac), .. }) => Ok(Hop { port, mac: *mac }),
                _ => Err(DropReason::NoNeighbour),
            };
        }
        // The node's own addresses are the kernel's business, and XDP passes what may go there.
        if self.is_node(dst) || self.contested.contains(&dst) {
            return Err(DropReason::NoRoute);
        }
        let (port, gateway) = self.route(dst).ok_or(DropReason::NoRoute)?;
        let mac = self.neighbours.get(&(port, gateway)).ok_or(DropReason::NoNeighbour)?;
        Ok(Hop { port, mac: *mac })
    }

    /// The uplink and the neighbour that a packet to `dst` leaves by, if a route leads there: what to
    /// resolve when [`next_hop`](Self::next_hop) says `NoNeighbour`.
    #[must_use]
    pub fn route(&self, dst: Address) -> Option<(PortId, Address)> {
        self.routes
            .iter()
            .filter(|networks| networks.v4 == dst.is_v4())
            .find_map(|networks| networks.hops.get(&masked(dst, networks.length)))
            .and_then(|(port, via)| Some(((*port)?, via.unwrap_or(dst))))
    }
}

/// The first `length` bits of an address of its family; the rest zero.
fn masked(address: Address, length: u8) -> Address {
    let skipped = if address.is_v4() { 96 } else { 0 };
    let kept = (skipped + u32::from(length)).min(128);
    let mask = if kept == 0 { 0 } else { u128::MAX << (128 - kept) };
    Address::v6((u128::from_be_bytes(address.octets()) & mask).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Address {
        Address::v4([a, b, c, d])
    }

    fn v6(text: &str) -> Address {
        text.parse::<std::net::Ipv6Addr>().unwrap().into()
    }

    fn pod(name: &str, mac: Option<MacAddr>, addresses: &[Address]) -> Port {
        let role = Role::Pod { mac, addresses: addresses.to_vec() };
        Port {
            name: name.into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            speaker: Speaker::default(),
            role,
        }
    }

    fn uplink() -> Port {
        let (mac, speaker) = (MacAddr([2, 0, 0, 0, 0, 9]), Speaker::default());
        Port { name: "up".into(), mac, mtu: 1500, speaker, role: Role::Uplink }
    }

    const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
    const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);

    #[test]
    fn pods_by_exact_address_and_the_rest_by_longest_prefix() {
        let up = PortId(2);
        let to = |network, length, via| Route { network, length, port: Some(up), via };
        let wiring = Wiring::new(
            vec![pod("a", Some(POD_MAC), &[v4(10, 0, 0, 1)]), pod("b", None, &[v4(10, 0, 0, 2)]), uplink()],
            [v4(192, 0, 2, 1)],
            [
                to(v4(0, 0, 0, 0), 0, Some(v4(192, 0, 2, 254))),
                to(v4(192, 0, 2, 0), 24, None),
                to(v4(10, 9, 0, 0), 16, Some(v4(192, 0, 2, 7))),
                Route { network: v4(172, 17, 0, 0), length: 16, port: None, via: None },
            ],
            [((up, v4(192, 0, 2, 254)), GATEWAY_MAC)],
        );
        assert_eq!(wiring.next_hop(v4(10, 0, 0, 1)), Ok(Hop { port: PortId(0), mac: POD_MAC }));
        assert_eq!(wiring.next_hop(v4(10, 0, 0, 2)), Err(DropReason::NoNeighbour));
        assert_eq!(wiring.next_hop(v4(198, 51, 100, 1)), Ok(Hop { port: up, mac: GATEWAY_MAC }));
        assert_eq!(wiring.next_hop(v4(10, 9, 1, 1)), Err(DropReason::NoNeighbour));
        assert_eq!(wiring.route(v4(10, 9, 1, 1)), Some((up, v4(192, 0, 2, 7))));
        assert_eq!(wiring.route(v4(192, 0, 2, 33)), Some((up, v4(192, 0, 2, 33))));
        assert_eq!(wiring.next_hop(v6("2001:db8::1")), Err(DropReason::NoRoute));
        assert_eq!(wiring.next_hop(v4(172, 17, 0, 5)), Err(DropReason::NoRoute), "not by the default route");
        assert!(wiring.is_node(v4(192, 0, 2, 1)) && !wiring.is_node(v4(10, 0, 0, 1)));
    }

    #[test]
    fn the_default_route_of_one_family_is_not_the_others() {
        let routes =
            [Route { network: v6("::"), length: 0, port: Some(PortId(0)), via: Some(v6("fe80::1")) }];
        let wiring = Wiring::new(vec![uplink()], [], routes, [((PortId(0), v6("fe80::1")), GATEWAY_MAC)]);
        assert_eq!(wiring.next_hop(v4(198, 51, 100, 1)), Err(DropReason::NoRoute));
        assert_eq!(wiring.next_hop(v6("2001:db8::1")), Ok(Hop { port: PortId(0), mac: GATEWAY_MAC }));
    }

    #[test]
    fn an_address_that_two_ports_claim_belongs_to_neither() {
        let shared = v4(10, 0, 0, 1);
        let ports = vec![pod("a", Some(POD_MAC), &[shared]), pod("b", Some(POD_MAC), &[shared])];
        let everywhere = Route { network: v4(0, 0, 0, 0), length: 0, port: Some(PortId(2)), via: None };
        let wiring = Wiring::new(ports, [], [everywhere], [((PortId(2), shared), GATEWAY_MAC)]);
        assert_eq!(wiring.pod_port(shared), None);
        assert_eq!(wiring.next_hop(shared), Err(DropReason::NoRoute), "nor does it leave the node");
    }
}
