//! Ports and their interfaces: bound, closed, and bound again as interfaces come, go and change.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use engine::io::Slot;
use nix::net::if_::if_indextoname;

use crate::port::Queue;
use crate::umem::Memory;
use crate::{Config, Plan, XskError, XskIo, kernel, plan};

/// How long [`XskIo::new`] waits for a queue that a process of before held until a moment ago.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// The MTU that is assumed of an interface that is not there yet.
const ETHERNET_MTU: u32 = 1500;

/// One port and the sockets on its interface.
pub(crate) struct Port {
    interface: String,
    /// The index of the interface that the sockets are bound to.
    ifindex: u32,
    /// The number of its first queue; those of the next port begin `laid_out` later.
    first: u16,
    /// Queues that the packet memory was shared out for.
    laid_out: u32,
    /// Empty while the port is closed.
    pub(crate) queues: Vec<Queue>,
}

/// What the packet memory's own socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// Nothing yet: the first socket that is opened is the memory's own.
    Free,
    /// The first queue of the port with this slot, whose interface had this index.
    Port { slot: usize, ifindex: u32 },
    /// Nothing, and nothing any more: sockets can be opened only on a new memory.
    Spent,
}

impl Anchor {
    /// Whether sockets of other ports can be opened on the memory.
    fn holds(self) -> bool {
        match self {
            Self::Free => true,
            // nix answers with an empty name, not an error, for an index that nobody has.
            Self::Port { ifindex, .. } => if_indextoname(ifindex).is_ok_and(|name| !name.is_empty()),
            Self::Spent => false,
        }
    }

    const fn is(self, wanted: usize) -> bool {
        matches!(self, Self::Port { slot, .. } if slot == wanted)
    }
}

/// A port that is bound.
#[derive(Debug)]
pub struct Bound {
    /// The index of its interface.
    pub ifindex: u32,
    /// Duplicates of its sockets, by receive queue. A queue stays bound until they are closed, too.
    pub sockets: Vec<OwnedFd>,
}

/// What became of a port that was bound again.
pub type Reopened = (Slot, Result<Bound, XskError>);

impl XskIo {
    /// Opens a socket on every receive queue of each interface: slots in this order. A port whose interface is
    /// missing stays closed until it is [reopened](Self::reopen). The first interface should be one that stays
    /// (see the crate's "anchor").
    ///
    /// # Errors
    ///
    /// A queue that another socket holds for 2 seconds; too few frames for so many ports; no permission, or not
    /// enough lockable memory.
    pub fn new<S: AsRef<str>>(config: Config, interfaces: &[S]) -> Result<Self, XskError> {
        let port = |name: &S| Port {
            interface: name.as_ref().to_owned(),
            ifindex: 0,
            first: 0,
            laid_out: 0,
            queues: Vec::new(),
        };
        let mut ports: Vec<Port> = interfaces.iter().map(port).collect();
        let mut seen = Vec::with_capacity(ports.len());
        for port in &ports {
            match port.look() {
                Ok(now) => seen.push(Some(now)),
                Err(XskError::NoSuchInterface { .. }) => seen.push(None),
                Err(error) => return Err(error),
            }
        }
        let plan = lay_out(&config, &mut ports, &seen)?;
        let memory = Memory::new(config.frames, &plan, 0)?;
        let mut io = Self::on(config, plan, ports, memory, Anchor::Free);
        for slot in (0..seen.len()).filter(|slot| seen[*slot].is_some()) {
            io.open(slot, START_PATIENCE)?;
        }
        io.poll_all();
        Ok(io)
    }

    /// Makes a port be as its interface is now: a socket on every receive queue of the interface that has the
    /// name now. Where it is so already, nothing changes. Frames of sockets that close come back.
    ///
    /// Returns what became of the port, and of every other one that had to be bound again because packet memory
    /// was made anew: when the anchor has gone, when the interface has outgrown its share. Their sockets have to be
    /// put into the XSKMAP. A port that could not be bound stays closed until it is reopened; one that was open a
    /// moment ago is refused as [`Taken`](XskError::Taken) for some milliseconds. Not for the packet path: a few
    /// milliseconds.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn reopen(&mut self, slot: Slot) -> Vec<Reopened> {
        let reopened = self.follow(slot.0);
        self.poll_all();
        reopened
    }

    /// Closes a port: its interface is gone, or not to be used. Its frames come back.
    ///
    /// Returns what became of the other ports, if they had to be bound again: as for [`reopen`](Self::reopen).
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn close(&mut self, slot: Slot) -> Vec<Reopened> {
        let slot = slot.0;
        let others = if self.ports[slot].queues.is_empty() {
            Vec::new()
        } else if self.anchor.is(slot) && self.anchor.holds() {
            // The memory's own socket closes only with it.
            self.rebuild(slot, None)
        } else {
            self.close_queues(slot);
            Vec::new()
        };
        self.poll_all();
        others
    }

    fn follow(&mut self, slot: usize) -> Vec<Reopened> {
        // Refused before anything is given up for it.
        let fits =
            |now: kernel::Interface| plan(self.config.frames, now.queues, now.mtu).map(|p| (now, p.chunk));
        let (now, chunk) = match self.ports[slot].look().and_then(fits) {
            Ok(fitting) => fitting,
            Err(error) => {
                let mut closed = self.close(Slot(slot));
                closed.push((Slot(slot), Err(error)));
                return closed;
            }
        };
        let port = &self.ports[slot];
        let same = port.ifindex == now.index && port.queues.first().is_some_and(Queue::is_bound);
        let outgrown = now.queues > port.laid_out || chunk > self.plan.chunk;
        let complete = same && !outgrown && now.queues as usize <= port.queues.len();
        if !complete && (outgrown || !self.anchor.holds() || (!same && self.anchor.is(slot))) {
            return self.rebuild(slot, Some(now));
        }
        if !same {
            self.close_queues(slot);
        }
        let opened = self.open(slot, Duration::ZERO);
        vec![(Slot(slot), opened)]
    }

    /// Closes every port, and binds those that were open, and `slot` only if it is to be, on a new memory.
    fn rebuild(&mut self, slot: usize, now: Option<kernel::Interface>) -> Vec<Reopened> {
        let seen: Vec<_> = (0..self.ports.len())
            .map(|other| if other == slot { now } else { self.ports[other].usable(&self.config) })
            .collect();
        let plan = match lay_out(&self.config, &mut self.ports, &seen) {
            Ok(plan) => plan,
            Err(error) => return vec![(Slot(slot), Err(error))],
        };
        let opened: Vec<usize> = (0..self.ports.len())
            .filter(
                |other| if *other == slot { now.is_some() } else { !self.ports[*other].queues.is_empty() },
            )
            .collect();
        self.ports.iter_mut().for_each(|port| port.queues.clear());
        self.anchor = Anchor::Spent;
        match Memory::new(self.config.frames, &plan, self.memory.number().wrapping_add(1)) {
            Ok(memory) => (self.plan, self.memory, self.anchor) = (plan, memory, Anchor::Free),
            Err(error) => {
                let closed =
                    |other: usize| XskError::NoMemory { interface: self.ports[other].interface.clone() };
                let others = opened.iter().filter(|other| **other != slot);
                let mut closed: Vec<Reopened> =
                    others.map(|other| (Slot(*other), Err(closed(*other)))).collect();
                closed.push((Slot(slot), Err(error)));
                return closed;
            }
        }
        opened.into_iter().map(|other| (Slot(other), self.open(other, Duration::ZERO))).collect()
    }

    /// Opens the sockets that the port does not have yet.
    fn open(&mut self, slot: usize, patience: Duration) -> Result<Bound, XskError> {
        let now = self.ports[slot].look()?;
        let port = &mut self.ports[slot];
        port.ifindex = now.index;
        for id in (port.queues.len() as u32)..now.queues.min(port.laid_out) {
            let number = port.first + id as u16;
            // On an error, what is open stays: the next attempt goes on from there.
            port.queues.push(Queue::open(
                &mut self.memory,
                &port.interface,
                id,
                number,
                self.plan,
                &self.config,
                patience,
            )?);
            if self.anchor == Anchor::Free {
                self.anchor = Anchor::Port { slot, ifindex: now.index };
            }
        }
        port.bound().map_err(|source| XskError::Interface { interface: port.interface.clone(), source })
    }

    /// Not for an anchor whose interface lives.
    fn close_queues(&mut self, slot: usize) {
        if self.anchor.is(slot) {
            self.anchor = Anchor::Spent;
        }
        for queue in self.ports[slot].queues.drain(..) {
            let number = queue.number();
            drop(queue);
            self.memory.reclaim(number);
        }
    }
}

impl Port {
    fn look(&self) -> Result<kernel::Interface, XskError> {
        kernel::interface(&self.interface).map_err(|errno| XskError::interface(&self.interface, errno))
    }

    /// The interface, if it is there and can be served at all.
    fn usable(&self, config: &Config) -> Option<kernel::Interface> {
        self.look().ok().filter(|now| plan(config.frames, now.queues, now.mtu).is_ok())
    }

    fn bound(&self) -> std::io::Result<Bound> {
        let sockets = self.queues.iter().map(|queue| BorrowedFd::try_clone_to_owned(&queue.socket()));
        Ok(Bound { ifindex: self.ifindex, sockets: sockets.collect::<Result<_, _>>()? })
    }
}

/// Shares the frames out between the ports as they are now, one queue for an interface that is missing.
fn lay_out(
    config: &Config,
    ports: &mut [Port],
    seen: &[Option<kernel::Interface>],
) -> Result<Plan, XskError> {
    let queues = |now: &Option<kernel::Interface>| now.map_or(1, |now| now.queues);
    let mtu = seen.iter().map(|now| now.map_or(ETHERNET_MTU, |now| now.mtu)).max().unwrap_or(ETHERNET_MTU);
    let plan = plan(config.frames, seen.iter().map(queues).sum(), mtu)?;
    let mut first = 0;
    for (port, now) in ports.iter_mut().zip(seen) {
        (port.first, port.laid_out) = (first as u16, queues(now));
        first += port.laid_out;
    }
    Ok(plan)
}
