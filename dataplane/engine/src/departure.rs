//! Out of the house: an allowed frame becomes what a router sends, and goes to its port.

use flow::DropReason;
use packet::Packet;
use packet::icmp_error::IcmpError;

use crate::ends::{Way, transmit};
use crate::events::{Event, Events};
use crate::icmp_errors::IcmpErrors;
use crate::io::PacketIo;
use crate::ledger::Ledger;
use crate::wiring::{Hop, Port, Wiring};

/// Where an allowed packet goes next.
pub(crate) fn next_hop(packet: &Packet, wiring: &Wiring, events: &Events) -> Result<Hop, DropReason> {
    let dst = packet.key.dst.address;
    wiring.next_hop(dst).inspect_err(|reason| {
        let uplink = wiring.route(dst).filter(|_| *reason == DropReason::NoNeighbour);
        let pod = wiring.pod_port(dst).map(|port| (port, dst));
        if let Some((port, neighbour)) = pod.or(uplink) {
            events.tell(Event::Unresolved(port, neighbour));
        }
    })
}

/// Why a packet cannot leave by a port, if it cannot.
const fn obstacle(packet: &Packet, port: &Port) -> Option<IcmpError> {
    if packet.ttl <= 1 {
        Some(IcmpError::TimeExceeded)
    } else if packet.ip_len > port.mtu {
        Some(IcmpError::TooBig { mtu: port.mtu })
    } else {
        None
    }
}

/// Makes a frame what a router sends, and hands it to its port.
pub(crate) fn depart<Io: PacketIo>(
    io: &mut Io,
    mut frame: Io::Frame,
    packet: &Packet,
    hop: Hop,
    way: Way<'_>,
    icmp_errors: &mut IcmpErrors,
    ledger: &mut Ledger,
) {
    let Way { me, wiring, shared, .. } = way;
    let refuse = |io: &mut Io, frame, reason, ledger: &mut Ledger| {
        ledger.drop_frame(io.bytes(&frame), reason, Some(hop.port));
        io.recycle(frame);
    };
    let Some(port) = wiring.port(hop.port) else {
        return refuse(io, frame, DropReason::NoRoute, ledger);
    };
    if let Some(error) = obstacle(packet, port) {
        return icmp_errors.refuse(io, frame, packet, (error, Some(hop.port)), way, ledger);
    }
    let bytes = io.bytes_mut(&mut frame);
    packet::rewrite::decrement_ttl(bytes, packet);
    packet::rewrite::complete_checksum(bytes, packet);
    packet::rewrite::rewrite_macs(bytes, hop.mac, port.mac);

    let owner = shared.owners[usize::from(hop.port.0)];
    if owner.worker == me {
        transmit(io, owner.slot, hop.port, frame, ledger);
    } else if shared.inboxes[owner.worker].post(hop.port, io.bytes(&frame)) {
        io.recycle(frame);
        ledger.tally.handed_out += 1;
    } else {
        refuse(io, frame, DropReason::HandoffFull, ledger);
    }
}
