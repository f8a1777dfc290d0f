//! Fragments (RFC 791, section 3.2; RFC 8200, section 4.5): which part of which datagram a frame holds.

use flow::{Address, DropReason, Protocol};

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
    pub(crate) const fn new(src: Address, dst: Address, id: u32, protocol: Protocol) -> Self {
        const IPV6_FRAGMENT: Protocol = Protocol(44);
        Self { src, dst, id, protocol: if src.is_v4() { protocol } else { IPV6_FRAGMENT } }
    }
}
