//! Ports, and what is counted at them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its interface.
    pub interface: String,
    /// The interface's index; 0 while it is not there.
    pub ifindex: u32,
    /// What is behind it.
    pub role: Role,
    /// The pod behind it: `namespace/name`.
    pub pod: Option<String>,
    /// The pod's MAC address, once it is known.
    pub mac: Option<String>,
    /// The pod's addresses, once they are known.
    pub addresses: Vec<String>,
    /// How it is.
    pub state: PortState,
    /// Why it is closed, and what to do.
    #[serde(default)]
    pub why: Option<String>,
    /// How its programs are attached: `native` for XDP, `tcx` or `clsact` for tc.
    pub attach: String,
    /// The worker that owns it.
    pub worker: usize,
    /// Frames dropped of those that came by it, whatever the reason.
    pub dropped: u64,
    /// What its XDP program has counted.
    pub xdp: Option<Xdp>,
    /// What its tc programs have counted, in inline mode.
    #[serde(default)]
    pub tc: Option<Tc>,
    /// Its receive queues.
    pub queues: Vec<Queue>,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A pod.
    #[default]
    Pod,
    /// The rest of the network.
    Uplink,
    /// The worker, by the pair through which the kernel asks it, in inline mode.
    Punt,
}

/// How a port is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// It should be served, and its worker does not say.
    #[default]
    Unknown,
    /// It has its program and its sockets.
    Attached,
    /// It has them, and its interface is down or has no carrier.
    Paused,
    /// Its interface is not there.
    Absent,
    /// Its interface is there and cannot be served: it drops everything, and is tried again.
    Closed,
}

impl PortState {
    /// Its name in figures and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Attached => "attached",
            Self::Paused => "paused",
            Self::Absent => "absent",
            Self::Closed => "closed",
        }
    }
}

/// Frames that a port's XDP program sent where, since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// To the kernel's stack.
    pub passed: u64,
    /// To a socket.
    pub redirected: u64,
    /// Nowhere, for want of a socket.
    pub dropped: u64,
}

/// What a port's tc programs know and have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tc {
    /// The port's epoch: verdicts that are older are asked for again.
    pub epoch: u32,
    /// Verdicts of the port that the kernel has.
    pub verdicts: u32,
    /// Packets that the programs dropped, whatever the reason.
    pub dropped: u64,
    /// Packets by what became of them, since the maps were made: also by those that only the punt pair has.
    pub packets: BTreeMap<String, u64>,
}

/// One receive queue and its socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Its number.
    pub queue: u32,
    /// Whether the driver works in the packet memory itself; otherwise the kernel copies.
    pub zero_copy: bool,
    /// Frames received.
    pub received: u64,
    /// Frames that the kernel has sent.
    pub sent: u64,
    /// Its rings.
    pub rings: Rings,
    /// What the kernel counted. Two of these count the same frames: they are not to be summed.
    pub statistics: Option<Statistics>,
}

/// How full the rings of a socket are, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// The room of each.
    pub capacity: u32,
    /// Free frames that the kernel may receive into.
    pub fill: u32,
    /// Received frames that the worker has not taken yet.
    pub rx: u32,
    /// Frames that the kernel has not sent yet.
    pub tx: u32,
    /// Sent frames that the worker has not taken back yet.
    pub completion: u32,
}

/// What the kernel counted for a socket (`struct xdp_statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Received frames dropped for other reasons: most of them found no free frame or were too large.
    pub rx_dropped: u64,
    /// Received frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the fill ring was empty when a frame came.
    pub rx_fill_ring_empty: u64,
    /// Descriptors in the fill ring that made no sense.
    pub rx_invalid_descs: u64,
    /// Descriptors in the transmit ring that made no sense.
    pub tx_invalid_descs: u64,
    /// Times that the transmit ring was found empty.
    pub tx_ring_empty: u64,
}
