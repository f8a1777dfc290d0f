//! Readable packets: a frame is written as one sentence, and built with etherparse.
//!
//! ```
//! use testkit::frames::frame;
//!
//! let syn = frame().ip("10.0.0.1", "10.0.0.2").tcp(4242, 80).syn().build();
//! assert_eq!(syn.len(), 14 + 20 + 20);
//! ```
//!
//! Everything is correct unless the sentence says otherwise: lengths, checksums, a TTL of 64. Malformed
//! frames are built by changing bytes of a correct one.

mod assembly;
mod fragments;
mod neighbour;

use std::net::IpAddr;

use etherparse::{TcpHeader, ip_number};
use flow::MacAddr;

pub use neighbour::{
    arp_reply, arp_request, neighbour_advertisement, neighbour_discovery, neighbour_solicitation,
};

/// The MAC address that frames come from unless they say otherwise.
pub const POD_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
/// The MAC address that frames go to unless they say otherwise.
pub const PORT_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xfe]);

/// Type of an IPv6 extension header.
pub const HOP_BY_HOP: u8 = 0;
/// Type of an IPv6 extension header.
pub const ROUTING: u8 = 43;
/// Type of an IPv6 extension header.
pub const FRAGMENT: u8 = 44;
/// Type of an IPv6 extension header, whose length counts differently.
pub const AUTHENTICATION: u8 = 51;
/// Type of an IPv6 extension header.
pub const DESTINATION_OPTIONS: u8 = 60;

/// A frame in the making; [`frame`] begins one, [`build`](Self::build) ends it.
#[derive(Clone, Debug)]
pub struct FrameBuilder {
    from: MacAddr,
    to: MacAddr,
    tags: Vec<(u16, u16)>,
    addresses: Option<(IpAddr, IpAddr)>,
    ttl: u8,
    options: Vec<u8>,
    fragment: Option<(u16, bool)>,
    extensions: Vec<(u8, Vec<u8>)>,
    transport: Transport,
    checksum: Checksum,
    payload: Vec<u8>,
    padding: usize,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp(TcpHeader),
    Udp { src: u16, dst: u16 },
    Sctp { src: u16, dst: u16 },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    Raw(u8),
}

#[derive(Clone, Copy, Debug)]
enum Checksum {
    Complete,
    Partial,
    None,
}

/// Begins a frame: from [`POD_MAC`] to [`PORT_MAC`], TTL 64, nothing in it yet.
#[must_use]
pub const fn frame() -> FrameBuilder {
    FrameBuilder {
        from: POD_MAC,
        to: PORT_MAC,
        tags: Vec::new(),
        addresses: None,
        ttl: 64,
        options: Vec::new(),
        fragment: None,
        extensions: Vec::new(),
        transport: Transport::Raw(ip_number::EXPERIMENTAL_AND_TESTING_0.0),
        checksum: Checksum::Complete,
        payload: Vec::new(),
        padding: 0,
    }
}

impl FrameBuilder {
    /// Who sends it on the link.
    #[must_use]
    pub fn from(self, mac: MacAddr) -> Self {
        Self { from: mac, ..self }
    }

    /// Whom it is for on the link.
    #[must_use]
    pub fn to(self, mac: MacAddr) -> Self {
        Self { to: mac, ..self }
    }

    /// Puts an 802.1Q tag around it; more tags go further inside.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(0x8100, id)
    }

    /// Puts a tag of this ethertype around it; more tags go further inside.
    #[must_use]
    pub fn tag(mut self, ethertype: u16, id: u16) -> Self {
        self.tags.push((ethertype, id));
        self
    }

    /// An IP packet from `src` to `dst`, of the family that both have.
    ///
    /// # Panics
    ///
    /// When these are not two addresses of one family.
    #[must_use]
    pub fn ip(self, src: &str, dst: &str) -> Self {
        let (src, dst) = (ip(src), ip(dst));
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "{src} and {dst} are of two families");
        Self { addresses: Some((src, dst)), ..self }
    }

    /// The TTL or hop limit.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// IPv4 options, a multiple of four bytes.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// An IPv4 fragment at this offset, in units of eight bytes, with `more` to come or not. For IPv6 add
    /// an [`extension`](Self::extension).
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        Self { fragment: Some((offset, more)), ..self }
    }

    /// One more IPv6 extension header: its type and what follows its first two bytes, next header and
    /// length, filled with zeros to a multiple of eight bytes.
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// TCP between these ports, without flags.
    #[must_use]
    pub fn tcp(self, src: u16, dst: u16) -> Self {
        Self { transport: Transport::Tcp(TcpHeader::new(src, dst, 1000, 4096)), ..self }
    }

    /// TCP with SYN: the opening.
    #[must_use]
    pub fn syn(self) -> Self {
        self.flag(|tcp| tcp.syn = true)
    }

    /// TCP with ACK. `syn().ack()` answers an opening.
    #[must_use]
    pub fn ack(self) -> Self {
        self.flag(|tcp| {
            tcp.ack = true;
            tcp.acknowledgment_number = 2000;
        })
    }

    /// TCP with FIN.
    #[must_use]
    pub fn fin(self) -> Self {
        self.flag(|tcp| tcp.fin = true)
    }

    /// TCP with RST.
    #[must_use]
    pub fn rst(self) -> Self {
        self.flag(|tcp| tcp.rst = true)
    }

    fn flag(mut self, set: impl FnOnce(&mut TcpHeader)) -> Self {
        match &mut self.transport {
            Transport::Tcp(tcp) => set(tcp),
            other => panic!("TCP flags on {other:?}"),
        }
        self
    }

    /// UDP between these ports.
    #[must_use]
    pub fn udp(self, src: u16, dst: u16) -> Self {
        Self { transport: Transport::Udp { src, dst }, ..self }
    }

    /// SCTP between these ports, without a chunk: [`chunk`](Self::chunk) adds one.
    #[must_use]
    pub fn sctp(self, src: u16, dst: u16) -> Self {
        Self { transport: Transport::Sctp { src, dst }, ..self }
    }

    /// One more SCTP chunk of this type (1 is INIT), without parameters.
    #[must_use]
    pub fn chunk(mut self, kind: u8) -> Self {
        self.payload.extend([kind, 0, 0, 4]);
        self
    }

    /// An echo request with this identifier, of the family of the addresses.
    #[must_use]
    pub fn ping(self, identifier: u16) -> Self {
        let kind = if self.is_v4() { 8 } else { 128 };
        self.echo(kind, identifier)
    }

    /// An echo reply with this identifier, of the family of the addresses.
    #[must_use]
    pub fn pong(self, identifier: u16) -> Self {
        let kind = if self.is_v4() { 0 } else { 129 };
        self.echo(kind, identifier)
    }

    fn echo(self, kind: u8, identifier: u16) -> Self {
        let [high, low] = identifier.to_be_bytes();
        self.icmp(kind, 0, [high, low, 0, 1])
    }

    /// An ICMP message, of the family of the addresses; `rest` is the second half of its header.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        Self { transport: Transport::Icmp { kind, code, rest }, ..self }
    }

    /// An ICMP message about the packet in the frame `about`, which it quotes without the Ethernet header.
    #[must_use]
    pub fn icmp_error(self, kind: u8, code: u8, about: &[u8]) -> Self {
        self.icmp(kind, code, [0; 4]).payload(&about[14..])
    }

    /// Any other protocol, whose header is the payload.
    #[must_use]
    pub fn protocol(self, number: u8) -> Self {
        Self { transport: Transport::Raw(number), ..self }
    }

    /// What follows the layer-4 header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload.extend(payload);
        self
    }

    /// Leaves the TCP or UDP checksum as a socket behind a veth does: the sum of the pseudo-header only.
    #[must_use]
    pub fn partial_checksum(self) -> Self {
        Self { checksum: Checksum::Partial, ..self }
    }

    /// Leaves the layer-4 checksum zero.
    #[must_use]
    pub fn no_checksum(self) -> Self {
        Self { checksum: Checksum::None, ..self }
    }

    /// Adds Ethernet padding behind the IP packet.
    #[must_use]
    pub fn padding(self, bytes: usize) -> Self {
        Self { padding: bytes, ..self }
    }

    const fn is_v4(&self) -> bool {
        self.endpoints().0.is_ipv4()
    }

    const fn endpoints(&self) -> (IpAddr, IpAddr) {
        self.addresses.expect("say ip(src, dst) first")
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not an IP address"))
}
