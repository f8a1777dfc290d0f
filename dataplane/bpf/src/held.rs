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
    /// `None` once it was lost in pinning.
    link: Option<FdLink>,
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
        Self { link: Some(link), pin, interface: interface.to_owned() }
    }

    /// Has `update` run another program by it, and keeps the link that comes of that.
    pub(crate) fn update(
        self,
        update: impl FnOnce(FdLink) -> Result<FdLink, BpfError>,
    ) -> Result<Self, BpfError> {
        let Self { link, pin, interface } = self;
        Ok(Self { link: link.map(update).transpose()?, pin, interface })
    }

    /// Whether the pin is where it was, and this link's.
    pub(crate) fn is_pinned(&self) -> bool {
        let pinned = PinnedLink::from_pin(&self.pin).map(FdLink::from);
        self.link.as_ref().is_some_and(|link| pinned.is_ok_and(|pinned| is_same(&pinned, link)))
    }

    /// Whether there is a link still, and no pin of it.
    pub(crate) fn lacks_pin(&self) -> bool {
        self.link.is_some() && !self.is_pinned()
    }

    /// Pins it again, over whatever is there. The program stays also when the place takes no pins.
    ///
    /// aya uses up what it pins, also when that fails: so the place is tried first, and the link is lost only when the
    /// place ceases to be one between the two.
    pub(crate) fn pin_again(&mut self) -> Result<(), BpfError> {
        make_way(&self.pin)?;
        try_place(&self.pin)?;
        if let Some(link) = self.link.take() {
            self.link = Some(pinned(link, &self.interface, &self.pin)?);
        }
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

/// Makes something where a pin is to be, and removes it: what forbids that would forbid the pin.
fn try_place(pin: &Path) -> Result<(), BpfError> {
    let tried = fs::create_dir(pin).and_then(|()| fs::remove_dir(pin));
    tried.map_err(|source| BpfError::File { path: pin.to_owned(), source })
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
