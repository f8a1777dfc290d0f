//! Links, addresses, routes and neighbours over rtnetlink(7): read whole, watched, solicited.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::time::Duration;

use flow::{Address, MacAddr};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
    RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use super::{Interface, NodeRoute, NodeView};

/// How long after a first event the ones that come with it are waited for.
const SETTLE: Duration = Duration::from_millis(5);

/// The kernel does not answer, or refuses.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// No netlink socket could be opened.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// A request failed.
    #[error("the kernel refused to {what}: {source}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        source: rtnetlink::Error,
    },
}

/// Questions to the kernel about the network namespace in which this was opened.
#[derive(Clone, Debug)]
pub struct NodeLinks {
    handle: Handle,
}

/// Tells when something has changed in the network namespace in which it was opened.
pub struct Changes {
    events: Pin<Box<dyn Stream<Item = ()> + Send>>,
}

impl NodeLinks {
    /// Opens a socket in the calling thread's network namespace and serves it on the current runtime.
    ///
    /// # Errors
    ///
    /// The socket cannot be opened.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn open() -> Result<Self, LinksError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinksError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The connection itself.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Subscribes to changes of links, addresses, routes, neighbours and tc filters. Subscribe first and take the snapshot
    /// after it: then no change is missed.
    ///
    /// # Errors
    ///
    /// The socket cannot be opened.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn watch() -> Result<Changes, LinksError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Neigh,
            MulticastGroup::Tc,
        ];
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(LinksError::Open)?;
        tokio::spawn(connection);
        let events = messages.filter_map(async |(message, _)| is_relevant(&message.payload).then_some(()));
        Ok(Changes { events: Box::pin(events) })
    }

    /// Everything as it is now.
    ///
    /// # Errors
    ///
    /// A dump fails.
    pub async fn snapshot(&self) -> Result<NodeView, LinksError> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(refused("list links"))?;
        let interfaces: BTreeMap<_, _> = links.iter().filter_map(interface).collect();

        let addresses: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(refused("list addresses"))?;
        let addresses = addresses.iter().filter_map(address).collect();

        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes = Vec::new();
        for family in [v4, v6] {
            let dump: Vec<RouteMessage> = self
                .handle
                .route()
                .get(family)
                .execute()
                .try_collect()
                .await
                .map_err(refused("list routes"))?;
            routes.extend(dump.iter().flat_map(node_routes));
        }
        routes.sort_by_key(|(metric, _)| *metric);

        let neighbours: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(refused("list neighbours"))?;
        let neighbours: HashMap<_, _> = neighbours.iter().filter_map(neighbour).collect();

        Ok(NodeView {
            interfaces,
            addresses,
            routes: routes.into_iter().map(|(_, route)| route).collect(),
            neighbours,
        })
    }

    /// Has the kernel resolve a neighbour, or check one that it knows. The answer arrives as a change.
    ///
    /// # Errors
    ///
    /// The interface is gone or down, or the kernel refuses.
    pub async fn solicit(&self, index: u32, address: Address) -> Result<(), LinksError> {
        // NTF_USE: as if the kernel itself had a packet for it (neighbour.h).
        let request = self.handle.neighbours().add(index, address.ip()).replace();
        request
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .execute()
            .await
            .map_err(refused("resolve a neighbour"))
    }

    /// Tells the kernel the MAC address of a neighbour, which it checks for itself before long.
    ///
    /// # Errors
    ///
    /// The interface is gone or down, or the kernel refuses.
    pub async fn introduce(&self, index: u32, address: Address, mac: MacAddr) -> Result<(), LinksError> {
        let request = self.handle.neighbours().add(index, address.ip()).replace();
        let request = request.state(NeighbourState::Stale).link_layer_address(&mac.0);
        request.execute().await.map_err(refused("introduce a neighbour"))
    }
}

impl Changes {
    /// Waits for a change, and a few milliseconds more for what comes with it. `None`: the socket is gone, and
    /// only another [`watch`](NodeLinks::watch) will tell of changes.
    pub async fn next(&mut self) -> Option<()> {
        self.events.next().await?;
        let settled = tokio::time::Instant::now() + SETTLE;
        while let Ok(Some(())) = tokio::time::timeout_at(settled, self.events.next()).await {}
        Some(())
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

fn refused(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> LinksError {
    move |source| LinksError::Request { what, source }
}

/// Whether an event concerns the view. An overrun does: events were lost. The forwarding tables of bridges
/// also send neighbour events, and do not.
const fn is_relevant(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage as Message;
    match payload {
        NetlinkPayload::Overrun(_) => true,
        NetlinkPayload::InnerMessage(Message::NewNeighbour(event) | Message::DelNeighbour(event)) => {
            matches!(event.header.family, AddressFamily::Inet | AddressFamily::Inet6)
        }
        NetlinkPayload::InnerMessage(event) => matches!(
            event,
            Message::NewLink(_)
                | Message::DelLink(_)
                | Message::NewAddress(_)
                | Message::DelAddress(_)
                | Message::NewRoute(_)
                | Message::DelRoute(_)
                | Message::DelQueueDiscipline(_)
                | Message::NewTrafficFilter(_)
                | Message::DelTrafficFilter(_)
        ),
        _ => false,
    }
}

fn interface(message: &LinkMessage) -> Option<(String, Interface)> {
    let mut name = None;
    let mut found = Interface {
        index: message.header.index,
        mac: MacAddr([0; 6]),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        controller: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(octets) => found.mac = mac(octets).unwrap_or(found.mac),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Controller(index) => found.controller = Some(*index),
            _ => {}
        }
    }
    Some((name?, found))
}

/// The address itself: IFA_LOCAL where it is there, since IFA_ADDRESS then is the other end's (if_addr.h).
fn address(message: &AddressMessage) -> Option<(u32, Address)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let only = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    Some((message.header.index, local.or(only)?.into()))
}

/// The metric and the route, once for each next hop that lives.
fn node_routes(message: &RouteMessage) -> Vec<(u32, NodeRoute)> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut network = None;
    let mut index = None;
    let mut plain = header.kind == RouteType::Unicast
        && header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.contains(RouteFlags::Cloned);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Destination(address) => network = route_address(address),
            RouteAttribute::Oif(number) => index = Some(*number),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => plain = false,
            RouteAttribute::MultiPath(list) => {
                let lives = |flags: RouteNextHopFlags| {
                    !flags.intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown)
                };
                let encapsulated = |attributes: &[RouteAttribute]| {
                    attributes.iter().any(|a| matches!(a, RouteAttribute::Encap(_)))
                };
                hops.extend(
                    list.iter()
                        .filter(|hop| lives(hop.flags) && !encapsulated(&hop.attributes))
                        .map(|hop| (hop.interface_index, gateway(&hop.attributes))),
                );
            }
            _ => {}
        }
    }
    if let Some(index) = index.filter(|_| !header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown)) {
        hops.push((index, gateway(&message.attributes)));
    }
    let any = match header.address_family {
        AddressFamily::Inet => Address::v4([0; 4]),
        AddressFamily::Inet6 => Address::v6([0; 16]),
        _ => return Vec::new(),
    };
    if !plain || table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return Vec::new();
    }
    let (network, length) = (network.unwrap_or(any), header.destination_prefix_length);
    hops.into_iter().map(|(index, via)| (metric, NodeRoute { network, length, index, via })).collect()
}

fn gateway(attributes: &[RouteAttribute]) -> Option<Address> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => route_address(address),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn route_address(address: &RouteAddress) -> Option<Address> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A neighbour in a state in which the kernel would send to it.
fn neighbour(message: &NeighbourMessage) -> Option<((u32, Address), MacAddr)> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    if !matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp) {
        return None;
    }
    let ip: IpAddr = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => mac(octets),
        _ => None,
    })?;
    mac.is_usable().then_some(((message.header.ifindex, ip.into()), mac))
}

fn mac(octets: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(octets).ok().map(MacAddr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteNextHop;

    fn route(network: [u8; 4], length: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = length;
        if length > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(network.into())));
        }
        message.attributes.extend(attributes);
        message
    }

    fn via(octets: [u8; 4]) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet(octets.into()))
    }

    #[test]
    fn a_route_with_several_next_hops_is_one_for_each_that_lives() {
        let hop = |index, gateway, flags| {
            let mut hop = RouteNextHop::default();
            (hop.interface_index, hop.flags) = (index, flags);
            hop.attributes = vec![via(gateway)];
            hop
        };
        let hops = vec![
            hop(3, [10, 0, 0, 1], RouteNextHopFlags::Dead),
            hop(4, [10, 0, 1, 1], RouteNextHopFlags::empty()),
            hop(5, [10, 0, 2, 1], RouteNextHopFlags::Linkdown),
            hop(6, [10, 0, 3, 1], RouteNextHopFlags::empty()),
        ];
        let attributes = vec![RouteAttribute::Priority(7), RouteAttribute::MultiPath(hops)];
        let any = Address::v4([0; 4]);
        let one = |index, gateway| {
            (7, NodeRoute { network: any, length: 0, index, via: Some(Address::v4(gateway)) })
        };
        assert_eq!(
            node_routes(&route([0; 4], 0, attributes)),
            [one(4, [10, 0, 1, 1]), one(6, [10, 0, 3, 1])]
        );
    }

    #[test]
    fn what_the_engine_could_not_follow_is_left_out() {
        let plain = || route([10, 1, 0, 0], 16, vec![RouteAttribute::Oif(3), via([10, 0, 0, 1])]);
        assert_eq!(node_routes(&plain()).len(), 1);
        let change: [fn(&mut RouteMessage); 6] = [
            |m| m.header.kind = RouteType::BlackHole,
            |m| m.header.table = 255,
            |m| m.attributes.push(RouteAttribute::Table(1000)),
            |m| m.header.tos = 4,
            |m| m.header.flags = RouteFlags::Linkdown,
            |m| m.attributes.push(RouteAttribute::Encap(vec![])),
        ];
        for (n, change) in change.iter().enumerate() {
            let mut message = plain();
            change(&mut message);
            assert_eq!(node_routes(&message), [], "change {n}");
        }
    }

    #[test]
    fn of_a_point_to_point_address_the_local_end_counts() {
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.attributes = vec![AddressAttribute::Address([10, 0, 0, 2].into())];
        assert_eq!(address(&message), Some((3, Address::v4([10, 0, 0, 2]))));
        message.attributes.push(AddressAttribute::Local([10, 0, 0, 1].into()));
        assert_eq!(address(&message), Some((3, Address::v4([10, 0, 0, 1]))));
    }

    #[test]
    fn only_neighbours_that_can_be_sent_to_are_known() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 2].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        for (state, known) in [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Permanent, true),
            (NeighbourState::Incomplete, false),
            (NeighbourState::Failed, false),
        ] {
            message.header.state = state;
            assert_eq!(neighbour(&message).is_some(), known, "{state:?}");
        }
        message.header.state = NeighbourState::Noarp;
        message.attributes[1] = NeighbourAttribute::LinkLayerAddress(vec![0; 6]);
        assert_eq!(neighbour(&message), None, "the loopback's entries have no MAC address");
    }
}
