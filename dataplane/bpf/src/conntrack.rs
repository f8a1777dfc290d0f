//! Who opened a connection, where the node's kernel has put an address of its own in the place of the opener's: asked
//! of its connection tracking, by netlink (linux/netfilter/nfnetlink_conntrack.h).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};

use flow::{Address, Endpoint, FlowKey, Protocol};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{recv, sendmsg, socket};

use crate::netlink::{HEADER, NESTED, NLM_F_REQUEST, attribute, nlattr};

/// Subsystem and message: what is asked for, and what is answered.
const CT_GET: u16 = 1 << 8 | 1;
const CT_NEW: u16 = 1 << 8;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
/// Source and destination of each family.
const CTA_IP_V4: [u16; 2] = [1, 2];
const CTA_IP_V6: [u16; 2] = [3, 4];
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `struct nfgenmsg`.
const GENERIC: usize = 4;

/// The connection tracking of the network namespace in which this was opened.
#[derive(Debug)]
pub struct Conntrack {
    socket: OwnedFd,
    sequence: u32,
    answer: Box<[u8]>,
}

impl Conntrack {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel knows no such sockets.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        Ok(Self { socket, sequence: 0, answer: vec![0; 4096].into() })
    }

    /// The connection of a packet with this key, in the direction and with the addresses with which it was opened. The
    /// key is that of the packet when it has been translated. `None` when there is no such connection, or one that
    /// nothing translates, or its protocol has no ports.
    pub fn opened(&mut self, key: &FlowKey) -> Option<FlowKey> {
        if !matches!(key.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP) {
            return None;
        }
        let back = key.reversed();
        self.sequence = self.sequence.wrapping_add(1);
        let kernel = NetlinkAddr::new(0, 0);
        let request = request(&back, self.sequence);
        sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(&request)], &[], MsgFlags::empty(), Some(&kernel))
            .ok()?;
        loop {
            // The answer is there when the question has been sent; an earlier one may be before it.
            let length = recv(self.socket.as_raw_fd(), &mut self.answer, MsgFlags::empty()).ok()?;
            let answer = self.answer.get(..length)?;
            if answer.get(8..12)? == self.sequence.to_ne_bytes() {
                return opened_in(answer, &back);
            }
        }
    }
}

/// Asks for the connection of which the packets of one direction have this key before they are translated. The kernel
/// takes either direction for the one that is named.
fn request(key: &FlowKey, sequence: u32) -> Vec<u8> {
    let v4 = key.src.address.is_v4();
    let ip = |kinds: [u16; 2]| {
        let ends = [key.src.address, key.dst.address];
        let attribute = |(kind, address): (u16, Address)| match v4 {
            true => nlattr(kind, &address.octets()[12..]),
            false => nlattr(kind, &address.octets()),
        };
        kinds.into_iter().zip(ends).flat_map(attribute).collect::<Vec<u8>>()
    };
    let ip = ip(if v4 { CTA_IP_V4 } else { CTA_IP_V6 });
    let ports = [
        nlattr(CTA_PROTO_NUM, &[key.protocol.0]),
        nlattr(CTA_PROTO_SRC_PORT, &key.src.port.to_be_bytes()),
        nlattr(CTA_PROTO_DST_PORT, &key.dst.port.to_be_bytes()),
    ];
    let tuple =
        [nlattr(CTA_TUPLE_IP | NESTED, &ip), nlattr(CTA_TUPLE_PROTO | NESTED, &ports.concat())].concat();
    let tuple = nlattr(CTA_TUPLE_REPLY | NESTED, &tuple);
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut request = Vec::with_capacity(HEADER + GENERIC + tuple.len());
    request.extend(((HEADER + GENERIC + tuple.len()) as u32).to_ne_bytes());
    request.extend(CT_GET.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend([0; 4]);
    request.extend([family as u8, 0, 0, 0]);
    request.extend(tuple);
    request
}

/// How the connection of this answer was opened, if it is the one that was asked for, and is translated.
fn opened_in(answer: &[u8], back: &FlowKey) -> Option<FlowKey> {
    if answer.get(4..6)? != CT_NEW.to_ne_bytes() {
        return None;
    }
    let attributes = answer.get(HEADER + GENERIC..)?;
    let opened = tuple(attribute(attributes, CTA_TUPLE_ORIG)?)?;
    let replied = tuple(attribute(attributes, CTA_TUPLE_REPLY)?)?;
    ([opened, replied].contains(back) && opened != replied.reversed()).then_some(opened)
}

fn tuple(attributes: &[u8]) -> Option<FlowKey> {
    let ip = attribute(attributes, CTA_TUPLE_IP)?;
    let proto = attribute(attributes, CTA_TUPLE_PROTO)?;
    let address = |end: usize| match attribute(ip, CTA_IP_V4[end]) {
        Some(octets) => Some(Address::v4(octets.try_into().ok()?)),
        None => Some(Address::v6(attribute(ip, CTA_IP_V6[end])?.try_into().ok()?)),
    };
    let port = |kind: u16| Some(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?));
    let protocol = Protocol(*attribute(proto, CTA_PROTO_NUM)?.first()?);
    let src = Endpoint { address: address(0)?, port: port(CTA_PROTO_SRC_PORT)? };
    let dst = Endpoint { address: address(1)?, port: port(CTA_PROTO_DST_PORT)? };
    Some(FlowKey { protocol, src, dst })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn key(src: &str, dst: &str) -> FlowKey {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        FlowKey::new(Protocol::TCP, (ip(src), 4000), (ip(dst), 80))
    }

    /// An answer of the kernel's: the request's tuple as that of one direction, and another as that of the other.
    fn answer(original: &FlowKey, reply: &FlowKey) -> Vec<u8> {
        let tuple = |key: &FlowKey, kind: u16| {
            let mut bytes = request(key, 7).split_off(HEADER + GENERIC);
            bytes[2..4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
            bytes
        };
        let mut bytes = request(reply, 7);
        bytes.truncate(HEADER + GENERIC);
        bytes[4..6].copy_from_slice(&CT_NEW.to_ne_bytes());
        bytes.extend(tuple(original, CTA_TUPLE_ORIG));
        bytes.extend(tuple(reply, CTA_TUPLE_REPLY));
        bytes
    }

    #[test]
    fn the_opener_is_who_the_connection_came_from() {
        for (opened, replied) in [
            (key("10.0.0.1", "10.96.0.1"), key("10.0.0.2", "192.168.0.1")),
            (key("fd00::1", "fd00:96::1"), key("fd00::2", "2001:db8::1")),
        ] {
            assert_eq!(opened_in(&answer(&opened, &replied), &replied), Some(opened));
            assert_eq!(opened_in(&answer(&opened, &replied), &opened), Some(opened));
            assert_eq!(opened_in(&answer(&opened, &replied), &replied.reversed()), None, "another one");
            let whole = answer(&opened, &replied);
            for length in 0..whole.len() - 8 {
                assert_eq!(opened_in(&whole[..length], &replied), None, "{length} bytes");
            }
        }
    }

    #[test]
    fn a_connection_that_nothing_translates_hides_nobody() {
        let opened = key("10.0.0.1", "192.168.0.1");
        for asked in [opened, opened.reversed()] {
            assert_eq!(opened_in(&answer(&opened, &opened.reversed()), &asked), None);
        }
    }

    #[test]
    fn a_connection_that_nobody_has_has_no_opener() {
        let mut tracking = Conntrack::open().unwrap();
        assert_eq!(tracking.opened(&key("192.0.2.1", "192.0.2.2")), None);
        assert_eq!(tracking.opened(&key("2001:db8::1", "2001:db8::2")), None);
    }
}
