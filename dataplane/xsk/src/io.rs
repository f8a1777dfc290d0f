//! The ports of one worker as a [`PacketIo`].

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use engine::io::{Census, PacketIo, Slot};
use nix::libc::pollfd;
use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::port::Queue;
use crate::umem::Memory;
use crate::{Config, Frame, Plan, Statistics, XskError, kernel, plan};

/// How long to sleep at most while sent frames are out: their return wakes nobody.
const TX_PATIENCE: Duration = Duration::from_millis(1);

/// AF_XDP sockets on all receive queues of some interfaces, with one packet memory.
pub struct XskIo {
    config: Config,
    plan: Plan,
    /// Closed before the memory: the fields are dropped in this order.
    ports: Vec<Port>,
    memory: Memory,
    anchor: Option<Anchor>,
    polled: Vec<pollfd>,
}

struct Port {
    interface: String,
    /// The number of its first queue; those of the next port begin `laid_out` later.
    first: u16,
    /// Queues that the packet memory was shared out for.
    laid_out: u32,
    /// Empty while the interface is missing.
    queues: Vec<Queue>,
}

/// The port whose first socket is the memory's own; none until one is open.
#[derive(Clone, Copy)]
struct Anchor {
    slot: usize,
    ifindex: u32,
}

impl Anchor {
    /// Whether its interface still exists, under whatever name.
    fn lives(self) -> bool {
        // nix answers with an empty name, not an error, for an index that nobody has.
        if_indextoname(self.ifindex).is_ok_and(|name| !name.is_empty())
    }
}

/// What became of a port that was bound again.
pub type Reopened = (Slot, Result<(), XskError>);

impl XskIo {
    /// Opens a socket on every receive queue of each interface: slots in this order. The first interface
    /// should be one that stays (see the crate's "anchor").
    ///
    /// # Errors
    ///
    /// No such interface; a queue that another socket holds for 2 seconds; too few frames for so many
    /// ports; no permission, or not enough lockable memory.
    pub fn new<S: AsRef<str>>(config: Config, interfaces: &[S]) -> Result<Self, XskError> {
        let mut ports = Vec::with_capacity(interfaces.len());
        let (mut total, mut mtu) = (0, 0);
        for name in interfaces {
            let interface = name.as_ref().to_owned();
            let now = kernel::interface(&interface).map_err(|e| XskError::interface(&interface, e))?;
            ports.push(Port { interface, first: total as u16, laid_out: now.queues, queues: Vec::new() });
            total += now.queues;
            mtu = mtu.max(now.mtu);
        }
        let plan = plan(config.frames, total, mtu)?;
        let memory = Memory::new(config.frames, &plan, 0)?;
        let mut io = Self { config, plan, ports, memory, anchor: None, polled: Vec::new() };
        for slot in 0..io.ports.len() {
            io.open(slot)?;
        }
        io.poll_all();
        Ok(io)
    }

    /// How the frames are shared out.
    #[must_use]
    pub const fn plan(&self) -> Plan {
        self.plan
    }

    /// The sockets of a port in the order of their receive queues, for the XSKMAP; none while its interface
    /// is missing. A duplicate of a descriptor keeps its queue bound until it is closed.
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

    /// Whether the port's interface was down or gone when frames were last sent to it. They wait.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    #[must_use]
    pub fn is_paused(&self, slot: Slot) -> bool {
        self.ports[slot.0].queues.iter().any(Queue::is_paused)
    }

    /// Binds a port again, after its interface was deleted and made anew, and takes back the frames that
    /// its old sockets had. When the anchor is gone (or is this port), all ports are bound again, on a new
    /// packet memory.
    ///
    /// Returns what became of each port that was bound again: the sockets of those have to be put into the
    /// XSKMAP. A port that could not be bound stays closed until it is reopened; `Outgrown` says that its
    /// interface has more queues or a larger MTU than the memory was laid out for. Not for the packet path:
    /// mostly a few milliseconds, but up to 2 seconds for each socket.
    ///
    /// # Errors
    ///
    /// When a new packet memory is needed and cannot be made. All ports are closed then.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn reopen(&mut self, slot: Slot) -> Result<Vec<Reopened>, XskError> {
        let alone = self.anchor.is_some_and(|anchor| anchor.slot != slot.0 && anchor.lives());
        let reopened = if alone {
            self.close(slot.0);
            Ok(vec![(slot, self.open(slot.0))])
        } else {
            self.rebuild()
        };
        self.poll_all();
        reopened
    }

    fn rebuild(&mut self) -> Result<Vec<Reopened>, XskError> {
        self.anchor = None;
        self.ports.iter_mut().for_each(|port| port.queues.clear());
        self.memory = Memory::new(self.config.frames, &self.plan, self.memory.number().wrapping_add(1))?;
        Ok((0..self.ports.len()).map(|slot| (Slot(slot), self.open(slot))).collect())
    }

    fn open(&mut self, slot: usize) -> Result<(), XskError> {
        let port = &mut self.ports[slot];
        let failed = |errno| XskError::interface(&port.interface, errno);
        let now = kernel::interface(&port.interface).map_err(failed)?;
        let ifindex = if_nametoindex(&*port.interface).map_err(failed)?;
        let fits = plan(self.config.frames, 1, now.mtu).is_ok_and(|p| p.chunk <= self.plan.chunk);
        if now.queues > port.laid_out || !fits {
            let interface = port.interface.clone();
            return Err(XskError::Outgrown { interface, queues: now.queues, mtu: now.mtu });
        }
        for id in 0..now.queues {
            let number = port.first + id as u16;
            match Queue::open(&mut self.memory, &port.interface, id, number, self.plan, &self.config) {
                Ok(queue) => port.queues.push(queue),
                Err(error) => {
                    self.close(slot);
                    return Err(error);
                }
            }
        }
        self.anchor.get_or_insert(Anchor { slot, ifindex });
        Ok(())
    }

    /// Never for the anchor of a memory in use: its socket is the UMEM's own, and closes only with it.
    fn close(&mut self, slot: usize) {
        for queue in self.ports[slot].queues.drain(..) {
            let number = queue.number();
            drop(queue);
            self.memory.reclaim(number);
        }
    }

    fn poll_all(&mut self) {
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
