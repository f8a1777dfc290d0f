//! As many UDP datagrams as one thread can send, to measure packets per second.

use std::fs;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt};

use crate::error::Error;
use crate::netns::Namespace;
use crate::node::Lab;
use crate::topology::{Family, Place};

/// Datagrams handed to the kernel at once.
const BATCH: usize = 64;

/// What a flood has done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloodReport {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Packets that arrived at the receiver's interfaces meanwhile, few others included.
    pub delivered: u64,
    /// For how long it sent.
    pub elapsed: Duration,
}

impl FloodReport {
    /// Datagrams sent in a second.
    #[must_use]
    pub fn sent_per_second(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64()
    }

    /// Packets delivered in a second.
    #[must_use]
    pub fn delivered_per_second(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64()
    }
}

/// A flood that is running. It ends at its limits, and when stopped or dropped.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Duration>>,
    receiver: Counter,
    before: u64,
    // Nobody reads it: with a socket at the port the receiver answers nothing.
    _sink: UdpSocket,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Flood {
    /// Sends datagrams of `payload` bytes to `port` of `to` until `limit` datagrams or `time` are over.
    ///
    /// # Errors
    /// When a place is not in the lab, or the port is taken.
    pub fn start(
        lab: &Lab,
        (from, to): (&Place, &Place),
        (family, port): (Family, u16),
        payload: usize,
        limit: u64,
        time: Duration,
    ) -> Result<Self, Error> {
        let target = SocketAddr::new(lab.address(to, family)?, port);
        let source = SocketAddr::new(lab.address(from, family)?, 0);
        let bind = |address| move || UdpSocket::bind(address);
        let binding = |address| Error::io(format!("binding a UDP socket at {address}"));
        let sink = lab.namespace(to)?.run(bind(target))?.map_err(binding(target))?;
        setsockopt(&sink, sockopt::RcvBuf, &0).map_err(Error::sys("making a receive buffer small"))?;
        let socket = lab.namespace(from)?.run(bind(source))?.map_err(binding(source))?;
        let receiver = Counter::of(lab.namespace(to)?)?;
        let before = receiver.read();
        let shared = Arc::new(Shared::default());
        let sending = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("lab-flood".to_owned())
            .spawn(move || send(&sending, &socket, target, &vec![0; payload], limit, time))
            .map_err(Error::io("starting a flood's thread"))?;
        Ok(Self { shared, thread: Some(thread), receiver, before, _sink: sink })
    }

    /// Waits until it has ended by itself.
    #[must_use]
    pub fn finish(mut self) -> FloodReport {
        self.end()
    }

    /// Ends it.
    #[must_use]
    pub fn stop(mut self) -> FloodReport {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.end()
    }

    fn end(&mut self) -> FloodReport {
        let elapsed = self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        // Packets still in queues.
        thread::sleep(Duration::from_millis(20));
        let delivered = self.receiver.read().saturating_sub(self.before);
        FloodReport { sent: self.shared.sent.load(Ordering::Relaxed), delivered, elapsed }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if self.thread.is_some() {
            self.end();
        }
    }
}

fn send(
    shared: &Shared,
    socket: &UdpSocket,
    target: SocketAddr,
    payload: &[u8],
    limit: u64,
    time: Duration,
) -> Duration {
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let addresses = [Some(SockaddrStorage::from(target)); BATCH];
    let begin = Instant::now();
    let mut sent = 0;
    while sent < limit && begin.elapsed() < time && !shared.stop.load(Ordering::Relaxed) {
        let count = BATCH.min(usize::try_from(limit - sent).unwrap_or(BATCH));
        let slices = [[IoSlice::new(payload)]; BATCH];
        let taken = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices[..count],
            &addresses[..count],
            [],
            MsgFlags::empty(),
        )
        .map_or(0, Iterator::count);
        if taken == 0 {
            // No route, no memory, or an ICMP error of an earlier datagram.
            thread::yield_now();
        }
        sent += taken as u64;
        shared.sent.store(sent, Ordering::Relaxed);
    }
    begin.elapsed()
}

/// The packets that all interfaces of a namespace but `lo` have received, from `/proc/net/dev` of a process in
/// it (proc(5)). Reading is cheap and does not disturb the receiver.
#[derive(Debug)]
struct Counter(fs::File);

impl Counter {
    fn of(namespace: &Namespace) -> Result<Self, Error> {
        // An open file of /proc/PID/net keeps to the namespace it was opened in.
        let file = namespace.run(|| fs::File::open("/proc/thread-self/net/dev"))?;
        file.map(Self).map_err(Error::io("opening /proc/net/dev"))
    }

    fn read(&self) -> u64 {
        use std::os::unix::fs::FileExt as _;
        let mut text = vec![0; 1 << 16];
        let length = self.0.read_at(&mut text, 0).unwrap_or(0);
        received(&String::from_utf8_lossy(&text[..length]))
    }
}

fn received(text: &str) -> u64 {
    let interfaces = text.lines().filter_map(|line| line.split_once(':'));
    let others = interfaces.filter(|(name, _)| name.trim() != "lo");
    others.filter_map(|(_, counters)| counters.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_the_second_column_of_all_but_lo() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs | bytes\n    lo: 9 7 0 0\n  \
                    eth0: 1100 11 0 0 0 0 0 0 5 6\n eth1:5 4 0\n";
        assert_eq!(received(text), 15);
    }
}
