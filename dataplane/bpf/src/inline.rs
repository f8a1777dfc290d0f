//! The kernel's half of inline mode: tc programs at the pods' ports, the pair through which they punt, and the
//! verdicts that they know.
//!
//! ```text
//!   pod ── hA ─ pod_in ──known──> the kernel's routing ──> pod_out ─ hB ── pod
//!                  └─ punt0 ══ punt1 ─ steer ─> AF_XDP ─> worker: judges, enters verdicts
//!                     reinject <────────────────────────┘ approves
//! ```
//!
//! Maps and links are pinned: they go on without a process, and the next one takes them over. Numbers of ports are
//! part of the keys, so a predecessor's [`taps`](Inline::taps) keep theirs.

mod cache;
mod layout;

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, MapData, MapError, MapInfo, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use flow::Address;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::error::{BpfError, errno};
use crate::maps::{AddressKey, PodKey, map_error, pod_keys, reconcile, take};

pub use cache::VerdictCache;
pub use layout::{Approval, CachedFlow, Counted, Settings, Tap};
use layout::{COUNTED_BYTES, SETTINGS_BYTES, TAP_BYTES};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/inline.bpf.o"));

/// The most ports: their numbers are below this. Number 0 is nobody's.
pub const MAX_PORTS: u16 = 1024;

/// Where a program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// What a pod sends, on its side of the node.
    PodIn,
    /// What goes to a pod.
    PodOut,
    /// What leaves the node.
    UplinkOut,
    /// What the worker gives back, on the near end of the punt pair.
    Reinject,
}

impl Hook {
    /// The program's name, in the C source and in the kernel.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::PodIn => "pod_in",
            Self::PodOut => "pod_out",
            Self::UplinkOut => "uplink_out",
            Self::Reinject => "reinject",
        }
    }

    const fn side(self) -> TcAttachType {
        match self {
            Self::PodIn | Self::Reinject => TcAttachType::Ingress,
            Self::PodOut | Self::UplinkOut => TcAttachType::Egress,
        }
    }
}

/// How a program came to stand where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// By a pinned tcx link, made now.
    Linked,
    /// A predecessor's pinned tcx link runs this program now: no packet went without one.
    TakenOver,
    /// As a filter of a clsact qdisc: the kernel has no tcx (Linux 6.6 or later has). Whoever removes the qdisc
    /// removes it.
    Filter,
}

/// The programs of inline mode and their maps.
pub struct Inline {
    pins: PathBuf,
    taps: HashMap<MapData, [u8; 4], [u8; TAP_BYTES]>,
    pod_addresses: HashMap<MapData, PodKey, u8>,
    node_addresses: HashMap<MapData, AddressKey, u8>,
    owners: HashMap<MapData, AddressKey, u32>,
    epochs: Array<MapData, u32>,
    interfaces: Array<MapData, u32>,
    settings: Array<MapData, [u8; SETTINGS_BYTES]>,
    approvals: Array<MapData, u32>,
    punts: XskMap<MapData>,
    counted: PerCpuArray<MapData, [u8; COUNTED_BYTES]>,
    programs: Ebpf,
    /// By their pins. Held, they stay also when somebody removes those.
    links: BTreeMap<PathBuf, FdLink>,
}

impl Inline {
    /// Loads the programs. Maps that a predecessor has pinned in `pins` are taken over with what they hold, unless
    /// `capacity` (verdicts for each family) has changed: then the kernel's verdicts start anew.
    ///
    /// # Errors
    ///
    /// Without CAP_BPF and CAP_NET_ADMIN, when the kernel is too old for what the programs use, or when `pins` is
    /// no directory of a bpffs.
    pub fn load(pins: &Path, capacity: u32) -> Result<Self, BpfError> {
        for map in cache::SIZED {
            let path = pins.join(map);
            if MapInfo::from_pin(&path).is_ok_and(|info| info.max_entries() != capacity) {
                std::fs::remove_file(&path).map_err(|source| BpfError::File { path, source })?;
            }
        }
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
        Ok(Self {
            pins: pins.to_owned(),
            taps: take(&mut programs, "taps")?,
            pod_addresses: take(&mut programs, "pod_addresses")?,
            node_addresses: take(&mut programs, "node_addresses")?,
            owners: take(&mut programs, "owners")?,
            epochs: take(&mut programs, "epochs")?,
            interfaces: take(&mut programs, "interfaces")?,
            settings: take(&mut programs, "settings")?,
            approvals: take(&mut programs, "approvals")?,
            punts: take(&mut programs, "punts")?,
            counted: take(&mut programs, "counted")?,
            programs,
            links: BTreeMap::new(),
        })
    }

    /// Puts a program in its place, or takes over the link that a predecessor has pinned for it. Its maps should
    /// say what it needs by then: it drops what comes by a port without a tap.
    ///
    /// # Errors
    ///
    /// No such interface, no permission, or a directory that takes no pins.
    pub fn attach(&mut self, interface: &str, hook: Hook) -> Result<Placed, BpfError> {
        let pin = self.pin(interface, hook.program())?;
        let program = classifier(&mut self.programs, hook)?;
        match PinnedLink::from_pin(&pin).map(|link| SchedClassifierLink::try_from(FdLink::from(link))) {
            Ok(link) => match program.attach_to_link(link?) {
                Ok(id) => {
                    self.links.insert(pin, FdLink::try_from(program.take_link(id)?)?);
                    return Ok(Placed::TakenOver);
                }
                // "Link has been severed": the interface it was attached to is gone.
                Err(error) if errno(&error) == Some(Errno::ENOLINK) => remove(&pin)?,
                Err(error) => return Err(error.into()),
            },
            Err(error) if errno(&error) == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(interface, hook.side(), first) {
            Ok(id) => {
                let link = FdLink::try_from(program.take_link(id)?)?;
                self.links.insert(pin.clone(), pinned(link, interface, &pin)?);
                Ok(Placed::Linked)
            }
            Err(error) if errno(&error) == Some(Errno::EINVAL) => filter(program, interface, hook),
            Err(error) => Err(error.into()),
        }
    }

    /// Attaches the program of the punt pair's far end, or takes over the link that a predecessor has pinned.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach), and when the MTU is too large for native XDP.
    pub fn attach_steer(&mut self, interface: &str) -> Result<Placed, BpfError> {
        let pin = self.pin(interface, "steer")?;
        let program = steer(&mut self.programs)?;
        let no_link = |_netlink| BpfError::NoLink { interface: interface.into() };
        if let Ok(link) = PinnedLink::from_pin(&pin) {
            match program.attach_to_link(XdpLink::try_from(FdLink::from(link))?) {
                Ok(id) => {
                    let link = FdLink::try_from(program.take_link(id)?).map_err(no_link)?;
                    self.links.insert(pin, link);
                    return Ok(Placed::TakenOver);
                }
                Err(error) if errno(&error) == Some(Errno::ENOLINK) => remove(&pin)?,
                Err(error) => return Err(error.into()),
            }
        }
        let id = program.attach(interface, XdpMode::Driver)?;
        let link = FdLink::try_from(program.take_link(id)?).map_err(no_link)?;
        self.links.insert(pin.clone(), pinned(link, interface, &pin)?);
        Ok(Placed::Linked)
    }

    /// Pins the links anew whose pins somebody has removed; tells how many those were. The programs were in their
    /// places all the time.
    ///
    /// # Errors
    ///
    /// The directory takes no pins.
    pub fn mend_pins(&mut self) -> Result<usize, BpfError> {
        let lost: Vec<PathBuf> = self.links.keys().filter(|pin| !pin.exists()).cloned().collect();
        for pin in &lost {
            if let Some(link) = self.links.remove(pin) {
                self.links.insert(pin.clone(), pinned(link, "", pin)?);
            }
        }
        Ok(lost.len())
    }

    fn pin(&self, interface: &str, program: &str) -> Result<PathBuf, BpfError> {
        let ifindex = if_nametoindex(interface)
            .map_err(|_errno| BpfError::NoSuchInterface { interface: interface.into() })?;
        Ok(self.pins.join(format!("{program}-{ifindex}")))
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

    /// The ports that the programs know, by interface index: also those of a predecessor.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn taps(&self) -> Result<Vec<(u32, Tap)>, BpfError> {
        let taps = self.taps.iter().map(|tap| tap.map(|(key, tap)| (u32::from_ne_bytes(key), Tap::of(&tap))));
        taps.collect::<Result<_, MapError>>().map_err(|e| map_error("taps", e))
    }

    /// Tells the programs about a port.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_tap(&mut self, ifindex: u32, tap: &Tap) -> Result<(), BpfError> {
        let id = u32::from(tap.id);
        self.interfaces.set(id, ifindex, 0).map_err(|e| map_error("interfaces", e))?;
        self.taps.insert(ifindex.to_ne_bytes(), tap.to_bytes(), 0).map_err(|e| map_error("taps", e))
    }

    /// Forgets a port whose interface has gone, and the links to it: what still came by it would be dropped.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove_tap(&mut self, ifindex: u32, id: u16) -> Result<(), BpfError> {
        for pin in of_interface(&self.pins, ifindex) {
            self.links.remove(&pin);
            remove(&pin)?;
        }
        self.set_pod_addresses(ifindex, &[])?;
        self.interfaces.set(u32::from(id), 0, 0).map_err(|e| map_error("interfaces", e))?;
        match self.taps.remove(&ifindex.to_ne_bytes()) {
            Err(error) if !matches!(error, MapError::KeyNotFound) => Err(map_error("taps", error)),
            _ => Ok(()),
        }
    }

    /// The addresses that the pod behind this interface may send from.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_pod_addresses(&mut self, ifindex: u32, addresses: &[Address]) -> Result<(), BpfError> {
        let (wanted, owner) = pod_keys(ifindex, addresses);
        reconcile(&mut self.pod_addresses, "pod_addresses", wanted, |key| key[..4] == owner)?;
        for address in addresses {
            self.owners.insert(address.octets(), ifindex, 0).map_err(|e| map_error("owners", e))?;
        }
        let kept: HashSet<AddressKey> = addresses.iter().map(|address| address.octets()).collect();
        let gone: Vec<AddressKey> = self
            .owners
            .iter()
            .filter_map(Result::ok)
            .filter(|(address, owner)| *owner == ifindex && !kept.contains(address))
            .map(|(address, _)| address)
            .collect();
        gone.iter().try_for_each(|address| self.owners.remove(address)).map_err(|e| map_error("owners", e))
    }

    /// The node's own addresses: its pods may reach it, and it them.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_node_addresses(&mut self, addresses: &[Address]) -> Result<(), BpfError> {
        let wanted = addresses.iter().map(|address| address.octets()).collect();
        reconcile(&mut self.node_addresses, "node_addresses", wanted, |_| true).map(drop)
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

/// As a filter of a clsact qdisc, for kernels without tcx.
fn filter(program: &mut SchedClassifier, interface: &str, hook: Hook) -> Result<Placed, BpfError> {
    match qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(error) => return Err(ProgramError::from(error).into()),
    }
    // The lowest number comes first; the same number and handle again replace the filter in one step.
    let options =
        NlOptions { priority: 1, handle: aya::programs::tc::TcHandle::new(0, 1), ..NlOptions::default() };
    let id = program.attach_with_options(interface, hook.side(), TcAttachOptions::Netlink(options))?;
    // It stays when the process ends.
    std::mem::forget(program.take_link(id)?);
    Ok(Placed::Filter)
}

/// Pins a link, which is held all the same.
fn pinned(link: FdLink, interface: &str, pin: &Path) -> Result<FdLink, BpfError> {
    let refused = |source| BpfError::Pin { interface: interface.into(), path: pin.into(), source };
    Ok(link.pin(pin).map_err(refused)?.into())
}

/// Where the links to an interface are pinned.
fn of_interface(pins: &Path, ifindex: u32) -> impl Iterator<Item = PathBuf> {
    let programs = ["pod_in", "pod_out", "uplink_out", "reinject", "steer"];
    programs.map(|program| pins.join(format!("{program}-{ifindex}"))).into_iter()
}

/// Removes what is pinned in `pins` for these interfaces of this network namespace, or all of it, with the directory,
/// when none is named. Works without the process that pinned it. Returns what was removed.
///
/// # Errors
///
/// When the directory cannot be read or a pin not removed; those before it are gone.
pub fn remove_pins(pins: &Path, interfaces: &[&str]) -> Result<Vec<PathBuf>, BpfError> {
    let failed = |source| BpfError::File { path: pins.into(), source };
    let found: Vec<PathBuf> = match std::fs::read_dir(pins) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    }
    .map_err(failed)?;
    let named: Vec<PathBuf> = interfaces
        .iter()
        .filter_map(|name| if_nametoindex(*name).ok())
        .flat_map(|index| of_interface(pins, index))
        .collect();
    let removed: Vec<PathBuf> =
        found.into_iter().filter(|pin| interfaces.is_empty() || named.contains(pin)).collect();
    removed.iter().try_for_each(|pin| remove(pin))?;
    if interfaces.is_empty() {
        std::fs::remove_dir(pins).map_err(failed)?;
    }
    Ok(removed)
}

fn remove(pin: &Path) -> Result<(), BpfError> {
    match std::fs::remove_file(pin) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(BpfError::File { path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn classifier(programs: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, BpfError> {
    let program = programs.program_mut(hook.program()).ok_or(ProgramError::UnexpectedProgramType)?;
    Ok(program.try_into()?)
}

fn steer(programs: &mut Ebpf) -> Result<&mut Xdp, BpfError> {
    let program = programs.program_mut("steer").ok_or(ProgramError::UnexpectedProgramType)?;
    Ok(program.try_into()?)
}
