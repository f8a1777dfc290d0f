//! A frame to a packet, by the fast lane or the slow one.

use etherparse::{TcpHeaderSlice, UdpHeader, UdpHeaderSlice};
use flow::{DropReason, Endpoint, FlowKey, Protocol};

use crate::packet::{ETHERNET, Kind, Layer3, Packet, TcpFlags, ports};
use crate::{ethernet, fast, icmp};

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
        let ethernet = ethernet::read(frame)?;
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

/// Whether a packet of this kind may come in fragments.
///
/// Nobody fragments what must not be (RFC 6980, section 5: "Nodes MUST silently ignore" fragmented neighbour
/// discovery), or what always fits: an ICMP error is at most 576 bytes long (RFC 1812, section 4.3.2.3), an
/// ICMPv6 error as long as the minimum MTU (RFC 4443, section 2.4).
const fn may_be_fragmented(kind: Kind) -> bool {
    !matches!(kind, Kind::NeighbourDiscovery | Kind::IcmpError { .. })
}
