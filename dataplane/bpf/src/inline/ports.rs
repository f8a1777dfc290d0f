//! The ports of inline mode, and whose addresses are whose.

use std::collections::HashSet;

use aya::maps::MapError;
use flow::Address;

use super::Inline;
use super::layout::{TAP_BYTES, Tap};
use crate::BpfError;
use crate::maps::{AddressKey, map_error, pod_keys, reconcile};

/// As in the C program.
const SLOTS: u32 = 4096;

const fn slot(ifindex: u32) -> u32 {
    ifindex % SLOTS
}

impl Inline {
    /// The ports that the programs know, by interface index: also those of a predecessor.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn taps(&self) -> Result<Vec<(u32, Tap)>, BpfError> {
        let taps = self.taps.iter().map(|tap| tap.map(|(key, tap)| (u32::from_ne_bytes(key), Tap::of(&tap))));
        taps.collect::<Result<_, MapError>>().map_err(|e| map_error("taps", e))
    }

    /// Tells the programs about a port. Whether they did not know it so.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_tap(&mut self, ifindex: u32, tap: &Tap) -> Result<bool, BpfError> {
        let id = u32::from(tap.id);
        let bytes = tap.to_bytes(ifindex);
        let known = self.taps.get(&ifindex.to_ne_bytes(), 0).is_ok_and(|known| known == bytes)
            && self.interfaces.get(&id, 0).is_ok_and(|known| known == ifindex);
        if known {
            return Ok(false);
        }
        self.interfaces.set(id, ifindex, 0).map_err(|e| map_error("interfaces", e))?;
        self.taps.insert(ifindex.to_ne_bytes(), bytes, 0).map_err(|e| map_error("taps", e))?;
        self.set_slot(ifindex, bytes)?;
        Ok(true)
    }

    /// Forgets a port whose interface has gone, and the links to it: what still came by it would be dropped.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove_tap(&mut self, ifindex: u32, id: u16) -> Result<(), BpfError> {
        self.forget_links(ifindex)?;
        self.set_pod_addresses(ifindex, &[])?;
        self.interfaces.set(u32::from(id), 0, 0).map_err(|e| map_error("interfaces", e))?;
        if self.slots.get(&slot(ifindex), 0).is_ok_and(|tap| tap[..4] == ifindex.to_ne_bytes()) {
            self.set_slot(ifindex, [0; TAP_BYTES])?;
        }
        match self.taps.remove(&ifindex.to_ne_bytes()) {
            Err(error) if !matches!(error, MapError::KeyNotFound) => Err(map_error("taps", error)),
            _ => Ok(()),
        }
    }

    /// Where the programs look first. Of several ports with one slot, the last has it.
    fn set_slot(&mut self, ifindex: u32, tap: [u8; TAP_BYTES]) -> Result<(), BpfError> {
        self.slots.set(slot(ifindex), tap, 0).map_err(|e| map_error("slots", e))
    }

    /// The addresses that the pod behind this interface may send from. Whether the programs knew others.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_pod_addresses(&mut self, ifindex: u32, addresses: &[Address]) -> Result<bool, BpfError> {
        let changed = self.change_pod_addresses(ifindex, addresses);
        self.count_generation(changed)
    }

    /// Whether they were others.
    fn change_pod_addresses(&mut self, ifindex: u32, addresses: &[Address]) -> Result<bool, BpfError> {
        let (wanted, owner) = pod_keys(ifindex, addresses);
        let mut changed =
            reconcile(&mut self.pod_addresses, "pod_addresses", wanted, |key| key[..4] == owner)?;
        let mut wanted: HashSet<AddressKey> = addresses.iter().map(|address| address.octets()).collect();
        let mut gone = Vec::new();
        for (address, _) in self.owners.iter().filter_map(Result::ok).filter(|(_, owner)| *owner == ifindex) {
            if !wanted.remove(&address) {
                gone.push(address);
            }
        }
        changed |= !wanted.is_empty() || !gone.is_empty();
        let refused = |e| map_error("owners", e);
        wanted.iter().try_for_each(|address| self.owners.insert(address, ifindex, 0)).map_err(refused)?;
        gone.iter().try_for_each(|address| self.owners.remove(address)).map_err(refused)?;
        Ok(changed)
    }

    /// The node's own addresses: its pods may reach it, and it them. Whether the programs knew others.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_node_addresses(&mut self, addresses: &[Address]) -> Result<bool, BpfError> {
        let wanted = addresses.iter().map(|address| address.octets()).collect();
        let changed = reconcile(&mut self.node_addresses, "node_addresses", wanted, |_| true);
        self.count_generation(changed)
    }

    /// Has the programs check the addresses of known connections again, after they have changed in part or in whole.
    fn count_generation(&mut self, changed: Result<bool, BpfError>) -> Result<bool, BpfError> {
        if !matches!(changed, Ok(false)) {
            let refused = |e| map_error("generation", e);
            let now = self.generation.get(&0, 0).map_err(refused)?;
            // No entry is new under 0.
            let next = now.checked_add(1).unwrap_or(1);
            self.generation.set(0, next, 0).map_err(refused)?;
        }
        changed
    }

    /// As after a change: a predecessor may have ended within one.
    pub(super) fn begin_generation(&mut self) -> Result<(), BpfError> {
        self.count_generation(Ok(true)).map(drop)
    }
}
