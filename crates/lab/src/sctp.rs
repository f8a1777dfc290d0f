//! Just enough SCTP to knock and to open (RFC 9260, sections 3 and 5.1): INIT, INIT ACK and ABORT, made by hand.
//!
//! The kernel may lack SCTP sockets, so packets go through raw IP sockets, which still leave addresses, routes
//! and neighbours to it. A responder keeps no state; its name travels in the State Cookie of the INIT ACK.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
/// The parameter of an INIT ACK that the peer would send back (section 3.3.3.1).
const STATE_COOKIE: u16 = 7;
/// Ports, verification tag, checksum.
const COMMON_HEADER: usize = 12;
/// Of an INIT and an INIT ACK, up to their parameters: header, tag, window, two counts of streams, first TSN.
const INIT_CHUNK: usize = 20;
const RECEIVER_WINDOW: u32 = 65_536;

/// A raw IP socket for SCTP at an address. It behaves as a datagram socket does, but has no ports; over IPv4,
/// what it receives begins with the IP header.
pub(crate) fn raw_socket(address: IpAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Raw, flags, SockProtocol::Sctp)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0)))?;
    match family {
        AddressFamily::Inet => setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?,
        _ => setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(fd.into())
}

/// One knock: an INIT, and what may answer it.
#[derive(Debug)]
pub(crate) struct Knock {
    /// The initiate tag: what answers must carry.
    tag: u32,
    source: u16,
    destination: u16,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// INIT ACK, with what its cookie holds.
    Accepted(String),
    /// ABORT.
    Refused,
}

impl Knock {
    /// At this port, from a port and with a tag that no other recent knock of this process has.
    pub(crate) fn at(destination: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The dynamic ports (RFC 6335); a tag is never zero.
        let [_, _, high, low] = number.to_be_bytes();
        Self { tag: number | 0x8000_0000, source: u16::from_be_bytes([high, low]) | 0xc000, destination }
    }

    /// The INIT, without an IP header. Its verification tag is zero.
    pub(crate) fn packet(&self) -> Vec<u8> {
        packet((self.source, self.destination), 0, INIT, &initiation(self.tag))
    }

    /// What this packet, as a raw socket received it, answers to the knock; `None` when it is something else.
    pub(crate) fn answer(&self, received: &[u8], over_ipv4: bool) -> Option<Answer> {
        let packet = Packet::parse(received, over_ipv4)?;
        if (packet.source, packet.destination, packet.tag) != (self.destination, self.source, self.tag) {
            return None;
        }
        match packet.kind {
            INIT_ACK => Some(Answer::Accepted(String::from_utf8(packet.cookie()?.to_vec()).ok()?)),
            ABORT => Some(Answer::Refused),
            _ => None,
        }
    }
}

/// What a host that serves `ports` answers to a packet, as a raw socket received it, without an IP header: INIT
/// ACK, or ABORT when nobody serves the port (section 8.4). `None` to all that is no INIT.
pub(crate) fn reply(received: &[u8], over_ipv4: bool, ports: &[u16], identity: &str) -> Option<Vec<u8>> {
    let init = Packet::parse(received, over_ipv4).filter(|packet| packet.kind == INIT && packet.tag == 0)?;
    let tag = u32::from_be_bytes(*init.chunk.get(4..)?.first_chunk()?);
    let back = (init.destination, init.source);
    if !ports.contains(&init.destination) {
        return Some(packet(back, tag, ABORT, &[]));
    }
    let mut value = initiation(tag.rotate_left(16) | 1);
    value.extend(STATE_COOKIE.to_be_bytes());
    value.extend(u16::try_from(4 + identity.len()).ok()?.to_be_bytes());
    value.extend(identity.as_bytes());
    Some(packet(back, tag, INIT_ACK, &value))
}

/// The fixed part of INIT and INIT ACK, after the chunk's header: one stream each way.
fn initiation(tag: u32) -> Vec<u8> {
    let mut value = Vec::new();
    value.extend(tag.to_be_bytes());
    value.extend(RECEIVER_WINDOW.to_be_bytes());
    value.extend([0, 1, 0, 1]);
    value.extend(tag.to_be_bytes());
    value
}

/// A packet of one chunk without flags.
fn packet((source, destination): (u16, u16), tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(value);
    // The length does not count the padding (section 3.2).
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let sum = crc32c(&bytes).to_le_bytes();
    bytes[8..COMMON_HEADER].copy_from_slice(&sum);
    bytes
}

/// A packet whose checksum is right, with its first chunk.
struct Packet<'a> {
    source: u16,
    destination: u16,
    tag: u32,
    kind: u8,
    /// From its type on, without padding.
    chunk: &'a [u8],
}

impl<'a> Packet<'a> {
    fn parse(received: &'a [u8], over_ipv4: bool) -> Option<Self> {
        let header = if over_ipv4 { usize::from(received.first()? & 0xf) * 4 } else { 0 };
        let bytes = received.get(header..)?;
        let sum: [u8; 4] = bytes.get(8..COMMON_HEADER)?.try_into().ok()?;
        let mut zeroed = bytes.to_vec();
        zeroed[8..COMMON_HEADER].fill(0);
        if crc32c(&zeroed).to_le_bytes() != sum {
            return None;
        }
        let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let chunk = bytes.get(COMMON_HEADER..COMMON_HEADER + usize::from(word(COMMON_HEADER + 2)?))?;
        Some(Self {
            source: word(0)?,
            destination: word(2)?,
            tag: u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?),
            kind: *chunk.first()?,
            chunk,
        })
    }

    /// What the cookie holds, where it is the first parameter, as ours is.
    fn cookie(&self) -> Option<&'a [u8]> {
        let parameter = self.chunk.get(INIT_CHUNK..)?;
        let length = usize::from(u16::from_be_bytes(*parameter.get(2..)?.first_chunk()?));
        let kind = u16::from_be_bytes(*parameter.first_chunk()?);
        if kind == STATE_COOKIE { parameter.get(4..length) } else { None }
    }
}

/// CRC32c (RFC 9260, appendix A), bit by bit: a knock has 32 bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_knock_is_answered_by_who_serves_the_port_and_refused_elsewhere() {
        let knock = Knock::at(80);
        let open = reply(&knock.packet(), false, &[80, 81], "x/a").unwrap();
        assert_eq!(knock.answer(&open, false), Some(Answer::Accepted("x/a".to_owned())));
        let closed = reply(&knock.packet(), false, &[81], "x/a").unwrap();
        assert_eq!(knock.answer(&closed, false), Some(Answer::Refused));
        let behind_a_header = [&[0x45; 20], open.as_slice()].concat();
        assert_eq!(knock.answer(&behind_a_header, true), Some(Answer::Accepted("x/a".to_owned())));
    }

    #[test]
    fn what_is_no_answer_to_this_knock_or_damaged_counts_for_nothing() {
        let (knock, other) = (Knock::at(80), Knock::at(80));
        let answer = reply(&other.packet(), false, &[80], "x/a").unwrap();
        assert_eq!(knock.answer(&answer, false), None);
        assert_eq!(reply(&answer, false, &[80], "x/b"), None, "an answer is no question");
        for index in 0..answer.len() {
            let mut damaged = answer.clone();
            damaged[index] ^= 0x10;
            assert_eq!(other.answer(&damaged, false), None, "byte {index}");
            assert_eq!(other.answer(&answer[..index], false), None, "{index} bytes");
        }
    }
}
