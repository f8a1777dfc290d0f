//! Where the programs of inline mode stand: tcx links, pinned and taken over.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::Inline;
use crate::error::{BpfError, errno};
use crate::held::Held;

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

impl Inline {
    /// Puts a program in its place, or takes over the link that a predecessor has pinned for it. Its maps should
    /// say what it needs by then: it drops what comes by a port without a tap.
    ///
    /// # Errors
    ///
    /// No such interface, no permission, or a directory that takes no pins.
    pub fn attach(&mut self, interface: &str, hook: Hook) -> Result<Placed, BpfError> {
        let pin = self.pinned(interface, hook.program())?;
        let program = classifier(&mut self.programs, hook)?;
        match PinnedLink::from_pin(&pin).map(|link| SchedClassifierLink::try_from(FdLink::from(link))) {
            Ok(link) => match program.attach_to_link(link?) {
                Ok(id) => {
                    let link = FdLink::try_from(program.take_link(id)?)?;
                    self.links.insert(pin.clone(), Held::pinned_already(link, interface, pin));
                    return Ok(Placed::TakenOver);
                }
                // "Link has been severed": the interface is gone that it was attached to, or it was detached.
                Err(error) if errno(&error) == Some(Errno::ENOLINK) => self.sever(&pin)?,
                Err(error) => return Err(error.into()),
            },
            Err(error) if errno(&error) == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let program = classifier(&mut self.programs, hook)?;
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(interface, hook.side(), first) {
            Ok(id) => {
                let link = FdLink::try_from(program.take_link(id)?)?;
                self.links.insert(pin.clone(), Held::pin(link, interface, pin)?);
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
        let pin = self.pinned(interface, "steer")?;
        let no_link = |_netlink| BpfError::NoLink { interface: interface.into() };
        if let Ok(link) = PinnedLink::from_pin(&pin) {
            let program = steer(&mut self.programs)?;
            match program.attach_to_link(XdpLink::try_from(FdLink::from(link))?) {
                Ok(id) => {
                    let link = FdLink::try_from(program.take_link(id)?).map_err(no_link)?;
                    self.links.insert(pin.clone(), Held::pinned_already(link, interface, pin));
                    return Ok(Placed::TakenOver);
                }
                Err(error) if errno(&error) == Some(Errno::ENOLINK) => self.sever(&pin)?,
                Err(error) => return Err(error.into()),
            }
        }
        let program = steer(&mut self.programs)?;
        let id = program.attach(interface, XdpMode::Driver)?;
        let link = FdLink::try_from(program.take_link(id)?).map_err(no_link)?;
        self.links.insert(pin.clone(), Held::pin(link, interface, pin)?);
        Ok(Placed::Linked)
    }

    /// Pins the links and maps anew whose pins somebody has removed; tells how many those were. The programs were in
    /// their places all the time, and stay there also when they cannot be pinned.
    ///
    /// # Errors
    ///
    /// The directory takes no pins.
    pub fn mend_pins(&mut self) -> Result<usize, BpfError> {
        let mut mended = 0;
        for map in self.maps.iter_mut().filter(|map| !map.is_pinned()) {
            map.pin_again()?;
            mended += 1;
        }
        for link in self.links.values_mut().filter(|link| link.lacks_pin()) {
            link.pin_again()?;
            mended += 1;
        }
        Ok(mended)
    }

    /// Where the link of a program to an interface is pinned; if it is ours already, it is pinned again where it has to
    /// be: the kernel takes no program twice.
    fn pinned(&mut self, interface: &str, program: &str) -> Result<PathBuf, BpfError> {
        let pin = self.pin(interface, program)?;
        if let Some(held) = self.links.get_mut(&pin).filter(|held| held.lacks_pin()) {
            held.pin_again()?;
        }
        Ok(pin)
    }

    /// Gives up a link that is attached to nothing.
    fn sever(&mut self, pin: &Path) -> Result<(), BpfError> {
        self.links.remove(pin);
        remove(pin)
    }

    /// Forgets the links to an interface that has gone.
    ///
    /// # Errors
    ///
    /// A pin cannot be removed.
    pub fn forget_links(&mut self, ifindex: u32) -> Result<(), BpfError> {
        of_interface(&self.pins, ifindex).try_for_each(|pin| self.sever(&pin))
    }

    fn pin(&self, interface: &str, program: &str) -> Result<PathBuf, BpfError> {
        let ifindex = if_nametoindex(interface)
            .map_err(|_errno| BpfError::NoSuchInterface { interface: interface.into() })?;
        Ok(self.pins.join(format!("{program}-{ifindex}")))
    }
}

/// As a filter of a clsact qdisc, for kernels without tcx.
fn filter(program: &mut SchedClassifier, interface: &str, hook: Hook) -> Result<Placed, BpfError> {
    match qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(error) => return Err(ProgramError::from(error).into()),
    }
    // The lowest number comes first; the same number and handle again replace the filter in one step.
    let options = NlOptions { priority: 1, handle: TcHandle::new(0, 1), ..NlOptions::default() };
    let id = program.attach_with_options(interface, hook.side(), TcAttachOptions::Netlink(options))?;
    // It stays when the process ends.
    std::mem::forget(program.take_link(id)?);
    Ok(Placed::Filter)
}

/// Where the links to an interface are pinned.
fn of_interface(pins: &Path, ifindex: u32) -> impl Iterator<Item = PathBuf> + use<> {
    let programs = ["pod_in", "pod_out", "uplink_out", "reinject", "steer"];
    programs.map(|program| pins.join(format!("{program}-{ifindex}"))).into_iter()
}

/// Whether a pod's programs are pinned in `pins` for the interface with this index.
#[must_use]
pub fn is_ours(pins: &Path, ifindex: u32) -> bool {
    let is_link =
        |hook: Hook| PinnedLink::from_pin(pins.join(format!("{}-{ifindex}", hook.program()))).is_ok();
    [Hook::PodIn, Hook::PodOut].into_iter().all(is_link)
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

pub(super) fn remove(pin: &Path) -> Result<(), BpfError> {
    match std::fs::remove_file(pin) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(BpfError::File { path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

pub(super) fn classifier(programs: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, BpfError> {
    let program = programs.program_mut(hook.program()).ok_or(ProgramError::UnexpectedProgramType)?;
    Ok(program.try_into()?)
}

pub(super) fn steer(programs: &mut Ebpf) -> Result<&mut Xdp, BpfError> {
    let program = programs.program_mut("steer").ok_or(ProgramError::UnexpectedProgramType)?;
    Ok(program.try_into()?)
}
