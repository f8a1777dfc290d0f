//! The fast lane: the shapes that nearly all packets have, read at constant offsets.
//!
//! IPv4 without options and IPv6 without extension headers, whole, with TCP, UDP or SCTP in it. All else, and
//! everything that is wrong, is left to the slow lane. Nothing is written before all of it is known: a value
//! that is put together in memory and read back at once stalls the processor.

use flow::{Address, Endpoint, FlowKey, MacAddr, Protocol};

use crate::checksum;
use crate::packet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Kind, Packet, TcpFlags};

const IPV4: usize = 20;
const IPV6: usize = 40;

/// The packet in this frame; `None` when the slow lane must say.
#[inline(always)]
pub(crate) fn read(frame: &[u8]) -> Option<Packet> {
    let (ethernet, l3) = frame.split_first_chunk::<ETHERNET>()?;
    match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => read_v4(ethernet, l3),
        ETHERTYPE_IPV6 => read_v6(ethernet, l3),
        _ => None,
    }
}

#[inline(always)]
fn read_v4(ethernet: &[u8; ETHERNET], l3: &[u8]) -> Option<Packet> {
    let header = l3.first_chunk::<IPV4>()?;
    const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & MORE_FRAGMENTS_OR_OFFSET != 0;
    if header[0] != 0x45 || fragment || checksum::fold(checksum::sum(header)) != 0xffff {
        return None;
    }
    let ip_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let l4 = l3.get(IPV4..ip_len)?;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let (src, dst) = (Address::v4([s0, s1, s2, s3]), Address::v4([d0, d1, d2, d3]));
    read_l4(ethernet, src, dst, Protocol(header[9]), header[8], l4, IPV4)
}

#[inline(always)]
fn read_v6(ethernet: &[u8; ETHERNET], l3: &[u8]) -> Option<Packet> {
    let header = l3.first_chunk::<IPV6>()?;
    let (_, addresses) = header.split_first_chunk::<8>()?;
    let (src, dst) = addresses.split_first_chunk::<16>()?;
    let (src, dst) = (Address::v6(*src), Address::v6(*dst.first_chunk()?));
    // An IPv4-mapped address would speak for the other family here.
    if header[0] >> 4 != 6 || !src.is_v6() || !dst.is_v6() {
        return None;
    }
    let ip_len = IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let l4 = l3.get(IPV6..ip_len)?;
    read_l4(ethernet, src, dst, Protocol(header[6]), header[7], l4, IPV6)
}

#[inline(always)]
fn read_l4(
    ethernet: &[u8; ETHERNET],
    src: Address,
    dst: Address,
    protocol: Protocol,
    ttl: u8,
    l4: &[u8],
    header_len: usize,
) -> Option<Packet> {
    let header = l4.first_chunk::<8>()?;
    // One byte, which means something else for each protocol.
    let detail = match protocol {
        Protocol::TCP => {
            let header = l4.first_chunk::<20>()?;
            let header_len = usize::from(header[12] >> 4) * 4;
            if header_len < 20 || header_len > l4.len() {
                return None;
            }
            header[13]
        }
        Protocol::UDP => {
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            if length < 8 || length > l4.len() {
                return None;
            }
            0
        }
        Protocol::SCTP => {
            const INIT: u8 = 1;
            l4.first_chunk::<12>()?;
            u8::from(l4.get(12) == Some(&INIT))
        }
        _ => return None,
    };
    let kind = match protocol {
        Protocol::TCP => Kind::Tcp(TcpFlags(detail)),
        Protocol::UDP => Kind::Udp,
        _ => Kind::Sctp { init: detail != 0 },
    };
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *ethernet;
    Some(Packet {
        eth_dst: MacAddr([d0, d1, d2, d3, d4, d5]),
        eth_src: MacAddr([s0, s1, s2, s3, s4, s5]),
        key: FlowKey {
            src: Endpoint { address: src, port: u16::from_be_bytes([header[0], header[1]]) },
            dst: Endpoint { address: dst, port: u16::from_be_bytes([header[2], header[3]]) },
            protocol,
        },
        kind,
        fragment: None,
        l3_offset: ETHERNET as u16,
        l4_offset: (ETHERNET + header_len) as u16,
        ip_len: (header_len + l4.len()) as u32,
        ttl,
    })
}
