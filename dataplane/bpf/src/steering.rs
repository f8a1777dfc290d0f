//! The loaded programs: maps kept in step, links attached and taken over.

use std::collections::HashMap as Map;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::{HashMap, MapData, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, include_bytes_aligned};
use flow::Address;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::entry::{COUNTER_BYTES, Counters, PORT_BYTES, PortEntry};
use crate::error::{BpfError, errno};
use crate::held::Held;
use crate::maps::{AddressKey, PodKey, gone, map_error, pod_keys, reconcile, take};
use crate::netlink::{attached_program, detach_program};
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

    /// The program and its double, which does the same: a link can be updated from either to the other.
    const fn programs(self) -> [&'static str; 2] {
        match self {
            Self::Pod => [self.program(), "pod_port_2"],
            Self::Uplink => [self.program(), "uplink_port_2"],
        }
    }
}

/// How an interface came to run our program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface's index, under which the maps know it.
    pub ifindex: u32,
    /// Whether the interface ran a program of ours already, a predecessor's for example, so that no frame went
    /// without one.
    pub taken_over: bool,
}

/// What is not as [`Steering::attach`] left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The interface runs another program, or none.
    Program,
    /// The pin is gone, or is another link's. The program runs until this process ends.
    Pin,
}

/// The XDP programs and their maps, loaded for this process.
pub struct Steering {
    ports: HashMap<MapData, [u8; 4], [u8; PORT_BYTES]>,
    pod_addresses: HashMap<MapData, PodKey, u8>,
    local_addresses: HashMap<MapData, AddressKey, u8>,
    node_addresses: HashMap<MapData, AddressKey, u8>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, [u8; COUNTER_BYTES]>,
    /// By the index of the interface.
    links: Map<u32, (Held, Kind)>,
    programs: Ebpf,
}

impl Steering {
    /// Loads the programs, with empty maps, attached to nothing.
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
        for name in [Kind::Pod, Kind::Uplink].into_iter().flat_map(Kind::programs) {
            // EACCES is also the verifier's answer, and then its log is what helps.
            program(&mut programs, name)?.load().map_err(|e| match errno(&e) {
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
            links: Map::new(),
            programs,
        })
    }

    /// Attaches the program of `kind` to `interface` in native mode, as a link pinned in `pins`; or updates
    /// the link that a predecessor has pinned there. A pin whose interface was deleted is replaced. What has
    /// [drifted](Self::drift) since this process attached it is mended: a program that somebody put in its place by
    /// netlink has to go.
    ///
    /// # Errors
    ///
    /// No such interface; another program on it; a driver without native XDP; an MTU too large for it; no
    /// permission; a directory that takes no pins. The interface is then as it was.
    pub fn attach(&mut self, interface: &str, kind: Kind, pins: &Path) -> Result<Attached, BpfError> {
        let ifindex = if_nametoindex(interface)
            .map_err(|_errno| BpfError::NoSuchInterface { interface: interface.into() })?;
        // Pins of a deleted interface of this name: nobody will take them over any more.
        for pin in pins::list(pins)? {
            if pin.interface == interface && pin.ifindex != ifindex && pin.is_stale() {
                pins::unlink(&pin)?;
            }
        }
        if let Some(pin) = pins::find(pins, ifindex)? {
            match take_over(program(&mut self.programs, kind.program())?, &pin) {
                // A namespace's inode can come again with another one: the link has to be on this interface.
                Ok(link) if self.running(kind, ifindex)?.is_some() => {
                    let held = Held::pinned_already(link, interface, pin.path);
                    self.links.insert(ifindex, (held, kind));
                    return Ok(Attached { ifindex, taken_over: true });
                }
                Ok(_) => pins::unlink(&pin)?,
                // "Link has been severed": the interface it was attached to is gone, or it was detached.
                Err(error) if errno(&error) == Some(Errno::ENOLINK) => pins::unlink(&pin)?,
                Err(error) => return Err(explain(error, interface, ifindex, pins)),
            }
        }
        if self.links.contains_key(&ifindex) {
            let running = self.running(kind, ifindex)?.is_some();
            if let Some((held, _)) = self.links.get_mut(&ifindex).filter(|_| running) {
                held.pin_again()?;
                return Ok(Attached { ifindex, taken_over: true });
            }
            self.links.remove(&ifindex);
            // Refused where it is attached as a link: then attaching says so.
            drop(detach_program(ifindex));
        }
        let held = attach_new(program(&mut self.programs, kind.program())?, interface, ifindex, pins)?;
        self.links.insert(ifindex, (held, kind));
        Ok(Attached { ifindex, taken_over: false })
    }

    /// Has receive queues that the interface with this index has got since [`attach`](Self::attach) run the program,
    /// too: veth runs it on them only once it is given another one, and an update to the same one does nothing. An
    /// interface that has [drifted](Self::drift) is left as it is.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn renew(&mut self, ifindex: u32) -> Result<(), BpfError> {
        let Some(kind) = self.links.get(&ifindex).map(|(_, kind)| *kind) else { return Ok(()) };
        let Some(running) = self.running(kind, ifindex)? else { return Ok(()) };
        let [first, second] = kind.programs();
        let other = program(&mut self.programs, if running == first { second } else { first })?;
        if let Some((held, kind)) = self.links.remove(&ifindex) {
            self.links.insert(ifindex, (held.update(|link| update(other, link))?, kind));
        }
        Ok(())
    }

    /// Which program of this kind an interface runs, if any.
    fn running(&self, kind: Kind, ifindex: u32) -> Result<Option<&'static str>, BpfError> {
        let attached = attached_program(ifindex).ok().flatten();
        for name in kind.programs() {
            let program = self.programs.program(name).ok_or(ProgramError::UnexpectedProgramType)?;
            let program: &Xdp = program.try_into()?;
            if attached == Some(program.info()?.id()) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// What is not as [`attach`](Self::attach) left it on the interface with this index, if anything.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell, or knows no such interface.
    pub fn drift(&self, ifindex: u32) -> Result<Option<Drift>, BpfError> {
        let Some((held, kind)) = self.links.get(&ifindex) else { return Ok(Some(Drift::Program)) };
        if self.running(*kind, ifindex)?.is_none() {
            return Ok(Some(Drift::Program));
        }
        Ok((!held.is_pinned()).then_some(Drift::Pin))
    }

    /// Lets go of the interface with this index, which is gone or no port any more. A pinned program stays.
    pub fn release(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
    }

    /// Tells the programs about the port with this interface index; a port without an entry drops (a pod's)
    /// or passes what is not for pods (an uplink). Whether they did not know it so.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_port(&mut self, ifindex: u32, entry: PortEntry) -> Result<bool, BpfError> {
        let (key, value) = (ifindex.to_ne_bytes(), entry.to_bytes());
        if self.ports.get(&key, 0).is_ok_and(|present| present == value) {
            return Ok(false);
        }
        self.ports.insert(key, value, 0).map_err(|e| map_error("ports", e)).map(|()| true)
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

    /// The addresses that the pod behind this interface may send from. Whether the programs knew others.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_pod_addresses(&mut self, ifindex: u32, addresses: &[Address]) -> Result<bool, BpfError> {
        let (wanted, owner) = pod_keys(ifindex, addresses);
        reconcile(&mut self.pod_addresses, "pod_addresses", wanted, |key| key[..4] == owner)
    }

    /// The addresses of all pods of this node, by which uplinks know what is theirs. Whether the programs knew
    /// others.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_local_addresses(&mut self, addresses: &[Address]) -> Result<bool, BpfError> {
        let wanted = addresses.iter().map(|a| a.octets()).collect();
        reconcile(&mut self.local_addresses, "local_addresses", wanted, |_| true)
    }

    /// The node's own addresses, those of its side of the pods' links among them: its pods may reach it. Whether
    /// the programs knew others.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn set_node_addresses(&mut self, addresses: &[Address]) -> Result<bool, BpfError> {
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

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, BpfError> {
    let program = programs.program_mut(name).ok_or(ProgramError::UnexpectedProgramType)?;
    Ok(program.try_into()?)
}

/// LINK_UPDATE of a pinned link to this program.
fn take_over(program: &mut Xdp, pin: &Pin) -> Result<FdLink, BpfError> {
    update(program, PinnedLink::from_pin(&pin.path)?.into())
}

/// LINK_UPDATE to this program.
fn update(program: &mut Xdp, link: FdLink) -> Result<FdLink, BpfError> {
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_new(program: &mut Xdp, interface: &str, ifindex: u32, pins: &Path) -> Result<Held, BpfError> {
    let id = program
        .attach_to_if_index(ifindex, XdpMode::Driver)
        .map_err(|error| explain(error.into(), interface, ifindex, pins))?;
    let link = FdLink::try_from(program.take_link(id)?)
        .map_err(|_netlink| BpfError::NoLink { interface: interface.into() })?;
    let namespace = pins::namespace().map_err(|source| BpfError::File { path: pins.into(), source })?;
    let path = Pin::path(pins, namespace, ifindex, interface);
    Held::pin(link, interface, path)
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
    [Kind::Pod, Kind::Uplink].into_iter().flat_map(Kind::programs).any(|ours| ours == name)
}

fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}
