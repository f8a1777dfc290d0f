//! The XDP programs of router mode in C, their maps and their pinned links; the tc programs of inline mode are in
//! [`inline`], with a tour of their own.
//!
//! ```text
//!            pod_port                                  uplink_port
//!   frame -> own ARP, ND, to its node? -> kernel       from or to a local pod? -> socket
//!            else                      -> socket       else                    -> kernel
//!
//!   socket = xsks[port.base + rx_queue]; where none is bound: port.fallback (drop, unless set to pass)
//! ```
//!
//! [`Steering`] loads the programs, keeps their maps in step with what the agent knows, and attaches one
//! program to each port as a `bpf_link`. The links are pinned ([`pins`]): they outlive the process, and a
//! restarted one takes them over with `LINK_UPDATE`, so there is no moment without a program. The maps are
//! not pinned: a new process fills its own before it takes a link over.
//!
//! The order in which no port goes without a program or an answer: [`Steering::load`], ports and sockets, then
//! [`Steering::attach`]. Addresses follow with the first policy table; until then nothing of a pod reaches the
//! kernel.
//!
//! Deliberately absent: generic (skb) mode, attaching by netlink (it cannot be pinned), and the XSKMAP's
//! read side (the kernel offers none).

pub mod entry;
pub mod error;
pub mod bpffs;
pub mod pins;
mod held;
mod maps;
mod netlink;
pub mod conntrack;
mod steering;
pub mod inline;

pub use bpffs::{mount_if_missing, pin_dirs};
pub use entry::{Counters, Fallback, PortEntry};
pub use error::BpfError;
pub use netlink::attached_program;
pub use steering::{Attached, Drift, Kind, Steering};
