//! What is pinned, and held besides: a link's program stays where it is when somebody removes the pin, and a map keeps
//! what it holds.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use libbpf_rs::{MapCore as _, MapHandle};

use crate::BpfError;
use crate::bpffs;

/// A pinned link of ours.
#[derive(Debug)]
pub(crate) struct Held {
    link: FdLink,
    /// A second handle, to pin with: aya uses up what it pins, also when that fails.
    spare: Option<FdLink>,
    pin: PathBuf,
    interface: String,
}

impl Held {
    /// Pins a link. One that cannot be pinned is given up, and its program with it.
    pub(crate) fn pin(link: FdLink, interface: &str, pin: PathBuf) -> Result<Self, BpfError> {
        let link = pinned(link, interface, &pin)?;
        Ok(Self::pinned_already(link, interface, pin))
    }

    /// A link that is pinned there already.
    pub(crate) fn pinned_already(link: FdLink, interface: &str, pin: PathBuf) -> Self {
        let spare = PinnedLink::from_pin(&pin).map(FdLink::from).ok();
        let spare = spare.filter(|spare| is_same(spare, &link));
        Self { link, spare, pin, interface: interface.to_owned() }
    }

    /// Has `update` run another program by it, and keeps the link that comes of that.
    pub(crate) fn update(
        self,
        update: impl FnOnce(FdLink) -> Result<FdLink, BpfError>,
    ) -> Result<Self, BpfError> {
        let Self { link, pin, interface, .. } = self;
        Ok(Self::pinned_already(update(link)?, &interface, pin))
    }

    /// Whether the pin is where it was, and this link's.
    pub(crate) fn is_pinned(&self) -> bool {
        PinnedLink::from_pin(&self.pin).is_ok_and(|pinned| is_same(&FdLink::from(pinned), &self.link))
    }

    /// Pins it again, over whatever is there. The program stays also when that fails.
    pub(crate) fn pin_again(&mut self) -> Result<(), BpfError> {
        if let Some(folder) = self.pin.parent() {
            bpffs::restore(folder)?;
        }
        let failed = |source| BpfError::File { path: self.pin.clone(), source };
        match fs::remove_file(&self.pin) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let spent =
            || failed(std::io::Error::other("it could not be pinned before, and is held without a pin"));
        let spare = self.spare.take().ok_or_else(spent)?;
        self.spare = Some(pinned(spare, &self.interface, &self.pin)?);
        Ok(())
    }
}

/// A pinned map.
pub(crate) struct HeldMap {
    map: MapHandle,
    id: u32,
    pin: PathBuf,
}

impl HeldMap {
    /// The map that is pinned there.
    pub(crate) fn of(pin: PathBuf) -> Result<Self, BpfError> {
        let unread = |error| failed(&pin, &error);
        let map = MapHandle::from_pinned_path(&pin).map_err(unread)?;
        let id = map.info().map_err(unread)?.info.id;
        Ok(Self { map, id, pin })
    }

    /// Whether the pin is where it was, and this map's.
    pub(crate) fn is_pinned(&self) -> bool {
        MapInfo::from_pin(&self.pin).is_ok_and(|info| info.id() == self.id)
    }

    /// Pins it again, over whatever is there.
    pub(crate) fn pin_again(&mut self) -> Result<(), BpfError> {
        make_way(&self.pin)?;
        self.map.pin(&self.pin).map_err(|error| failed(&self.pin, &error))
    }
}

fn failed(path: &Path, error: &libbpf_rs::Error) -> BpfError {
    BpfError::File { path: path.to_owned(), source: std::io::Error::other(error.to_string()) }
}

/// Has the folder of a pin be there, and nothing in its place.
fn make_way(pin: &Path) -> Result<(), BpfError> {
    if let Some(folder) = pin.parent() {
        bpffs::restore(folder)?;
    }
    match fs::remove_file(pin) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(BpfError::File { path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn is_same(one: &FdLink, other: &FdLink) -> bool {
    match (one.info(), other.info()) {
        (Ok(one), Ok(other)) => one.id() == other.id(),
        _ => false,
    }
}

fn pinned(link: FdLink, interface: &str, path: &Path) -> Result<FdLink, BpfError> {
    let refused = |source| BpfError::Pin { interface: interface.into(), path: path.into(), source };
    Ok(link.pin(path).map_err(refused)?.into())
}
