//! Where the kernel has no tcx (Linux before 6.6): filters of a clsact qdisc. They stay when the process ends; whoever
//! removes the qdisc removes them, so they are looked after. A pin of its program stands for each, so that a cleanup
//! finds it.
//!
//! The qdisc may be another's, and have others' filters: it is never removed, and nor are they.

use std::path::{Path, PathBuf};

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::Inline;
use super::links::{self, By, Hook, Placed, classifier};
use crate::bpffs;
use crate::error::{BpfError, errno};
use crate::netlink::{Filter, FilterPlace};

/// The lowest preference comes first.
const PREFERENCE: u16 = 1;
const HANDLE: u16 = 1;

impl Hook {
    const ALL: [Self; 4] = [Self::PodIn, Self::PodOut, Self::UplinkOut, Self::Reinject];

    const fn side_name(self) -> &'static str {
        match self.side() {
            TcAttachType::Ingress => "ingress",
            _ => "egress",
        }
    }

    /// Where its filter stands on an interface.
    const fn filter(self, ifindex: u32) -> FilterPlace {
        // TC_H_CLSACT with TC_H_MIN_INGRESS or TC_H_MIN_EGRESS (linux/pkt_sched.h).
        let parent = match self.side() {
            TcAttachType::Ingress => 0xffff_fff2,
            _ => 0xffff_fff3,
        };
        FilterPlace { ifindex, parent, preference: PREFERENCE, handle: HANDLE as u32 }
    }

    /// What the pin that stands for its filter is called, before the index of the interface.
    fn pinned_filter(self) -> String {
        format!("{}_filter", self.program())
    }
}

impl Inline {
    /// Puts a program in its place as a filter, or in that of a predecessor's, in one step. A link that holds it there
    /// gives way.
    pub(super) fn attach_filter(&mut self, interface: &str, hook: Hook) -> Result<Placed, BpfError> {
        let anew = put(classifier(&mut self.programs, hook)?, interface, hook)?;
        let pin = self.pin(interface, &hook.pinned_filter())?;
        if !self.filters.contains_key(&pin) {
            self.pin_filter(&pin, hook)?;
            self.filters.insert(pin, hook);
        }
        self.sever(&self.pin(interface, hook.program())?)?;
        Ok(Placed { by: By::Filter, anew })
    }

    /// Removes a filter that a link has replaced.
    pub(super) fn remove_filter(&mut self, interface: &str, hook: Hook) -> Result<(), BpfError> {
        let pin = self.pin(interface, &hook.pinned_filter())?;
        self.filters.remove(&pin);
        remove(&pin)?;
        links::remove(&pin)
    }

    fn pin_filter(&mut self, pin: &Path, hook: Hook) -> Result<(), BpfError> {
        if let Some(folder) = pin.parent() {
            bpffs::restore(folder)?;
        }
        links::remove(pin)?;
        let failed = |error| BpfError::File { path: pin.into(), source: std::io::Error::other(error) };
        classifier(&mut self.programs, hook)?.pin(pin).map_err(failed)
    }

    /// Pins anew what stands for filters; tells how many those were.
    pub(super) fn mend_filter_pins(&mut self) -> Result<usize, BpfError> {
        let mut lost = Vec::new();
        for (pin, hook) in &self.filters {
            let ours = classifier(&mut self.programs, *hook)?.info()?.id();
            if ProgramInfo::from_pin(pin).is_ok_and(|info| info.id() == ours) {
                continue;
            }
            lost.push((pin.clone(), *hook));
        }
        lost.iter().try_for_each(|(pin, hook)| self.pin_filter(pin, *hook))?;
        Ok(lost.len())
    }
}

/// Whether a pin stands for a filter, and that is in its place.
pub(super) fn is_ours(pins: &Path, hook: Hook, ifindex: u32) -> bool {
    let pin = pins.join(format!("{}-{ifindex}", hook.pinned_filter()));
    ProgramInfo::from_pin(pin).is_ok()
        && hook.filter(ifindex).look().is_ok_and(|found| is_of(found.as_ref(), hook))
}

/// Puts a filter in its place; tells whether none of ours stood there.
fn put(program: &mut SchedClassifier, interface: &str, hook: Hook) -> Result<bool, BpfError> {
    let ifindex = if_nametoindex(interface)
        .map_err(|_errno| BpfError::NoSuchInterface { interface: interface.into() })?;
    let found = look(hook.filter(ifindex), interface)?;
    let anew = match found {
        Some(Filter { program: id, .. }) if id == program.info()?.id() => return Ok(false),
        Some(Filter { name, .. }) if name != hook.program() => {
            return Err(taken(interface, hook, name));
        }
        found => found.is_none(),
    };
    let handle = TcHandle::new(0, HANDLE);
    let id = if anew {
        match qdisc_add_clsact(interface) {
            Ok(()) => {}
            Err(error) if errno(&error) == Some(Errno::EEXIST) => {}
            Err(error) => return Err(ProgramError::from(error).into()),
        }
        let options =
            TcAttachOptions::Netlink(NlOptions { priority: PREFERENCE, handle, ..NlOptions::default() });
        program.attach_with_options(interface, hook.side(), options).map_err(|error| match errno(&error) {
            // Another kind of filter, or one for another protocol.
            Some(Errno::EINVAL | Errno::EEXIST) => taken(interface, hook, "no program".to_owned()),
            _ => error.into(),
        })?
    } else {
        let there = SchedClassifierLink::attached(interface, hook.side(), PREFERENCE, handle, None)
            .map_err(|source| BpfError::Filter { interface: interface.into(), source })?;
        program.attach_to_link(there)?
    };
    // It stays when the process ends.
    std::mem::forget(program.take_link(id)?);
    Ok(anew)
}

fn taken(interface: &str, hook: Hook, program: String) -> BpfError {
    BpfError::FilterTaken { interface: interface.into(), side: hook.side_name(), program }
}

fn look(place: FilterPlace, interface: &str) -> Result<Option<Filter>, BpfError> {
    place.look().map_err(|source| BpfError::Filter { interface: interface.into(), source })
}

fn is_of(found: Option<&Filter>, hook: Hook) -> bool {
    found.is_some_and(|found| found.name == hook.program())
}

/// Where what stands for the filters of an interface is pinned.
pub(super) fn pins_of_interface(pins: &Path, ifindex: u32) -> impl Iterator<Item = PathBuf> + use<> {
    Hook::ALL.map(|hook| pins.join(format!("{}-{ifindex}", hook.pinned_filter()))).into_iter()
}

/// Removes the filter, in this network namespace, that a pin stands for, if it is one and there: other pins stand for
/// none.
pub(super) fn remove(pin: &Path) -> Result<(), BpfError> {
    let name = pin.file_name().and_then(|name| name.to_str());
    let Some((name, ifindex)) = name.and_then(|name| name.rsplit_once('-')) else { return Ok(()) };
    let hook = Hook::ALL.into_iter().find(|hook| hook.pinned_filter() == name);
    let (Some(hook), Ok(index), true) = (hook, ifindex.parse(), pin.exists()) else { return Ok(()) };
    if is_of(look(hook.filter(index), ifindex)?.as_ref(), hook) {
        let failed = |source| BpfError::Filter { interface: ifindex.into(), source };
        hook.filter(index).clear().map_err(failed)?;
    }
    Ok(())
}
