//! Packet memory: the chunks, who has each of them, and the free list.

#![allow(unsafe_code, reason = "frames are slices of memory that the kernel writes to, too")]

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::slice;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use crate::{Frame, Plan, XskError};

/// Who has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The free list.
    Free,
    /// The worker, as a [`Frame`].
    Held,
    /// The fill or receive ring of the queue with this number.
    Fill(u16),
    /// The transmit or completion ring of the queue with this number.
    Tx(u16),
}

/// The memory of one [`XskIo`](crate::XskIo).
pub(crate) struct Memory {
    umem: Umem,
    number: u32,
    chunk: usize,
    /// Last in, first out: the chunk used last is the one still in the cache.
    free: Vec<FrameDesc>,
    places: Vec<Place>,
    /// The descriptors of all chunks, empty, as xsk-rs made them: it makes them only once.
    blank: Box<[FrameDesc]>,
}

impl Memory {
    /// `number` tells this memory's frames from those of any other that one `XskIo` has had.
    pub(crate) fn new(frames: u32, plan: &Plan, number: u32) -> Result<Self, XskError> {
        let bytes = u64::from(frames) * u64::from(plan.chunk);
        let failed = |source| XskError::umem(bytes, source);
        let odd = |error: &dyn Error| failed(io::Error::other(error.to_string()));
        let ring = QueueSize::new(plan.ring).map_err(|e| odd(&e))?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(plan.chunk).map_err(|e| odd(&e))?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|e| odd(&e))?;
        let count = NonZeroU32::new(frames).ok_or_else(|| failed(io::Error::other("no frames")))?;
        let (umem, free) = Umem::new(config, count, false).map_err(|e| failed(cause(&e)))?;
        let places = vec![Place::Free; free.len()];
        let blank = free.clone().into_boxed_slice();
        Ok(Self { umem, number, chunk: plan.chunk as usize, free, places, blank })
    }

    pub(crate) const fn umem(&self) -> &Umem {
        &self.umem
    }

    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    pub(crate) const fn total(&self) -> usize {
        self.places.len()
    }

    pub(crate) const fn free(&self) -> usize {
        self.free.len()
    }

    /// Counted one by one, so that a census that adds up means something.
    pub(crate) fn held(&self) -> usize {
        self.places.iter().filter(|place| **place == Place::Held).count()
    }

    /// Whether this is one of ours: not a frame of memory that was replaced since it was taken.
    pub(crate) const fn owns(&self, frame: &Frame) -> bool {
        frame.umem() == self.number
    }

    fn place(&mut self, desc: &FrameDesc, from: Place, to: Place) {
        let place = &mut self.places[desc.addr() / self.chunk];
        debug_assert_eq!(*place, from, "the chunk at {} goes to {to:?}", desc.addr());
        *place = to;
    }

    /// A free chunk for the fill ring of `queue`.
    pub(crate) fn take_for_fill(&mut self, queue: u16) -> Option<FrameDesc> {
        let desc = self.free.pop()?;
        self.place(&desc, Place::Free, Place::Fill(queue));
        Some(desc)
    }

    /// The fill ring of `queue` did not take this one.
    pub(crate) fn untake(&mut self, desc: FrameDesc, queue: u16) {
        self.place(&desc, Place::Fill(queue), Place::Free);
        self.free.push(desc);
    }

    /// A chunk that came off the receive ring of `queue`.
    pub(crate) fn received(&mut self, desc: FrameDesc, queue: u16) -> Frame {
        self.place(&desc, Place::Fill(queue), Place::Held);
        Frame::new(desc, self.number)
    }

    /// A chunk for the transmit ring of `queue`; its length is that of the packet.
    pub(crate) fn sent(&mut self, frame: Frame, queue: u16) -> FrameDesc {
        let desc = frame.into_desc();
        self.place(&desc, Place::Held, Place::Tx(queue));
        desc
    }

    /// A chunk that came off the completion ring of `queue`.
    pub(crate) fn completed(&mut self, desc: FrameDesc, queue: u16) {
        self.place(&desc, Place::Tx(queue), Place::Free);
        self.free.push(desc);
    }

    /// A frame that goes nowhere. One of memory that was replaced is forgotten with it.
    pub(crate) fn recycle(&mut self, frame: Frame) {
        let ours = self.owns(&frame);
        let desc = frame.into_desc();
        if ours {
            self.place(&desc, Place::Held, Place::Free);
            self.free.push(desc);
        }
    }

    /// All chunks that a closed queue had. Its socket must be closed: the kernel copies frames in and out,
    /// and does neither for a socket that is gone.
    pub(crate) fn reclaim(&mut self, queue: u16) {
        for index in 0..self.places.len() {
            if matches!(self.places[index], Place::Fill(q) | Place::Tx(q) if q == queue) {
                self.places[index] = Place::Free;
                self.free.push(self.blank[index]);
            }
        }
    }

    /// A free frame that holds a copy of `packet`; `None` when none is free or the packet is too large.
    pub(crate) fn allocate(&mut self, packet: &[u8]) -> Option<Frame> {
        let mut desc = *self.free.last()?;
        if packet.len() > self.room(&desc) {
            return None;
        }
        // SAFETY: the rule at the top of the crate: the chunk is on the free list, so no ring and no other
        // frame has it, and `desc` describes a chunk of this UMEM.
        let mut data = unsafe { self.umem.data_mut(&mut desc) };
        let mut cursor = data.cursor();
        cursor.set_pos(0);
        cursor.write_all(packet).ok()?;
        self.free.pop();
        self.place(&desc, Place::Free, Place::Held);
        Some(Frame::new(desc, self.number))
    }

    /// The packet in a frame; no bytes when it is not one of ours or its length runs over its chunk.
    #[inline]
    pub(crate) fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        if !self.has(frame) {
            return &[];
        }
        // SAFETY: the rule at the top of the crate: the frame owns its chunk, and both it and this memory
        // are borrowed for as long as the slice lives. `has` has checked UMEM, address and length.
        unsafe { self.umem.data(frame.desc()) }.contents()
    }

    /// The same, to be rewritten in place.
    #[inline]
    pub(crate) fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        if !self.has(frame) {
            return &mut [];
        }
        // SAFETY: as for `bytes`, and both borrows are exclusive.
        let mut data = unsafe { self.umem.data_mut(frame.desc_mut()) };
        let bytes = data.contents_mut();
        let (start, length) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the same bytes, for the lifetime of the two exclusive borrows instead of that of `data`,
        // which is gone after this line.
        unsafe { slice::from_raw_parts_mut(start, length) }
    }

    /// Cuts the packet in a frame to its first `length` bytes.
    pub(crate) fn truncate(&mut self, frame: &mut Frame, length: usize) {
        if !self.has(frame) {
            return;
        }
        // SAFETY: as for `bytes_mut`.
        let mut data = unsafe { self.umem.data_mut(frame.desc_mut()) };
        let mut cursor = data.cursor();
        let length = length.min(cursor.pos());
        cursor.set_pos(length);
    }

    fn has(&self, frame: &Frame) -> bool {
        let desc = frame.desc();
        self.owns(frame)
            && desc.addr() < self.places.len() * self.chunk
            && desc.lengths().data() <= self.room(desc)
    }

    /// Bytes from where a packet starts to the end of its chunk.
    fn room(&self, desc: &FrameDesc) -> usize {
        self.chunk - desc.addr() % self.chunk
    }
}

/// The kernel's answer inside an error of xsk-rs.
pub(crate) fn cause(error: &(dyn Error + 'static)) -> io::Error {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match source.and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    }
}
