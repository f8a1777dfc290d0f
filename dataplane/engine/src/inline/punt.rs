//! A punted frame: the tag in it says by which port, and which way, it was going.

use crate::wiring::PortId;

/// Bytes at the end of a frame that goes back, by which the kernel knows that it was approved.
pub const APPROVAL: usize = 16;

/// IEEE 802.1Q, section 9.6.
const TAGGED: [u8; 2] = [0x81, 0x00];
/// In the tag: a pod of this node has sent the frame, whose port this is not.
const SENT_HERE: u16 = 1 << 11;
/// In the tag: the port's number, above the direction.
const NUMBER: u16 = 0x3ff;
/// Where the addresses end and the tag begins.
const MACS: usize = 12;
const TAG: usize = 4;

/// Where a punted frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Punt {
    /// The port.
    pub port: PortId,
    /// Whether it was leaving by the port, or had come by it.
    pub departing: bool,
    /// Whether a leaving one was sent by a pod of this node, whatever its source is by now.
    pub sent_here: bool,
    /// The frame's tag, which says all this.
    pub tag: u16,
}

impl Punt {
    /// Takes the tag of a punted frame: from then on [`view`](Self::view) is the frame as the port had it. `None`
    /// for a frame without one, or of a port that nobody knows.
    pub(super) fn take(frame: &mut [u8], port: impl FnOnce(u16) -> Option<PortId>) -> Option<Self> {
        let &[a, b, high, low] = frame.get(MACS..)?.first_chunk()?;
        if [a, b] != TAGGED {
            return None;
        }
        frame.copy_within(..MACS, TAG);
        let tag = u16::from_be_bytes([high, low]);
        let port = port(tag >> 1 & NUMBER)?;
        Some(Self { port, departing: tag & 1 == 1, sent_here: tag & SENT_HERE != 0, tag })
    }

    /// The frame without its tag.
    pub(super) fn view(frame: &[u8]) -> &[u8] {
        frame.get(TAG..).unwrap_or_default()
    }

    /// The frame as it was punted, appended to `back`.
    pub(super) fn rebuild(&self, frame: &[u8], back: &mut Vec<u8>) {
        let (macs, rest) = Self::view(frame).split_at_checked(MACS).unwrap_or_default();
        back.extend_from_slice(macs);
        back.extend_from_slice(&TAGGED);
        back.extend_from_slice(&self.tag.to_be_bytes());
        back.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_back_as_it_came() {
        let punted: Vec<u8> = (0..12).chain([0x81, 0, 0, 7, 8, 0]).chain(40..80).collect();
        let mut frame = punted.clone();
        let punt = Punt::take(&mut frame, |id| (id == 3).then_some(PortId(2))).unwrap();
        assert_eq!(punt, Punt { port: PortId(2), departing: true, sent_here: false, tag: 7 });
        let plain: Vec<u8> = (0..12).chain([8, 0]).chain(40..80).collect();
        assert_eq!(Punt::view(&frame), plain);
        let mut back = Vec::new();
        punt.rebuild(&frame, &mut back);
        assert_eq!(back, punted);
        let mut sent_here = punted;
        sent_here[14] = 8;
        let punt = Punt::take(&mut sent_here, |id| (id == 3).then_some(PortId(2))).unwrap();
        assert_eq!(punt, Punt { port: PortId(2), departing: true, sent_here: true, tag: 0x807 });
    }

    #[test]
    fn frames_without_a_tag_and_of_unknown_ports_are_nobodys() {
        let anybody = |_| Some(PortId(0));
        assert_eq!(Punt::take(&mut [0; 15], anybody), None);
        assert_eq!(Punt::take(&mut [8; 60], anybody), None);
        let mut tagged = [0; 60];
        tagged[12..16].copy_from_slice(&[0x81, 0, 0, 7]);
        assert_eq!(Punt::take(&mut tagged, |_| None), None);
    }
}
