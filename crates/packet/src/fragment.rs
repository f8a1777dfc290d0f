//! Fragments (RFC 791, section 3.2; RFC 8200, section 4.5): which part of which datagram a frame holds.

use flow::{Address, DropReason, FlowKey, MacAddr, Protocol};

use crate::packet::{ETHERNET, Kind, Packet, ethernet};

/// How far into a datagram its headers may reach, in bytes: 60 for the longest TCP header, and some more for what
/// IPv6 may put before it. A first fragment holds at least that much, and no later one begins before it (RFC
/// 1858, section 3: a header that is split, or written over, is never judged as a whole).
const HEADERS: usize = 80;

/// Which part of its datagram a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Where it begins in the datagram, in bytes; zero for the first one.
    pub offset: u16,
    /// Where it ends in the datagram, in bytes.
    pub end: u16,
    /// Whether more follow.
    pub more: bool,
}

impl Fragment {
    /// The part that begins `offset` bytes into its datagram and is `length` bytes long. In front of it, in
    /// every fragment, are `before` bytes that count for the datagram's own length field.
    #[cold]
    pub(crate) fn new(
        id: u32,
        offset: u16,
        more: bool,
        length: usize,
        before: usize,
    ) -> Result<Self, DropReason> {
        // RFC 8200, section 4.5: lengths that are no multiple of eight, and ends beyond 65,535, are errors.
        let end = usize::from(offset) + length;
        if length == 0 || (more && !length.is_multiple_of(8)) || before + end > usize::from(u16::MAX) {
            return Err(DropReason::FragmentInvalid);
        }
        let tiny = match offset {
            0 => length < HEADERS,
            later => usize::from(later) < HEADERS,
        };
        if tiny {
            return Err(DropReason::FragmentTiny);
        }
        Ok(Self { id, offset, end: end as u16, more })
    }

    /// Whether this is the first one, which has the layer-4 header.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }
}

/// What a receiver tells datagrams apart by when it puts their fragments together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Where it comes from.
    pub src: Address,
    /// Where it goes to.
    pub dst: Address,
    /// The identification.
    pub id: u32,
    /// The protocol of an IPv4 datagram. In IPv6 the fragments of one datagram may name different ones, of
    /// which only the first counts, so there it is always the number of the fragment header.
    pub protocol: Protocol,
}

impl Datagram {
    const fn new(src: Address, dst: Address, id: u32, protocol: Protocol) -> Self {
        const IPV6_FRAGMENT: Protocol = Protocol(44);
        Self { src, dst, id, protocol: if src.is_v4() { protocol } else { IPV6_FRAGMENT } }
    }
}

/// A fragment that is not the first of its datagram. It has no layer-4 header, so it is no [`Packet`] until
/// somebody who knows the first one [says so](Self::following).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaterFragment {
    /// Whom the frame is for on this link.
    pub eth_dst: MacAddr,
    /// Who sent it on this link.
    pub eth_src: MacAddr,
    /// Of which datagram.
    pub datagram: Datagram,
    /// Which part of it.
    pub fragment: Fragment,
    l3_offset: u16,
    data_offset: u16,
    ip_len: u32,
    ttl: u8,
}

impl LaterFragment {
    /// Reads a frame for which [`Packet::parse`] has said
    /// [`FragmentUnmatched`](DropReason::FragmentUnmatched); `None` for every other.
    #[must_use]
    #[cold]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = ethernet(frame).ok()?;
        let l3 = ethernet.layer3().ok()?;
        let fragment = l3.fragment.filter(|fragment| !fragment.is_first())?;
        Some(Self {
            eth_dst: ethernet.dst,
            eth_src: ethernet.src,
            datagram: Datagram::new(l3.src, l3.dst, fragment.id, l3.protocol),
            fragment,
            l3_offset: ETHERNET as u16,
            data_offset: (ETHERNET + l3.header_len) as u16,
            ip_len: l3.ip_len as u32,
            ttl: l3.ttl,
        })
    }

    /// This fragment as a packet of the connection whose `key` the first fragment of its datagram had, to be sent
    /// on with it. Its [`Kind`] is `Other`, since nothing in it speaks of the connection's state.
    ///
    /// `None` when the key is of other addresses, or of another protocol in IPv4.
    #[must_use]
    pub fn following(&self, key: FlowKey) -> Option<Packet> {
        let Datagram { src, dst, protocol, .. } = self.datagram;
        if (key.src.address, key.dst.address) != (src, dst) || (src.is_v4() && key.protocol != protocol) {
            return None;
        }
        Some(Packet {
            eth_dst: self.eth_dst,
            eth_src: self.eth_src,
            key,
            kind: Kind::Other,
            fragment: Some(self.fragment),
            l3_offset: self.l3_offset,
            l4_offset: self.data_offset,
            ip_len: self.ip_len,
            ttl: self.ttl,
        })
    }

    /// The key that it shows by itself: addresses and protocol, without ports.
    #[must_use]
    pub fn bare_key(&self) -> FlowKey {
        let Datagram { src, dst, protocol, .. } = self.datagram;
        FlowKey::new(protocol, (src, 0), (dst, 0))
    }
}

impl Packet {
    /// Of which datagram this is a fragment; `None` for a whole packet.
    #[must_use]
    pub fn datagram(&self) -> Option<Datagram> {
        let (src, dst) = (self.key.src.address, self.key.dst.address);
        self.fragment.map(|fragment| Datagram::new(src, dst, fragment.id, self.key.protocol))
    }
}

/// Whether a packet of this kind may come in fragments.
///
/// Nobody fragments what must not be (RFC 6980, section 5: "Nodes MUST silently ignore" fragmented neighbour
/// discovery), or what always fits: an ICMP error is at most 576 bytes long (RFC 1812, section 4.3.2.3), an
/// ICMPv6 error as long as the minimum MTU (RFC 4443, section 2.4).
pub(crate) const fn may_be_fragmented(kind: Kind) -> bool {
    !matches!(kind, Kind::NeighbourDiscovery | Kind::IcmpError { .. })
}
