//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, errors with the packet they quote, and the rest.

use flow::{DropReason, Endpoint, FlowKey, Protocol};

use crate::packet::{Kind, Layer3, ports};
use crate::{ipv4, ipv6};

const HEADER: usize = 8;

/// Ports and kind of an ICMP message.
pub(crate) fn read_v4(l3: &Layer3, l4: &[u8]) -> Result<(u16, u16, Kind), DropReason> {
    let (header, quote) = l4.split_first_chunk::<HEADER>().ok_or(DropReason::L4Truncated)?;
    match (header[0], header[1]) {
        (8, 0) => Ok(echo(header, true)),
        (0, 0) => Ok(echo(header, false)),
        // Destination unreachable, time exceeded, parameter problem. Redirects (5) are for the own link.
        (3 | 11 | 12, _) => error(l3, quote, ipv4::read_quoted(quote)),
        _ => Ok((0, 0, Kind::IcmpOther)),
    }
}

/// Ports and kind of an ICMPv6 message.
pub(crate) fn read_v6(l3: &Layer3, l4: &[u8]) -> Result<(u16, u16, Kind), DropReason> {
    let (header, quote) = l4.split_first_chunk::<HEADER>().ok_or(DropReason::L4Truncated)?;
    match (header[0], header[1]) {
        (128, 0) => Ok(echo(header, true)),
        (129, 0) => Ok(echo(header, false)),
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        (1..=4, _) => error(l3, quote, ipv6::read_quoted(quote)),
        (133..=137, _) => Ok((0, 0, Kind::NeighbourDiscovery)),
        _ => Ok((0, 0, Kind::IcmpOther)),
    }
}

const fn echo(header: &[u8; HEADER], request: bool) -> (u16, u16, Kind) {
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    (identifier, identifier, Kind::IcmpEcho { request })
}

fn error(outer: &Layer3, quote: &[u8], inner: Option<Layer3>) -> Result<(u16, u16, Kind), DropReason> {
    // RFC 792 quotes the header and 64 bits, RFC 4443 as much as fits: the ports are always there.
    let shortest = if outer.src.is_v4() { 20 } else { 40 } + HEADER;
    if quote.len() < shortest {
        return Err(DropReason::L4Truncated);
    }
    let inner = inner.ok_or(DropReason::IcmpUnrelated)?;
    let l4 = quote.get(inner.header_len..).and_then(|l4| l4.first_chunk::<HEADER>());
    let l4 = l4.ok_or(DropReason::L4Truncated)?;
    // RFC 1122, section 3.2.2: an error goes to the source of the packet that caused it. One that goes
    // elsewhere would ride to a stranger on somebody's connection.
    if inner.src != outer.dst {
        return Err(DropReason::IcmpUnrelated);
    }
    let identifier = u16::from_be_bytes([l4[4], l4[5]]);
    let (src, dst) = match (inner.protocol, l4[0]) {
        (protocol, _) if protocol.has_ports() => ports(&[l4[0], l4[1], l4[2], l4[3]]),
        (Protocol::ICMP, 0 | 8) if inner.src.is_v4() => (identifier, identifier),
        (Protocol::ICMPV6, 128 | 129) if inner.src.is_v6() => (identifier, identifier),
        _ => (0, 0),
    };
    let quoted = FlowKey {
        src: Endpoint { address: inner.src, port: src },
        dst: Endpoint { address: inner.dst, port: dst },
        protocol: inner.protocol,
    };
    Ok((0, 0, Kind::IcmpError { quoted }))
}
