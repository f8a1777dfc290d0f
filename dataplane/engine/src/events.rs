//! What workers tell the agent's task: rarely, and never waiting for it.

use crossbeam::queue::ArrayQueue;
use flow::{Address, MacAddr};

use crate::wiring::PortId;

/// Something that the agent's task should act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The pod behind this port has shown its MAC address by a valid ARP or neighbour discovery message.
    MacSeen(PortId, MacAddr),
    /// A packet waits for the MAC address of this neighbour, a pod or a next hop, on this port.
    Unresolved(PortId, Address),
}

/// Events on their way to the agent's task. Bounded; what does not fit is lost, and happens again.
#[derive(Debug)]
pub struct Events(ArrayQueue<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(ArrayQueue::new(256))
    }
}

impl Events {
    pub(crate) fn tell(&self, event: Event) {
        // A full queue is no loss: the pod speaks again, the next packet is unresolved again.
        let _ = self.0.push(event);
    }

    /// The oldest event that nobody has taken.
    #[must_use]
    pub fn take(&self) -> Option<Event> {
        self.0.pop()
    }
}
