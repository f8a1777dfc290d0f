//! A place for pins: the system's bpffs, or one of our own.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::BpfError;

const SYSTEM: &str = "/sys/fs/bpf";

/// The directory for our pins, made if it is missing: `/sys/fs/bpf/<name>` where a bpffs is mounted there,
/// else `<state_dir>/bpf`, on which a bpffs is mounted. `<name>` is the last part of `state_dir`.
///
/// Asking again gives the same directory and mounts nothing. A bpffs of our own lives as long as the mount
/// namespace it is in: in a container, `state_dir` has to be shared with the host.
///
/// # Errors
///
/// When the directory cannot be made or the file system cannot be mounted.
pub fn mount_if_missing(state_dir: &Path) -> Result<PathBuf, BpfError> {
    let own = state_dir.join("bpf");
    // A mount of our own stays in use, also when the system's appears later: the pins are there.
    if is_bpffs(&own) {
        return Ok(own);
    }
    if is_bpffs(Path::new(SYSTEM)) {
        let dir = Path::new(SYSTEM).join(state_dir.file_name().unwrap_or_else(|| "portcullis".as_ref()));
        make(&dir)?;
        return Ok(dir);
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
