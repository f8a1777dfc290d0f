//! What a router owes those whose packets it cannot forward: an ICMP error (RFC 1812, section 4.3; RFC 4443), not
//! too often. Only packets that policy allows come here: what it denies is dropped in silence.

use flow::DropReason;
use packet::Packet;
use packet::icmp_error::{self, IcmpError, LONGEST};

use crate::clock::Millis;
use crate::ends::{Way, transmit};
use crate::io::PacketIo;
use crate::ledger::Ledger;
use crate::wiring::PortId;

/// How many errors may leave by a port at once.
const BURST: u64 = 50;
/// The milliseconds after which it may be one more.
const INTERVAL: u64 = 10;

/// The errors of one worker, by the slots of its ports.
#[derive(Debug)]
pub(crate) struct IcmpErrors {
    buckets: Vec<Bucket>,
    /// Where an error is written.
    room: Box<[u8; LONGEST]>,
}

/// RFC 4443, section 2.4(f): "a token bucket, limiting the average rate of transmission to N packets per second, but
/// allowing up to B error messages to be transmitted in a burst". Kept as the moment at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: Millis,
}

impl Bucket {
    const fn take(&mut self, now: Millis) -> bool {
        if self.full_at.since(now) > (BURST - 1) * INTERVAL {
            return false;
        }
        let from = if self.full_at.0 > now.0 { self.full_at } else { now };
        self.full_at = Millis(from.0 + INTERVAL);
        true
    }
}

impl IcmpErrors {
    pub(crate) fn new(ports: usize) -> Self {
        Self { buckets: vec![Bucket::default(); ports], room: Box::new([0; LONGEST]) }
    }

    /// Drops a packet that cannot be forwarded, and tells its sender why, if that may be told: by the port and to
    /// the neighbour that it came from. `egress` is the port that it would have left by, where that is known.
    #[cold]
    pub(crate) fn refuse<Io: PacketIo>(
        &mut self,
        io: &mut Io,
        frame: Io::Frame,
        packet: &Packet,
        (error, egress): (IcmpError, Option<PortId>),
        way: Way<'_>,
        ledger: &mut Ledger,
    ) {
        let reason = match error {
            IcmpError::TimeExceeded => DropReason::TtlExpired,
            IcmpError::TooBig { .. } => DropReason::TooBig,
        };
        let (id, slot) = way.arrival;
        let src = packet.key.src.address;
        let speaker = way.wiring.port(id).and_then(|port| Some((port.mac, port.speaker.facing(src)?)));
        let bytes = io.bytes(&frame);
        let speaker =
            speaker.filter(|_| is_believed(error, src.is_v4()) && icmp_error::may_be_told(bytes, packet));
        let written = match speaker {
            Some(speaker) if self.buckets[slot.0].take(way.now) => {
                Some(error.write(speaker, bytes, packet, &mut self.room))
            }
            Some(_) => {
                ledger.tally.errors_withheld += 1;
                None
            }
            None => None,
        };
        // First the one frame goes back, so that there is one for the other.
        ledger.drop_frame(bytes, reason, egress);
        io.recycle(frame);
        if let Some(frame) = written.and_then(|written| io.allocate(written)) {
            ledger.tally.made += 1;
            transmit(io, slot, id, frame, ledger);
        }
    }
}

/// Whether anybody would believe the error. An interface that is gone has no MTU, and one below the family's least
/// says nothing that a sender may act on (RFC 1191, section 3; RFC 8201, section 4).
const fn is_believed(error: IcmpError, v4: bool) -> bool {
    match error {
        IcmpError::TimeExceeded => true,
        IcmpError::TooBig { mtu } => mtu >= if v4 { 68 } else { 1280 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_burst_and_then_one_at_a_time() {
        let mut bucket = Bucket::default();
        let taken = |bucket: &mut Bucket, now| (0..1000).filter(|_| bucket.take(Millis(now))).count() as u64;
        assert_eq!(taken(&mut bucket, 5), BURST);
        assert_eq!(taken(&mut bucket, 5 + INTERVAL - 1), 0);
        assert_eq!(taken(&mut bucket, 5 + INTERVAL), 1);
        assert_eq!(taken(&mut bucket, 5 + 4 * INTERVAL), 3);
        assert_eq!(taken(&mut bucket, 1_000_000), BURST, "it never holds more than a burst");
    }
}
