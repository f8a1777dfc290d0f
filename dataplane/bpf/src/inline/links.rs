//! Where the programs of inline mode stand: tcx links, pinned and taken over, or [filters].

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::{Inline, filters};
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

    pub(super) const fn side(self) -> TcAttachType {
        match self {
            Self::PodIn | Self::Reinject => TcAttachType::Ingress,
            Self::PodOut | Self::UplinkOut => TcAttachType::Egress,
        }
    }
}

/// What is to hold programs in their places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// tcx links, or filters where the kernel has none.
    #[default]
    Auto,
    /// tcx links: Linux 6.6 or later.
    Tcx,
    /// Filters of a clsact qdisc. Whoever removes the qdisc removes them.
    Clsact,
}

/// What holds a program in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A pinned tcx link.
    Link,
    /// A filter of a clsact qdisc.
    Filter,
}

impl By {
    /// Its name for those who look.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Link => "tcx",
            Self::Filter => "clsact",
        }
    }
}

/// How a program came to stand where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What holds it.
    pub by: By,
    /// Whether it is put there now. Otherwise one of ours stood there, maybe a predecessor's, and no packet went
    /// without one.
    pub anew: bool,
}

impl Inline {
    /// What holds programs in their places from now on.
    pub const fn attach_by(&mut self, attach: Attach) {
        self.attach = attach;
    }

    /// Puts a program in its place, or takes over the link or the filter that a predecessor has left there. Its maps
    /// should say what it needs by then: it drops what comes by a port without a tap.
    ///
    /// # Errors
    ///
    /// No such interface, no permission, somebody else's filter in its place, or a directory that takes no pins.
    pub fn attach(&mut self, interface: &str, hook: Hook) -> Result<Placed, BpfError> {
        if self.attach == Attach::Clsact {
            return self.attach_filter(interface, hook);
        }
        match self.attach_link(interface, hook) {
            Err(BpfError::NoTcx) if self.attach == Attach::Auto => self.attach_filter(interface, hook),
            placed => placed,
        }
    }

    fn attach_link(&mut self, interface: &str, hook: Hook) -> Result<Placed, BpfError> {
        let pin = self.pinned(interface, hook.program())?;
        let program = classifier(&mut self.programs, hook)?;
        match PinnedLink::from_pin(&pin).map(|link| SchedClassifierLink::try_from(FdLink::from(link))) {
            Ok(link) => match program.attach_to_link(link?) {
                Ok(id) => {
                    let link = FdLink::try_from(program.take_link(id)?)?;
                    self.links.insert(pin.clone(), Held::pinned_already(link, interface, pin));
                    return Ok(Placed { by: By::Link, anew: false });
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
        let id = program.attach_with_options(interface, hook.side(), first).map_err(|error| {
            if errno(&error) == Some(Errno::EINVAL) { BpfError::NoTcx } else { error.into() }
        })?;
        let link = FdLink::try_from(program.take_link(id)?)?;
        self.links.insert(pin.clone(), Held::pin(link, interface, pin)?);
        self.remove_filter(interface, hook)?;
        Ok(Placed { by: By::Link, anew: true })
    }

    /// Attaches the program of the punt pair's far end, or takes over the link that a predecessor has pinned.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach), and when the MTU is too large for native XDP.
    pub fn attach_steer(&mut self, interface: &str) -> Result<(), BpfError> {
        let pin = self.pinned(interface, "steer")?;
        let no_link = |_netlink| BpfError::NoLink { interface: interface.into() };
        if let Ok(link) = PinnedLink::from_pin(&pin) {
            let program = steer(&mut self.programs)?;
            match program.attach_to_link(XdpLink::try_from(FdLink::from(link))?) {
                Ok(id) => {
                    let link = FdLink::try_from(program.take_link(id)?).map_err(no_link)?;
                    self.links.insert(pin.clone(), Held::pinned_already(link, interface, pin));
                    return Ok(());
                }
                Err(error) if errno(&error) == Some(Errno::ENOLINK) => self.sever(&pin)?,
                Err(error) => return Err(error.into()),
            }
        }
        let program = steer(&mut self.programs)?;
        let id = program.attach(interface, XdpMode::Driver)?;
        let link = FdLink::try_from(program.take_link(id)?).map_err(no_link)?;
        self.links.insert(pin.clone(), Held::pin(link, interface, pin)?);
        Ok(())
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
        Ok(mended + self.mend_filter_pins()?)
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
    pub(super) fn sever(&mut self, pin: &Path) -> Result<(), BpfError> {
        self.links.remove(pin);
        remove(pin)
    }

    /// Forgets the links and filters of an interface that has gone.
    ///
    /// # Errors
    ///
    /// A pin cannot be removed.
    pub fn forget_links(&mut self, ifindex: u32) -> Result<(), BpfError> {
        let pins: Vec<PathBuf> = of_interface(&self.pins, ifindex).collect();
        self.filters.retain(|pin, _| !pins.contains(pin));
        pins.iter().try_for_each(|pin| self.sever(pin))
    }

    pub(super) fn pin(&self, interface: &str, program: &str) -> Result<PathBuf, BpfError> {
        let ifindex = if_nametoindex(interface)
            .map_err(|_errno| BpfError::NoSuchInterface { interface: interface.into() })?;
        Ok(self.pins.join(format!("{program}-{ifindex}")))
    }
}

/// Where the links to an interface are pinned, and what stands for its filters.
fn of_interface(pins: &Path, ifindex: u32) -> impl Iterator<Item = PathBuf> + use<> {
    let programs = ["pod_in", "pod_out", "uplink_out", "reinject", "steer"];
    let links = programs.map(|program| pins.join(format!("{program}-{ifindex}"))).into_iter();
    links.chain(filters::pins_of_interface(pins, ifindex))
}

/// What holds these programs at the interface with this index, as far as pins in `pins` tell: `None` if one of them is
/// not there.
#[must_use]
pub fn held_by(pins: &Path, ifindex: u32, hooks: &[Hook]) -> Option<By> {
    let is_link =
        |hook: Hook| PinnedLink::from_pin(pins.join(format!("{}-{ifindex}", hook.program()))).is_ok();
    let by = |hook| {
        let filter = || filters::is_ours(pins, hook, ifindex).then_some(By::Filter);
        if is_link(hook) { Some(By::Link) } else { filter() }
    };
    let held: Option<Vec<By>> = hooks.iter().map(|hook| by(*hook)).collect();
    // Where one is a filter, the port needs the care that filters need.
    Some(if held?.contains(&By::Filter) { By::Filter } else { By::Link })
}

/// Removes what is pinned in `pins` for these interfaces of this network namespace, or all of it, with the directory,
/// when none is named; and the filters that pins stand for, whose qdiscs stay. Works without the process that pinned
/// it. Returns what was removed.
///
/// # Errors
///
/// When the directory cannot be read or a pin not removed; those before it are gone.
pub fn remove_pins(pins: &Path, interfaces: &[&str]) -> Result<Vec<PathBuf>, BpfError> {
    let found = found(pins, interfaces)?;
    found.iter().try_for_each(|pin| filters::remove(pin))?;
    unpin(pins, interfaces)
}

/// As [`remove_pins`], and leaves filters in force: for a process that looks after them.
///
/// # Errors
///
/// As for [`remove_pins`].
pub fn unpin(pins: &Path, interfaces: &[&str]) -> Result<Vec<PathBuf>, BpfError> {
    let removed = found(pins, interfaces)?;
    removed.iter().try_for_each(|pin| remove(pin))?;
    if interfaces.is_empty() && pins.exists() {
        std::fs::remove_dir(pins).map_err(|source| BpfError::File { path: pins.into(), source })?;
    }
    Ok(removed)
}

/// What is pinned for these interfaces, or at all.
fn found(pins: &Path, interfaces: &[&str]) -> Result<Vec<PathBuf>, BpfError> {
    let found: Vec<PathBuf> = match std::fs::read_dir(pins) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    }
    .map_err(|source| BpfError::File { path: pins.into(), source })?;
    let named: Vec<PathBuf> = interfaces
        .iter()
        .filter_map(|name| if_nametoindex(*name).ok())
        .flat_map(|index| of_interface(pins, index))
        .collect();
    Ok(found.into_iter().filter(|pin| interfaces.is_empty() || named.contains(pin)).collect())
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
