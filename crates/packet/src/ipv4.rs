//! IPv4 (RFC 791): the header, and on the slow lane its options.

use etherparse::Ipv4HeaderSlice;
use flow::{Address, DropReason, Protocol};

use crate::checksum;
use crate::packet::Layer3;

const MINIMUM: usize = 20;

/// Reads the header of the packet that `l3` begins with.
#[inline]
pub(crate) fn read(l3: &[u8]) -> Result<Layer3, DropReason> {
    let header = l3.first_chunk::<MINIMUM>().ok_or(DropReason::Truncated)?;
    let ip_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let header_len = match header[0] {
        0x45 => MINIMUM,
        0x46..=0x4f => usize::from(header[0] & 0x0f) * 4,
        _ => return Err(DropReason::IpInvalid),
    };
    if ip_len < header_len || ip_len > l3.len() {
        return Err(DropReason::IpInvalid);
    }
    if header_len == MINIMUM {
        // RFC 1122, section 3.2.1.2: "A host MUST verify the IP header checksum".
        if checksum::fold(checksum::sum(header)) != 0xffff {
            return Err(DropReason::IpInvalid);
        }
    } else {
        check_options(l3)?;
    }
    // The first fragment has offset zero and announces more.
    const MORE_OR_OFFSET: u16 = 0x3fff;
    if u16::from_be_bytes([header[6], header[7]]) & MORE_OR_OFFSET != 0 {
        return Err(DropReason::Fragment);
    }
    Ok(layer3(header, header_len, ip_len))
}

/// Reads the header of a packet that an ICMP error quotes.
///
/// Routers have changed it, and quote only its beginning: neither its checksum nor its length is checked.
/// `None` for what has no layer-4 header. The quote of a first fragment has one.
pub(crate) fn read_quoted(quote: &[u8]) -> Option<Layer3> {
    let header = quote.first_chunk::<MINIMUM>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if header[0] >> 4 != 4 || header_len < MINIMUM || offset != 0 {
        return None;
    }
    Some(layer3(header, header_len, quote.len()))
}

#[inline]
const fn layer3(header: &[u8; MINIMUM], header_len: usize, ip_len: usize) -> Layer3 {
    Layer3 {
        src: Address::v4([header[12], header[13], header[14], header[15]]),
        dst: Address::v4([header[16], header[17], header[18], header[19]]),
        protocol: Protocol(header[9]),
        ttl: header[8],
        header_len,
        ip_len,
    }
}

/// The slow lane: a header with options is complete, sums up, and does not redirect the packet.
#[cold]
fn check_options(l3: &[u8]) -> Result<(), DropReason> {
    let header = Ipv4HeaderSlice::from_slice(l3).ok().ok_or(DropReason::IpInvalid)?;
    if checksum::fold(checksum::sum(header.slice())) != 0xffff {
        return Err(DropReason::IpInvalid);
    }
    let mut options = header.options();
    loop {
        options = match options {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, rest @ ..] => rest,
            // The destination of a source-routed packet is not where it goes in the end (RFC 7126, section
            // 4.3 and 4.4: drop).
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(DropReason::IpInvalid),
            [_, length, ..] if *length >= 2 => {
                options.get(usize::from(*length)..).ok_or(DropReason::IpInvalid)?
            }
            _ => return Err(DropReason::IpInvalid),
        };
    }
}

// RFC 791, section 3.1.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
