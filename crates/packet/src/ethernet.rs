//! The Ethernet header, and the IP header behind it.

use flow::{DropReason, MacAddr};

use crate::packet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Layer3, VLAN_TAGS};
use crate::{ipv4, ipv6};

/// An Ethernet header, and what follows it.
pub(crate) struct Ethernet<'f> {
    pub(crate) dst: MacAddr,
    pub(crate) src: MacAddr,
    ethertype: [u8; 2],
    pub(crate) rest: &'f [u8],
}

/// Reads the header that the frame begins with.
pub(crate) fn read(frame: &[u8]) -> Result<Ethernet<'_>, DropReason> {
    let (header, rest) = frame.split_first_chunk::<ETHERNET>().ok_or(DropReason::Truncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let (dst, src) = (MacAddr([d0, d1, d2, d3, d4, d5]), MacAddr([s0, s1, s2, s3, s4, s5]));
    Ok(Ethernet { dst, src, ethertype: [t0, t1], rest })
}

impl Ethernet<'_> {
    /// Reads the IP header behind it.
    pub(crate) fn layer3(&self) -> Result<Layer3, DropReason> {
        match self.ethertype {
            ETHERTYPE_IPV4 => ipv4::read(self.rest),
            ETHERTYPE_IPV6 => ipv6::read(self.rest),
            ethertype => Err(not_ip(ethertype)),
        }
    }
}

/// Why a frame that is not IP goes no further. Below 0x600 the field is the length of an 802.3 frame.
fn not_ip(ethertype: [u8; 2]) -> DropReason {
    if VLAN_TAGS.contains(&ethertype) { DropReason::VlanTagged } else { DropReason::UnknownEthertype }
}
