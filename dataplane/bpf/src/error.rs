//! What can go wrong with programs, maps and links, and what to do about it.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use thiserror::Error;

/// Why the kernel did not do what [`Steering`](crate::Steering) asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BpfError {
    /// The process may not load programs or attach them.
    #[error(
        "not permitted to {what}: run as root, or grant CAP_BPF and CAP_NET_ADMIN (and CAP_SYS_ADMIN to mount a bpffs)"
    )]
    NotPermitted {
        /// What was tried.
        what: &'static str,
    },
    /// No interface of this name is in the network namespace.
    #[error("there is no interface {interface}")]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },
    /// Another XDP program holds the interface.
    #[error("{interface}: another XDP program is attached ({program}); {remedy}")]
    Taken {
        /// The interface.
        interface: String,
        /// The program's id and name, as far as the kernel tells.
        program: String,
        /// The command that removes it.
        remedy: String,
    },
    /// The kernel has no tcx.
    #[error("the kernel has no tcx links: take Linux 6.6 or later, or let `inline.attach` be `auto`")]
    NoTcx,
    /// Another tc filter stands where ours does: the kernel has no tcx.
    #[error(
        "{interface}: another tc filter ({program}) has preference 1; `tc filter del dev {interface} {side} pref 1` removes it"
    )]
    FilterTaken {
        /// The interface.
        interface: String,
        /// `ingress` or `egress`.
        side: &'static str,
        /// The program's name.
        program: String,
    },
    /// A tc filter could not be looked at or removed.
    #[error("cannot look after the tc filters of {interface}: {source}")]
    Filter {
        /// The interface, by its index or name.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// The driver cannot run XDP programs itself, or not in its present configuration.
    #[error(
        "{interface}: the driver refuses native XDP ({source}); Portcullis needs a driver with native XDP support, such as veth"
    )]
    NoNativeXdp {
        /// The interface.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Frames of the interface's peer do not fit the page that native XDP gives them.
    #[error(
        "{interface}: the MTU of the interface or of its veth peer is too large for native XDP (at most {limit} bytes on veth); lower it with `ip link set dev IFACE mtu {limit}` on both ends"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// The largest MTU that veth takes.
        limit: u32,
    },
    /// The kernel attached the program by netlink, where nothing can be pinned.
    #[error(
        "{interface}: the kernel cannot attach XDP programs as a bpf_link (Linux 5.9 or later can); `ip link set dev {interface} xdp off` removes what was attached"
    )]
    NoLink {
        /// The interface.
        interface: String,
    },
    /// The directory for pins is not on a bpffs, or cannot be written.
    #[error("cannot pin the link of {interface} at {path}: {source}")]
    Pin {
        /// The interface.
        interface: String,
        /// Where the pin should have been.
        path: PathBuf,
        /// Why not.
        source: PinError,
    },
    /// A file or directory of the bpffs could not be handled.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The programs could not be loaded.
    #[error("cannot load the XDP programs: {0}")]
    Load(#[from] EbpfError),
    /// A program could not be loaded or attached.
    #[error("cannot load or attach an XDP program: {0}")]
    Program(#[from] ProgramError),
    /// A link could not be read.
    #[error("cannot use the bpf_link: {0}")]
    Link(#[from] LinkError),
    /// A map has no room for more entries.
    #[error("the map `{map}` is full: this node has more addresses or ports than the XDP program holds")]
    MapFull {
        /// The map's name in the C program.
        map: &'static str,
    },
    /// A map could not be read or written.
    #[error("the map `{map}`: {source}")]
    Map {
        /// The map's name in the C program.
        map: &'static str,
        /// Why not.
        source: MapError,
    },
    /// The verdicts could not be read.
    #[error("cannot read the kernel's verdicts: {0}")]
    Verdicts(String),
    /// The kernel's description of an interface could not be read.
    #[error("cannot ask the kernel about {interface}: {source}")]
    Netlink {
        /// The interface.
        interface: String,
        /// Why not.
        source: io::Error,
    },
}

/// The errno at the bottom of an error, if there is one.
pub(crate) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<nix::errno::Errno> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(raw) = io.raw_os_error()
        {
            return Some(nix::errno::Errno::from_raw(raw));
        }
        at = error.source();
    }
    None
}
