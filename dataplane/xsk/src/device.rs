//! What a device does with frames, asked and set by ethtool's ioctls (linux/ethtool.h).

#![allow(unsafe_code, reason = "system calls with structures of their own")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::kernel::{self, SIOCETHTOOL, named};

const ETHTOOL_GDRVINFO: u32 = 0x03;
/// Whether transmit checksums are left to the device.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
/// Whether VLAN tags are sent beside the frame instead of in it.
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
/// Whether tags of received frames are taken out of them.
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
/// Received packets may be put together in hardware.
const ETH_FLAG_LRO: u32 = 1 << 15;

/// A device, as far as AF_XDP is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The name of its driver; empty if it has none.
    pub driver: String,
    /// Receive queues in use.
    pub queues: u32,
    /// Receive queues that it may have.
    pub most_queues: u32,
    /// Whether it takes the VLAN tags out of received frames, where AF_XDP does not see them.
    pub hides_tags: bool,
    /// Whether it puts received packets together in hardware.
    pub lro: bool,
    /// Whether the kernel puts received packets together.
    pub gro: bool,
    /// Whether it cuts TCP segments itself.
    pub tso: bool,
}

/// Looks at an interface of the calling thread's network namespace. What its driver does not say counts as off.
///
/// # Errors
///
/// There is no such interface, or the kernel does not answer.
pub fn device(name: &str) -> io::Result<Device> {
    let now = kernel::interface(name)?;
    let ethtool = Ethtool::of(name)?;
    let is_on = |command| ethtool.value(command, 0).is_ok_and(|value| value != 0);
    let flags = ethtool.value(ETHTOOL_GFLAGS, 0).unwrap_or(0);
    Ok(Device {
        driver: ethtool.driver().unwrap_or_default(),
        queues: now.queues,
        most_queues: now.most_queues,
        hides_tags: flags & ETH_FLAG_RXVLAN != 0,
        lro: flags & ETH_FLAG_LRO != 0,
        gro: is_on(ETHTOOL_GGRO),
        tso: is_on(ETHTOOL_GTSO),
    })
}

/// Has the kernel finish the frames that it sends by this interface, checksums, segments and VLAN tags included:
/// whoever receives them by AF_XDP gets them whole.
///
/// # Errors
///
/// There is no such interface, its driver cannot, or CAP_NET_ADMIN is missing.
pub fn finish_in_software(name: &str) -> nix::Result<()> {
    let ethtool = Ethtool::of(name)?;
    ethtool.value(ETHTOOL_STXCSUM, 0)?;
    let flags = ethtool.value(ETHTOOL_GFLAGS, 0)?;
    ethtool.value(ETHTOOL_SFLAGS, flags & !ETH_FLAG_TXVLAN).map(drop)
}

/// Questions about one interface.
struct Ethtool<'a> {
    name: &'a str,
    socket: OwnedFd,
}

impl<'a> Ethtool<'a> {
    fn of(name: &'a str) -> nix::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { name, socket })
    }

    /// A command that reads or writes one number; gives the number.
    fn value(&self, command: u32, data: u32) -> nix::Result<u32> {
        let mut value = Value { command, data };
        let mut request = named(self.name)?;
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads the name and the pointer, and the commands that come here read or write a
        // `struct ethtool_value` there; `value` has that layout and outlives the call.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) };
        Errno::result(answer).map(|_| value.data)
    }

    fn driver(&self) -> nix::Result<String> {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        let mut request = named(self.name)?;
        request.ifr_ifru.ifru_data = (&raw mut info).cast();
        // SAFETY: SIOCETHTOOL reads the name and the pointer, and ETHTOOL_GDRVINFO writes a `struct
        // ethtool_drvinfo` there; `info` has its length, and outlives the call.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) };
        Errno::result(answer)?;
        let name = CStr::from_bytes_until_nul(&info.driver).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`, as far as its first name.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_device_with_one_queue() {
        let lo = device("lo").unwrap();
        assert_eq!((lo.queues, lo.most_queues, lo.hides_tags), (1, 1, false));
        assert!(lo.tso, "it cuts nothing, and says that it could");
        assert_eq!(device("no-such-if").unwrap_err().raw_os_error(), Some(Errno::ENODEV as i32));
    }
}
