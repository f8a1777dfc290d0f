//! Where frames come from and go to.

use std::time::Duration;

/// One of the ports that a [`PacketIo`] drives, counted from zero in the order they were given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub usize);

/// Packet memory and the rings of the ports that one worker owns.
///
/// A [`Frame`](PacketIo::Frame) has one owner. It comes out of [`receive`](PacketIo::receive) or
/// [`allocate`](PacketIo::allocate) and is moved into [`transmit`](PacketIo::transmit) or
/// [`recycle`](PacketIo::recycle); it can be neither copied nor cloned, so it cannot be used twice.
/// None of these calls allocates, and only [`flush`](PacketIo::flush) and [`wait`](PacketIo::wait) enter
/// the kernel.
pub trait PacketIo {
    /// One frame of packet memory.
    type Frame;

    /// How many ports this drives: slots `0..ports()` are valid.
    fn ports(&self) -> usize;

    /// Appends frames that arrived on `slot` to `burst`, until `burst` holds its capacity.
    fn receive(&mut self, slot: Slot, burst: &mut Vec<Self::Frame>);

    /// The bytes of the packet, from its Ethernet header on.
    fn bytes<'a>(&'a self, frame: &'a Self::Frame) -> &'a [u8];

    /// The same, to be rewritten in place.
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Self::Frame) -> &'a mut [u8];

    /// Cuts a frame to its first `length` bytes; it never grows.
    fn truncate(&mut self, frame: &mut Self::Frame, length: usize);

    /// Queues a frame to leave through `slot` at the next [`flush`](PacketIo::flush).
    ///
    /// # Errors
    ///
    /// Gives the frame back when the port's transmit ring is full or the port is gone.
    fn transmit(&mut self, slot: Slot, frame: Self::Frame) -> Result<(), Self::Frame>;

    /// Returns a frame that goes nowhere to the free ones.
    fn recycle(&mut self, frame: Self::Frame);

    /// A free frame that holds a copy of `packet`; `None` when no frame is free or the packet is larger
    /// than one.
    fn allocate(&mut self, packet: &[u8]) -> Option<Self::Frame>;

    /// Tells the kernel what was queued, takes back what it has sent, and refills what it receives into.
    fn flush(&mut self);

    /// Sleeps until a frame arrives or `timeout` has passed.
    fn wait(&mut self, timeout: Duration);

    /// Where every frame is now.
    fn census(&self) -> Census;
}

/// Where every frame of packet memory is. A frame lost once is lost for good, so this always adds up:
/// `free + fill + tx + held == total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Ready for use.
    pub free: usize,
    /// Given to the kernel to receive into, or received and not yet taken.
    pub fill: usize,
    /// Given to the kernel to send, or sent and not yet taken back.
    pub tx: usize,
    /// In the hands of the worker.
    pub held: usize,
    /// All frames there are.
    pub total: usize,
}

impl Census {
    /// Whether no frame is lost and none is counted twice.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.free + self.fill + self.tx + self.held == self.total
    }
}
