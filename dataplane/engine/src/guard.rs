//! The port guard: who may speak through a port, before policy is asked anything.

use flow::{DropReason, MacAddr};
use packet::neighbour::{Arp, pinning_claim};
use packet::{Kind, LaterFragment, Packet};

use crate::wiring::{Port, Role, Wiring};

/// What the guard says of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may go on.
    Admitted(Packet),
    /// It may go on if the first fragment of its datagram did.
    Later(LaterFragment),
    /// It goes no further, but shows the MAC address of the port's pod.
    Introduced(MacAddr),
    /// It goes no further.
    Refused(DropReason),
}

/// Judges one frame that arrived on `port`.
///
/// The order matters: a frame is parsed before it is believed, and an address is believed only on the port
/// where it lives. What the XDP program has passed to the kernel (a pod's own ARP, neighbour discovery and
/// packets to its node) never comes here.
#[inline(always)]
pub(crate) fn admit(frame: &[u8], port: &Port, wiring: &Wiring) -> Admission {
    if matches!(&port.role, Role::Pod { addresses, .. } if addresses.is_empty()) {
        return Admission::Refused(DropReason::UnknownPod);
    }
    if let Role::Pod { mac: None, addresses } = &port.role {
        return match pinning_claim(frame) {
            Some((mac, claimed)) if addresses.contains(&claimed) => Admission::Introduced(mac),
            _ => Admission::Refused(DropReason::MacUnknown),
        };
    }
    match Packet::parse(frame) {
        Ok(packet) => match refusal(frame, &packet, port, wiring) {
            None => Admission::Admitted(packet),
            Some(reason) => Admission::Refused(reason),
        },
        Err(DropReason::UnknownEthertype) if Arp::parse(frame).is_some() => {
            Admission::Refused(DropReason::NeighbourSpoofed)
        }
        Err(DropReason::FragmentUnmatched) => {
            admit_later(frame, |packet| refusal(frame, packet, port, wiring))
        }
        Err(reason) => Admission::Refused(reason),
    }
}

/// Judges one frame that is about to leave by `port`: it must be for the pod behind it, or from a pod of this node, if
/// under another address (`sent_here`). Who may say what it says was asked where it came from.
pub(crate) fn admit_departing(frame: &[u8], port: &Port, sent_here: bool, wiring: &Wiring) -> Admission {
    let refusal = |packet: &Packet| match &port.role {
        _ if packet.kind == Kind::NeighbourDiscovery => Some(DropReason::NeighbourSpoofed),
        Role::Pod { addresses, .. } if !addresses.contains(&packet.key.dst.address) => {
            Some(DropReason::NotForUs)
        }
        Role::Uplink if !sent_here && wiring.pod_port(packet.key.src.address).is_none() => {
            Some(DropReason::NotForUs)
        }
        _ if !packet.key.src.address.may_be_source() => Some(DropReason::SpoofedSource),
        _ => None,
    };
    match Packet::parse(frame) {
        Ok(packet) => refusal(&packet).map_or(Admission::Admitted(packet), Admission::Refused),
        Err(DropReason::FragmentUnmatched) => admit_later(frame, refusal),
        Err(reason) => Admission::Refused(reason),
    }
}

/// Judges a later fragment, by the same rules as a packet.
#[cold]
fn admit_later(frame: &[u8], refusal: impl Fn(&Packet) -> Option<DropReason>) -> Admission {
    let later = LaterFragment::parse(frame);
    let Some((later, packet)) = later.and_then(|later| Some((later, later.following(later.bare_key())?)))
    else {
        return Admission::Refused(DropReason::FragmentUnmatched);
    };
    refusal(&packet).map_or(Admission::Later(later), Admission::Refused)
}

#[inline]
fn refusal(frame: &[u8], packet: &Packet, port: &Port, wiring: &Wiring) -> Option<DropReason> {
    let (src, dst) = (packet.key.src.address, packet.key.dst.address);
    // From the frame, not from the packet: what has just been written byte by byte is slow to read as a whole.
    let mac = |at: usize| frame.get(at..).and_then(|mac| mac.first_chunk()).copied().map(MacAddr);
    let (Some(eth_dst), Some(eth_src)) = (mac(0), mac(6)) else { return Some(DropReason::Truncated) };
    let own = match &port.role {
        Role::Pod { mac, addresses } => *mac == Some(eth_src) && addresses.contains(&src),
        // A local address cannot come from outside, nor can one that names no single host.
        Role::Uplink => wiring.pod_port(src).is_none() && !wiring.is_node(src) && src.may_be_source(),
    };
    if packet.kind == Kind::NeighbourDiscovery {
        return Some(DropReason::NeighbourSpoofed);
    }
    if !own {
        return Some(DropReason::SpoofedSource);
    }
    if eth_dst.is_group() || dst.is_multicast() || dst.is_broadcast() {
        return Some(DropReason::Multicast);
    }
    if eth_dst != port.mac {
        return Some(DropReason::NotForUs);
    }
    None
}
