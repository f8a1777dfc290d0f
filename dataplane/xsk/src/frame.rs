//! One frame of packet memory, in the hands of the worker.

use xsk_rs::FrameDesc;

/// One frame of packet memory.
///
/// It owns its chunk: it can be neither copied nor cloned, and every ring takes it by value. It is not to be
/// dropped but transmitted or recycled; a dropped one stays counted as `held` for ever, and panics in
/// builds with debug assertions.
#[derive(Debug)]
#[must_use = "a frame that is neither transmitted nor recycled is lost"]
pub struct Frame {
    desc: FrameDesc,
    /// The number of the UMEM that it belongs to.
    umem: u32,
}

impl Frame {
    pub(crate) const fn new(desc: FrameDesc, umem: u32) -> Self {
        Self { desc, umem }
    }

    /// The number of the UMEM that it belongs to.
    pub(crate) const fn umem(&self) -> u32 {
        self.umem
    }

    pub(crate) const fn desc(&self) -> &FrameDesc {
        &self.desc
    }

    pub(crate) const fn desc_mut(&mut self) -> &mut FrameDesc {
        &mut self.desc
    }

    /// Gives the chunk up.
    pub(crate) const fn into_desc(self) -> FrameDesc {
        let desc = self.desc;
        std::mem::forget(self);
        desc
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking(), "a frame was dropped, neither transmitted nor recycled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "neither transmitted nor recycled")]
    fn a_dropped_frame_is_noticed() {
        drop(Frame::new(FrameDesc::default(), 0));
    }

    #[test]
    fn a_frame_given_up_is_not() {
        assert_eq!(Frame::new(FrameDesc::default(), 0).into_desc().addr(), 0);
    }
}
