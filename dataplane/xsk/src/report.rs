//! What can be seen of a port from outside the packet path.

use crate::Statistics;

/// One receive queue, its socket and its rings, as they are at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// The queue of the interface, counted from zero.
    pub queue: u32,
    /// Whether the driver works in the packet memory itself; otherwise the kernel copies.
    pub zero_copy: bool,
    /// Frames received since the socket was opened.
    pub received: u64,
    /// Frames that the kernel has sent since then.
    pub sent: u64,
    /// Places in each of the four rings.
    pub ring: u32,
    /// Taken places of the fill ring: frames that the kernel may receive into.
    pub fill: u32,
    /// Taken places of the receive ring: frames that the worker has not taken yet.
    pub rx: u32,
    /// Taken places of the transmit ring: frames that the kernel has not taken yet.
    pub tx: u32,
    /// Taken places of the completion ring: sent frames that the worker has not taken back yet.
    pub completion: u32,
    /// What the kernel counted; `None` where it does not say.
    pub statistics: Option<Statistics>,
}
