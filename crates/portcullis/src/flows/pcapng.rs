//! Flows as a capture: each frame's first bytes, with verdict, reason and policies as the packet's comment
//! (draft-ietf-opsawg-pcapng, sections 3.5 and 4.3).

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};

use super::record::{Flow, Occasion};

/// The interface of frames of which only another worker knows where they came in.
const UNKNOWN: &str = "unknown";
/// The packet came in (section 4.3.1, `epb_flags`).
const INBOUND: u32 = 1;

/// A capture that is being written.
pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    /// By their numbers in the file.
    interfaces: Vec<String>,
}

impl<W: Write> Capture<W> {
    /// Begins a capture.
    ///
    /// # Errors
    ///
    /// What writing meets.
    pub fn begin(out: W) -> io::Result<Self> {
        Ok(Self { writer: PcapNgWriter::new(out).map_err(io::Error::other)?, interfaces: Vec::new() })
    }

    /// Adds a flow's frame, if there is one. An interface is described before its first frame.
    ///
    /// # Errors
    ///
    /// What writing meets.
    pub fn add(&mut self, flow: &Flow) -> io::Result<()> {
        let Some(data) = flow.packet.as_deref().and_then(bytes) else { return Ok(()) };
        let name = flow.in_interface.as_deref().unwrap_or(UNKNOWN);
        let known = self.interfaces.iter().position(|interface| interface == name);
        let interface = known.map_or_else(|| self.describe(name), Ok)?;
        let since_1970 = Duration::from_millis(u64::try_from(flow.time.as_millisecond()).unwrap_or(0));
        let comment = CommonOption::Comment(Cow::Owned(comment(flow)));
        let packet = EnhancedPacketBlock {
            interface_id: u32::try_from(interface).map_err(io::Error::other)?,
            timestamp: since_1970,
            original_len: flow.length.max(u32::try_from(data.len()).map_err(io::Error::other)?),
            data: Cow::Owned(data),
            options: vec![EnhancedPacketOption::Flags(INBOUND), EnhancedPacketOption::Common(comment)],
        };
        self.write(packet)
    }

    fn describe(&mut self, name: &str) -> io::Result<usize> {
        let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, engine::records::HEAD as u32);
        block.options.push(InterfaceDescriptionOption::IfName(Cow::Owned(name.to_owned())));
        self.write(block)?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() - 1)
    }

    fn write<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<()> {
        self.writer.write_block(&block.into_block()).map(|_| ()).map_err(io::Error::other)
    }

    /// Where it is written to.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut()
    }
}

/// What a person reads beside the packet.
fn comment(flow: &Flow) -> String {
    let mut text = flow.verdict.word().to_owned();
    if let Some(reason) = &flow.reason {
        text += ": ";
        text += reason;
    }
    if flow.occasion == Occasion::JudgedAgain {
        text += ", judged again";
    }
    text += &format!("; {} -> {} {}", flow.from, flow.to, flow.service());
    let deciders = flow.deciders();
    if !deciders.is_empty() {
        text += "; ";
        text += &deciders;
    }
    text += &format!("; table generation {}", flow.generation);
    text
}

/// What hexadecimal digits say; `None` for anything else.
fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hexadecimal.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    let pairs = digits?;
    let (pairs, rest) = pairs.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use pcap_parser::traits::PcapNGPacketBlock;
    use pcap_parser::{Block, OptionCode, parse_pcapng};

    use super::*;
    use crate::flows::record::tests::flow;

    #[test]
    fn another_reader_finds_interfaces_packets_and_comments() {
        let mut capture = Capture::begin(Vec::new()).unwrap();
        let other = Flow { in_interface: None, packet: Some("0102".to_owned()), ..flow() };
        for flow in [Flow { packet: Some("ab".repeat(7)), ..flow() }, other, flow()] {
            capture.add(&flow).unwrap();
        }
        let (_, read) = parse_pcapng(capture.get_mut()).unwrap();
        let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
        for block in read.sections.iter().flat_map(|section| &section.blocks) {
            match block {
                Block::InterfaceDescription(block) => interfaces.push(block.if_name().unwrap().unwrap()),
                Block::EnhancedPacket(block) => {
                    let comment = block.options.iter().find(|option| option.code == OptionCode::Comment);
                    let comment = comment.unwrap().as_str().unwrap();
                    packets.push((block.if_id, block.origlen, block.packet_data().to_vec(), comment));
                }
                _ => {}
            }
        }
        assert_eq!(interfaces, ["veth0", UNKNOWN]);
        let comment =
            "deny: default_deny; x/a -> y/b TCP/80; ingress isolated by y/p (p.yaml:4); table generation 3";
        assert_eq!(packets, [(0, 74, vec![0xab; 7], comment), (1, 74, vec![1, 2], comment)]);
    }

    #[test]
    fn hexadecimal_or_nothing() {
        assert_eq!(bytes("00fFa5"), Some(vec![0, 0xff, 0xa5]));
        assert_eq!((bytes(""), bytes("0"), bytes("0g"), bytes("+1")), (Some(vec![]), None, None, None));
    }
}
