//! IPv6 (RFC 8200): the header, and on the slow lane its extension headers.

use etherparse::{IpAuthHeaderSlice, IpNumber, Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice, ip_number};
use flow::{Address, DropReason, Protocol};

use crate::packet::Layer3;

const HEADER: usize = 40;

/// Reads the header of the packet that `l3` begins with.
#[inline]
pub(crate) fn read(l3: &[u8]) -> Result<Layer3, DropReason> {
    let header = l3.first_chunk::<HEADER>().ok_or(DropReason::Truncated)?;
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let ip_len = HEADER + payload_len;
    // RFC 2675, section 2: a jumbogram has payload length zero and a hop-by-hop header.
    let jumbo = payload_len == 0 && header[6] == ip_number::IPV6_HEADER_HOP_BY_HOP.0;
    if header[0] >> 4 != 6 || ip_len > l3.len() || jumbo {
        return Err(DropReason::IpInvalid);
    }
    let (src, dst) = addresses(header).ok_or(DropReason::IpInvalid)?;
    let (header_len, protocol) = match Protocol(header[6]) {
        upper @ (Protocol::TCP | Protocol::UDP | Protocol::ICMPV6 | Protocol::SCTP) => (HEADER, upper),
        Protocol(next) => {
            let chain = l3.get(HEADER..ip_len).ok_or(DropReason::IpInvalid)?;
            let (length, upper) = walk(next, chain)?;
            (HEADER + length, upper)
        }
    };
    Ok(Layer3 { src, dst, protocol, ttl: header[7], header_len, ip_len })
}

/// Reads the header of a packet that an ICMPv6 error quotes: as much of it as fits, so its length is not
/// checked. `None` for what has no layer-4 header.
pub(crate) fn read_quoted(quote: &[u8]) -> Option<Layer3> {
    let (header, chain) = quote.split_first_chunk::<HEADER>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (src, dst) = addresses(header)?;
    let (length, protocol) = walk(header[6], chain).ok()?;
    Some(Layer3 { src, dst, protocol, ttl: header[7], header_len: HEADER + length, ip_len: quote.len() })
}

/// Source and destination; `None` when one is IPv4-mapped, which would speak for the other family here.
#[inline]
fn addresses(header: &[u8; HEADER]) -> Option<(Address, Address)> {
    let (_, rest) = header.split_first_chunk::<8>()?;
    let (src, rest) = rest.split_first_chunk::<16>()?;
    let (src, dst) = (Address::v6(*src), Address::v6(*rest.first_chunk::<16>()?));
    (src.is_v6() && dst.is_v6()).then_some((src, dst))
}

/// The places in a chain of extension headers, in the order of RFC 8200, section 4.1. Each is taken at most
/// once and never left again, and that bounds the walk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Start,
    HopByHop,
    DestinationOfEveryHop,
    Routing,
    Authentication,
    DestinationOfTheLast,
}

/// Follows the chain that begins with header `next`: its length in bytes and the protocol behind it.
#[cold]
fn walk(mut next: u8, chain: &[u8]) -> Result<(usize, Protocol), DropReason> {
    const INVALID: DropReason = DropReason::Ipv6ExtInvalid;
    let mut rest = chain;
    let mut last = Place::Start;
    loop {
        let place = match IpNumber(next) {
            ip_number::IPV6_HEADER_HOP_BY_HOP => Place::HopByHop,
            // Once before a routing header and once before the upper layer.
            ip_number::IPV6_DESTINATION_OPTIONS if last < Place::DestinationOfEveryHop => {
                Place::DestinationOfEveryHop
            }
            ip_number::IPV6_DESTINATION_OPTIONS if last > Place::DestinationOfEveryHop => {
                Place::DestinationOfTheLast
            }
            ip_number::IPV6_ROUTE_HEADER => Place::Routing,
            ip_number::AUTHENTICATION_HEADER => Place::Authentication,
            ip_number::IPV6_FRAGMENTATION_HEADER => {
                Ipv6FragmentHeaderSlice::from_slice(rest).ok().ok_or(INVALID)?;
                return Err(DropReason::Fragment);
            }
            _ if is_upper_layer(next) => return Ok((chain.len() - rest.len(), Protocol(next))),
            _ => return Err(INVALID),
        };
        // Hop-by-hop options come first or not at all: every other place follows them.
        if place <= last {
            return Err(INVALID);
        }
        let length = if place == Place::Authentication {
            let header = IpAuthHeaderSlice::from_slice(rest).ok().ok_or(INVALID)?;
            next = header.next_header().0;
            header.slice().len()
        } else {
            let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok().ok_or(INVALID)?;
            if place == Place::Routing && !has_arrived(header.payload()) {
                return Err(INVALID);
            }
            next = header.next_header().0;
            header.slice().len()
        };
        rest = rest.get(length..).ok_or(INVALID)?;
        last = place;
    }
}

/// Whether a routing header has no more segments to visit, so that the destination is the final one. Type 0
/// is never obeyed (RFC 5095); types 2, 3 and 4 are those in use (RFC 6275, 6554, 8754).
const fn has_arrived(routing: &[u8]) -> bool {
    matches!(routing, [2..=4, 0, ..])
}

/// Whether this number names an upper layer and no extension header ("IPv6 Extension Header Types", IANA).
/// Unassigned numbers may become extension headers (RFC 7045), and no-next-header has nothing to judge.
const fn is_upper_layer(number: u8) -> bool {
    !matches!(number, 0 | 43 | 44 | 51 | 59 | 60 | 135 | 139 | 140 | 146..)
}
