//! ARP (RFC 826) and neighbour discovery (RFC 4861): who claims which address.
//!
//! A view says what a message claims, not whether its sender may: that is the port guard's to judge.

use flow::{Address, MacAddr};

use crate::checksum::l4_checksum_ok;
use crate::packet::{ETHERNET, ETHERTYPE_ARP, Kind, Packet};

/// What an ARP message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// An ARP message for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whom the frame is for on this link.
    pub eth_dst: MacAddr,
    /// Who sent the frame on this link.
    pub eth_src: MacAddr,
    /// Request or reply.
    pub operation: ArpOperation,
    /// The MAC address that the message claims for its sender.
    pub sender_mac: MacAddr,
    /// The address that it claims for its sender; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Address,
    /// The address that it asks for or answers to.
    pub target_ip: Address,
}

impl Arp {
    /// Reads a frame; `None` for everything but a complete ARP request or reply for IPv4 over Ethernet.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (ethernet, rest) = frame.split_first_chunk::<ETHERNET>()?;
        let message = rest.first_chunk::<28>()?;
        // Hardware Ethernet, protocol IPv4, six and four bytes per address.
        const IPV4_OVER_ETHERNET: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
        if ethernet[12..] != ETHERTYPE_ARP || message[..6] != IPV4_OVER_ETHERNET {
            return None;
        }
        let operation = match message[6..8] {
            [0, 1] => ArpOperation::Request,
            [0, 2] => ArpOperation::Reply,
            _ => return None,
        };
        Some(Self {
            eth_dst: mac(ethernet)?,
            eth_src: mac(&ethernet[6..])?,
            operation,
            sender_mac: mac(&message[8..])?,
            sender_ip: Address::v4(*message[14..].first_chunk()?),
            target_ip: Address::v4(*message[24..].first_chunk()?),
        })
    }
}

/// Which of the five messages of neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourMessage {
    /// Routers, speak up.
    RouterSolicitation,
    /// I am a router. Never a pod's to send.
    RouterAdvertisement,
    /// Who has the target address?
    NeighbourSolicitation,
    /// I have the target address.
    NeighbourAdvertisement,
    /// Go to the target instead. Never a pod's to send.
    Redirect,
}

/// A neighbour discovery message that its receiver would accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourDiscovery {
    /// Who sent the frame on this link.
    pub eth_src: MacAddr,
    /// Which message.
    pub message: NeighbourMessage,
    /// The source address of the packet; unspecified while its sender has none yet.
    pub source: Address,
    /// The destination address of the packet.
    pub destination: Address,
    /// The address that a neighbour solicitation, advertisement or redirect is about.
    pub target: Option<Address>,
    /// The address in the message's source or target link-layer address option.
    pub link_layer: Option<MacAddr>,
}

impl NeighbourDiscovery {
    /// Reads a frame; `None` for everything but a neighbour discovery message that passes the checks which
    /// RFC 4861, sections 6.1, 7.1 and 8.1 ask of a receiver: hop limit 255, a right checksum, code 0, a
    /// complete message, options of non-zero length. Nor for one behind extension headers, which no sender
    /// needs: RFC 6980, section 5 forbids the fragment header, even of a packet that is whole.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = Packet::parse(frame).ok()?;
        if packet.kind != Kind::NeighbourDiscovery || packet.ttl != 255 || !l4_checksum_ok(frame, &packet) {
            return None;
        }
        if packet.l4_offset != packet.l3_offset + 40 {
            return None;
        }
        let icmp = frame.get(packet.l4_range())?;
        let (message, options_at) = match icmp.first_chunk()? {
            [133, 0] => (NeighbourMessage::RouterSolicitation, 8),
            [134, 0] => (NeighbourMessage::RouterAdvertisement, 16),
            [135, 0] => (NeighbourMessage::NeighbourSolicitation, 24),
            [136, 0] => (NeighbourMessage::NeighbourAdvertisement, 24),
            [137, 0] => (NeighbourMessage::Redirect, 40),
            _ => return None,
        };
        let target = match message {
            NeighbourMessage::RouterSolicitation | NeighbourMessage::RouterAdvertisement => None,
            // "Target Address is not a multicast address."
            _ => Some(Address::v6(*icmp.get(8..)?.first_chunk()?))
                .filter(|target| target.is_v6() && !target.is_multicast())
                .map(Some)?,
        };
        let link_layer = link_layer_option(message, icmp.get(options_at..)?)?;
        let source = packet.key.src.address;
        // "If the IP source address is the unspecified address, there is no source link-layer address
        // option in the message."
        let solicits =
            matches!(message, NeighbourMessage::RouterSolicitation | NeighbourMessage::NeighbourSolicitation);
        if source.is_unspecified() && (!solicits || link_layer.is_some()) {
            return None;
        }
        Some(Self {
            eth_src: packet.eth_src,
            message,
            source,
            destination: packet.key.dst.address,
            target,
            link_layer,
        })
    }
}

/// The link-layer address option that belongs in this message, if there is one. The outer `None` for
/// options that do not add up, and for two that differ.
fn link_layer_option(message: NeighbourMessage, mut options: &[u8]) -> Option<Option<MacAddr>> {
    let wanted = match message {
        NeighbourMessage::NeighbourAdvertisement | NeighbourMessage::Redirect => 2,
        _ => 1,
    };
    let mut found = None;
    while !options.is_empty() {
        let [number, length, ..] = *options else { return None };
        // In units of eight bytes: "All included options have a length that is greater than zero."
        let (option, rest) = options.split_at_checked(usize::from(length) * 8)?;
        if option.is_empty() {
            return None;
        }
        if number == wanted {
            let address = mac(option.get(2..)?)?;
            if length != 1 || found.is_some_and(|other| other != address) {
                return None;
            }
            found = Some(address);
        }
        options = rest;
    }
    Some(found)
}

/// The MAC address that this frame proves its sender to use, and the address that it claims with it.
///
/// `Some` for an ARP message whose sender MAC is the frame's source and whose sender address is not
/// 0.0.0.0, and for a neighbour solicitation (claims its source address) or advertisement (claims its
/// target) whose link-layer option, where present, is the frame's source. The MAC address is usable: neither
/// a group nor zero. Whether the address is the pod's own, the caller must check.
#[must_use]
pub fn pinning_claim(frame: &[u8]) -> Option<(MacAddr, Address)> {
    let (mac, claimed) = match Arp::parse(frame) {
        Some(arp) if arp.sender_mac == arp.eth_src => (arp.eth_src, arp.sender_ip),
        Some(_) => return None,
        None => {
            let neighbour = NeighbourDiscovery::parse(frame)?;
            if neighbour.link_layer.is_some_and(|mac| mac != neighbour.eth_src) {
                return None;
            }
            let claimed = match neighbour.message {
                NeighbourMessage::NeighbourSolicitation => neighbour.source,
                NeighbourMessage::NeighbourAdvertisement => neighbour.target?,
                _ => return None,
            };
            (neighbour.eth_src, claimed)
        }
    };
    (mac.is_usable() && !claimed.is_unspecified()).then_some((mac, claimed))
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.first_chunk().map(|octets| MacAddr(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::frames::{
        POD_MAC, PORT_MAC, arp_reply, arp_request, frame, neighbour_advertisement, neighbour_discovery,
        neighbour_solicitation,
    };

    const POD: &str = "fd00::1";
    const GATEWAY: &str = "fd00::ff";
    const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn address(text: &str) -> Address {
        text.parse::<core::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn arp_says_who_asks_whom() {
        let arp = Arp::parse(&arp_request(POD_MAC, "10.0.0.1", "10.0.0.254")).unwrap();
        assert_eq!(arp.operation, ArpOperation::Request);
        assert_eq!((arp.eth_src, arp.sender_mac, arp.eth_dst), (POD_MAC, POD_MAC, MacAddr([0xff; 6])));
        assert_eq!((arp.sender_ip, arp.target_ip), (address("10.0.0.1"), address("10.0.0.254")));
        let arp = Arp::parse(&arp_reply(POD_MAC, "10.0.0.1", PORT_MAC, "10.0.0.254")).unwrap();
        assert_eq!((arp.operation, arp.eth_dst), (ArpOperation::Reply, PORT_MAC));
    }

    #[test]
    fn arp_for_other_hardware_protocols_and_operations_is_none() {
        let request = arp_request(POD_MAC, "10.0.0.1", "10.0.0.254");
        assert!(Arp::parse(&request).is_some());
        // Ethertype, hardware, protocol, both lengths, operation.
        for at in [13, 15, 16, 18, 19, 21] {
            let mut bytes = request.clone();
            bytes[at] ^= 4;
            assert_eq!(Arp::parse(&bytes), None, "byte {at}");
        }
        for length in 0..request.len() {
            assert_eq!(Arp::parse(&request[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn neighbour_discovery_says_who_asks_whom() {
        let solicitation = neighbour_solicitation(POD_MAC, POD, GATEWAY);
        let message = NeighbourDiscovery::parse(&solicitation).unwrap();
        assert_eq!(message.message, NeighbourMessage::NeighbourSolicitation);
        assert_eq!((message.source, message.target), (address(POD), Some(address(GATEWAY))));
        assert_eq!(message.destination, address("ff02::1:ff00:ff"));
        assert_eq!((message.eth_src, message.link_layer), (POD_MAC, Some(POD_MAC)));
        for length in 0..solicitation.len() {
            assert_eq!(NeighbourDiscovery::parse(&solicitation[..length]), None, "{length} bytes");
        }
        for at in 14 + 40 + 8..solicitation.len() {
            let mut bytes = solicitation.clone();
            bytes[at] ^= 1;
            assert_eq!(NeighbourDiscovery::parse(&bytes), None, "the checksum covers byte {at}");
        }
    }

    #[test]
    fn routers_and_redirects_are_recognised() {
        let sentence = || frame().ip("fe80::1", "ff02::1").ttl(255);
        let target = [0xfe; 16];
        for (kind, body, expected) in [
            (133, vec![], NeighbourMessage::RouterSolicitation),
            (134, vec![0; 8], NeighbourMessage::RouterAdvertisement),
            (137, [target, target].concat(), NeighbourMessage::Redirect),
        ] {
            let bytes = sentence().icmp(kind, 0, [0; 4]).payload(&body).build();
            assert_eq!(NeighbourDiscovery::parse(&bytes).map(|nd| nd.message), Some(expected));
            assert_eq!(pinning_claim(&bytes), None, "type {kind}");
            if !body.is_empty() {
                let short = sentence().icmp(kind, 0, [0; 4]).payload(&body[1..]).build();
                assert_eq!(NeighbourDiscovery::parse(&short), None, "type {kind}, a byte short");
            }
        }
    }

    #[test]
    fn messages_that_a_receiver_must_discard_are_none() {
        let target: core::net::Ipv6Addr = GATEWAY.parse().unwrap();
        let sentence = |ttl, code, option: &[u8]| {
            let sentence = frame().ip(POD, GATEWAY).ttl(ttl).icmp(135, code, [0; 4]);
            sentence.payload(&target.octets()).payload(option).build()
        };
        let mine = [1, 1, 2, 0, 0, 0, 0, 1];
        let other = [1, 1, 2, 0, 0, 0, 0, 9];
        assert!(NeighbourDiscovery::parse(&sentence(255, 0, &mine)).is_some());
        assert!(NeighbourDiscovery::parse(&sentence(255, 0, &[])).is_some());
        for (what, bytes) in [
            ("hop limit", sentence(254, 0, &mine)),
            ("code", sentence(255, 1, &mine)),
            ("option of length zero", sentence(255, 0, &[1, 0, 2, 0, 0, 0, 0, 1])),
            ("option beyond the end", sentence(255, 0, &[1, 2, 2, 0, 0, 0, 0, 1])),
            ("half an option", sentence(255, 0, &mine[..1])),
            ("two addresses", sentence(255, 0, &[mine, other].concat())),
            ("an address of another length", sentence(255, 0, &[&[1, 2][..], &mine, &mine[2..]].concat())),
            ("multicast target", neighbour_discovery(POD_MAC, PORT_MAC, POD, GATEWAY, 135, "ff02::1", None)),
            (
                "no source, an address",
                neighbour_discovery(POD_MAC, PORT_MAC, "::", POD, 135, POD, Some((1, POD_MAC))),
            ),
            (
                "an advertisement from nobody",
                neighbour_discovery(POD_MAC, PORT_MAC, "::", GATEWAY, 136, POD, None),
            ),
        ] {
            assert_eq!(NeighbourDiscovery::parse(&bytes), None, "{what}");
            assert_eq!(pinning_claim(&bytes), None, "{what}");
        }
    }

    #[test]
    fn a_claim_names_the_mac_address_that_sent_it() {
        let other_in_arp = {
            let mut bytes = arp_request(POD_MAC, "10.0.0.1", "10.0.0.254");
            bytes[11] ^= 0xff;
            bytes
        };
        let group = MacAddr([1, 0, 0, 0, 0, 1]);
        let nd = |kind, source, option| {
            neighbour_discovery(POD_MAC, PORT_MAC, source, GATEWAY, kind, "fd00::2", option)
        };
        for (what, bytes, claimed) in [
            ("ARP request", arp_request(POD_MAC, "10.0.0.1", "10.0.0.254"), Some("10.0.0.1")),
            ("ARP reply", arp_reply(POD_MAC, "10.0.0.1", PORT_MAC, "10.0.0.254"), Some("10.0.0.1")),
            ("gratuitous ARP", arp_request(POD_MAC, "10.0.0.1", "10.0.0.1"), Some("10.0.0.1")),
            ("ARP probe", arp_request(POD_MAC, "0.0.0.0", "10.0.0.1"), None),
            ("ARP for another MAC", other_in_arp, None),
            ("ARP from a group", arp_request(group, "10.0.0.1", "10.0.0.254"), None),
            ("ARP from no MAC", arp_request(MacAddr([0; 6]), "10.0.0.1", "10.0.0.254"), None),
            ("solicitation", neighbour_solicitation(POD_MAC, POD, GATEWAY), Some(POD)),
            ("solicitation without option", nd(135, POD, None), Some(POD)),
            ("solicitation with another MAC", nd(135, POD, Some((1, OTHER_MAC))), None),
            ("duplicate address detection", neighbour_solicitation(POD_MAC, "::", POD), None),
            ("advertisement", neighbour_advertisement(POD_MAC, POD, PORT_MAC, GATEWAY), Some(POD)),
            ("advertisement for a second address", nd(136, POD, Some((2, POD_MAC))), Some("fd00::2")),
            ("advertisement with another MAC", nd(136, POD, Some((2, OTHER_MAC))), None),
            ("a packet", frame().ip("10.0.0.1", "10.0.0.2").udp(1, 2).build(), None),
        ] {
            assert_eq!(pinning_claim(&bytes), claimed.map(|ip| (POD_MAC, address(ip))), "{what}");
        }
    }
}
