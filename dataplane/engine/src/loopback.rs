//! Ports in memory, for tests and benchmarks without root: what is injected arrives, what is sent can be
//! taken out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::io::{Census, PacketIo, Slot};

const CHUNK: usize = 2048;

/// One frame of a [`Loopback`]'s memory.
#[derive(Debug)]
pub struct Frame {
    chunk: usize,
    length: usize,
}

#[derive(Debug, Default)]
struct Rings {
    rx: VecDeque<Frame>,
    tx: VecDeque<Frame>,
}

/// Packet memory and ports without a kernel.
#[derive(Debug)]
pub struct Loopback {
    memory: Vec<[u8; CHUNK]>,
    free: Vec<Frame>,
    rings: Vec<Rings>,
    tx_capacity: usize,
    held: usize,
}

impl Loopback {
    /// `ports` ports over `frames` frames; each transmit ring holds `tx_capacity`.
    #[must_use]
    pub fn new(ports: usize, frames: usize, tx_capacity: usize) -> Self {
        let ring = || Rings { rx: VecDeque::with_capacity(frames), tx: VecDeque::with_capacity(tx_capacity) };
        Self {
            memory: vec![[0; CHUNK]; frames],
            free: (0..frames).map(|chunk| Frame { chunk, length: 0 }).collect(),
            rings: (0..ports).map(|_| ring()).collect(),
            tx_capacity,
            held: 0,
        }
    }

    /// Lets `packet` arrive on a port. False when no frame is free or it is too long for one.
    pub fn inject(&mut self, slot: Slot, packet: &[u8]) -> bool {
        let Some(frame) = self.allocate(packet) else { return false };
        self.held -= 1;
        self.rings[slot.0].rx.push_back(frame);
        true
    }

    /// The oldest frame that was sent on a port, given to `look` and freed.
    pub fn sent<R>(&mut self, slot: Slot, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let frame = self.rings[slot.0].tx.pop_front()?;
        let result = look(&self.memory[frame.chunk][..frame.length]);
        self.free.push(frame);
        Some(result)
    }
}

impl PacketIo for Loopback {
    type Frame = Frame;

    fn ports(&self) -> usize {
        self.rings.len()
    }

    fn receive(&mut self, slot: Slot, burst: &mut Vec<Frame>) {
        let room = burst.capacity() - burst.len();
        let ring = &mut self.rings[slot.0].rx;
        let count = room.min(ring.len());
        burst.extend(ring.drain(..count));
        self.held += count;
    }

    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        &self.memory[frame.chunk][..frame.length]
    }

    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        &mut self.memory[frame.chunk][..frame.length]
    }

    fn truncate(&mut self, frame: &mut Frame, length: usize) {
        frame.length = frame.length.min(length);
    }

    fn transmit(&mut self, slot: Slot, frame: Frame) -> Result<(), Frame> {
        let ring = &mut self.rings[slot.0].tx;
        if ring.len() == self.tx_capacity {
            return Err(frame);
        }
        ring.push_back(frame);
        self.held -= 1;
        Ok(())
    }

    fn recycle(&mut self, frame: Frame) {
        self.held -= 1;
        self.free.push(frame);
    }

    fn allocate(&mut self, packet: &[u8]) -> Option<Frame> {
        if packet.len() > CHUNK {
            return None;
        }
        let mut frame = self.free.pop()?;
        frame.length = packet.len();
        self.memory[frame.chunk][..packet.len()].copy_from_slice(packet);
        self.held += 1;
        Some(frame)
    }

    fn flush(&mut self) {}

    fn wait(&mut self, _timeout: Duration) {}

    fn census(&self) -> Census {
        Census {
            free: self.free.len(),
            fill: self.rings.iter().map(|rings| rings.rx.len()).sum(),
            tx: self.rings.iter().map(|rings| rings.tx.len()).sum(),
            held: self.held,
            total: self.memory.len(),
        }
    }
}
