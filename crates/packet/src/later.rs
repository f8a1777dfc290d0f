//! Fragments behind the first: they have no layer-4 header of their own.

use flow::{FlowKey, MacAddr};

use crate::ethernet;
use crate::fragment::{Datagram, Fragment};
use crate::packet::{ETHERNET, Kind, Packet};

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
    /// [`FragmentUnmatched`](flow::DropReason::FragmentUnmatched); `None` for every other.
    #[must_use]
    #[cold]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = ethernet::read(frame).ok()?;
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
