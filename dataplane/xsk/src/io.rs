//! The ports of one worker as a [`PacketIo`].

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use engine::io::{Census, PacketIo, Slot};
use nix::libc::pollfd;

use crate::binding::{Anchor, Port};
use crate::port::Queue;
use crate::umem::Memory;
use crate::{Config, Frame, Plan, QueueReport, Statistics, kernel};

/// How long to sleep at most while sent frames are out: their return wakes nobody.
const TX_PATIENCE: Duration = Duration::from_millis(1);

/// AF_XDP sockets on all receive queues of some interfaces, with one packet memory.
pub struct XskIo {
    pub(crate) config: Config,
    pub(crate) plan: Plan,
    /// Closed before the memory: the fields are dropped in this order.
    pub(crate) ports: Vec<Port>,
    pub(crate) memory: Memory,
    pub(crate) anchor: Anchor,
    polled: Vec<pollfd>,
}

impl XskIo {
    pub(crate) const fn on(
        config: Config,
        plan: Plan,
        ports: Vec<Port>,
        memory: Memory,
        anchor: Anchor,
    ) -> Self {
        Self { config, plan, ports, memory, anchor, polled: Vec::new() }
    }

    /// How the frames are shared out.
    #[must_use]
    pub const fn plan(&self) -> Plan {
        self.plan
    }

    /// The sockets of a port in the order of their receive queues, for the XSKMAP; none while it is closed. A
    /// duplicate of a descriptor keeps its queue bound until it is closed.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn sockets(&self, slot: Slot) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.ports[slot.0].queues.iter().map(Queue::socket)
    }

    /// What the kernel counted for each socket of a port.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn statistics(&self, slot: Slot) -> io::Result<Vec<Statistics>> {
        self.ports[slot.0].queues.iter().map(Queue::statistics).collect()
    }

    /// How the queues of a port are now; none while it is closed. Not for the packet path: it asks the kernel.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn report(&mut self, slot: Slot) -> Vec<QueueReport> {
        (0..).zip(&mut self.ports[slot.0].queues).map(|(id, queue)| queue.report(id)).collect()
    }

    /// Whether the port's interface was down or gone when frames were last sent to it. They wait.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    #[must_use]
    pub fn is_paused(&self, slot: Slot) -> bool {
        self.ports[slot.0].queues.iter().any(Queue::is_paused)
    }

    pub(crate) fn poll_all(&mut self) {
        self.polled = self.queues().map(|queue| kernel::readable(queue.fd())).collect();
    }

    fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.ports.iter().flat_map(|port| &port.queues)
    }
}

impl PacketIo for XskIo {
    type Frame = Frame;

    fn ports(&self) -> usize {
        self.ports.len()
    }

    fn receive(&mut self, slot: Slot, burst: &mut Vec<Frame>) {
        for queue in &mut self.ports[slot.0].queues {
            queue.receive(&mut self.memory, burst);
        }
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.memory.bytes(frame)
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.memory.bytes_mut(frame)
    }

    fn truncate(&mut self, frame: &mut Frame, length: usize) {
        self.memory.truncate(frame, length);
    }

    fn transmit(&mut self, slot: Slot, mut frame: Frame) -> Result<(), Frame> {
        if !self.memory.owns(&frame) {
            return Err(frame);
        }
        // Only a queue whose share is used up gives the frame on to the next.
        for queue in &mut self.ports[slot.0].queues {
            match queue.transmit(&mut self.memory, frame) {
                Ok(()) => return Ok(()),
                Err(back) => frame = back,
            }
        }
        Err(frame)
    }

    fn recycle(&mut self, frame: Frame) {
        self.memory.recycle(frame);
    }

    fn allocate(&mut self, packet: &[u8]) -> Option<Frame> {
        self.memory.allocate(packet)
    }

    fn flush(&mut self) {
        for queue in self.ports.iter_mut().flat_map(|port| &mut port.queues) {
            queue.flush(&mut self.memory);
        }
    }

    fn wait(&mut self, timeout: Duration) {
        let sending = self.queues().any(|queue| queue.in_tx() > 0 && !queue.is_paused());
        let timeout = if sending { timeout.min(TX_PATIENCE) } else { timeout };
        kernel::poll(&mut self.polled, timeout);
    }

    fn census(&self) -> Census {
        Census {
            free: self.memory.free(),
            fill: self.queues().map(Queue::in_fill).sum(),
            tx: self.queues().map(Queue::in_tx).sum(),
            held: self.memory.held(),
            total: self.memory.total(),
        }
    }
}
