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
    /// complete message, options of non-zero length.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = Packet::parse(frame).ok()?;
        if packet.kind != Kind::NeighbourDiscovery || packet.ttl != 255 || !l4_checksum_ok(frame, &packet) {
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
