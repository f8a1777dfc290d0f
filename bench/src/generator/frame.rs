//! A numbered frame: a template of its load, in which a few words are other for each.
//!
//! The checksums are not counted anew: sums of the template are known, and the words that change are added (RFC 1071).

use std::net::IpAddr;
use std::time::Duration;

use super::{Kind, Load};

/// `pclg`: what every record begins with.
const MARKER: [u8; 4] = *b"pclg";
/// Marker, run, number, stamp.
const RECORD: usize = 24;
const ETHERNET: usize = 14;
/// The longest headers with a record.
pub(super) const HEAD: usize = ETHERNET + 40 + 20 + RECORD;
/// What a live frame can have: a page, less headroom and what the kernel keeps at its end.
pub(super) const LARGEST: usize = 3498;

const UDP: u8 = 17;
const TCP: u8 = 6;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which load it is of.
    pub run: u32,
    /// Its number, from zero.
    pub number: u64,
    /// When it was sent, on `CLOCK_MONOTONIC`.
    pub sent: Duration,
}

impl Record {
    /// Reads the record of a frame, which need not be complete behind it; `None` of other frames.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let l4 = match frame.get(12..14)? {
            [0x08, 0x00] => ETHERNET + 20,
            [0x86, 0xdd] => ETHERNET + 40,
            _ => return None,
        };
        let protocol = frame.get(if l4 == ETHERNET + 20 { 23 } else { 20 })?;
        let payload = frame.get(l4 + if *protocol == TCP { 20 } else { 8 }..)?;
        let record = payload.first_chunk::<RECORD>()?;
        let [word, run, ..] = words(record);
        let number = u64::from_be_bytes(*record[8..].first_chunk()?);
        let sent = Duration::from_nanos(u64::from_be_bytes(*record[16..].first_chunk()?));
        (word == u32::from_be_bytes(MARKER)).then_some(Self { run, number, sent })
    }
}

fn words(record: &[u8; RECORD]) -> [u32; 2] {
    let word = |at: usize| record[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    [word(0), word(4)]
}

/// The frames of a load.
#[derive(Clone, Debug)]
pub struct Frames {
    load: Load,
    template: Vec<u8>,
    l4: usize,
    ip_sum: u32,
    l4_sum: u32,
}

/// The smallest frame that has room for a record.
pub(super) const fn smallest(is_v4: bool, kind: Kind) -> usize {
    let l3 = if is_v4 { 20 } else { 40 };
    let l4 = match kind {
        Kind::Udp => 8,
        Kind::Syn => 20,
    };
    ETHERNET + l3 + l4 + RECORD
}

impl Frames {
    /// The frames of `load`.
    #[must_use]
    pub fn new(load: &Load) -> Self {
        let is_v4 = load.is_v4();
        let l4 = ETHERNET + if is_v4 { 20 } else { 40 };
        let length = (load.frame - ETHERNET) as u16;
        let l4_length = (load.frame - l4) as u16;
        let protocol = match load.kind {
            Kind::Udp => UDP,
            Kind::Syn => TCP,
        };
        let mut frame = Vec::with_capacity(load.frame);
        frame.extend(load.macs.1.0);
        frame.extend(load.macs.0.0);
        if is_v4 {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(length.to_be_bytes());
            // Not to be fragmented, so that the identification means nothing (RFC 6864), TTL 64; checksum and
            // addresses come with each frame.
            frame.extend([0, 7, 0x40, 0, 64, protocol]);
            frame.extend([0; 10]);
        } else {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(l4_length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(upper(load.sources.first));
            frame.extend([0; 4]);
            frame.extend(upper(load.destinations.first));
            frame.extend([0; 4]);
        }
        frame.extend([0; 4]);
        match load.kind {
            Kind::Udp => {
                frame.extend(l4_length.to_be_bytes());
                frame.extend([0; 2]);
            }
            // Sequence number 1000, five words, SYN, a window of 4096.
            Kind::Syn => frame.extend([0, 0, 3, 232, 0, 0, 0, 0, 0x50, 0x02, 0x10, 0, 0, 0, 0, 0]),
        }
        frame.extend(MARKER);
        frame.extend(load.run.to_be_bytes());
        frame.resize(load.frame, 0);
        let pseudo_header = u32::from(protocol) + u32::from(l4_length);
        let constant_addresses = if is_v4 { 0 } else { sum(&frame[ETHERNET + 8..l4]) };
        let l4_sum = sum(&frame[l4..]) + pseudo_header + constant_addresses;
        let ip_sum = sum(&frame[ETHERNET..ETHERNET + 20]);
        Self { load: load.clone(), template: frame, l4, ip_sum, l4_sum }
    }

    /// Writes frame `number`, sent at `sent`, over what stands in `frame`.
    ///
    /// # Panics
    ///
    /// When `frame` is not as long as the load's frames.
    pub fn write(&self, number: u64, sent: Duration, frame: &mut [u8]) {
        frame.copy_from_slice(&self.template);
        let tuple = self.load.tuple(number);
        let mut changed = [0; 28];
        changed[..4].copy_from_slice(&low(tuple.source.0));
        changed[4..8].copy_from_slice(&low(tuple.destination.0));
        changed[8..10].copy_from_slice(&tuple.source.1.to_be_bytes());
        changed[10..12].copy_from_slice(&tuple.destination.1.to_be_bytes());
        changed[12..20].copy_from_slice(&number.to_be_bytes());
        changed[20..].copy_from_slice(&(sent.as_nanos() as u64).to_be_bytes());
        let (l3, l4) = (ETHERNET, self.l4);
        let (l4_checksum, record) = match self.load.kind {
            Kind::Udp => (l4 + 6, l4 + 8),
            Kind::Syn => (l4 + 16, l4 + 20),
        };
        if self.load.is_v4() {
            frame[l3 + 12..l3 + 20].copy_from_slice(&changed[..8]);
            let checksum = !fold(self.ip_sum + sum(&changed[..8]));
            frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            frame[l3 + 20..l3 + 24].copy_from_slice(&changed[..4]);
            frame[l3 + 36..l3 + 40].copy_from_slice(&changed[4..8]);
        }
        frame[l4..l4 + 4].copy_from_slice(&changed[8..12]);
        frame[record + 8..record + RECORD].copy_from_slice(&changed[12..]);
        let checksum = match !fold(self.l4_sum + sum(&changed)) {
            // RFC 768: a checksum of zero means that there is none.
            0 if self.load.kind == Kind::Udp => 0xffff,
            checksum => checksum,
        };
        frame[l4_checksum..l4_checksum + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The template up to the end of its record, and its sums of IP header and of layer 4.
    pub(super) fn template(&self) -> (&[u8], [u32; 2]) {
        let head = smallest(self.load.is_v4(), self.load.kind);
        (&self.template[..head], [self.ip_sum, self.l4_sum])
    }
}

/// The last 32 bits of an address, which count up.
pub(super) fn low(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (u128::from(address) as u32).to_be_bytes(),
    }
}

/// The first 96 bits of an IPv6 address, which do not.
fn upper(address: IpAddr) -> [u8; 12] {
    let IpAddr::V6(address) = address else { return [0; 12] };
    std::array::from_fn(|at| address.octets()[at])
}

/// Adds up 16-bit words, the last one filled with zero.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use lab::Family;
    use testkit::frames::frame;

    use super::super::Tuple;
    use super::super::load::tests::load;
    use super::*;

    #[test]
    fn frames_are_those_that_a_builder_of_packets_makes() {
        for family in Family::ALL {
            for kind in [Kind::Udp, Kind::Syn] {
                let load = load(family, kind);
                let frames = Frames::new(&load);
                let mut bytes = vec![0xaa; 128];
                for number in [0, 1, 2999, 1 << 40] {
                    let sent = Duration::from_nanos(0x0123_4567_89ab_cdef);
                    frames.write(number, sent, &mut bytes);
                    assert_eq!(Record::of(&bytes), Some(Record { run: 7, number, sent }));
                    assert_eq!(Record::of(&bytes[..smallest(load.is_v4(), kind)]), Record::of(&bytes));

                    let Tuple { source, destination } = load.tuple(number);
                    let built = frame()
                        .from(load.macs.0)
                        .to(load.macs.1)
                        .ip(&source.0.to_string(), &destination.0.to_string());
                    let built = match kind {
                        Kind::Udp => built.udp(source.1, destination.1),
                        Kind::Syn => built.tcp(source.1, destination.1).syn(),
                    };
                    let l4 = if kind == Kind::Udp { 8 } else { 20 };
                    let payload = bytes[frames.l4 + l4..].to_vec();
                    let built = built.payload(&payload).build();
                    assert_eq!(bytes, built, "{family} {kind:?} {number}");
                }
            }
        }
    }

    #[test]
    fn other_frames_have_no_record() {
        let other = frame().ip("10.0.0.1", "10.0.0.2").udp(1, 2).payload(&[0; 40]).build();
        assert_eq!(Record::of(&other), None);
        let mut ours = vec![0; 66];
        let mut load = load(Family::V4, Kind::Udp);
        load.frame = 66;
        Frames::new(&load).write(3, Duration::ZERO, &mut ours);
        assert!(Record::of(&ours).is_some());
        for length in 0..66 {
            assert_eq!(Record::of(&ours[..length]), None, "{length} bytes");
        }
    }
}
