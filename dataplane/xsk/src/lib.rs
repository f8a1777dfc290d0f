//! [`PacketIo`](engine::io::PacketIo) on AF_XDP, by xsk-rs.
//!
//! ```text
//!                      one UMEM, chunks of 2048 or 4096 bytes
//!            +-----------------------------------------------------+
//!   port 0   | fill -> kernel -> rx        tx -> kernel -> completion |
//!   port 1   | fill -> kernel -> rx        tx -> kernel -> completion |
//!            +--^----------------|-----------^-----------------|---+
//!               |                v           |                 v
//!           free list          worker: one burst at a time   free list
//! ```
//!
//! [`XskIo`] drives the ports of one worker. They share one UMEM, so a frame goes from the port it came by
//! to the port it leaves by without being copied in user space. Each port has a socket for each of its
//! receive queues; the caller puts them into the XSKMAP of its XDP program ([`XskIo::sockets`]). Fill rings
//! are filled before that, and no program of libxdp is ever loaded.
//!
//! # How the frames are shared out
//!
//! Half of the frames wait in fill rings, half may be on their way out; each port gets an equal share of
//! both, bounded by its rings ([`plan`]). So `fill + tx` never exceeds the total, and a receiver that is
//! stuck cannot take the frames that others need. The kernel adds 128 bytes for each port and frame (every
//! pool keeps a head for every chunk of the UMEM): 16 ports on 4096 frames cost 8 MiB beside the 8 MiB of
//! packet memory. Beyond 16 ports use another worker rather than more frames.
//!
//! # The anchor
//!
//! libxdp binds the first socket with the UMEM's own descriptor and every other one by reference to it; the
//! kernel refuses that (EBADF) once the first socket's interface is gone. Therefore the first interface
//! should be one that stays, an uplink for example. [`XskIo::reopen`] rebinds one port alone while the
//! anchor lives, and all of them on a new UMEM after it has gone. The UMEM is made anew, too, when an interface
//! comes with more receive queues or a larger MTU than it was laid out for.
//!
//! # The one rule for unsafe code
//!
//! **A chunk of the UMEM is touched only through the [`Frame`] that owns it, and a chunk has a `Frame` only
//! while no ring holds it.** `Frame`s are made by taking a chunk off the free list, the rx ring and in no other way, cannot be copied, and are consumed by being put on a ring or back on the free list. The chunks of
//! a UMEM that was replaced are out of reach: a `Frame` carries the number of its UMEM, and accesses
//! through another one give no bytes. All unsafe blocks rely on this rule, except for the system calls in
//! `kernel.rs`, which rely on nothing but their arguments.

mod config;
mod error;
mod frame;
mod kernel;
mod device;
mod plan;
mod umem;
mod port;
mod report;
mod binding;
mod io;

pub use binding::{Bound, Reopened};
pub use config::Config;
pub use device::{Device, device, finish_in_software};
pub use error::XskError;
pub use frame::Frame;
pub use io::XskIo;
pub use kernel::{Statistics, receive_queues};
pub use plan::{Plan, plan};
pub use report::QueueReport;
