//! The loaded programs: maps kept in step, links attached and taken over.

use std::borrow::{Borrow, BorrowMut};
use std::collections::HashSet;
use std::hash::Hash;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, Pod, include_bytes_aligned};
use flow::Address;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::attached_program;
use crate::entry::{COUNTER_BYTES, Counters, PORT_BYTES, PortEntry};
use crate::error::{BpfError, errno};
use crate::pins::{self, Pin};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steering.bpf.o"));

/// What veth's native XDP leaves of a page: 4096, less 256 of headroom, 320 of tail and the Ethernet header.
const VETH_MTU_LIMIT: u32 = 3506;

/// Which program a port runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host's side of a pod's veth pair.
    Pod,
    /// An interface to the rest of the network.
    Uplink,
}

impl Kind {
    /// The program's name, in the C source and in the kernel.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Pod => "pod_port",
            Self::Uplink => "uplink_port",
        }
    }
}

/// How an interface came to run our program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface's index, under which the maps know it.
    pub ifindex: u32,
    /// Whether a predecessor's pinned link was updated, so that no frame went without a program.
    pub taken_over: bool,
}

type PodKey = [u8; 20];
type AddressKey = [u8; 16];

/// The XDP programs and their maps, loaded for this process.
pub struct Steering {
    ports: HashMap<MapData, [u8; 4], [u8; PORT_BYTES]>,
    pod_addresses: HashMap<MapData, PodKey, u8>,
    local_addresses: HashMap<MapData, AddressKey, u8>,
    node_addresses: HashMap<MapData, AddressKey, u8>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, [u8; COUNTER_BYTES]>,
    programs: Ebpf,
}

impl Steering {
    /// Loads both programs, with empty maps, attached to nothing.
    ///
    /// # Errors
    ///
    /// Without CAP_BPF and CAP_NET_ADMIN, or when the kernel is too old for what the programs use.
    pub fn load() -> Result<Self, BpfError> {
        let not_permitted = |error: &(dyn std::error::Error + 'static)| {
            matches!(errno(error), Some(Errno::EPERM | Errno::EACCES))
        };
        let refused = || BpfError::NotPermitted { what: "load BPF programs" };
        let mut programs =
            Ebpf::load(OBJECT).map_err(|e| if not_permitted(&e) { refused() } else { e.into() })?;
        for kind in [Kind::Pod, Kind::Uplink] {
            // EACCES is also the verifier's answer, and then its log is what helps.
            program(&mut programs, kind)?.load().map_err(|e| match errno(&e) {
                Some(Errno::EPERM) => refused(),
                _ => e.into(),
            })?;
        }
        Ok(Self {
            ports: take(&mut programs, "ports")?,
            pod_addresses: take(&mut programs, "pod_addresses")?,
            local_addresses: take(&mut programs, "local_addresses")?,
            node_addresses: take(&mut programs, "node_addresses")?,
            sockets: take(&mut programs, "xsks")?,
            counters: take(&mut programs, "counters")?,
            programs,
        })
    }

    /// Attaches the program of `kind` to `interface` in native mode, as a link pinned in `pins`; or updates
    /// the link that a predecessor has pinned there. A pin whose interface was deleted is replaced.
    ///
    /// # Errors
    ///
    /// No such interface; another program on it; a driver without native XDP; an MTU too large for it; no
    /// permission; a directory that takes no pins. The interface is then as it was.
    pub fn attach(&mut self, interface: &str, kind: Kind, pins: &Path) -> Result<Attached, BpfError> {
        let ifindex = if_nametoindex(interface)
            .map_err(|_errno| BpfError::NoSuchInterface { interface: interface.into() })?;
        let program = program(&mut self.programs, kind)?;
        // Pins of a deleted interface of this name: nobody will take them over any more.
        for pin in pins::list(pins)? {
            if pin.interface == interface && pin.ifindex != ifindex && pin.is_stale() {
                pins::unlink(&pin)?;
            }
        }
        if let Some(pin) = pins::find(pins, ifindex)? {
            match take_over(program, &pin) {
                // A namespace's inode can come again with another one: the link has to be on this interface.
                Ok(()) if is_running(program, ifindex)? => return Ok(Attached { ifindex, taken_over: true }),
                Ok(()) => pins::unlink(&pin)?,
                // "Link has been severed": the interface it was attached to is gone.
                Err(error) if errno(&error) == Some(Errno::ENOLINK) => pins::unlink(&pin)?,
                Err(error) => return Err(explain(error, interface, ifindex, pins)),
            }
        }
        attach_new(program, interface, ifindex, pins)?;
        Ok(Attached { ifindex, taken_over: false })
    }

    /// Tells the programs about the port with this interface index; a port without an entry drops (a pod's)
    /// or passes what is not for pods (an uplink).
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_port(&mut self, ifindex: u32, entry: PortEntry) -> Result<(), BpfError> {
        self.ports.insert(ifindex.to_ne_bytes(), entry.to_bytes(), 0).map_err(|e| map_error("ports", e))
    }

    /// Forgets a port and the addresses of its pod.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove_port(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.set_pod_addresses(ifindex, &[])?;
        gone(self.ports.remove(&ifindex.to_ne_bytes())).map_err(|e| map_error("ports", e))
    }

    /// Puts a bound AF_XDP socket under `index`: its port's base, plus its receive queue. Its fill ring has
    /// to hold frames already.
    ///
    /// # Errors
    ///
    /// When the index is beyond the map, or `fd` is no bound AF_XDP socket.
    pub fn insert_socket(&mut self, index: u32, fd: BorrowedFd<'_>) -> Result<(), BpfError> {
        self.sockets.set(index, fd.as_raw_fd(), 0).map_err(|e| map_error("xsks", e))
    }

    /// Takes the socket under `index` out, if there is one: from then on the port's fallback holds.
    ///
    /// # Errors
    ///
    /// When the index is beyond the map.
    pub fn remove_socket(&mut self, index: u32) -> Result<(), BpfError> {
        gone(self.sockets.unset(index)).map_err(|e| map_error("xsks", e))
    }

    /// How many sockets fit: indices below this are valid.
    #[must_use]
    pub fn socket_capacity(&self) -> u32 {
        self.sockets.len()
    }

    /// The addresses that the pod behind this interface may send from.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_pod_addresses(&mut self, ifindex: u32, addresses: &[Address]) -> Result<(), BpfError> {
        let owner = ifindex.to_ne_bytes();
        let wanted = addresses.iter().map(|address| {
            let mut key = [0; 20];
            key[..4].copy_from_slice(&owner);
            key[4..].copy_from_slice(&address.octets());
            key
        });
        reconcile(&mut self.pod_addresses, "pod_addresses", wanted.collect(), |key| key[..4] == owner)
    }

    /// The addresses of all pods of this node, by which uplinks know what is theirs.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_local_addresses(&mut self, addresses: &[Address]) -> Result<(), BpfError> {
        let wanted = addresses.iter().map(|a| a.octets()).collect();
        reconcile(&mut self.local_addresses, "local_addresses", wanted, |_| true)
    }

    /// The node's own addresses, those of its side of the pods' links among them: its pods may reach it.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_node_addresses(&mut self, addresses: &[Address]) -> Result<(), BpfError> {
        let wanted = addresses.iter().map(|a| a.octets()).collect();
        reconcile(&mut self.node_addresses, "node_addresses", wanted, |_| true)
    }

    /// What the program of the port with this base has counted.
    ///
    /// # Errors
    ///
    /// When the base is beyond the map.
    pub fn counters(&self, base: u32) -> Result<Counters, BpfError> {
        let values = self.counters.get(&base, 0).map_err(|e| map_error("counters", e))?;
        Ok(Counters::sum(values.iter()))
    }
}

fn program(programs: &mut Ebpf, kind: Kind) -> Result<&mut Xdp, BpfError> {
    let program = programs.program_mut(kind.program()).ok_or(ProgramError::UnexpectedProgramType)?;
    Ok(program.try_into()?)
}

fn take<M>(programs: &mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = programs.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.into() });
    map.and_then(M::try_from).map_err(|source| BpfError::Map { map: name, source })
}

/// Whether an interface runs just this program.
fn is_running(program: &Xdp, ifindex: u32) -> Result<bool, BpfError> {
    let id = program.info()?.id();
    Ok(attached_program(ifindex).is_ok_and(|attached| attached == Some(id)))
}

/// LINK_UPDATE of a pinned link to this program.
fn take_over(program: &mut Xdp, pin: &Pin) -> Result<(), BpfError> {
    let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(&pin.path)?))?;
    // The pin holds the link; what the program keeps is only another handle on it.
    program.attach_to_link(link)?;
    Ok(())
}

fn attach_new(program: &mut Xdp, interface: &str, ifindex: u32, pins: &Path) -> Result<(), BpfError> {
    let id = program
        .attach_to_if_index(ifindex, XdpMode::Driver)
        .map_err(|error| explain(error.into(), interface, ifindex, pins))?;
    let link = FdLink::try_from(program.take_link(id)?)
        .map_err(|_netlink| BpfError::NoLink { interface: interface.into() })?;
    let namespace = pins::namespace().map_err(|source| BpfError::File { path: pins.into(), source })?;
    let path = Pin::path(pins, namespace, ifindex, interface);
    link.pin(&path).map_err(|source| BpfError::Pin { interface: interface.into(), path, source })?;
    Ok(())
}

/// The kernel's refusal in words that say what to do.
fn explain(error: BpfError, interface: &str, ifindex: u32, pins: &Path) -> BpfError {
    let interface = interface.to_owned();
    let Some(errno) = errno(&error).or_else(|| netlink_errno(&error)) else { return error };
    match errno {
        Errno::EPERM | Errno::EACCES => BpfError::NotPermitted { what: "attach XDP programs" },
        Errno::ENODEV => BpfError::NoSuchInterface { interface },
        Errno::ERANGE => BpfError::MtuTooLarge { interface, limit: VETH_MTU_LIMIT },
        Errno::EBUSY | Errno::EEXIST => {
            let id = attached_program(ifindex).ok().flatten();
            let name = id.and_then(program_name);
            let ours = name.as_deref().is_some_and(is_our_program);
            let remedy = if ours {
                format!(
                    "it is one of ours, pinned elsewhere than in {}: `portcullis cleanup {interface}` removes it",
                    pins.display()
                )
            } else {
                format!("`ip link set dev {interface} xdp off` removes it, or the tool that attached it")
            };
            let program = match (id, name) {
                (Some(id), Some(name)) => format!("id {id}, {name}"),
                (Some(id), None) => format!("id {id}"),
                (None, _) => "it does not say which".to_owned(),
            };
            BpfError::Taken { interface, program, remedy }
        }
        Errno::EOPNOTSUPP | Errno::EINVAL => BpfError::NoNativeXdp { interface, source: errno.into() },
        _ => error,
    }
}

/// aya hides the errno of its netlink path from the chain of sources.
fn netlink_errno(error: &BpfError) -> Option<Errno> {
    let BpfError::Program(ProgramError::XdpError(aya::programs::xdp::XdpError::NetlinkError(error))) = error
    else {
        return None;
    };
    error.raw_os_error().map(Errno::from_raw)
}

fn is_our_program(name: &str) -> bool {
    [Kind::Pod, Kind::Uplink].iter().any(|kind| kind.program() == name)
}

fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Makes the keys that `scope` picks equal to `wanted`. What is in both stays untouched; what is new comes
/// in before what is old goes, so that no address that stays is ever missing.
fn reconcile<M, K>(
    map: &mut HashMap<M, K, u8>,
    name: &'static str,
    wanted: HashSet<K>,
    scope: impl Fn(&K) -> bool,
) -> Result<(), BpfError>
where
    M: Borrow<MapData> + BorrowMut<MapData>,
    K: Pod + Eq + Hash,
{
    let present: Result<HashSet<K>, MapError> =
        map.keys().filter(|key| key.as_ref().map_or(true, &scope)).collect();
    let present = present.map_err(|e| map_error(name, e))?;
    for key in wanted.difference(&present) {
        map.insert(key, 1, 0).map_err(|e| map_error(name, e))?;
    }
    for key in present.difference(&wanted) {
        gone(map.remove(key)).map_err(|e| map_error(name, e))?;
    }
    Ok(())
}

/// Removing what is not there is no error.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if matches!(error, MapError::KeyNotFound) || errno(&error) == Some(Errno::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}

fn map_error(map: &'static str, source: MapError) -> BpfError {
    match errno(&source) {
        Some(Errno::E2BIG) => BpfError::MapFull { map },
        _ => BpfError::Map { map, source },
    }
}
