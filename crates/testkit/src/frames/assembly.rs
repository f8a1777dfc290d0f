//! From a sentence to bytes: headers by etherparse, lengths and checksums as they must be.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, UdpHeader, ip_number};

use super::{AUTHENTICATION, Checksum, FRAGMENT, FrameBuilder, Transport};

impl FrameBuilder {
    /// The bytes of the frame, from its Ethernet header on.
    ///
    /// # Panics
    ///
    /// When the sentence contradicts itself, or says nothing of addresses.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let l4 = self.layer4();
        let (ethertype, l3) = match self.endpoints() {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (offset, more) = self.fragment.unwrap_or((0, false));
                let mut header = Ipv4Header {
                    total_len: (20 + self.options.len() + l4.len()) as u16,
                    identification: 7,
                    dont_fragment: self.fragment.is_none(),
                    more_fragments: more,
                    fragment_offset: IpFragOffset::try_new(offset).expect("13 bits"),
                    time_to_live: self.ttl,
                    protocol: IpNumber(self.protocol_number()),
                    source: src.octets(),
                    destination: dst.octets(),
                    options: Ipv4Options::try_from(&*self.options).expect("options in multiples of four"),
                    ..Ipv4Header::default()
                };
                header.header_checksum = header.calc_header_checksum();
                (0x0800, header.to_bytes().to_vec())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let chain = self.extension_chain();
                let upper = self.protocol_number();
                let first = self.extensions.first().map_or(upper, |(number, _)| *number);
                let header = Ipv6Header {
                    payload_length: (chain.len() + l4.len()) as u16,
                    next_header: IpNumber(first),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                (0x86dd, [header.to_bytes().to_vec(), chain].concat())
            }
            _ => unreachable!("ip() refuses two families"),
        };
        let mut bytes = self.ethernet(ethertype);
        bytes.extend(l3);
        bytes.extend(l4);
        bytes.resize(bytes.len() + self.padding, 0);
        bytes
    }

    pub(super) fn ethernet(&self, ethertype: u16) -> Vec<u8> {
        let mut bytes = [self.to.0, self.from.0].concat();
        for (tag, id) in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        bytes.extend(ethertype.to_be_bytes());
        bytes
    }

    fn extension_chain(&self) -> Vec<u8> {
        let upper = self.protocol_number();
        let mut chain = Vec::new();
        for (index, (number, body)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(index + 1).map_or(upper, |(number, _)| *number);
            let length = (2 + body.len()).next_multiple_of(8);
            // In units of eight bytes beyond the first eight; the authentication header counts four and two
            // of them less (RFC 4302), the fragment header says nothing.
            let announced = match *number {
                AUTHENTICATION => length / 4 - 2,
                FRAGMENT => 0,
                _ => length / 8 - 1,
            };
            let start = chain.len();
            chain.extend([next, announced as u8]);
            chain.extend(body);
            chain.resize(start + length, 0);
        }
        chain
    }

    const fn protocol_number(&self) -> u8 {
        match self.transport {
            Transport::Tcp(_) => ip_number::TCP.0,
            Transport::Udp { .. } => ip_number::UDP.0,
            Transport::Sctp { .. } => ip_number::SCTP.0,
            Transport::Icmp { .. } => match self.addresses {
                Some((IpAddr::V6(_), _)) => ip_number::IPV6_ICMP.0,
                _ => ip_number::ICMP.0,
            },
            Transport::Raw(number) => number,
        }
    }

    /// The layer-4 header and payload, with the checksum that was asked for.
    fn layer4(&self) -> Vec<u8> {
        let (header, field) = match &self.transport {
            Transport::Tcp(tcp) => (tcp.to_bytes().to_vec(), 16),
            Transport::Udp { src, dst } => {
                let length = (8 + self.payload.len()) as u16;
                let header = UdpHeader { source_port: *src, destination_port: *dst, length, checksum: 0 };
                (header.to_bytes().to_vec(), 6)
            }
            Transport::Icmp { kind, code, rest } => ([&[*kind, *code, 0, 0][..], rest].concat(), 2),
            Transport::Sctp { src, dst } => {
                let verification_tag = [0; 4];
                let mut bytes = [src.to_be_bytes(), dst.to_be_bytes()].concat();
                bytes.extend(verification_tag);
                bytes.resize(12, 0);
                bytes.extend(&self.payload);
                let checksum = crc32c(&bytes).to_le_bytes();
                bytes[8..12].copy_from_slice(&checksum);
                return bytes;
            }
            Transport::Raw(_) => return self.payload.clone(),
        };
        let mut bytes = [header, self.payload.clone()].concat();
        let pseudo = self.pseudo_header(bytes.len());
        // etherparse sums in the byte order of this machine.
        let value = match self.checksum {
            Checksum::None => 0,
            Checksum::Partial => !pseudo.ones_complement(),
            Checksum::Complete => {
                let sum = pseudo.add_slice(&bytes);
                match self.transport {
                    Transport::Udp { .. } => sum.to_ones_complement_with_no_zero(),
                    _ => sum.ones_complement(),
                }
            }
        };
        bytes[field..field + 2].copy_from_slice(&value.to_ne_bytes());
        bytes
    }

    /// Nothing for ICMP over IPv4, which sums only itself.
    fn pseudo_header(&self, l4_len: usize) -> Sum16BitWords {
        let protocol = self.protocol_number();
        let sum = Sum16BitWords::new();
        let sum = match self.endpoints() {
            (IpAddr::V4(_), _) if protocol == ip_number::ICMP.0 => return sum,
            (IpAddr::V4(src), IpAddr::V4(dst)) => sum.add_slice(&src.octets()).add_slice(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => sum.add_slice(&src.octets()).add_slice(&dst.octets()),
            _ => unreachable!("ip() refuses two families"),
        };
        sum.add_slice(&(l4_len as u32).to_be_bytes()).add_2bytes([0, protocol])
    }
}

/// The checksum of SCTP (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::frame;
    use etherparse::{SlicedPacket, TransportSlice};

    #[test]
    fn etherparse_reads_what_was_said() {
        let bytes = frame().ip("fd00::1", "fd00::2").ttl(9).udp(53, 4242).payload(b"answer").build();
        let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("{packet:?}") };
        assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (53, 4242, &b"answer"[..]));
        let header = Ipv6Header::from_slice(&bytes[14..]).unwrap().0;
        assert_eq!(header.hop_limit, 9);
        let expected = udp.to_header().calc_checksum_ipv6(&header, b"answer").unwrap();
        assert_eq!(udp.checksum(), expected);
    }

    #[test]
    fn a_partial_checksum_is_the_pseudo_header_alone() {
        let sentence = frame().ip("10.0.0.1", "10.0.0.2").udp(1, 2);
        let partial = sentence.clone().partial_checksum().build();
        // 0a00 + 0001 + 0a00 + 0002 + 0011 + 0008
        assert_eq!(partial[40..42], [0x14, 0x1c]);
        assert_ne!(sentence.build()[40..42], partial[40..42]);
        assert_eq!(sentence.no_checksum().build()[40..42], [0, 0]);
    }

    #[test]
    fn crc32c_of_the_usual_check_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
