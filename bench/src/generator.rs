//! Frames in known number and order, and a receiver that says what became of them.
//!
//! ```text
//!             ┌─ LiveFrames   a BPF program writes and sends each frame inside the kernel   millions a second
//!  Load ──────┼─ PacketSocket frames made here, sendmmsg(2) on a packet socket              hundred thousands
//!             └─ over_sockets the pod's own TCP and UDP, as its programs send               tens of thousands
//!                     │
//!                     ▼ the path under test
//!  Sink: reads number and stamp of every frame ──► Receipt: received, lost, reordered, duplicates, latency, gaps
//! ```
//!
//! [`Load`] is the one description of what is offered: who sends to whom, how many flows, how large the frames, how
//! fast, and bounds in count and in time. All three ways take it. Frames carry a [`Record`]: the number of the run,
//! the number of the frame, and when it was sent.
//!
//! [`Bulk`] is TCP without a rate, and tells just when it stopped.
//!
//! Whom frames come from is up to the load. To send as a pod does, send on the pod's own `eth0`, with its address
//! and its MAC address: [`Load::between`] fills those in.

mod load;
mod frame;
mod live;
mod packets;
mod sockets;
mod bulk;
mod account;
mod sink;

pub use account::{Account, Receipt};
pub use bulk::Bulk;
pub use frame::{Frames, Record};
pub use live::{LiveFrames, receive_without_a_program};
pub use load::{Kind, Load, Offered, Span, Stop, Tuple};
pub use packets::PacketSocket;
pub use sink::Sink;
pub use sockets::{Carried, over_sockets};
