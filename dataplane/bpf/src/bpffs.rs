//! A place for pins: the system's bpffs, or one of our own.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::BpfError;

const SYSTEM: &str = "/sys/fs/bpf";

/// Where the pins of an agent with this state directory may be: in a bpffs of our own, `<state_dir>/bpf`, or in
/// a directory of the system's, which is named after the whole of `state_dir` (`/run/portcullis` gives
/// `/sys/fs/bpf/run-portcullis`), so that no two agents share it.
#[must_use]
pub fn pin_dirs(state_dir: &Path) -> [PathBuf; 2] {
    let name = state_dir.to_string_lossy().trim_matches('/').replace('/', "-").replace('.', ":");
    [state_dir.join("bpf"), Path::new(SYSTEM).join(name)]
}

/// The directory for our pins, made if it is missing: the second of [`pin_dirs`] where the system has mounted
/// its bpffs, else the first, on which a bpffs is mounted.
///
/// Asking again gives the same directory and mounts nothing. A bpffs of our own lives as long as the mount
/// namespace it is in: in a container, `state_dir` has to be shared with the host.
///
/// # Errors
///
/// When the directory cannot be made or the file system cannot be mounted.
pub fn mount_if_missing(state_dir: &Path) -> Result<PathBuf, BpfError> {
    let [own, systems] = pin_dirs(state_dir);
    // A mount of our own stays in use, also when the system's appears later: the pins are there.
    if is_bpffs(&own) {
        return Ok(own);
    }
    if is_bpffs(Path::new(SYSTEM)) {
        make(&systems)?;
        return Ok(systems);
    }
    fs::create_dir_all(state_dir).map_err(|source| BpfError::File { path: state_dir.into(), source })?;
    make(&own)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), &own, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| match errno {
        Errno::EPERM | Errno::EACCES => BpfError::NotPermitted { what: "mount a bpffs" },
        other => BpfError::File { path: own.clone(), source: other.into() },
    })?;
    Ok(own)
}

/// Makes a directory for pins again that somebody has removed.
///
/// # Errors
///
/// Its place is in no bpffs any more: somebody has unmounted it.
pub(crate) fn restore(dir: &Path) -> Result<(), BpfError> {
    let place = dir.ancestors().find(|place| place.exists()).unwrap_or(dir);
    if !is_bpffs(place) {
        let source = std::io::Error::other(
            "its bpffs has been unmounted: start the agent again to have it mounted, before this one ends",
        );
        return Err(BpfError::File { path: dir.into(), source });
    }
    make(dir)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}

fn make(dir: &Path) -> Result<(), BpfError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| BpfError::File { path: dir.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_state_directories_share_pins() {
        let [own, systems] = pin_dirs(Path::new("/run/portcullis"));
        assert_eq!(own, Path::new("/run/portcullis/bpf"));
        assert_eq!(systems, Path::new("/sys/fs/bpf/run-portcullis"));
        assert_ne!(pin_dirs(Path::new("/srv/portcullis"))[1], systems);
        assert_eq!(pin_dirs(Path::new("/tmp/.x/state"))[1], Path::new("/sys/fs/bpf/tmp-:x-state"));
    }
}
