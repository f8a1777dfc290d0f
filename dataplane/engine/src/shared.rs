//! What all workers of a node share.

use crate::events::Events;
use crate::flows::Flows;
use crate::handoff::Inbox;
use crate::io::Slot;
use crate::wiring::PortId;

/// Which worker owns a port, and in which slot of its [`PacketIo`](crate::io::PacketIo).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The worker, counted from zero.
    pub worker: usize,
    /// The slot.
    pub slot: Slot,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The connection table.
    pub flows: Flows,
    /// What workers tell the agent's task.
    pub events: Events,
    pub(crate) owners: Vec<Owner>,
    pub(crate) inboxes: Vec<Inbox>,
}

impl Shared {
    /// What the workers that own these ports share: `owners[p]` owns `PortId(p)`.
    #[must_use]
    pub fn new(owners: Vec<Owner>, flow_capacity: usize) -> Self {
        let workers = owners.iter().map(|owner| owner.worker + 1).max().unwrap_or(1);
        // A single worker hands nothing over.
        let parcels = if workers > 1 { 1024 } else { 1 };
        let inboxes = (0..workers).map(|_| Inbox::new(parcels)).collect();
        let flows = Flows::opened_by(owners.len(), flow_capacity);
        Self { flows, events: Events::default(), owners, inboxes }
    }

    /// Who owns a port.
    ///
    /// # Panics
    ///
    /// When there is no such port.
    #[must_use]
    pub fn owner(&self, port: PortId) -> Owner {
        self.owners[usize::from(port.0)]
    }

    pub(crate) fn ports_of(&self, worker: usize) -> Vec<PortId> {
        let mut owned: Vec<(usize, PortId)> = Vec::new();
        for (port, owner) in self.owners.iter().enumerate() {
            if owner.worker == worker {
                owned.push((owner.slot.0, PortId(port as u16)));
            }
        }
        owned.sort_unstable_by_key(|(slot, _)| *slot);
        owned.into_iter().map(|(_, port)| port).collect()
    }
}
