//! The verdicts in the kernel, entered and read many at a time.

use std::path::Path;

use aya::maps::MapInfo;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::layout::{CachedFlow, KEY4_BYTES, KEY6_BYTES, VERDICT_BYTES};
use crate::BpfError;

/// The maps whose size is a setting.
pub(super) const SIZED: [&str; 2] = ["flows4", "flows6"];

/// Removes the pins of verdicts that have another size or layout.
///
/// # Errors
///
/// They cannot be removed.
pub(super) fn discard_others(pins: &Path, capacity: u32) -> Result<(), BpfError> {
    for map in SIZED {
        let path = pins.join(map);
        let differs =
            |info: MapInfo| info.max_entries() != capacity || info.value_size() as usize != VERDICT_BYTES;
        if MapInfo::from_pin(&path).is_ok_and(differs) {
            std::fs::remove_file(&path).map_err(|source| BpfError::File { path, source })?;
        }
    }
    Ok(())
}

/// A handle on the verdicts of both families, for one thread. What it needs to enter a burst is kept, so that
/// entering allocates nothing once it has grown.
#[derive(Debug)]
pub struct VerdictCache {
    v4: Family,
    v6: Family,
}

#[derive(Debug)]
struct Family {
    map: MapHandle,
    key_bytes: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl VerdictCache {
    pub(super) fn open(pins: &Path) -> Result<Self, BpfError> {
        let open = |name: &str, key_bytes: usize| -> Result<Family, BpfError> {
            let path = pins.join(name);
            let map = MapHandle::from_pinned_path(&path)
                .map_err(|error| BpfError::File { path, source: std::io::Error::other(error.to_string()) })?;
            Ok(Family { map, key_bytes, keys: Vec::new(), values: Vec::new() })
        };
        Ok(Self { v4: open(SIZED[0], KEY4_BYTES)?, v6: open(SIZED[1], KEY6_BYTES)? })
    }

    /// Enters verdicts, over what was there of the same keys; tells how many did not find room. Those connections
    /// are asked about packet by packet.
    pub fn enter(&mut self, flows: &[CachedFlow]) -> usize {
        self.v4.enter(flows.iter().filter(|flow| flow.is_v4()))
            + self.v6.enter(flows.iter().filter(|flow| !flow.is_v4()))
    }

    /// Enters verdicts, but only over what is there of the same keys; tells how many those were.
    pub fn replace(&mut self, flows: &[CachedFlow]) -> usize {
        self.v4.replace(flows.iter().filter(|flow| flow.is_v4()))
            + self.v6.replace(flows.iter().filter(|flow| !flow.is_v4()))
    }

    /// Removes verdicts, as far as they are there.
    pub fn remove(&mut self, flows: &[CachedFlow]) {
        self.v4.remove(flows.iter().filter(|flow| flow.is_v4()));
        self.v6.remove(flows.iter().filter(|flow| !flow.is_v4()));
    }

    /// All verdicts. One that changes meanwhile may come twice or not at all.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn each(&self, mut seen: impl FnMut(CachedFlow)) -> Result<(), BpfError> {
        for family in [&self.v4, &self.v6] {
            // All at a time: the kernel gives less than is asked for when the entries of one hash do not fit any more,
            // which the iterator takes for the end. Room that is not filled is not backed by memory.
            let widest = family.key_bytes.max(VERDICT_BYTES) as u32;
            let room = family.map.max_entries().min(u32::MAX / widest);
            let entries = family.map.lookup_batch(room, MapFlags::ANY, MapFlags::ANY);
            let entries = entries.map_err(|error| BpfError::Verdicts(error.to_string()))?;
            entries.filter_map(|(key, value)| CachedFlow::read(&key, &value)).for_each(&mut seen);
        }
        Ok(())
    }
}

impl Family {
    /// Writes keys and values out; tells how many they are.
    fn prepare<'a>(&mut self, flows: impl Iterator<Item = &'a CachedFlow>) -> usize {
        self.keys.clear();
        self.values.clear();
        for flow in flows {
            flow.append_key(&mut self.keys);
            flow.append_verdict(&mut self.values);
        }
        self.values.len() / VERDICT_BYTES
    }

    fn prepared(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.keys.chunks_exact(self.key_bytes).zip(self.values.chunks_exact(VERDICT_BYTES))
    }

    fn replace<'a>(&mut self, flows: impl Iterator<Item = &'a CachedFlow>) -> usize {
        self.prepare(flows);
        self.prepared().filter(|(key, value)| self.map.update(key, value, MapFlags::EXIST).is_ok()).count()
    }

    fn enter<'a>(&mut self, flows: impl Iterator<Item = &'a CachedFlow>) -> usize {
        let count = self.prepare(flows);
        let Self { map, keys, values, .. } = self;
        if count == 0 || map.update_batch(keys, values, count as u32, MapFlags::ANY, MapFlags::ANY).is_ok() {
            return 0;
        }
        // Which of them failed, the kernel does not say through this call: once more, one by one.
        self.prepared().filter(|(key, value)| self.map.update(key, value, MapFlags::ANY).is_err()).count()
    }

    fn remove<'a>(&mut self, flows: impl Iterator<Item = &'a CachedFlow>) {
        self.keys.clear();
        flows.for_each(|flow| flow.append_key(&mut self.keys));
        for key in self.keys.chunks_exact(self.key_bytes) {
            // One that is gone already is as good.
            drop(self.map.delete(key));
        }
    }
}
