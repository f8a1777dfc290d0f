//! What the kernel is told of a connection, and what policy is not asked about.

use flow::{Address, DropReason, Epoch, FlowKey, Verdict};
use packet::{Kind, Packet};
use table::PolicyTable;

use super::punt::Punt;
use crate::flows::Question;
use crate::wiring::{PortId, Role, Wiring};

/// A verdict for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The pod's port.
    pub port: PortId,
    /// From the pod to the other end, whoever opened the connection.
    pub key: FlowKey,
    /// What becomes of its packets; a denial is for those of the end that opened it.
    pub verdict: Verdict,
    /// Whether the pod has opened it.
    pub pod_opened: bool,
    /// Whether it is judged once more where the address behind the service can be seen.
    pub provisional: bool,
    /// Whether an address of the node hides who is behind it: connection tracking, which alone knows, may forget it and
    /// give that address and port to somebody else.
    pub hidden: bool,
    /// The epoch of the pod under which it was judged.
    pub epoch: Epoch,
    /// The pod at the other end, where only this verdict would notice that its policies change: its port and epoch.
    pub other: Option<(PortId, Epoch)>,
}

/// The port of a pod of this node, and its epoch.
fn pod(address: Address, wiring: &Wiring, table: &PolicyTable) -> Option<(PortId, Epoch)> {
    Some((wiring.pod_port(address)?, table.epoch_of(address)?))
}

/// The verdicts on an allowed connection, `key` in its original direction: one for each pod of this node, so that
/// neither asks about it again. `opener` is who opened it, where its address does not say.
///
/// The pod that a connection was opened to may be all that its packets pass: by way of a service, the opener's port has
/// seen another address. So the verdict there minds the opener's epoch, too.
pub(super) fn on_allowed<'t>(
    key: &FlowKey,
    opener: Option<Address>,
    punt: Punt,
    kind: Kind,
    wiring: &'t Wiring,
    table: &'t PolicyTable,
) -> impl Iterator<Item = Judged> + use<'t> {
    let key = *key;
    let for_service = is_provisional(&key, wiring);
    // What answers an address of the node may be taken for an opening to a port there, once tracking has forgotten it.
    let of_the_node = opener.is_some() && wiring.is_node(key.src.address);
    let judged = move |pod_opened: bool, local: Option<(PortId, Epoch)>, other| {
        let (port, epoch) = local?;
        let key = if pod_opened { key } else { key.reversed() };
        let provisional = for_service || of_the_node && !pod_opened;
        let (verdict, hidden) = (Verdict::Allow, opener.is_some());
        Some(Judged { port, key, verdict, pod_opened, provisional, hidden, epoch, other })
    };
    let by = pod(opener.unwrap_or(key.src.address), wiring, table);
    let here = match opener {
        None => by,
        // Under the node's address it is seen as it leaves by an uplink, and nowhere else.
        Some(_) => by.filter(|_| is_uplink(punt.port, wiring)).map(|(_, epoch)| (punt.port, epoch)),
    };
    let verdicts = [
        judged(true, here, by.filter(|_| opener.is_some())),
        judged(false, pod(key.dst.address, wiring, table), by),
    ];
    verdicts.into_iter().flatten().filter(move |_| is_cached(kind))
}

/// The verdict on a denied connection, where its packets come by: only for those that go as it was opened, since the
/// other end may yet open one of its own.
pub(super) fn on_denied(
    question: &Question,
    punt: Punt,
    packet: &Packet,
    wiring: &Wiring,
    table: &PolicyTable,
) -> Option<Judged> {
    let leaves = is_uplink(punt.port, wiring);
    let pod_opened = leaves || !punt.departing;
    let key = if pod_opened { question.key } else { question.key.reversed() };
    let judged = question.judged();
    let opener = pod(judged.src.address, wiring, table);
    let (port, epoch) = match question.opener {
        Some(_) if leaves => opener.map(|(_, epoch)| (punt.port, epoch)),
        _ => pod(key.src.address, wiring, table).filter(|(port, _)| leaves || *port == punt.port),
    }?;
    let other = match pod_opened && question.opener.is_none() {
        true => pod(judged.dst.address, wiring, table),
        false => opener,
    };
    let forward = if pod_opened { packet.key == key } else { packet.key.reversed() == key };
    let (verdict, provisional, hidden) = (Verdict::Deny, false, question.opener.is_some());
    let judged = Judged { port, key, verdict, pod_opened, provisional, hidden, epoch, other };
    (forward && is_cached(packet.kind)).then_some(judged)
}

/// The verdict on a packet from a port of the node's own: it answers whoever had asked there, a pod or, by an uplink,
/// a host. Who is behind that port, the pod's side does not show: what the pod sends there is judged once more where it
/// leaves.
pub(super) fn on_answer(packet: &Packet, punt: Punt, wiring: &Wiring, table: &PolicyTable) -> Option<Judged> {
    let leaves = is_uplink(punt.port, wiring);
    let (port, epoch) = match leaves {
        // No epoch of an uplink's is ever raised.
        true => (punt.port, Epoch::FIRST),
        false => pod(packet.key.dst.address, wiring, table)?,
    };
    is_cached(packet.kind).then_some(Judged {
        port,
        key: if leaves { packet.key } else { packet.key.reversed() },
        verdict: Verdict::Allow,
        pod_opened: !leaves,
        provisional: !leaves,
        hidden: true,
        epoch,
        other: None,
    })
}

fn is_uplink(port: PortId, wiring: &Wiring) -> bool {
    wiring.port(port).is_some_and(|port| port.role == Role::Uplink)
}

/// Whether the kernel can tell packets like this one's connection from others.
const fn is_cached(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp(_) | Kind::Udp | Kind::Sctp { .. } | Kind::IcmpEcho { .. } | Kind::Other)
}

/// Whether the kernel's programs look for a verdict on packets of this shape: without IPv4 options, and without IPv6
/// extension headers but that of a fragment. They ask about every other, however often it was answered.
pub(super) const fn is_remembered(packet: &Packet) -> bool {
    match packet.l4_offset - packet.l3_offset {
        20 => packet.key.src.address.is_v4(),
        40 => packet.key.src.address.is_v6(),
        48 => packet.key.src.address.is_v6() && packet.fragment.is_some(),
        _ => false,
    }
}

/// Whether a pod asks for a service: which backend that is, is seen only after the kernel has translated it.
pub(super) fn is_provisional(key: &FlowKey, wiring: &Wiring) -> bool {
    wiring.is_service(key.dst.address) && wiring.pod_port(key.src.address).is_some()
}

/// Whether a packet goes under another address than its sender's, by translation: under one of the node, whose own packets
/// go past the worker, or under one of no pod, where a pod has sent it. What a service sends answers a pod that has asked.
pub(super) fn is_hidden(key: &FlowKey, punt: Punt, wiring: &Wiring) -> bool {
    let src = key.src.address;
    let is_not_the_senders = || punt.sent_here && wiring.pod_port(src).is_none() && !wiring.is_service(src);
    punt.departing && (wiring.is_node(src) || is_not_the_senders())
}

/// What is allowed or refused before policy is asked, or whom it is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exception {
    /// A new connection is allowed here.
    Allowed,
    /// The packet answers a connection that was opened to a port of the node's own.
    Answers,
    /// This is who opened the connection.
    OpenedBy(Address),
    /// The packet goes no further.
    Refused(DropReason),
}

impl Exception {
    /// Who opened the connection, where the packet does not say.
    pub(super) const fn opener(self) -> Option<Address> {
        match self {
            Self::OpenedBy(address) => Some(address),
            _ => None,
        }
    }
}

/// A port whose pod the table does not know: no policy of it is known either.
fn is_unknown(address: Address, wiring: &Wiring, table: &PolicyTable) -> bool {
    wiring.pod_port(address).is_some() && table.epoch_of(address).is_none()
}

/// What a packet that [is hidden](is_hidden) is, whose connection was opened so.
pub(super) fn translated(
    key: &FlowKey,
    punt: Punt,
    opened: Option<FlowKey>,
    wiring: &Wiring,
    table: &PolicyTable,
) -> Option<Exception> {
    Some(match opened {
        _ if wiring.is_service(key.dst.address) => Exception::Refused(DropReason::ServiceUntranslated),
        None => Exception::Refused(DropReason::MasqueradedSource),
        Some(opened) if opened == key.reversed() => match wiring.is_node(key.src.address) {
            true => Exception::Answers,
            // What the pod has asked there was judged.
            false => return exception(key, punt, wiring, table),
        },
        // The node's own go past the worker, and a pod's packets come by its port: somebody pretends.
        Some(opened)
            if wiring.is_node(opened.src.address)
                || wiring.pod_port(opened.src.address).is_some() != punt.sent_here =>
        {
            Exception::Refused(DropReason::MasqueradedSource)
        }
        Some(opened) if [opened.src, key.dst].iter().any(|end| is_unknown(end.address, wiring, table)) => {
            Exception::Refused(DropReason::UnknownPod)
        }
        Some(opened) => Exception::OpenedBy(opened.src.address),
    })
}

/// The exceptions of this mode, where a packet's source says whose it is.
pub(super) fn exception(
    key: &FlowKey,
    punt: Punt,
    wiring: &Wiring,
    table: &PolicyTable,
) -> Option<Exception> {
    let (src, dst) = (key.src.address, key.dst.address);
    if dst.is_loopback() {
        // With `route_localnet`, the kernel would take it for its own.
        return Some(Exception::Refused(DropReason::IpInvalid));
    }
    if is_unknown(src, wiring, table) || is_unknown(dst, wiring, table) {
        return Some(Exception::Refused(DropReason::UnknownPod));
    }
    if wiring.is_service(dst) {
        let refused = punt.departing || is_uplink(punt.port, wiring);
        return Some(match refused {
            true => Exception::Refused(DropReason::ServiceUntranslated),
            false => Exception::Allowed,
        });
    }
    if table.between_pod_and_node(src, dst) {
        // The kernel passes what is plain; this had options, or another's MAC address.
        return Some(Exception::Refused(DropReason::NoRoute));
    }
    None
}
