//! What can be set.

/// How an [`XskIo`](crate::XskIo) is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Frames of packet memory for all ports together, a power of two is not required.
    pub frames: u32,
    /// How many frames one system call may send, where the kernel can be told (Linux 6.18 and later): up to
    /// the size of the ring. `None` leaves the kernel's 32, and a burst takes as many calls as it needs.
    pub tx_budget: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self { frames: 4096, tx_budget: Some(2048) }
    }
}
