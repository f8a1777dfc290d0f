//! File descriptors: every port takes a few, and the usual limit is meant for programs that have few.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises this process's limit to what it may have.
pub fn allow_as_many_as_may_be() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it is refused, what finds no descriptor says so.
        let _refused = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The same error, with what to do if it is that there are no more descriptors.
#[must_use]
pub fn explain(error: anyhow::Error) -> anyhow::Error {
    let is_emfile = error.chain().any(|cause| {
        let number = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        number == Some(Errno::EMFILE as i32) || cause.downcast_ref() == Some(&Errno::EMFILE)
    });
    if is_emfile {
        error.context(
            "too few file descriptors: raise the limit (ulimit -n, LimitNOFILE= in the systemd unit)",
        )
    } else {
        error
    }
}
