//! The sockets of one port: one for each of its receive queues.

#![allow(unsafe_code, reason = "rings take descriptors of chunks that the kernel then writes to")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::socket::Socket;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use crate::umem::{Memory, cause};
use crate::{Config, Frame, Plan, QueueReport, Statistics, XskError, kernel};

/// Room for packets in flight: the default is 90 to 160 of them.
const SEND_BUFFER: usize = 4 << 20;
/// What one `sendto` sends where the kernel cannot be told otherwise (`TX_BATCH_SIZE`).
const KERNEL_BATCH: u32 = 32;
/// Descriptors that go to or come from a ring at a time.
const BATCH: usize = 64;

/// One socket and its four rings.
pub(crate) struct Queue {
    /// Its number among all queues of the [`XskIo`](crate::XskIo).
    number: u16,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    plan: Plan,
    /// For the transmit ring at the next flush; never more than `plan.tx`.
    staged: Vec<FrameDesc>,
    /// Chunks in the fill and receive rings.
    in_fill: usize,
    /// Chunks staged, in the transmit ring, in flight, or in the completion ring.
    in_tx: usize,
    received: u64,
    sent: u64,
    /// The interface is down or gone: what is in the transmit ring waits.
    paused: bool,
}

impl Queue {
    /// Binds receive queue `id` of `interface`, and fills the fill ring. A socket that was closed a moment ago holds
    /// its queue for some milliseconds longer: `patience` is how long to wait for that.
    #[allow(clippy::too_many_arguments, reason = "a queue is made of just these")]
    pub(crate) fn open(
        memory: &mut Memory,
        interface: &str,
        id: u32,
        number: u16,
        plan: Plan,
        config: &Config,
        patience: Duration,
    ) -> Result<Self, XskError> {
        let failed = |source| XskError::bind(interface, id, source);
        let ring = QueueSize::new(plan.ring).map_err(|e| failed(io::Error::other(e.to_string())))?;
        let settings = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface.parse().map_err(|_nul| failed(Errno::ENODEV.into()))?;
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        let (tx, rx, rings) = loop {
            // SAFETY: no program of libxdp is loaded (INHIBIT_PROG_LOAD is set).
            match unsafe { Socket::new(settings, memory.umem(), &name, id) } {
                Ok(socket) => break socket,
                Err(error) => {
                    let source = cause(&error);
                    if source.raw_os_error() != Some(Errno::EBUSY as i32) || Instant::now() >= deadline {
                        return Err(failed(source));
                    }
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(64));
        };
        // Only a second socket on the same queue would get none.
        let (fill, completion) = rings.ok_or_else(|| failed(Errno::EBUSY.into()))?;

        let fd = kernel::borrow(tx.fd());
        kernel::set_send_buffer(fd, SEND_BUFFER).map_err(|errno| failed(errno.into()))?;
        if let Some(budget) = config.tx_budget {
            // An older kernel does not know it: then `send` takes more calls.
            kernel::set_tx_budget(fd, budget.clamp(KERNEL_BATCH, plan.ring.max(KERNEL_BATCH)));
        }
        let staged = Vec::with_capacity(plan.tx as usize);
        let mut queue = Self {
            number,
            rx,
            tx,
            fill,
            completion,
            plan,
            staged,
            in_fill: 0,
            in_tx: 0,
            received: 0,
            sent: 0,
            paused: false,
        };
        queue.refill(memory);
        Ok(queue)
    }

    /// Appends what has arrived, until `burst` is full.
    #[inline]
    pub(crate) fn receive(&mut self, memory: &mut Memory, burst: &mut Vec<Frame>) {
        let mut descs = [FrameDesc::default(); BATCH];
        loop {
            let room = (burst.capacity() - burst.len()).min(BATCH);
            if room == 0 {
                return;
            }
            // SAFETY: the rule at the top of the crate: the socket and its rings were made with this UMEM,
            // and every chunk that comes off the ring becomes exactly one frame.
            let count = unsafe { self.rx.consume(&mut descs[..room]) };
            self.in_fill -= count;
            self.received += count as u64;
            burst.extend(descs[..count].iter().map(|desc| memory.received(*desc, self.number)));
            if count < room {
                return;
            }
        }
    }

    /// Stages a frame for the next flush; gives it back when the queue's share is used up, and while the interface
    /// is down: what is judged now must not leave when it comes up, whatever policy says by then.
    #[inline]
    pub(crate) fn transmit(&mut self, memory: &mut Memory, frame: Frame) -> Result<(), Frame> {
        if self.paused || self.in_tx >= self.plan.tx as usize {
            return Err(frame);
        }
        self.in_tx += 1;
        self.staged.push(memory.sent(frame, self.number));
        Ok(())
    }

    /// Sends what is staged, takes back what was sent, and fills up the fill ring.
    pub(crate) fn flush(&mut self, memory: &mut Memory) {
        if self.in_tx > 0 {
            // SAFETY: the rule at the top of the crate: `sent` has consumed the frames of these chunks, so
            // nobody else has them until the completion ring gives them back.
            let count = unsafe { self.tx.produce(&self.staged) };
            self.staged.drain(..count);
            self.send();
            self.reap(memory);
        } else {
            // Nothing waits that could tell when the interface is up again: the next frame does.
            self.paused = false;
        }
        if self.in_fill < self.plan.fill as usize {
            self.refill(memory);
        }
        if self.fill.needs_wakeup() {
            // Never in copy mode. A driver that wants it asks again until it is served.
            let fd = self.rx.fd_mut();
            drop(self.fill.wakeup(fd, 0));
        }
    }

    /// Has the kernel send the transmit ring, in as many calls as it takes while each makes progress.
    fn send(&mut self) {
        let calls = self.plan.ring / KERNEL_BATCH + 1;
        let mut free = self.tx.nb_free_exact();
        for _ in 0..calls {
            if free >= self.plan.ring || !self.tx.needs_wakeup() {
                self.paused = false;
                return;
            }
            let answer = kernel::kick(self.fd());
            // The descriptors stay in the ring, and leave when the interface is up again.
            self.paused = matches!(answer, Err(Errno::ENETDOWN | Errno::ENXIO));
            let before = std::mem::replace(&mut free, self.tx.nb_free_exact());
            // EAGAIN comes after a batch, with more to send, and when the send buffer is used up.
            if self.paused || free == before {
                return;
            }
        }
    }

    fn reap(&mut self, memory: &mut Memory) {
        let mut descs = [FrameDesc::default(); BATCH];
        loop {
            // SAFETY: the rule at the top of the crate: the ring was made with this UMEM, and every chunk
            // that comes off it goes to the free list once.
            let count = unsafe { self.completion.consume(&mut descs) };
            self.in_tx -= count;
            self.sent += count as u64;
            descs[..count].iter().for_each(|desc| memory.completed(*desc, self.number));
            if count < BATCH {
                return;
            }
        }
    }

    fn refill(&mut self, memory: &mut Memory) {
        let mut descs = [FrameDesc::default(); BATCH];
        loop {
            let wanted = (self.plan.fill as usize - self.in_fill).min(BATCH);
            let mut taken = 0;
            while taken < wanted
                && let Some(desc) = memory.take_for_fill(self.number)
            {
                descs[taken] = desc;
                taken += 1;
            }
            // SAFETY: the rule at the top of the crate: these chunks come from the free list, and nobody
            // touches them until the receive ring gives them back.
            let count = unsafe { self.fill.produce(&descs[..taken]) };
            descs[count..taken].iter().for_each(|desc| memory.untake(*desc, self.number));
            self.in_fill += count;
            if count < BATCH {
                return;
            }
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        kernel::borrow(self.rx.fd())
    }

    /// Whether the interface that the socket was bound to still exists.
    pub(crate) fn is_bound(&self) -> bool {
        kernel::kick(self.fd()) != Err(Errno::ENXIO)
    }

    pub(crate) fn statistics(&self) -> io::Result<Statistics> {
        Statistics::of(self.rx.fd())
    }

    /// How the queue is now. Not for the packet path: it asks the kernel.
    pub(crate) fn report(&mut self, queue: u32) -> QueueReport {
        let ring = self.plan.ring;
        QueueReport {
            queue,
            zero_copy: kernel::is_zero_copy(self.socket()),
            received: self.received,
            sent: self.sent,
            ring,
            fill: ring - self.fill.nb_free_exact(),
            rx: self.rx.nb_avail_exact(),
            tx: ring - self.tx.nb_free_exact(),
            completion: self.completion.nb_avail_exact(),
            statistics: self.statistics().ok(),
        }
    }

    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    pub(crate) const fn in_fill(&self) -> usize {
        self.in_fill
    }

    pub(crate) const fn in_tx(&self) -> usize {
        self.in_tx
    }

    pub(crate) const fn is_paused(&self) -> bool {
        self.paused
    }
}
