//! A veth pair in a network namespace of the test's own, with a raw socket on each end. Needs root.
//!
//! `near` is the end that the product would own, `far` the pod's. Both lie in one namespace, without
//! addresses and without IPv6, so that nothing moves but what the test sends.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};

pub mod frames;

pub const NEAR: &str = "near";
pub const FAR: &str = "far";

/// Runs a test on a thread in a namespace of its own, which goes with the thread and its sockets.
pub fn in_netns(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("lab tests need root");
            for (file, value) in [("all/disable_ipv6", "1"), ("default/disable_ipv6", "1")] {
                // Absent where the kernel has no IPv6.
                drop(std::fs::write(format!("/proc/sys/net/ipv6/conf/{file}"), value));
            }
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Makes the pair, both ends up.
pub fn veth() {
    veth_named(NEAR, FAR);
}

pub fn veth_named(near: &str, far: &str) {
    ip(&format!("link add {near} type veth peer name {far}"));
    ip(&format!("link set {far} arp off up"));
    ip(&format!("link set {near} arp off up"));
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory for pins, cleared away with everything in it.
pub struct Pins {
    state: tempfile::TempDir,
    dir: PathBuf,
}

impl Pins {
    pub fn new() -> Self {
        let state = tempfile::Builder::new().prefix("portcullis-test-").tempdir().unwrap();
        let dir = bpf::mount_if_missing(state.path()).unwrap();
        Self { state, dir }
    }

    pub fn state(&self) -> &Path {
        self.state.path()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        drop(bpf::pins::remove(&self.dir, &[]));
        if self.dir.starts_with(self.state.path()) {
            umount2(&self.dir, MntFlags::MNT_DETACH).ok();
        } else {
            drop(std::fs::remove_dir(&self.dir));
        }
    }
}

/// Sends and sees whole frames on one interface: what it sees has passed XDP.
pub struct Tap(OwnedFd);

impl Tap {
    pub fn open(interface: &str) -> Self {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .unwrap();
        let link = getifaddrs()
            .unwrap()
            .filter(|i| i.interface_name == interface)
            .find_map(|i| i.address.and_then(|a| a.as_link_addr().copied()))
            .unwrap();
        bind(fd.as_raw_fd(), &link).unwrap();
        setsockopt(&fd, sockopt::RcvBufForce, &(32 << 20)).unwrap();
        let tap = Self(fd);
        // What arrived before it was bound came from everywhere.
        while tap.receive(Duration::ZERO).is_some() {}
        tap
    }

    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap();
    }

    pub fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap();
        if poll(&mut fds, timeout).unwrap() == 0 {
            return None;
        }
        let mut frame = vec![0; 65536];
        let length = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
        frame.truncate(length);
        Some(frame)
    }

    /// Whether this very frame arrives within `patience`.
    pub fn sees(&self, frame: &[u8], patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.receive(left) {
                Some(seen) if seen == frame => return true,
                Some(_) => {}
                None => return false,
            }
        }
        false
    }
}
