//! The kernel's half of inline mode: tc programs at the pods' ports, the pair through which they punt, and the
//! verdicts that they know.
//!
//! ```text
//!   pod ── hA ─ pod_in ──known──> the kernel's routing ──> pod_out ─ hB ── pod
//!                  └─ portcullis0 ══ portcullis1 ─ steer ─> AF_XDP ─> worker: judges, enters verdicts
//!                     reinject <────────────────────────────────────┘ approves
//! ```
//!
//! Maps and links are pinned: they go on without a process, and the next one takes them over. Numbers of ports are
//! part of the keys, so a predecessor's [`taps`](Inline::taps) keep theirs.

mod cache;
mod filters;
mod layout;
mod links;
mod ports;

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, MapData, PerCpuArray, XskMap};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::errno::Errno;

use crate::error::{BpfError, errno};
use crate::held::{Held, HeldMap};
use crate::maps::{AddressKey, PodKey, map_error, take};

pub use cache::VerdictCache;
pub use layout::{Approval, CachedFlow, Counted, Settings, Tap};
use layout::{COUNTED_BYTES, SETTINGS_BYTES, TAP_BYTES};
pub use links::{Attach, By, Hook, Placed, held_by, remove_pins, unpin};
use links::{classifier, steer};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/inline.bpf.o"));

/// The most ports: their numbers are below this. Number 0 is nobody's.
pub const MAX_PORTS: u16 = 1024;

/// The programs of inline mode and their maps.
pub struct Inline {
    pins: PathBuf,
    taps: HashMap<MapData, [u8; 4], [u8; TAP_BYTES]>,
    slots: Array<MapData, [u8; TAP_BYTES]>,
    pod_addresses: HashMap<MapData, PodKey, u8>,
    node_addresses: HashMap<MapData, AddressKey, u8>,
    owners: HashMap<MapData, AddressKey, u32>,
    generation: Array<MapData, u32>,
    epochs: Array<MapData, u32>,
    interfaces: Array<MapData, u32>,
    settings: Array<MapData, [u8; SETTINGS_BYTES]>,
    approvals: Array<MapData, u64>,
    punts: XskMap<MapData>,
    counted: PerCpuArray<MapData, [u8; COUNTED_BYTES]>,
    programs: Ebpf,
    /// By their pins.
    links: BTreeMap<PathBuf, Held>,
    /// Which program stands as a filter, by the pin that stands for it.
    filters: BTreeMap<PathBuf, Hook>,
    attach: Attach,
    /// The maps once more, to be pinned again.
    maps: Vec<HeldMap>,
}

impl Inline {
    /// Loads the programs. Maps that a predecessor has pinned in `pins` are taken over with what they hold, unless
    /// `capacity` (verdicts for each family) or their layout has changed: then the kernel's verdicts start anew.
    ///
    /// # Errors
    ///
    /// Without CAP_BPF and CAP_NET_ADMIN, when the kernel is too old for what the programs use, or when `pins` is
    /// no directory of a bpffs.
    pub fn load(pins: &Path, capacity: u32) -> Result<Self, BpfError> {
        cache::discard_others(pins, capacity)?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(pins);
        for map in cache::SIZED {
            loader.map_max_entries(map, capacity);
        }
        let refused = || BpfError::NotPermitted { what: "load BPF programs" };
        let mut programs = loader.load(OBJECT).map_err(|error| match errno(&error) {
            Some(Errno::EPERM | Errno::EACCES) => refused(),
            _ => error.into(),
        })?;
        for hook in [Hook::PodIn, Hook::PodOut, Hook::UplinkOut, Hook::Reinject] {
            classifier(&mut programs, hook)?.load()?;
        }
        steer(&mut programs)?.load()?;
        let maps = programs.maps().map(|(name, _)| pins.join(name)).filter(|pin| pin.exists());
        let mut inline = Self {
            maps: maps.map(HeldMap::of).collect::<Result<_, _>>()?,
            pins: pins.to_owned(),
            taps: take(&mut programs, "taps")?,
            slots: take(&mut programs, "slots")?,
            pod_addresses: take(&mut programs, "pod_addresses")?,
            node_addresses: take(&mut programs, "node_addresses")?,
            owners: take(&mut programs, "owners")?,
            generation: take(&mut programs, "generation")?,
            epochs: take(&mut programs, "epochs")?,
            interfaces: take(&mut programs, "interfaces")?,
            settings: take(&mut programs, "settings")?,
            approvals: take(&mut programs, "approvals")?,
            punts: take(&mut programs, "punts")?,
            counted: take(&mut programs, "counted")?,
            programs,
            links: BTreeMap::new(),
            filters: BTreeMap::new(),
            attach: Attach::default(),
        };
        inline.begin_generation()?;
        Ok(inline)
    }

    /// What the programs do with all ports.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<(), BpfError> {
        self.settings.set(0, settings.to_bytes(), 0).map_err(|e| map_error("settings", e))
    }

    /// Begins a new series of approvals: the first has the number 1.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn begin_approvals(&mut self) -> Result<(), BpfError> {
        self.approvals.set(0, 0, 0).map_err(|e| map_error("approvals", e))
    }

    /// From now on, verdicts of this port that are older than `epoch` are asked for again.
    ///
    /// # Errors
    ///
    /// When there is no such port.
    pub fn set_epoch(&mut self, id: u16, epoch: u32) -> Result<(), BpfError> {
        self.epochs.set(u32::from(id), epoch, 0).map_err(|e| map_error("epochs", e))
    }

    /// The epoch of a port.
    ///
    /// # Errors
    ///
    /// When there is no such port.
    pub fn epoch(&self, id: u16) -> Result<u32, BpfError> {
        self.epochs.get(&u32::from(id), 0).map_err(|e| map_error("epochs", e))
    }

    /// Hands the punted frames of a queue to this socket, whose fill ring holds frames already.
    ///
    /// # Errors
    ///
    /// When it is no bound AF_XDP socket.
    pub fn insert_socket(&mut self, queue: u32, fd: BorrowedFd<'_>) -> Result<(), BpfError> {
        self.punts.set(queue, fd.as_raw_fd(), 0).map_err(|e| map_error("punts", e))
    }

    /// What the programs of a port have counted; number 0 counts what belongs to no port.
    ///
    /// # Errors
    ///
    /// When there is no such port.
    pub fn counted(&self, id: u16) -> Result<Counted, BpfError> {
        let values = self.counted.get(&u32::from(id), 0).map_err(|e| map_error("counted", e))?;
        Ok(Counted::sum(values.iter()))
    }

    /// Another handle on the verdicts, for whoever enters them.
    ///
    /// # Errors
    ///
    /// When the pinned maps cannot be opened.
    pub fn cache(&self) -> Result<VerdictCache, BpfError> {
        VerdictCache::open(&self.pins)
    }
}
