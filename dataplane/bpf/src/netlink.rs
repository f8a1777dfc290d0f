//! Asks the kernel which programs an interface runs, XDP or tc, and takes off what netlink attached: by hand
//! (rtnetlink(7)).

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{recv, sendmsg, socket};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
pub(crate) const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
const ETH_P_ALL: u16 = 3;
/// A bit of an attribute's type.
pub(crate) const NESTED: u16 = 1 << 15;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `struct nlmsghdr`, `struct ifinfomsg` and `struct tcmsg`.
pub(crate) const HEADER: usize = 16;
const IFINFO: usize = 16;
const TCMSG: usize = 20;

/// The id of the XDP program that the interface with this index runs, if any.
///
/// # Errors
///
/// When the kernel does not answer, or knows no such interface.
pub fn attached_program(ifindex: u32) -> io::Result<Option<u32>> {
    let answer = ask(RTM_GETLINK, NLM_F_REQUEST, &link(ifindex), &[])?;
    match kind_of(&answer) {
        Some(RTM_NEWLINK) => Ok(program_id(answer.get(HEADER + IFINFO..).unwrap_or(&[]))),
        _ => Err(error_of(&answer)),
    }
}

/// Takes off whatever XDP program netlink has attached to the interface with this index.
///
/// # Errors
///
/// When the kernel refuses, as it does for a link.
pub(crate) fn detach_program(ifindex: u32) -> io::Result<()> {
    let attached_by = |mode: u32| {
        let none = nlattr(IFLA_XDP_FD, &(-1_i32).to_ne_bytes());
        let flags = nlattr(IFLA_XDP_FLAGS, &mode.to_ne_bytes());
        let attributes = nlattr(IFLA_XDP | NESTED, &[none, flags].concat());
        consent(&ask(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, &link(ifindex), &attributes)?)
    };
    attached_by(XDP_FLAGS_DRV_MODE)?;
    attached_by(XDP_FLAGS_SKB_MODE)
}

/// Where a filter stands in the kernel (`struct tcmsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterPlace {
    pub(crate) ifindex: u32,
    /// The half of a clsact qdisc.
    pub(crate) parent: u32,
    pub(crate) preference: u16,
    pub(crate) handle: u32,
}

/// A tc filter that runs a BPF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) program: u32,
    pub(crate) name: String,
}

impl FilterPlace {
    /// What stands there, if it is a BPF program.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub(crate) fn look(self) -> io::Result<Option<Filter>> {
        let answer = ask(RTM_GETTFILTER, NLM_F_REQUEST, &self.message(), &[])?;
        // Without a qdisc, a chain or a filter it is an error, one or another.
        Ok(match kind_of(&answer) {
            Some(RTM_NEWTFILTER) => filter(answer.get(HEADER + TCMSG..).unwrap_or(&[])),
            _ => None,
        })
    }

    /// Removes what stands there.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn clear(self) -> io::Result<()> {
        consent(&ask(RTM_DELTFILTER, NLM_F_REQUEST | NLM_F_ACK, &self.message(), &[])?)
    }

    fn message(self) -> Vec<u8> {
        let protocol = u32::from(ETH_P_ALL.to_be());
        let words = [0, self.ifindex, self.handle, self.parent, u32::from(self.preference) << 16 | protocol];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

fn filter(attributes: &[u8]) -> Option<Filter> {
    let options = attribute(attributes, TCA_OPTIONS)?;
    let program = u32::from_ne_bytes(attribute(options, TCA_BPF_ID)?.try_into().ok()?);
    let name = attribute(options, TCA_BPF_NAME).and_then(|name| name.split(|byte| *byte == 0).next());
    Some(Filter { program, name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned() })
}

/// `struct ifinfomsg` of an interface.
fn link(ifindex: u32) -> Vec<u8> {
    [0, ifindex, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

/// One request, and the first message of the answer.
fn ask(kind: u16, flags: u16, about: &[u8], attributes: &[u8]) -> io::Result<Vec<u8>> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut request = Vec::with_capacity(HEADER + about.len() + attributes.len());
    request.extend(((HEADER + about.len() + attributes.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(about);
    request.extend(attributes);
    let kernel = NetlinkAddr::new(0, 0);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(&request)], &[], MsgFlags::empty(), Some(&kernel))?;
    let mut answer = vec![0; 64 * 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

fn kind_of(answer: &[u8]) -> Option<u16> {
    answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]))
}

fn consent(answer: &[u8]) -> io::Result<()> {
    match error_of(answer) {
        error if error.raw_os_error() == Some(0) => Ok(()),
        error => Err(error),
    }
}

/// What a message of `NLMSG_ERROR` says; error 0 is the kernel's consent.
fn error_of(answer: &[u8]) -> io::Error {
    match (answer.get(4..6), answer.get(HEADER..HEADER + 4)) {
        (Some(kind), Some(e)) if kind == NLMSG_ERROR.to_ne_bytes() => {
            io::Error::from_raw_os_error(-i32::from_ne_bytes([e[0], e[1], e[2], e[3]]))
        }
        _ => io::Error::other("an answer that is none"),
    }
}

/// An attribute, padded to four bytes.
pub(crate) fn nlattr(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((payload.len() + 4) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn program_id(attributes: &[u8]) -> Option<u32> {
    let id = attribute(attribute(attributes, IFLA_XDP)?, IFLA_XDP_PROG_ID)?;
    Some(u32::from_ne_bytes(id.try_into().ok()?)).filter(|id| *id != 0)
}

/// The payload of the first attribute of this type: `struct nlattr`, padded to four bytes.
pub(crate) fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & !NESTED;
        let payload = rest.get(4..length)?;
        if kind == wanted {
            return Some(payload);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_id_is_found_behind_other_attributes() {
        let xdp = [nlattr(2, &[1]), nlattr(IFLA_XDP_PROG_ID, &77_u32.to_ne_bytes())].concat();
        let attributes = [nlattr(3, b"name\0"), nlattr(IFLA_XDP | 1 << 15, &xdp)].concat();
        assert_eq!(program_id(&attributes), Some(77));
        assert_eq!(program_id(&attributes[..20]), None);
        assert_eq!(program_id(&nlattr(3, b"name\0")), None);
        // A length below that of the header would never end.
        assert_eq!(program_id(&[0, 0, 0, 0, 1, 2, 3, 4]), None);
    }

    #[test]
    fn loopback_runs_no_program() {
        assert_eq!(attached_program(1).unwrap(), None);
        assert!(attached_program(u32::MAX >> 1).is_err());
    }
}
