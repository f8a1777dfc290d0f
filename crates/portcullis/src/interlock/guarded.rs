//! An interlock that is kept in force, and what it looked like when it was put there.

use std::collections::BTreeSet;

use nix::net::if_::if_indextoname;

use super::{Interlock, InterlockError};
use crate::interface::{InterfaceName, InterfacePattern};

/// An interlock that is kept in force.
#[derive(Debug)]
pub struct Guarded {
    interlock: Interlock,
    ports: Vec<InterfaceName>,
    hold: Vec<InterfacePattern>,
    /// The interfaces that may send, with their names.
    ready: Vec<(u32, Option<String>)>,
    /// `None` where it is not to be in force.
    listing: Option<String>,
}

impl Guarded {
    /// An interlock for these ports and held interfaces, not yet in force.
    #[must_use]
    pub const fn new(interlock: Interlock, ports: Vec<InterfaceName>, hold: Vec<InterfacePattern>) -> Self {
        Self { interlock, ports, hold, ready: Vec::new(), listing: None }
    }

    /// Puts it in force: of the ports, the interfaces with these indices may send.
    ///
    /// # Errors
    ///
    /// As for [`Interlock::apply`].
    pub fn apply(&mut self, ready: &BTreeSet<u32>) -> Result<(), InterlockError> {
        self.interlock.apply(&self.ports, ready, &self.hold)?;
        self.ready = ready.iter().map(|index| (*index, name_of(*index))).collect();
        self.listing = self.interlock.listing()?;
        Ok(())
    }

    /// If it is to be in force, puts it back where it is not what it was; tells whether somebody had changed it.
    ///
    /// # Errors
    ///
    /// As for [`Interlock::apply`].
    pub fn inspect(&mut self) -> Result<bool, InterlockError> {
        if self.listing.is_none() || self.interlock.listing()? == self.listing {
            return Ok(false);
        }
        // nft lists indices as names: an interface that has gone or was renamed looks like a change, and is none.
        let changed = self.ready.iter().all(|(index, name)| name_of(*index) == *name);
        self.apply(&self.ready.iter().map(|(index, _)| *index).collect())?;
        Ok(changed)
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// As for [`Interlock::remove`].
    pub fn remove(&mut self) -> Result<(), InterlockError> {
        self.listing = None;
        self.interlock.remove().map(drop)
    }
}

fn name_of(index: u32) -> Option<String> {
    if_indextoname(index).ok().and_then(|name| name.into_string().ok()).filter(|name| !name.is_empty())
}
