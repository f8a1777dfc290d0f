//! What the kernel is told of a connection, and what policy is not asked about.

use flow::{DropReason, Epoch, FlowKey, Verdict};
use packet::{Kind, Packet};
use table::{PolicyTable, Side};

use super::punt::Punt;
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
    /// The epoch of the pod under which it was judged.
    pub epoch: Epoch,
}

/// The verdicts on an allowed connection, `key` in its original direction: one for each pod of this node, so that
/// neither asks about it again.
pub(super) fn on_allowed<'t>(
    key: &FlowKey,
    kind: Kind,
    wiring: &'t Wiring,
    table: &'t PolicyTable,
) -> impl Iterator<Item = Judged> + use<'t> {
    let provisional = is_provisional(key, wiring);
    let ends = [(*key, true), (key.reversed(), false)];
    ends.into_iter().filter(move |_| is_cached(kind)).filter_map(move |(key, pod_opened)| {
        let local = key.src.address;
        let (port, epoch) = (wiring.pod_port(local)?, table.epoch_of(local)?);
        Some(Judged { port, key, verdict: Verdict::Allow, pod_opened, provisional, epoch })
    })
}

/// The verdict on a denied connection, where its packets come by: only for those that go as it was opened, since the
/// other end may yet open one of its own.
pub(super) fn on_denied(
    key: &FlowKey,
    punt: Punt,
    packet: &Packet,
    wiring: &Wiring,
    table: &PolicyTable,
) -> Option<Judged> {
    let leaves = is_uplink(punt.port, wiring);
    let pod_opened = leaves || !punt.departing;
    let key = if pod_opened { *key } else { key.reversed() };
    let local = key.src.address;
    let port = wiring.pod_port(local).filter(|port| leaves || *port == punt.port)?;
    let forward = if pod_opened { packet.key == key } else { packet.key.reversed() == key };
    let epoch = table.epoch_of(local).filter(|_| forward && is_cached(packet.kind))?;
    Some(Judged { port, key, verdict: Verdict::Deny, pod_opened, provisional: false, epoch })
}

fn is_uplink(port: PortId, wiring: &Wiring) -> bool {
    wiring.port(port).is_some_and(|port| port.role == Role::Uplink)
}

/// Whether the kernel can tell packets like this one's connection from others.
const fn is_cached(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp(_) | Kind::Udp | Kind::Sctp { .. } | Kind::IcmpEcho { .. } | Kind::Other)
}

/// Whether a pod asks for a service: which backend that is, is seen only after the kernel has translated it.
pub(super) fn is_provisional(key: &FlowKey, wiring: &Wiring) -> bool {
    wiring.is_service(key.dst.address) && wiring.pod_port(key.src.address).is_some()
}

/// What is allowed or refused before policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exception {
    /// A new connection is allowed here.
    Allowed,
    /// The packet goes no further.
    Refused(DropReason),
}

/// The exceptions of this mode.
pub(super) fn exception(
    key: &FlowKey,
    punt: Punt,
    wiring: &Wiring,
    table: &PolicyTable,
) -> Option<Exception> {
    let (src, dst) = (key.src.address, key.dst.address);
    // A port whose pod the table does not know: no policy of it is known either.
    let unknown = |address| wiring.pod_port(address).is_some() && table.epoch_of(address).is_none();
    if unknown(src) || unknown(dst) {
        return Some(Exception::Refused(DropReason::UnknownPod));
    }
    if wiring.is_service(dst) {
        let refused = punt.departing || is_uplink(punt.port, wiring);
        return Some(match refused {
            true => Exception::Refused(DropReason::ServiceUntranslated),
            false => Exception::Allowed,
        });
    }
    if punt.departing && wiring.is_node(src) {
        // Forwarded, and under an address of the node: who truly sent it is not known here.
        let anybody = FlowKey { src: flow::Endpoint { address: NOBODY, port: key.src.port }, ..*key };
        let open = matches!(table.why(&anybody).ingress, Side::Open);
        return Some(match open {
            true => Exception::Allowed,
            false => Exception::Refused(DropReason::MasqueradedSource),
        });
    }
    if table.between_pod_and_node(src, dst) {
        // The kernel passes what is plain; this had options, or another's MAC address.
        return Some(Exception::Refused(DropReason::NoRoute));
    }
    None
}

/// An address that no pod and no node has.
const NOBODY: flow::Address = flow::Address::v6([0; 16]);
