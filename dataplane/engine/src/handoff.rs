//! Frames that cross from one worker to another: a port has one owner, and so has packet memory, so the
//! bytes are copied into a parcel and the owner of the destination's port takes them over.

use crossbeam::queue::ArrayQueue;

use crate::wiring::PortId;

/// The most bytes that a parcel holds: the largest frame that fits a 4 KiB chunk of packet memory.
const PARCEL: usize = 4096;

#[derive(Debug)]
struct Parcel {
    port: PortId,
    length: usize,
    bytes: [u8; PARCEL],
}

/// The queue into one worker. All its memory is taken when it is made.
#[derive(Debug)]
pub struct Inbox {
    full: ArrayQueue<Box<Parcel>>,
    empty: ArrayQueue<Box<Parcel>>,
}

impl Inbox {
    /// An inbox for at most `capacity` frames.
    ///
    /// # Panics
    ///
    /// When `capacity` is zero.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let inbox = Self { full: ArrayQueue::new(capacity), empty: ArrayQueue::new(capacity) };
        for _ in 0..capacity {
            let parcel = Parcel { port: PortId(0), length: 0, bytes: [0; PARCEL] };
            let kept = inbox.empty.push(Box::new(parcel));
            debug_assert!(kept.is_ok(), "a queue holds its capacity");
        }
        inbox
    }

    /// Hands over a copy of `frame`, to leave through `port`. False when the inbox is full or the frame too
    /// long.
    pub(crate) fn post(&self, port: PortId, frame: &[u8]) -> bool {
        if frame.len() > PARCEL {
            return false;
        }
        let Some(mut parcel) = self.empty.pop() else { return false };
        parcel.port = port;
        parcel.length = frame.len();
        parcel.bytes[..frame.len()].copy_from_slice(frame);
        self.full.push(parcel).is_ok()
    }

    /// Opens the oldest parcel, if there is one.
    pub(crate) fn open<R>(&self, take: impl FnOnce(PortId, &[u8]) -> R) -> Option<R> {
        let parcel = self.full.pop()?;
        let result = take(parcel.port, &parcel.bytes[..parcel.length]);
        // There is room: no more parcels exist than the queue holds.
        let kept = self.empty.push(parcel);
        debug_assert!(kept.is_ok(), "parcels neither appear nor vanish");
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_keep_their_order_and_come_back() {
        let inbox = Inbox::new(2);
        for round in 0..5u8 {
            assert!(inbox.post(PortId(1), &[round, 1]));
            assert!(inbox.post(PortId(2), &[round, 2]));
            assert!(!inbox.post(PortId(3), &[round, 3]), "a full inbox refuses");
            assert_eq!(inbox.open(|port, bytes| (port, bytes.to_vec())), Some((PortId(1), vec![round, 1])));
            assert_eq!(inbox.open(|port, bytes| (port, bytes.to_vec())), Some((PortId(2), vec![round, 2])));
            assert_eq!(inbox.open(|_, _| ()), None);
        }
        assert!(!inbox.post(PortId(0), &[0; PARCEL + 1]), "a frame longer than a parcel is refused");
    }
}
