//! IPv6 (RFC 8200), on the slow lane: the header and its extension headers.

use etherparse::{
    IpAuthHeaderSlice, IpNumber, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, ip_number,
};
use flow::{Address, DropReason, Protocol};

use crate::fragment::Fragment;
use crate::packet::Layer3;

const HEADER: usize = 40;

/// Reads the header of the packet that `l3` begins with.
pub(crate) fn read(l3: &[u8]) -> Result<Layer3, DropReason> {
    if l3.len() < HEADER {
        return Err(DropReason::Truncated);
    }
    let header = Ipv6HeaderSlice::from_slice(l3).ok().ok_or(DropReason::IpInvalid)?;
    let ip_len = HEADER + usize::from(header.payload_length());
    let chain = l3.get(HEADER..ip_len).ok_or(DropReason::IpInvalid)?;
    let (src, dst) = addresses(&header).ok_or(DropReason::IpInvalid)?;
    let Chain { length, upper, fragment } = walk(header.next_header().0, chain)?;
    Ok(Layer3 {
        src,
        dst,
        protocol: upper,
        ttl: header.hop_limit(),
        fragment: fragment.map(|fragment| fragment.of_packet(chain.len())).transpose()?,
        header_len: HEADER + length,
        ip_len,
    })
}

/// Reads the header of a packet that an ICMPv6 error quotes: as much of it as fits, so its length is not
/// checked. `None` for what has no layer-4 header. The quote of a first fragment has one.
pub(crate) fn read_quoted(quote: &[u8]) -> Option<Layer3> {
    let header = Ipv6HeaderSlice::from_slice(quote).ok()?;
    let (src, dst) = addresses(&header)?;
    let Chain { length, upper, fragment } = walk(header.next_header().0, quote.get(HEADER..)?).ok()?;
    if fragment.is_some_and(|fragment| fragment.offset != 0) {
        return None;
    }
    Some(Layer3 {
        src,
        dst,
        protocol: upper,
        ttl: header.hop_limit(),
        fragment: None,
        header_len: HEADER + length,
        ip_len: quote.len(),
    })
}

/// Source and destination; `None` when one is IPv4-mapped, which would speak for the other family here.
fn addresses(header: &Ipv6HeaderSlice<'_>) -> Option<(Address, Address)> {
    let (src, dst) = (Address::v6(header.source()), Address::v6(header.destination()));
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
    Fragment,
    Authentication,
    DestinationOfTheLast,
}

/// A chain of extension headers, walked to its end or to the data of a later fragment.
struct Chain {
    /// In bytes.
    length: usize,
    upper: Protocol,
    fragment: Option<FragmentHeader>,
}

/// A fragment header that says that this is not the whole packet.
#[derive(Clone, Copy)]
struct FragmentHeader {
    id: u32,
    /// In bytes.
    offset: u16,
    more: bool,
    /// From the first extension header to behind this one, in bytes.
    until: usize,
}

impl FragmentHeader {
    const LENGTH: usize = 8;

    /// The part that this is of its datagram, in a packet whose payload has this length.
    fn of_packet(self, payload_len: usize) -> Result<Fragment, DropReason> {
        let data = payload_len - self.until;
        Fragment::new(self.id, self.offset, self.more, data, self.until - Self::LENGTH)
    }
}

/// Follows the chain that begins with header `next`.
fn walk(mut next: u8, chain: &[u8]) -> Result<Chain, DropReason> {
    const INVALID: DropReason = DropReason::Ipv6ExtInvalid;
    let mut rest = chain;
    let mut last = Place::Start;
    let mut fragment: Option<FragmentHeader> = None;
    loop {
        let done = chain.len() - rest.len();
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
            ip_number::IPV6_FRAGMENTATION_HEADER => Place::Fragment,
            ip_number::AUTHENTICATION_HEADER => Place::Authentication,
            _ if is_upper_layer(next) => return Ok(Chain { length: done, upper: Protocol(next), fragment }),
            _ => return Err(INVALID),
        };
        // Hop-by-hop options come first or not at all: every other place follows them.
        if place <= last {
            return Err(INVALID);
        }
        let length = match place {
            Place::Authentication => {
                let header = IpAuthHeaderSlice::from_slice(rest).ok().ok_or(INVALID)?;
                next = header.next_header().0;
                header.slice().len()
            }
            Place::Fragment => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok().ok_or(INVALID)?;
                next = header.next_header().0;
                // RFC 6946: one that neither follows nor announces others is a whole packet.
                if header.is_fragmenting_payload() {
                    fragment = Some(FragmentHeader {
                        id: header.identification(),
                        offset: header.fragment_offset().byte_offset(),
                        more: header.more_fragments(),
                        until: done + FragmentHeader::LENGTH,
                    });
                }
                FragmentHeader::LENGTH
            }
            _ => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok().ok_or(INVALID)?;
                let body = header.payload();
                if (place == Place::Routing && !has_arrived(body))
                    || (place == Place::HopByHop && !is_plain(body))
                {
                    return Err(INVALID);
                }
                next = header.next_header().0;
                header.slice().len()
            }
        };
        rest = rest.get(length..).ok_or(INVALID)?;
        last = place;
        if let Some(FragmentHeader { offset: 1.., until, .. }) = fragment {
            // What follows is data. A header that may not come here did not come in the first one either.
            let later = is_upper_layer(next)
                || matches!(
                    IpNumber(next),
                    ip_number::AUTHENTICATION_HEADER | ip_number::IPV6_DESTINATION_OPTIONS
                );
            return if later {
                Ok(Chain { length: until, upper: Protocol(next), fragment })
            } else {
                Err(INVALID)
            };
        }
    }
}

/// Whether hop-by-hop options add up, and none of them says that the packet's length is elsewhere (RFC 2675:
/// a jumbogram).
fn is_plain(mut options: &[u8]) -> bool {
    const PAD_1: u8 = 0;
    const JUMBO_PAYLOAD: u8 = 194;
    loop {
        options = match options {
            [] => return true,
            [PAD_1, rest @ ..] => rest,
            [JUMBO_PAYLOAD, ..] => return false,
            [_, length, rest @ ..] => match rest.get(usize::from(*length)..) {
                Some(rest) => rest,
                None => return false,
            },
            [_] => return false,
        };
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
