//! Maps that are kept in step with what the agent knows.

use std::borrow::{Borrow, BorrowMut};
use std::collections::HashSet;
use std::hash::Hash;

use aya::maps::{HashMap, MapData, MapError};
use aya::{Ebpf, Pod};
use flow::Address;
use nix::errno::Errno;

use crate::error::{BpfError, errno};

/// An interface and an address of its pod.
pub(crate) type PodKey = [u8; 20];
/// An address.
pub(crate) type AddressKey = [u8; 16];

pub(crate) fn take<M>(programs: &mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = programs.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.into() });
    map.and_then(M::try_from).map_err(|source| BpfError::Map { map: name, source })
}

/// The keys of a pod's addresses, and what is common to them.
pub(crate) fn pod_keys(ifindex: u32, addresses: &[Address]) -> (HashSet<PodKey>, [u8; 4]) {
    let owner = ifindex.to_ne_bytes();
    let keys = addresses.iter().map(|address| {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&owner);
        key[4..].copy_from_slice(&address.octets());
        key
    });
    (keys.collect(), owner)
}

/// Makes the keys that `scope` picks equal to `wanted`. What is in both stays untouched; what is new comes
/// in before what is old goes, so that no address that stays is ever missing. Whether they were not equal.
pub(crate) fn reconcile<M, K>(
    map: &mut HashMap<M, K, u8>,
    name: &'static str,
    wanted: HashSet<K>,
    scope: impl Fn(&K) -> bool,
) -> Result<bool, BpfError>
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
    Ok(present != wanted)
}

/// Removing what is not there is no error.
pub(crate) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if matches!(error, MapError::KeyNotFound) || errno(&error) == Some(Errno::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}

pub(crate) fn map_error(map: &'static str, source: MapError) -> BpfError {
    match errno(&source) {
        Some(Errno::E2BIG) => BpfError::MapFull { map },
        _ => BpfError::Map { map, source },
    }
}
