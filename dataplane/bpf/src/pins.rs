//! The pinned links: files in a bpffs, one for each port, named `link-<namespace>-<ifindex>-<interface>`.
//!
//! A bpffs refuses names with dots, and no interface's name has a colon: dots are written as colons.
//!
//! The network namespace (its inode) and the index are the interface's identity, since a name can move to another
//! interface and an index means another one elsewhere; the name is for people. Removing a pin detaches its program, whoever loaded it: nobody else holds the link.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::{BpfError, attached_program};

/// One pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Where it is.
    pub path: PathBuf,
    /// The inode of the interface's network namespace.
    pub namespace: u64,
    /// The interface's index when the program was attached.
    pub ifindex: u32,
    /// The interface's name at that time.
    pub interface: String,
}

impl Pin {
    pub(crate) fn path(dir: &Path, namespace: u64, ifindex: u32, interface: &str) -> PathBuf {
        dir.join(format!("link-{namespace}-{ifindex}-{}", interface.replace('.', ":")))
    }

    /// Whether the interface is, or was, of the calling thread's network namespace.
    pub(crate) fn is_here(&self) -> bool {
        namespace().is_ok_and(|here| here == self.namespace)
    }

    /// Whether the link has been severed: its interface, of this namespace, is gone or runs no program.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_here()
            && match attached_program(self.ifindex) {
                Ok(program) => program.is_none(),
                Err(error) => error.raw_os_error() == Some(Errno::ENODEV as i32),
            }
    }

    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (namespace, rest) = name.strip_prefix("link-")?.split_once('-')?;
        let (ifindex, interface) = rest.split_once('-')?;
        let interface = interface.replace(':', ".");
        Some(Self { namespace: namespace.parse().ok()?, ifindex: ifindex.parse().ok()?, interface, path })
    }
}

/// The inode of the calling thread's network namespace.
pub(crate) fn namespace() -> io::Result<u64> {
    fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino())
}

/// The links pinned in `dir`, in the order of their interfaces; none if there is no such directory.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Pin>, BpfError> {
    let failed = |source| BpfError::File { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut pins = Vec::new();
    for entry in entries {
        pins.extend(Pin::parse(entry.map_err(failed)?.path()));
    }
    pins.sort_by_key(|pin| pin.ifindex);
    Ok(pins)
}

/// Whether a link of ours is pinned for the interface with this index, and the interface runs a program. The
/// pin of an interface that was deleted does not count, also when another one has its index now.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn is_ours(dir: &Path, ifindex: u32) -> Result<bool, BpfError> {
    Ok(find(dir, ifindex)?.is_some_and(|pin| !pin.is_stale()))
}

/// Removes the pins of the interfaces named, which are of this network namespace, or all of every namespace when
/// none is named, and with them their programs.
/// Works without the process that attached them. Returns what was removed.
///
/// # Errors
///
/// When the directory cannot be read or a pin not removed; those before it are gone.
pub fn remove(dir: &Path, interfaces: &[&str]) -> Result<Vec<Pin>, BpfError> {
    let mut removed = list(dir)?;
    if !interfaces.is_empty() {
        removed.retain(|pin| pin.is_here() && interfaces.contains(&&*pin.interface));
    }
    removed.iter().try_for_each(unlink)?;
    Ok(removed)
}

/// Removes the pins whose interface no longer exists in this network namespace, or runs no program: their
/// links are severed.
/// Returns what was removed.
///
/// # Errors
///
/// When the directory cannot be read or a pin not removed; those before it are gone.
pub fn sweep(dir: &Path) -> Result<Vec<Pin>, BpfError> {
    let mut stale = list(dir)?;
    stale.retain(Pin::is_stale);
    stale.iter().try_for_each(unlink)?;
    Ok(stale)
}

pub(crate) fn find(dir: &Path, ifindex: u32) -> Result<Option<Pin>, BpfError> {
    Ok(list(dir)?.into_iter().find(|pin| pin.ifindex == ifindex && pin.is_here()))
}

pub(crate) fn unlink(pin: &Pin) -> Result<(), BpfError> {
    match fs::remove_file(&pin.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BpfError::File { path: pin.path.clone(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_index_and_interface() {
        let path = Pin::path(Path::new("/pins"), 4026, 12, "pod-a-1");
        let pin = Pin::parse(path.clone()).unwrap();
        assert_eq!(pin, Pin { path, namespace: 4026, ifindex: 12, interface: "pod-a-1".into() });
        let vlan = Pin::path(Path::new("/pins"), 4026, 7, "eth0.100");
        assert_eq!(vlan, Path::new("/pins/link-4026-7-eth0:100"), "a bpffs refuses dots");
        assert_eq!(Pin::parse(vlan).unwrap().interface, "eth0.100");
        for odd in ["/pins/link-1-x-a", "/pins/map-1-1-a", "/pins/link-12-a", "/pins/link-12", "/pins/link"] {
            assert_eq!(Pin::parse(odd.into()), None, "{odd}");
        }
    }

    #[test]
    fn only_pins_are_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let here = namespace().unwrap();
        let names =
            [format!("link-{here}-3-a"), format!("link-{here}-1-b"), "link-1-3-a".into(), "something".into()];
        for name in names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names = |pins: Vec<Pin>| pins.into_iter().map(|p| p.interface).collect::<Vec<_>>();
        assert_eq!(names(list(dir.path()).unwrap()).len(), 3);
        // Loopback runs no program, so no file makes it ours.
        assert!(!is_ours(dir.path(), 1).unwrap() && !is_ours(dir.path(), 2).unwrap());
        assert_eq!(names(remove(dir.path(), &["a"]).unwrap()), ["a"], "not the other namespace's");
        assert_eq!(names(remove(dir.path(), &[]).unwrap()), ["b", "a"]);
        assert!(dir.path().join("something").exists());
        assert_eq!(list(&dir.path().join("missing")).unwrap(), []);
    }
}
