//! System calls that neither xsk-rs nor nix offers in the form needed.
//!
//! All arguments are owned or borrowed for the length of the call.

#![allow(unsafe_code, reason = "system calls with structures of their own")]

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, setsockopt, socket, sockopt};
use xsk_rs::socket::Fd;

/// linux/if_xdp.h.
const XDP_OPTIONS: libc::c_int = 8;
/// linux/if_xdp.h.
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
/// linux/if_xdp.h; Linux 6.18 and later know it.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// linux/sockios.h.
pub(crate) const SIOCETHTOOL: u32 = 0x8946;

/// What the kernel counted for one socket (`struct xdp_statistics`). The fields overlap: a frame that found
/// no free one to be put into counts as `rx_dropped` and as `rx_fill_ring_empty`, so they are not summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Received frames dropped: also those larger than a chunk.
    pub rx_dropped: u64,
    /// Descriptors in the fill ring that made no sense.
    pub rx_invalid: u64,
    /// Descriptors in the transmit ring that made no sense.
    pub tx_invalid: u64,
    /// Received frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that a frame was wanted and the fill ring was empty.
    pub rx_fill_ring_empty: u64,
    /// Times that the transmit ring was found empty.
    pub tx_ring_empty: u64,
}

impl Statistics {
    pub(crate) fn of(fd: &Fd) -> io::Result<Self> {
        let s = fd.xdp_statistics()?;
        Ok(Self {
            rx_dropped: s.rx_dropped(),
            rx_invalid: s.rx_invalid_descs(),
            tx_invalid: s.tx_invalid_descs(),
            rx_ring_full: s.rx_ring_full(),
            rx_fill_ring_empty: s.rx_fill_ring_empty_descs(),
            tx_ring_empty: s.tx_ring_empty_descs(),
        })
    }
}

/// What an interface looks like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its index.
    pub(crate) index: u32,
    /// The largest IP packet, in bytes.
    pub(crate) mtu: u32,
    /// Receive queues in use.
    pub(crate) queues: u32,
    /// Receive queues that it may have.
    pub(crate) most_queues: u32,
}

/// How many receive queues of an interface are in use: frames may arrive on each.
///
/// # Errors
///
/// No interface of this name is in the calling thread's network namespace, or the kernel does not answer.
pub fn receive_queues(name: &str) -> io::Result<u32> {
    Ok(interface(name)?.queues)
}

/// Asks by ioctl rather than sysfs, which shows the network namespace it was mounted in.
pub(crate) fn interface(name: &str) -> nix::Result<Interface> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let index = if_nametoindex(name)?;
    let mut request = named(name)?;
    // SAFETY: SIOCGIFMTU reads the name and writes the union of the `ifreq` that it is given.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &mut request) })?;
    // SAFETY: the call above succeeded, so the kernel has written `ifru_mtu`.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };

    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut request = named(name)?;
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: SIOCETHTOOL reads the name and the pointer, and ETHTOOL_GCHANNELS writes a `struct
    // ethtool_channels` there; `channels` has that layout and outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) };
    let (queues, most_queues) = match Errno::result(answer) {
        Ok(_) => (
            channels.rx.saturating_add(channels.combined).max(1),
            channels.max_rx.saturating_add(channels.max_combined).max(1),
        ),
        // A driver that has no channels to set has one queue.
        Err(Errno::EOPNOTSUPP) => (1, 1),
        Err(errno) => return Err(errno),
    };
    Ok(Interface { index, mtu: u32::try_from(mtu).unwrap_or(0), queues, most_queues })
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

pub(crate) fn named(name: &str) -> nix::Result<libc::ifreq> {
    // SAFETY: `ifreq` is made of integers and of unions of them; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENODEV);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Makes room for `bytes` of packets in flight: copy mode charges them to the socket.
pub(crate) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: usize) -> nix::Result<()> {
    // Beyond net.core.wmem_max only CAP_NET_ADMIN may go.
    setsockopt(&fd, sockopt::SndBufForce, &bytes).or_else(|_| setsockopt(&fd, sockopt::SndBuf, &bytes))
}

/// Lets one `sendto` send up to `frames`. Whether the kernel knows this option.
pub(crate) fn set_tx_budget(fd: BorrowedFd<'_>, frames: u32) -> bool {
    let length = size_of_val(&frames) as libc::socklen_t;
    // SAFETY: the option is read from `frames`, whose size is given, before the call returns.
    let answer = unsafe {
        let value = (&raw const frames).cast();
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, value, length)
    };
    answer == 0
}

/// Whether the driver works in the packet memory itself. A kernel that does not say copies.
pub(crate) fn is_zero_copy(fd: BorrowedFd<'_>) -> bool {
    let mut flags = 0_u32;
    let mut length = size_of_val(&flags) as libc::socklen_t;
    // SAFETY: XDP_OPTIONS writes a `struct xdp_options`, which is one u32, into `flags`, whose size is given; both
    // outlive the call.
    let answer = unsafe {
        let value = (&raw mut flags).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, XDP_OPTIONS, value, &raw mut length)
    };
    answer == 0 && flags & XDP_OPTIONS_ZEROCOPY != 0
}

/// Has the kernel send what is in the transmit ring.
pub(crate) fn kick(fd: RawFd) -> nix::Result<()> {
    send(fd, &[], MsgFlags::MSG_DONTWAIT).map(drop)
}

/// The descriptor of a socket, as long as the socket is borrowed.
pub(crate) fn borrow(fd: &Fd) -> BorrowedFd<'_> {
    // SAFETY: `fd` is borrowed from the rings of its socket, which keep it open.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// One descriptor to poll for arrivals.
pub(crate) const fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Sleeps until one of `fds` is readable or `timeout` has passed; a signal ends it early.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `fds` is a valid slice of the given length for the call, the timeout is valid, and a null
    // mask leaves the signals as they are.
    unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &raw const timeout, std::ptr::null()) };
}

const _: () = assert!(size_of::<Channels>() == 36);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_an_mtu_and_one_queue() {
        assert_eq!(interface("lo"), Ok(Interface { index: 1, mtu: 65536, queues: 1, most_queues: 1 }));
        assert_eq!(interface("no-such-if"), Err(Errno::ENODEV));
        assert_eq!(interface("a-name-longer-than-any-interface"), Err(Errno::ENODEV));
    }

    #[test]
    fn polling_nothing_sleeps() {
        let start = std::time::Instant::now();
        poll(&mut [], Duration::from_millis(3));
        assert!(start.elapsed() >= Duration::from_millis(3));
    }
}
