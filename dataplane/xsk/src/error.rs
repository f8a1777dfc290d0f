//! Why packet memory or a socket could not be set up, and what to do about it.

use std::io;

use nix::errno::Errno;
use thiserror::Error;

/// Why packet memory or a socket could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum XskError {
    /// The process may not open AF_XDP sockets.
    #[error(
        "not permitted to open AF_XDP sockets: run as root, or grant CAP_NET_RAW (and CAP_IPC_LOCK for the packet memory)"
    )]
    NotPermitted,
    /// The packet memory may not be locked.
    #[error(
        "cannot lock {bytes} bytes of packet memory ({source}): grant CAP_IPC_LOCK, or raise the limit (LimitMEMLOCK= in the systemd unit, `ulimit -l`)"
    )]
    MemoryLimit {
        /// How much was asked for.
        bytes: u64,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No interface of this name is in the network namespace.
    #[error("there is no interface {interface}")]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },
    /// Another socket is bound to a queue of the interface.
    #[error(
        "{interface}: another AF_XDP socket holds receive queue {queue}; is a second Portcullis running?"
    )]
    Taken {
        /// The interface.
        interface: String,
        /// Its receive queue.
        queue: u32,
    },
    /// A socket could not be bound for another reason.
    #[error("{interface}: cannot bind an AF_XDP socket to receive queue {queue}: {source}")]
    Bind {
        /// The interface.
        interface: String,
        /// Its receive queue.
        queue: u32,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The packet memory could not be made for another reason.
    #[error("cannot make {bytes} bytes of packet memory: {source}")]
    Umem {
        /// How much was asked for.
        bytes: u64,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An interface could not be looked at.
    #[error("{interface}: cannot read its MTU and queues: {source}")]
    Interface {
        /// The interface.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The setting leaves a ring with too few frames.
    #[error("{frames} frames are too few for {queues} receive queues: set `xsk.frames` to {needed} or more")]
    TooFewFrames {
        /// The setting.
        frames: u32,
        /// Receive queues of all ports.
        queues: u32,
        /// The fewest that will do.
        needed: u32,
    },
    /// Packets of the interface do not fit a frame.
    #[error("an MTU of {mtu} is more than a frame holds: at most {limit}")]
    MtuTooLarge {
        /// The largest MTU of the ports.
        mtu: u32,
        /// The largest that fits.
        limit: u32,
    },
    /// Another port needed the packet memory to be made anew, and it could not be.
    #[error("{interface}: closed, since packet memory could not be made anew")]
    NoMemory {
        /// The interface.
        interface: String,
    },
}

impl XskError {
    pub(crate) fn umem(bytes: u64, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM) => Self::NotPermitted,
            // ENOBUFS: the kernel's answer when RLIMIT_MEMLOCK is exceeded without CAP_IPC_LOCK.
            Some(Errno::ENOBUFS | Errno::ENOMEM) => Self::MemoryLimit { bytes, source },
            _ => Self::Umem { bytes, source },
        }
    }

    pub(crate) fn bind(interface: &str, queue: u32, source: io::Error) -> Self {
        let interface = interface.to_owned();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM) => Self::NotPermitted,
            Some(Errno::ENODEV) => Self::NoSuchInterface { interface },
            Some(Errno::EBUSY) => Self::Taken { interface, queue },
            _ => Self::Bind { interface, queue, source },
        }
    }

    pub(crate) fn interface(interface: &str, source: Errno) -> Self {
        let interface = interface.to_owned();
        match source {
            Errno::ENODEV | Errno::ENXIO => Self::NoSuchInterface { interface },
            other => Self::Interface { interface, source: other.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answers_become_advice() {
        let umem = |errno: Errno| XskError::umem(4096, errno.into()).to_string();
        assert!(umem(Errno::ENOBUFS).contains("CAP_IPC_LOCK"), "{}", umem(Errno::ENOBUFS));
        assert!(umem(Errno::EPERM).contains("CAP_NET_RAW"), "{}", umem(Errno::EPERM));
        let bind = |errno: Errno| XskError::bind("a", 1, errno.into()).to_string();
        assert!(bind(Errno::ENODEV).contains("no interface a"));
        assert!(bind(Errno::EBUSY).contains("queue 1"));
        assert!(bind(Errno::EINVAL).contains("Invalid argument") || bind(Errno::EINVAL).contains("os error"));
    }
}
