//! Frames as they are on a link: forged ones out, whatever comes in.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recvfrom,
    send, socket,
};

use crate::error::Error;
use crate::netns::Namespace;

/// `PACKET_OUTGOING`: a frame of this machine's own (packet(7)).
const OUTGOING: u8 = 4;

/// A packet socket on one interface. Promiscuity is left as it is; VLAN tags that the kernel has taken out of a
/// received frame are not put back.
#[derive(Debug)]
pub struct RawPort {
    socket: OwnedFd,
}

impl RawPort {
    /// Opens the interface of that name in a namespace.
    ///
    /// # Errors
    /// When there is none, or without root.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self, Error> {
        let port = Self { socket: packet_socket(namespace, interface, true)? };
        // What came by other interfaces before the socket was bound.
        while port.take().map_err(opening(namespace, interface))?.is_some() {}
        Ok(port)
    }

    /// Sends a frame, from its destination MAC address on.
    ///
    /// # Errors
    /// When the frame is longer than the MTU allows, or the link is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame that comes in, if one does within `timeout`.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn receive(&self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        self.receive_where(timeout, |_| true)
    }

    /// The next frame for which `wanted` holds, if one comes in within `timeout`; others are passed over.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn receive_where(
        &self,
        timeout: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(frame) = self.take()? {
                if wanted(&frame) {
                    return Ok(Some(frame));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next frame that is there already.
    fn take(&self) -> Result<Option<Vec<u8>>, Errno> {
        let mut buffer = [0; 1 << 16];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == OUTGOING => {}
                Ok((length, _)) => return Ok(Some(buffer[..length].to_vec())),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A packet socket (packet(7)) on one interface of a namespace, which does not block. One that does not receive costs
/// the interface's other packets nothing.
///
/// # Errors
/// When there is no such interface, or without root.
pub fn packet_socket(namespace: &Namespace, interface: &str, receives: bool) -> Result<OwnedFd, Error> {
    let opened = namespace.run(|| {
        let link = link(interface)?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = receives.then_some(SockProtocol::EthAll);
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)?;
        // Protocol zero in the address keeps that of the socket.
        bind(socket.as_raw_fd(), &link)?;
        Ok(socket)
    })?;
    opened.map_err(opening(namespace, interface))
}

fn opening(namespace: &Namespace, interface: &str) -> impl FnOnce(Errno) -> Error {
    Error::sys(format!("opening interface {interface} in {}", namespace.name()))
}

/// The link-layer address of an interface of the thread's namespace.
fn link(interface: &str) -> Result<LinkAddr, Errno> {
    let mut links = getifaddrs()?.filter(|found| found.interface_name == interface);
    links
        .find_map(|found| {
            let address = found.address?;
            (address.family() == Some(AddressFamily::Packet))
                .then(|| address.as_link_addr().copied())
                .flatten()
        })
        .ok_or(Errno::ENODEV)
}
