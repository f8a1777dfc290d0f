//! What can go wrong while building or using a lab.

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;

use crate::probe::Outcome;
use crate::topology::Place;

/// Why the lab could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The description of the lab cannot be built.
    #[error("the lab's topology: {0}")]
    Topology(String),
    /// A system call or a file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// `ip -batch` refused a line.
    #[error("ip in namespace {namespace}: {message}")]
    Ip {
        /// The namespace it ran in.
        namespace: String,
        /// Its words, with the line that it refused.
        message: String,
    },
    /// The kernel refused rules, or their tool did.
    #[error("{what}: {message}")]
    Rules {
        /// What was tried.
        what: String,
        /// The tool's words.
        message: String,
    },
    /// Something of this name exists that no lab made: it is left alone.
    #[error("{0} exists and was not made by a lab; it is left alone")]
    Foreign(String),
    /// The lab of this name belongs to a process that is alive.
    #[error("lab {name} is in use by process {pid}")]
    InUse {
        /// The lab's name.
        name: String,
        /// The process that brought it up.
        pid: u32,
    },
    /// There is no lab of this name.
    #[error("there is no lab {0}")]
    Absent(String),
    /// The topology has no such place, or the place has no such address.
    #[error("{0} is not in this lab, or has no address of that family")]
    NoSuchPlace(Place),
    /// A connection that a test needs could not be opened.
    #[error("connecting from {from} to {to}: {outcome}")]
    NoConnection {
        /// Who wanted it.
        from: Place,
        /// To whom.
        to: SocketAddr,
        /// What came of it.
        outcome: Outcome,
    },
}

impl Error {
    /// For `map_err`: names what was tried.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }

    /// The same for `nix`.
    pub(crate) fn sys(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        Self::io(what)
    }
}
