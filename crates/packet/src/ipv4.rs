//! IPv4 (RFC 791), on the slow lane: the header, its options, and which part of a datagram it is.

use etherparse::Ipv4HeaderSlice;
use etherparse::checksum::Sum16BitWords;
use flow::{Address, DropReason, Protocol};

use crate::fragment::Fragment;
use crate::packet::Layer3;

const MINIMUM: usize = 20;

/// Reads the header of the packet that `l3` begins with.
pub(crate) fn read(l3: &[u8]) -> Result<Layer3, DropReason> {
    if l3.len() < MINIMUM {
        return Err(DropReason::Truncated);
    }
    let header = Ipv4HeaderSlice::from_slice(l3).ok().ok_or(DropReason::IpInvalid)?;
    let (header_len, ip_len) = (header.slice().len(), usize::from(header.total_len()));
    if ip_len < header_len || ip_len > l3.len() {
        return Err(DropReason::IpInvalid);
    }
    // RFC 1122, section 3.2.1.2: "A host MUST verify the IP header checksum".
    if Sum16BitWords::new().add_slice(header.slice()).ones_complement() != 0 {
        return Err(DropReason::IpInvalid);
    }
    check_options(header.options())?;
    let fragment = header.is_fragmenting_payload().then(|| {
        let (id, offset) = (header.identification(), header.fragments_offset().byte_offset());
        Fragment::new(id.into(), offset, header.more_fragments(), ip_len - header_len, header_len)
    });
    Ok(Layer3 { fragment: fragment.transpose()?, ..layer3(&header, ip_len) })
}

/// Reads the header of a packet that an ICMP error quotes.
///
/// Routers have changed it, and quote only its beginning: neither its checksum nor its length is checked.
/// `None` for what has no layer-4 header. The quote of a first fragment has one.
pub(crate) fn read_quoted(quote: &[u8]) -> Option<Layer3> {
    let header = Ipv4HeaderSlice::from_slice(quote).ok()?;
    (header.fragments_offset().value() == 0).then(|| layer3(&header, quote.len()))
}

fn layer3(header: &Ipv4HeaderSlice<'_>, ip_len: usize) -> Layer3 {
    Layer3 {
        src: Address::v4(header.source()),
        dst: Address::v4(header.destination()),
        protocol: Protocol(header.protocol().0),
        ttl: header.ttl(),
        fragment: None,
        header_len: header.slice().len(),
        ip_len,
    }
}

/// Options are complete and do not redirect the packet.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
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
