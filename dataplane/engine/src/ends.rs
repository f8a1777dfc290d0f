//! The two ends of every frame: the TX ring of a port, or a drop that is counted.

use flow::DropReason;

use crate::flows::Millis;
use crate::io::{PacketIo, Slot};
use crate::ledger::Ledger;
use crate::shared::Shared;
use crate::wiring::{PortId, Wiring};

/// What the way of a burst's frames depends on, beside the frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    /// The worker that has the burst.
    pub(crate) me: usize,
    /// The port by which it came, and its slot.
    pub(crate) arrival: (PortId, Slot),
    pub(crate) wiring: &'a Wiring,
    pub(crate) shared: &'a Shared,
    pub(crate) now: Millis,
}

/// Queues a frame on a port of this worker, or counts why not.
pub(crate) fn transmit<Io: PacketIo>(
    io: &mut Io,
    slot: Slot,
    port: PortId,
    frame: Io::Frame,
    ledger: &mut Ledger,
) {
    match io.transmit(slot, frame) {
        Ok(()) => ledger.tally.tx += 1,
        Err(frame) => {
            ledger.drop_frame(io.bytes(&frame), DropReason::TxRingFull, Some(port));
            io.recycle(frame);
        }
    }
}

/// Counts a frame that goes nowhere, and takes it back.
pub(crate) fn discard<Io: PacketIo>(io: &mut Io, frame: Io::Frame, reason: DropReason, ledger: &mut Ledger) {
    ledger.drop_frame(io.bytes(&frame), reason, None);
    io.recycle(frame);
}
