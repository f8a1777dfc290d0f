//! Datagrams in pieces.

use std::ops::Range;

use super::{FRAGMENT, FrameBuilder};
use etherparse::checksum::Sum16BitWords;

impl FrameBuilder {
    /// The datagram in fragments of at most `size` bytes each, their IP headers not counted. Options are in all
    /// of them, extension headers in the first one.
    ///
    /// # Panics
    ///
    /// When the sentence contradicts itself, or `size` is no multiple of eight.
    #[must_use]
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Vec<u8>> {
        assert!(size > 0 && size.is_multiple_of(8), "{size} bytes");
        let whole = self.build().len() - self.padding - self.before_data();
        (0..whole)
            .step_by(size)
            .map(|at| self.piece(id, at..whole.min(at + size), at + size < whole))
            .collect()
    }

    /// One fragment: these bytes of the datagram, where byte 0 is the first behind the IP header, with `more` to
    /// come or not. What lies beyond the end of the datagram is zero.
    ///
    /// # Panics
    ///
    /// When the sentence contradicts itself, or the range does not begin at a multiple of eight.
    #[must_use]
    pub fn piece(&self, id: u32, range: Range<usize>, more: bool) -> Vec<u8> {
        assert!(range.start.is_multiple_of(8), "{range:?}");
        let mut whole = self.build();
        let data_at = self.before_data();
        whole.truncate(whole.len() - self.padding);
        let mut data = whole.split_off(data_at);
        data.resize(data.len().max(range.end), 0);
        let mut piece = whole;
        let data = &data[range.clone()];
        let units = (range.start / 8) as u16;
        if self.is_v4() {
            piece[16..18].copy_from_slice(&((data_at - 14 + data.len()) as u16).to_be_bytes());
            piece[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&(u16::from(more) << 13 | units).to_be_bytes());
            piece[24..26].copy_from_slice(&[0, 0]);
            let sum = Sum16BitWords::new().add_slice(&piece[14..data_at]).ones_complement();
            piece[24..26].copy_from_slice(&sum.to_ne_bytes());
        } else {
            piece[18..20].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
            let next = std::mem::replace(&mut piece[20], FRAGMENT);
            piece.extend([next, 0]);
            piece.extend((units << 3 | u16::from(more)).to_be_bytes());
            piece.extend(id.to_be_bytes());
        }
        piece.extend(data);
        piece.resize(piece.len() + self.padding, 0);
        piece
    }

    /// Where the part of the datagram begins that is split.
    const fn before_data(&self) -> usize {
        14 + 4 * self.tags.len() + if self.is_v4() { 20 + self.options.len() } else { 40 }
    }
}

#[cfg(test)]
mod tests {
    use crate::frames::frame;
    use etherparse::{IpSlice, Ipv6ExtensionSlice};

    #[test]
    fn pieces_are_the_whole_when_put_together() {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let sentence = frame().ip(src, dst).udp(1, 2).payload(&[7; 1000]);
            let pieces = sentence.fragments(9, 400);
            assert_eq!(pieces.len(), 3);
            let mut data: Vec<u8> = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let ip = IpSlice::from_slice(&piece[14..]).unwrap();
                let (id, offset, more) = match &ip {
                    IpSlice::Ipv4(ip) => {
                        let header = ip.header();
                        let offset = header.fragments_offset().byte_offset();
                        (u32::from(header.identification()), offset, header.more_fragments())
                    }
                    IpSlice::Ipv6(ip) => match ip.extensions().clone().into_iter().next() {
                        Some(Ipv6ExtensionSlice::Fragment(header)) => {
                            let offset = header.fragment_offset().byte_offset();
                            (header.identification(), offset, header.more_fragments())
                        }
                        other => panic!("{other:?}"),
                    },
                };
                assert_eq!((id, usize::from(offset), more), (9, data.len(), index < 2));
                data.extend(ip.payload().payload);
            }
            let whole = sentence.build();
            assert_eq!(data, whole[whole.len() - 1008..]);
        }
    }
}
