//! Streams of numbered records at a constant rate, which say exactly what arrived and when.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::error::Error;
use crate::node::Lab;
use crate::probe::{Outcome, Transport};
use crate::topology::{Family, Place};

/// The bytes of a record: the stream's number, the record's own, and padding.
const RECORD: usize = 64;
/// How often blocked threads look whether they are to stop.
const LOOK: Duration = Duration::from_millis(10);
/// How long a TCP stream may take to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// After the sender has stopped, the receiver waits for stragglers until this long nothing came.
const SETTLE: Duration = Duration::from_millis(50);
/// Room for seconds of records, in bytes: those that a busy machine lets wait are not lost.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The most records of one stream: a bit is kept for each.
const MOST: u64 = 1 << 26;

/// What a stream does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// Who sends.
    pub from: Place,
    /// Who receives.
    pub to: Place,
    /// Over which family.
    pub family: Family,
    /// The receiver's port, which nobody else may have.
    pub port: u16,
    /// Over what: TCP or UDP.
    pub transport: Transport,
    /// Records a second, at least one.
    pub rate: u32,
    /// The stream ends by itself after this many records.
    pub limit: u64,
}

/// What became of a stream. Instants are of `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Records that the sender's kernel took.
    pub sent: u64,
    /// Records that arrived, each counted once.
    pub delivered: u64,
    /// Records that arrived again.
    pub duplicates: u64,
    /// The lowest number that arrived, from zero.
    pub first: Option<u64>,
    /// The highest.
    pub last: Option<u64>,
    /// When the receiver read the first of them.
    pub first_delivery: Option<Instant>,
    /// When the receiver read the latest.
    pub last_delivery: Option<Instant>,
    /// The longest time between two deliveries.
    pub longest_gap: Duration,
    /// Whether a TCP connection was ended by a reset or an error.
    pub broken: bool,
}

impl StreamReport {
    /// Records that were sent and did not arrive, or not yet.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.delivered)
    }
}

/// A stream that is running. It stops when dropped.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
    finished: AtomicBool,
    broken: AtomicBool,
    sent: AtomicU64,
    receipt: Mutex<Receipt>,
}

/// What the receiver knows.
#[derive(Debug, Default)]
struct Receipt {
    report: StreamReport,
    seen: Vec<u64>,
}

impl Receipt {
    fn note(&mut self, number: u64, now: Instant) {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let report = &mut self.report;
        if self.seen[word] & bit != 0 {
            report.duplicates += 1;
            return;
        }
        self.seen[word] |= bit;
        report.delivered += 1;
        report.first = Some(report.first.map_or(number, |first| first.min(number)));
        report.last = Some(report.last.map_or(number, |last| last.max(number)));
        if let Some(previous) = report.last_delivery {
            report.longest_gap = report.longest_gap.max(now.saturating_duration_since(previous));
        }
        report.first_delivery.get_or_insert(now);
        report.last_delivery = Some(now);
    }
}

impl Stream {
    /// Starts receiver and sender. A TCP stream connects first.
    ///
    /// # Errors
    /// When a place or an address is not in the lab, the port is taken, TCP does not connect, or it is to be SCTP.
    pub fn start(lab: &Lab, plan: &StreamPlan) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed) | u64::from(std::process::id()) << 32;
        let target = SocketAddr::new(lab.address(&plan.to, plan.family)?, plan.port);
        let source = SocketAddr::new(lab.address(&plan.from, plan.family)?, 0);
        let (from, to) = (lab.namespace(&plan.from)?, lab.namespace(&plan.to)?);
        let shared = Arc::new(Shared::default());
        let limit = plan.limit.min(MOST);
        let (rate, binding) = (plan.rate.max(1), || format!("binding the stream's receiver at {target}"));
        let [sending, receiving] = [Arc::clone(&shared), Arc::clone(&shared)];
        let (send, receive): (Work, Work) = match plan.transport {
            Transport::Udp => {
                let receiver = to.run(|| UdpSocket::bind(target))?.map_err(Error::io(binding()))?;
                let sender =
                    from.run(|| UdpSocket::bind(source))?.map_err(Error::io("binding the sender"))?;
                receiver.set_read_timeout(Some(LOOK)).map_err(Error::io("setting a timeout"))?;
                setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER)
                    .map_err(Error::sys("making a receive buffer large"))?;
                let send = move || {
                    pace(&sending, rate, limit, |number| match sender.send_to(&record(id, number), target) {
                        Ok(_) => Sent::Yes,
                        // Not sent: no route, no memory, or an ICMP error of an earlier record.
                        Err(_) => Sent::No,
                    });
                };
                (Box::new(send), Box::new(move || receive_udp(&receiving, &receiver, id, limit)))
            }
            Transport::Tcp => {
                let listener = to.run(|| TcpListener::bind(target))?.map_err(Error::io(binding()))?;
                let connected = from.run(|| connect(source, target))?;
                let sender = connected.map_err(|error| Error::NoConnection {
                    from: plan.from.clone(),
                    to: target,
                    outcome: Outcome::of(&error).unwrap_or(Outcome::TimedOut),
                })?;
                let receiver =
                    accept(&listener, &sender).map_err(Error::io("accepting the stream's connection"))?;
                let send = move || send_tcp(&sending, sender, rate, limit, id);
                (Box::new(send), Box::new(move || receive_tcp(&receiving, receiver, id, limit)))
            }
            Transport::Sctp => {
                let unsupported = ErrorKind::Unsupported;
                return Err(Error::io("starting a stream over SCTP")(io::Error::from(unsupported)));
            }
        };
        let spawn = |name: &str, work: Work| {
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(work).map(Some).map_err(Error::io("starting a stream's thread"))
        };
        let mut stream = Self { shared, sender: None, receiver: None };
        stream.receiver = spawn("lab-receive", receive)?;
        stream.sender = spawn("lab-send", send)?;
        Ok(stream)
    }

    /// How it stands now.
    #[must_use]
    pub fn report(&self) -> StreamReport {
        let receipt = self.shared.receipt.lock().unwrap_or_else(PoisonError::into_inner);
        StreamReport {
            sent: self.shared.sent.load(Ordering::Relaxed),
            broken: self.shared.broken.load(Ordering::Relaxed),
            ..receipt.report.clone()
        }
    }

    /// Whether the sender has sent all that it was to.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.shared.finished.load(Ordering::Relaxed)
    }

    /// Stops the sender, waits for stragglers, and says what became of all.
    #[must_use]
    pub fn stop(mut self) -> StreamReport {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _panicked = sender.join();
            let mut before = None;
            loop {
                let delivered = self.report().delivered;
                if before == Some(delivered) || self.report().lost() == 0 {
                    break;
                }
                before = Some(delivered);
                thread::sleep(SETTLE);
            }
        }
        self.shared.stop_receiving.store(true, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.take() {
            let _panicked = receiver.join();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end();
    }
}

type Work = Box<dyn FnOnce() + Send>;

fn record(id: u64, number: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&id.to_be_bytes());
    record[8..16].copy_from_slice(&number.to_be_bytes());
    record
}

/// The record's number, if it is one of this stream.
fn number(record: &[u8], id: u64, limit: u64) -> Option<u64> {
    let (record, _) = record.split_first_chunk::<16>()?;
    let value = u128::from_be_bytes(*record);
    (((value >> 64) as u64) == id && (value as u64) < limit).then_some(value as u64)
}

/// What became of one record at the sender.
enum Sent {
    /// The kernel took it.
    Yes,
    /// It did not, and the next one is due.
    No,
    /// It did not yet: the same again a little later.
    Later,
    /// There is no use in going on.
    Broken,
}

/// Sends record after record when each is due. After a pause that the scheduler made, those that are due by
/// then follow at once.
fn pace(shared: &Shared, rate: u32, limit: u64, mut send: impl FnMut(u64) -> Sent) {
    let begin = Instant::now();
    let mut next = 0;
    let due_at = |number: u64| Duration::from_nanos(number.saturating_mul(1_000_000_000 / u64::from(rate)));
    while next < limit && !shared.stop_sending.load(Ordering::Relaxed) {
        let early = due_at(next).saturating_sub(begin.elapsed());
        if !early.is_zero() {
            thread::sleep(early.min(LOOK));
            continue;
        }
        match send(next) {
            Sent::Yes => {
                shared.sent.fetch_add(1, Ordering::Relaxed);
                next += 1;
            }
            Sent::No => next += 1,
            Sent::Later => thread::sleep(Duration::from_millis(1)),
            Sent::Broken => {
                shared.broken.store(true, Ordering::Relaxed);
                return;
            }
        }
    }
    shared.finished.store(next >= limit, Ordering::Relaxed);
}

fn receive_udp(shared: &Shared, socket: &UdpSocket, id: u64, limit: u64) {
    let mut buffer = [0; 2 * RECORD];
    loop {
        let Ok(length) = socket.recv(&mut buffer) else {
            // Only once nothing waits in the socket: on a busy machine, this thread may be late.
            if shared.stop_receiving.load(Ordering::Relaxed) {
                return;
            }
            continue;
        };
        if let Some(number) = number(&buffer[..length], id, limit) {
            shared.receipt.lock().unwrap_or_else(PoisonError::into_inner).note(number, Instant::now());
        }
    }
}

fn send_tcp(shared: &Shared, mut socket: TcpStream, rate: u32, limit: u64, id: u64) {
    // Of the record that is being written, how much the kernel has taken.
    let mut taken = 0;
    pace(shared, rate, limit, |number| match socket.write(&record(id, number)[taken..]) {
        Ok(length) if taken + length == RECORD => {
            taken = 0;
            Sent::Yes
        }
        Ok(length) => {
            taken += length;
            Sent::Later
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Sent::Later,
        Err(_) => Sent::Broken,
    });
    // A finished stream keeps its connection until it is stopped. Then it is closed in order, after what is
    // still under way.
    while !shared.stop_sending.load(Ordering::Relaxed) {
        thread::sleep(LOOK);
    }
}

fn receive_tcp(shared: &Shared, mut socket: TcpStream, id: u64, limit: u64) {
    let mut pending: Vec<u8> = Vec::new();
    let mut buffer = [0; 64 * RECORD];
    while !shared.stop_receiving.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                let now = Instant::now();
                pending.extend_from_slice(&buffer[..length]);
                let complete = pending.len() / RECORD * RECORD;
                let mut receipt = shared.receipt.lock().unwrap_or_else(PoisonError::into_inner);
                for record in pending[..complete].chunks(RECORD) {
                    number(record, id, limit).into_iter().for_each(|number| receipt.note(number, now));
                }
                drop(receipt);
                pending.drain(..complete);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => {
                shared.broken.store(true, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// Connects from one address, not blocking afterwards, a segment for each record.
fn connect(source: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = TcpStream::from(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
    // Also bounds connect(2), see socket(7).
    socket.set_write_timeout(Some(CONNECT))?;
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The other end of this very connection.
fn accept(listener: &TcpListener, sender: &TcpStream) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let wanted = sender.local_addr()?;
    let deadline = Instant::now() + CONNECT;
    loop {
        match listener.accept() {
            Ok((socket, client)) if client == wanted => {
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(LOOK))?;
                return Ok(socket);
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_counts_each_record_once() {
        let mut receipt = Receipt::default();
        let begin = Instant::now();
        for (after, number) in [(0, 3), (10, 70), (15, 3), (45, 1)] {
            receipt.note(number, begin + Duration::from_millis(after));
        }
        let report = receipt.report;
        assert_eq!((report.delivered, report.duplicates), (3, 1));
        assert_eq!((report.first, report.last), (Some(1), Some(70)));
        assert_eq!(report.longest_gap, Duration::from_millis(35));
        assert_eq!(report.last_delivery, Some(begin + Duration::from_millis(45)));
    }

    #[test]
    fn records_of_other_streams_do_not_count() {
        assert_eq!(number(&record(7, 5), 7, 10), Some(5));
        assert_eq!(number(&record(8, 5), 7, 10), None);
        assert_eq!(number(&record(7, 10), 7, 10), None);
        assert_eq!(number(&record(7, 5)[..15], 7, 10), None);
    }

    #[test]
    fn pacing_counts_what_the_kernel_took_and_ends_at_the_limit() {
        let shared = Shared::default();
        let begin = Instant::now();
        pace(&shared, 1000, 30, |number| if number % 3 == 0 { Sent::No } else { Sent::Yes });
        assert_eq!(shared.sent.load(Ordering::Relaxed), 20);
        assert!(shared.finished.load(Ordering::Relaxed));
        assert!(begin.elapsed() >= Duration::from_millis(29));
    }
}
