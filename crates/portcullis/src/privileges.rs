//! What the agent may still do once it has started: four capabilities, no new ones, and the system calls of
//! [`calls`].
//!
//! Given up before the first socket is opened and the first thread starts, so that all threads have given it up, and
//! so that whatever is made later (an interface that comes back) is known to need no more than this. What does need
//! more, running `nft`, is the [`broker`](crate::broker)'s.

pub mod calls;

use std::io;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;

/// What the agent keeps: netlink and its ports (CAP_NET_ADMIN), AF_XDP sockets (CAP_NET_RAW), programs and maps
/// (CAP_BPF), and packet memory beyond RLIMIT_MEMLOCK (CAP_IPC_LOCK).
pub const KEPT: [Capability; 4] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF, Capability::CAP_IPC_LOCK];

/// Privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// A thread that runs already would keep what this one gives up.
    #[error("{0} threads run already, which would keep their privileges")]
    Threads(usize),
    /// The capability sets could not be read or changed.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// The kernel refused no_new_privs.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(#[source] Errno),
    /// The kernel refused the filter of system calls.
    #[error(
        "cannot set the filter of system calls: {0}; is CONFIG_SECCOMP_FILTER in the kernel, and does the \
        container's own filter allow seccomp(2)?"
    )]
    Filter(#[from] seccompiler::Error),
    /// The threads could not be counted.
    #[error("cannot list the threads of this process: {0}")]
    Tasks(#[source] io::Error),
}

/// Gives up everything but [`KEPT`] and the system calls of [`calls`], in the whole process and for ever.
///
/// # Errors
///
/// The kernel refuses, or another thread runs already. What was given up until then stays so.
pub fn give_up() -> Result<(), PrivilegesError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(PrivilegesError::Tasks)?.count();
    if threads > 1 {
        return Err(PrivilegesError::Threads(threads));
    }
    keep_only(&kept(&caps::read(None, CapSet::Permitted)?))?;
    Ok(calls::forbid_others()?)
}

/// Gives up all capabilities of the calling thread but these, for itself and for what it executes.
///
/// # Errors
///
/// The kernel refuses.
pub fn keep_only(kept: &CapsHashSet) -> Result<(), PrivilegesError> {
    // The bounding set first, while CAP_SETPCAP may still be there. Without it, the permitted set and no_new_privs
    // hold all the same.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported().difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    set_no_new_privs().map_err(PrivilegesError::NoNewPrivileges)?;
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, kept)?;
    caps::set(None, CapSet::Permitted, kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    Ok(())
}

/// Of what this process may, what it keeps. CAP_SYS_ADMIN stands for CAP_BPF where a container was given only that.
fn kept(permitted: &CapsHashSet) -> CapsHashSet {
    let mut kept: CapsHashSet = KEPT.into_iter().filter(|wanted| permitted.contains(wanted)).collect();
    if !kept.contains(&Capability::CAP_BPF) && permitted.contains(&Capability::CAP_SYS_ADMIN) {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_that_is_not_needed_or_not_there() {
        let of = |capabilities: &[Capability]| capabilities.iter().copied().collect::<CapsHashSet>();
        assert_eq!(kept(&caps::all()), of(&KEPT));
        assert_eq!(
            kept(&of(&[Capability::CAP_NET_RAW, Capability::CAP_SETPCAP])),
            of(&[Capability::CAP_NET_RAW])
        );
        assert_eq!(kept(&of(&[Capability::CAP_SYS_ADMIN])), of(&[Capability::CAP_SYS_ADMIN]));
    }
}
