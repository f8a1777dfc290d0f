//! The receiver: a packet socket that reads what arrives at an interface, and keeps account of the frames of one load.
//!
//! The time of arrival is the kernel's, of when it took the frame from the interface, so that a receiver that has
//! to wait for its turn makes no latency.

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Namespace, packet_socket};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::write;

use super::account::{Account, Receipt};
use super::frame::Record;
use super::load::Stop;

/// Frames of one call.
const BATCH: usize = 64;
/// What is read of a frame: its headers and its record.
const SNAP: usize = 128;
/// Room for frames that wait to be read, in bytes as the kernel charges them: some 40,000 small ones.
const BUFFER: usize = 32 << 20;
/// How often a receiver to which nothing comes looks whether it is to stop, in milliseconds.
const LOOK: u8 = 10;
/// After the load has ended, stragglers may take this long after one another.
const SETTLE: Duration = Duration::from_millis(100);

/// To nobody, from nobody, of the ethertype for experiments (IEEE 802, 0x88b5).
const KNOCK: [u8; 60] = {
    let mut frame = [0; 60];
    (frame[0], frame[6], frame[12], frame[13]) = (2, 2, 0x88, 0xb5);
    frame
};

/// A receiver that runs. It stops when dropped.
#[derive(Debug)]
pub struct Sink {
    /// Where to send from what the receiver hears as the last.
    knocker: OwnedFd,
    account: Arc<Mutex<Account>>,
    stop: Stop,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sink {
    /// Receives the frames of load number `run` at an interface of a namespace.
    ///
    /// # Errors
    ///
    /// Without root, or when there is no such interface.
    pub fn open(namespace: &Namespace, interface: &str, run: u32) -> Result<Self> {
        Self::with_buffer(namespace, interface, run, BUFFER)
    }

    /// The same with room for `buffer` bytes of frames that wait, as the kernel charges them.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_buffer(namespace: &Namespace, interface: &str, run: u32, buffer: usize) -> Result<Self> {
        let socket = packet_socket(namespace, interface, true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &buffer)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // The dropped frames of the socket come with each that is not.
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        let knocker = packet_socket(namespace, interface, false)?;
        let account = Arc::new(Mutex::new(Account::new()?));
        let stop = Stop::default();
        let (keeping, until) = (Arc::clone(&account), stop.clone());
        let thread = thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || receive(&socket, run, &keeping, &until))
            .context("starting a receiver's thread")?;
        Ok(Self { knocker, account, stop, thread: Some(thread) })
    }

    /// How it stands.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).receipt().clone()
    }

    /// Waits for stragglers of the `sent` frames, and says what became of all. When some are missing, one more frame
    /// leaves by the interface, of an ethertype that nobody reads.
    ///
    /// # Errors
    ///
    /// When the interface was gone.
    pub fn finish(mut self, sent: u64) -> Result<Receipt> {
        self.settle();
        if self.receipt().received < sent {
            // What the socket dropped is told with the next frame that it takes, and it hears those that leave, too.
            write(&self.knocker, &KNOCK)?;
            self.settle();
        }
        self.stop.now();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended?,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => {}
        }
        Ok(self.receipt())
    }

    fn settle(&self) {
        let progress = |receipt: &Receipt| (receipt.received, receipt.duplicates, receipt.too_late);
        let mut before = self.receipt();
        loop {
            thread::sleep(SETTLE);
            let after = self.receipt();
            if progress(&after) == progress(&before) {
                return;
            }
            before = after;
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.now();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// `CLOCK_MONOTONIC`.
pub(super) fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// What the kernel said of a frame beside its bytes.
#[derive(Clone, Copy, Default)]
struct Arrival {
    length: usize,
    at: Duration,
}

fn receive(socket: &OwnedFd, run: u32, account: &Mutex<Account>, stop: &Stop) -> Result<()> {
    let mut buffer = vec![0; BATCH * SNAP];
    let mut arrivals = [Arrival::default(); BATCH];
    let mut dropped = Dropped::default();
    while !stop.is_due() {
        let count = read(socket, &mut buffer, &mut arrivals, &mut dropped)?;
        if count == 0 {
            let wait = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK));
            wait.or_else(interrupted)?;
            continue;
        }
        let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
        account.missed(dropped.total);
        for (frame, arrival) in buffer.chunks(SNAP).zip(&arrivals[..count]) {
            let record = Record::of(&frame[..arrival.length.min(SNAP)]);
            if let Some(record) = record.filter(|record| record.run == run) {
                account.note(record.number, record.sent, arrival.at);
            }
        }
    }
    Ok(())
}

/// Reads what is there, a chunk of the buffer for each frame; says how many.
fn read(
    socket: &OwnedFd,
    buffer: &mut [u8],
    arrivals: &mut [Arrival; BATCH],
    dropped: &mut Dropped,
) -> Result<usize> {
    let mut slices: Vec<_> = buffer.chunks_mut(SNAP).map(|chunk| [IoSliceMut::new(chunk)]).collect();
    // Made anew: a call leaves as much room for control messages as its own took.
    let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, Some(nix::cmsg_space!(TimeSpec, u32)));
    // The stamps are of the wall clock.
    let wall = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?).saturating_sub(now()?);
    let messages = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)
    {
        Ok(messages) => messages,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
        Err(errno) => return Err(errno).context("receiving on a packet socket"),
    };
    let mut count = 0;
    for (message, arrival) in messages.zip(arrivals) {
        *arrival = Arrival { length: message.bytes, at: Duration::ZERO };
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(at) => {
                    arrival.at = Duration::from(at).saturating_sub(wall);
                }
                ControlMessageOwned::RxqOvfl(total) => dropped.note(total),
                _ => {}
            }
        }
        count += 1;
    }
    Ok(count)
}

fn interrupted(errno: Errno) -> nix::Result<i32> {
    if errno == Errno::EINTR { Ok(0) } else { Err(errno) }
}

/// A counter of 32 bits that wraps.
#[derive(Default)]
struct Dropped {
    last: u32,
    total: u64,
}

impl Dropped {
    fn note(&mut self, count: u32) {
        self.total += u64::from(count.wrapping_sub(self.last));
        self.last = count;
    }
}
