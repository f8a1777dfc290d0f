//! One parsed packet: where its headers are and what they say.

use flow::{Address, FlowKey, MacAddr, Protocol};

use crate::fragment::{Datagram, Fragment};

/// The length of an untagged Ethernet header, in bytes.
pub(crate) const ETHERNET: usize = 14;

pub(crate) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
pub(crate) const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
pub(crate) const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
/// 802.1Q, 802.1ad, and the number that switches used for stacked tags before there was a standard.
pub(crate) const VLAN_TAGS: [[u8; 2]; 3] = [ETHERTYPE_VLAN, [0x88, 0xa8], [0x91, 0x00]];

/// What a frame was found to be. It holds offsets into the frame, not the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Whom the frame is for on this link.
    pub eth_dst: MacAddr,
    /// Who sent it on this link.
    pub eth_src: MacAddr,
    /// The five-tuple, in the packet's own direction.
    pub key: FlowKey,
    /// What the layer-4 header says.
    pub kind: Kind,
    /// Which part of its datagram this is; `None` for a whole one. Only a first fragment is ever parsed as a
    /// packet, since no other has a layer-4 header.
    pub fragment: Option<Fragment>,
    /// Where the IP header begins, in bytes from the start of the frame.
    pub l3_offset: u16,
    /// Where the layer-4 header begins, in bytes from the start of the frame.
    pub l4_offset: u16,
    /// The length in bytes of the IP packet, or of the fragment if it is one, its header included. What follows
    /// is Ethernet padding.
    pub ip_len: u32,
    /// The TTL or hop limit, as it arrived.
    pub ttl: u8,
}

/// What the layer-4 header says, as far as connections are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment.
    Tcp(TcpFlags),
    /// A UDP datagram.
    Udp,
    /// An SCTP packet.
    Sctp {
        /// Whether its first chunk is an INIT: the opening of an association (RFC 9260, section 3.3.2).
        init: bool,
    },
    /// An ICMP or ICMPv6 echo. Its key has the identifier as port at both ends.
    IcmpEcho {
        /// Whether it is the request, not the reply.
        request: bool,
    },
    /// An ICMP or ICMPv6 error. It goes to the source of the packet that it quotes.
    IcmpError {
        /// The key of the quoted packet, in that packet's own direction.
        quoted: FlowKey,
    },
    /// Router and neighbour solicitation and advertisement, and redirect (RFC 4861), by type alone: see
    /// [`NeighbourDiscovery`](crate::neighbour::NeighbourDiscovery) for the checks.
    NeighbourDiscovery,
    /// Any other ICMP or ICMPv6 message.
    IcmpOther,
    /// Any other protocol.
    Other,
}

/// The control bits of a TCP header (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;

    /// Whether SYN is set.
    #[must_use]
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether ACK is set.
    #[must_use]
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether FIN is set.
    #[must_use]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether RST is set.
    #[must_use]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether this segment asks for a new connection: SYN, and neither ACK, RST nor FIN.
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// What an IP header says, with its options and extension headers behind it.
pub(crate) struct Layer3 {
    pub(crate) src: Address,
    pub(crate) dst: Address,
    pub(crate) protocol: Protocol,
    pub(crate) ttl: u8,
    pub(crate) fragment: Option<Fragment>,
    /// From the IP header to the layer-4 header, or to the data of a later fragment, in bytes.
    pub(crate) header_len: usize,
    /// From the IP header to the end of the packet, in bytes; within the frame.
    pub(crate) ip_len: usize,
}

impl Packet {
    /// Of which datagram this is a fragment; `None` for a whole packet.
    #[must_use]
    pub fn datagram(&self) -> Option<Datagram> {
        let (src, dst) = (self.key.src.address, self.key.dst.address);
        self.fragment.map(|fragment| Datagram::new(src, dst, fragment.id, self.key.protocol))
    }

    /// Where the layer-4 header and payload are in the frame.
    #[must_use]
    pub const fn l4_range(&self) -> core::ops::Range<usize> {
        self.l4_offset as usize..self.l3_offset as usize + self.ip_len as usize
    }
}

/// TCP, UDP and SCTP all begin with the two ports.
pub(crate) const fn ports(bytes: &[u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
}
