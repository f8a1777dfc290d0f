//! One parsed packet: where its headers are and what they say.

use etherparse::{TcpHeaderSlice, UdpHeader, UdpHeaderSlice};
use flow::{Address, DropReason, Endpoint, FlowKey, MacAddr, Protocol};

use crate::fragment::{Fragment, may_be_fragmented};
use crate::{fast, icmp, ipv4, ipv6};

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

/// An Ethernet header, and what follows it.
pub(crate) struct Ethernet<'f> {
    pub(crate) dst: MacAddr,
    pub(crate) src: MacAddr,
    ethertype: [u8; 2],
    rest: &'f [u8],
}

/// Reads the header that the frame begins with.
pub(crate) fn ethernet(frame: &[u8]) -> Result<Ethernet<'_>, DropReason> {
    let (header, rest) = frame.split_first_chunk::<ETHERNET>().ok_or(DropReason::Truncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let (dst, src) = (MacAddr([d0, d1, d2, d3, d4, d5]), MacAddr([s0, s1, s2, s3, s4, s5]));
    Ok(Ethernet { dst, src, ethertype: [t0, t1], rest })
}

impl Ethernet<'_> {
    /// Reads the IP header behind it.
    pub(crate) fn layer3(&self) -> Result<Layer3, DropReason> {
        match self.ethertype {
            ETHERTYPE_IPV4 => ipv4::read(self.rest),
            ETHERTYPE_IPV6 => ipv6::read(self.rest),
            ethertype => Err(not_ip(ethertype)),
        }
    }
}

impl Packet {
    /// Reads one frame, from its Ethernet header on. Bytes behind the IP packet are padding and ignored.
    ///
    /// ARP is an [`UnknownEthertype`](DropReason::UnknownEthertype) here: what the guard lets pass of it,
    /// [`Arp::parse`](crate::neighbour::Arp::parse) tells on the cold path. A later fragment is a
    /// [`FragmentUnmatched`](DropReason::FragmentUnmatched), and
    /// [`LaterFragment::parse`](crate::LaterFragment::parse) tells of which datagram.
    ///
    /// # Errors
    ///
    /// The reason why the frame is not a packet that rules can be applied to: one of `Truncated`,
    /// `VlanTagged`, `UnknownEthertype`, `IpInvalid`, `Ipv6ExtInvalid`, `FragmentInvalid`, `FragmentTiny`,
    /// `FragmentUnmatched`, `L4Truncated`, or `IcmpUnrelated` for an ICMP error whose quote cannot be a packet
    /// of the one it is sent to.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        match fast::read(frame) {
            Some(packet) => Ok(packet),
            None => Self::parse_slowly(frame),
        }
    }

    /// The slow lane alone, by etherparse: it says of every frame what [`parse`](Self::parse) says. For tests that
    /// hold one lane against the other.
    ///
    /// # Errors
    ///
    /// The same.
    #[cold]
    #[inline(never)]
    pub fn parse_slowly(frame: &[u8]) -> Result<Self, DropReason> {
        let ethernet = ethernet(frame)?;
        let l3 = ethernet.layer3()?;
        if l3.fragment.is_some_and(|fragment| !fragment.is_first()) {
            return Err(DropReason::FragmentUnmatched);
        }
        let l4 = ethernet.rest.get(l3.header_len..l3.ip_len).ok_or(DropReason::IpInvalid)?;
        let (src_port, dst_port, kind) = layer4(&l3, l4)?;
        if l3.fragment.is_some() && !may_be_fragmented(kind) {
            return Err(DropReason::FragmentInvalid);
        }
        Ok(Self {
            eth_dst: ethernet.dst,
            eth_src: ethernet.src,
            key: FlowKey {
                src: Endpoint { address: l3.src, port: src_port },
                dst: Endpoint { address: l3.dst, port: dst_port },
                protocol: l3.protocol,
            },
            kind,
            fragment: l3.fragment,
            l3_offset: ETHERNET as u16,
            l4_offset: (ETHERNET + l3.header_len) as u16,
            ip_len: l3.ip_len as u32,
            ttl: l3.ttl,
        })
    }

    /// Where the layer-4 header and payload are in the frame.
    #[must_use]
    pub const fn l4_range(&self) -> core::ops::Range<usize> {
        self.l4_offset as usize..self.l3_offset as usize + self.ip_len as usize
    }
}

/// Why a frame that is not IP goes no further. Below 0x600 the field is the length of an 802.3 frame.
fn not_ip(ethertype: [u8; 2]) -> DropReason {
    if VLAN_TAGS.contains(&ethertype) { DropReason::VlanTagged } else { DropReason::UnknownEthertype }
}

/// The ports and the kind of a packet whose layer 4 is `l4`, or begins with it in a first fragment.
fn layer4(l3: &Layer3, l4: &[u8]) -> Result<(u16, u16, Kind), DropReason> {
    const TRUNCATED: DropReason = DropReason::L4Truncated;
    match l3.protocol {
        Protocol::TCP => {
            let header = TcpHeaderSlice::from_slice(l4).ok().ok_or(TRUNCATED)?;
            let flags = TcpFlags(header.slice()[13]);
            Ok((header.source_port(), header.destination_port(), Kind::Tcp(flags)))
        }
        Protocol::UDP => {
            let header = UdpHeaderSlice::from_slice(l4).ok().ok_or(TRUNCATED)?;
            let length = usize::from(header.length());
            if length < UdpHeader::LEN || (length > l4.len() && l3.fragment.is_none()) {
                return Err(TRUNCATED);
            }
            Ok((header.source_port(), header.destination_port(), Kind::Udp))
        }
        Protocol::SCTP => {
            let (header, chunks) = l4.split_first_chunk::<12>().ok_or(TRUNCATED)?;
            const INIT: u8 = 1;
            let (src, dst) = ports(header.first_chunk().ok_or(TRUNCATED)?);
            Ok((src, dst, Kind::Sctp { init: chunks.first() == Some(&INIT) }))
        }
        Protocol::ICMP if l3.src.is_v4() => icmp::read_v4(l3, l4),
        Protocol::ICMPV6 if l3.src.is_v6() => icmp::read_v6(l3, l4),
        _ => Ok((0, 0, Kind::Other)),
    }
}

/// TCP, UDP and SCTP all begin with the two ports.
pub(crate) const fn ports(bytes: &[u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
}
