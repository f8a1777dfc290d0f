//! One IP address of either family in sixteen bytes.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address in one comparable, hashable form.
///
/// IPv4 is kept as its IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2). The two families cannot be
/// confused: mapped addresses never travel on a wire, and the packet parser drops frames that carry them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    high: u64,
    low: u64,
}

impl Address {
    const V4_MAPPED: u64 = 0xffff_0000_0000;

    /// The address with these four octets.
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self { high: 0, low: Self::V4_MAPPED | u32::from_be_bytes(octets) as u64 }
    }

    /// The address with these sixteen octets. IPv4-mapped octets give the IPv4 address.
    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self::from_bits(u128::from_be_bytes(octets))
    }

    /// The address whose [`bits`](Self::bits) these are.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    /// The sixteen octets as a number, IPv4 in its mapped form. Addresses sort like it.
    #[must_use]
    pub const fn bits(self) -> u128 {
        ((self.high as u128) << 64) | self.low as u128
    }

    /// The four octets of an IPv4 address as a number.
    #[must_use]
    pub const fn v4_bits(self) -> Option<u32> {
        if self.is_v4() { Some(self.low as u32) } else { None }
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.high == 0 && self.low >> 32 == 0xffff
    }

    /// Whether this is an IPv6 address.
    #[must_use]
    pub const fn is_v6(self) -> bool {
        !self.is_v4()
    }

    /// Whether this is a multicast address: 224.0.0.0/4 (RFC 1112) or ff00::/8 (RFC 4291, section 2.7).
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        if self.is_v4() { (self.low as u32) >> 28 == 0xe } else { self.high >> 56 == 0xff }
    }

    /// Whether this is 255.255.255.255 (RFC 919, section 7). A subnet's own broadcast looks like any other.
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        self.is_v4() && self.low as u32 == u32::MAX
    }

    /// Whether this is 0.0.0.0 or `::`: no address at all.
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.high == 0 && (self.low == 0 || self.low == Self::V4_MAPPED)
    }

    /// Whether this is in 127.0.0.0/8 (RFC 1122, section 3.2.1.3) or `::1`.
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() { (self.low as u32) >> 24 == 127 } else { self.high == 0 && self.low == 1 }
    }

    /// Whether a packet on a wire may carry this as its source: none of the four above.
    #[must_use]
    pub const fn may_be_source(self) -> bool {
        !self.is_multicast() && !self.is_broadcast() && !self.is_unspecified() && !self.is_loopback()
    }

    /// The sixteen octets, IPv4 in its mapped form.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        self.bits().to_be_bytes()
    }

    /// The same address as the standard library knows it.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from_bits(self.low as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(self.bits()))
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::v4(ip.octets()),
            IpAddr::V6(ip) => Self::v6(ip.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn families_keep_apart() {
        let v4 = Address::v4([10, 0, 0, 1]);
        let v6 = Address::from("fd00::a00:1".parse::<Ipv6Addr>().unwrap());
        assert!(v4.is_v4() && !v4.is_v6());
        assert!(v6.is_v6() && !v6.is_v4());
        assert_ne!(v4, v6);
        // `::10.0.0.1`, the deprecated IPv4-compatible form, is an IPv6 address.
        assert!(Address::from("::10.0.0.1".parse::<Ipv6Addr>().unwrap()).is_v6());
    }

    #[test]
    fn no_group_nothing_and_loopback_is_a_source() {
        let ip = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        for text in ["224.0.0.1", "239.255.255.255", "ff02::1", "ff00::"] {
            assert!(ip(text).is_multicast() && !ip(text).may_be_source(), "{text}");
        }
        for text in ["127.0.0.1", "127.255.255.255", "::1"] {
            assert!(ip(text).is_loopback() && !ip(text).may_be_source(), "{text}");
        }
        for text in ["0.0.0.0", "::"] {
            assert!(ip(text).is_unspecified() && !ip(text).may_be_source(), "{text}");
        }
        assert!(ip("255.255.255.255").is_broadcast() && !ip("255.255.255.255").may_be_source());
        for text in ["10.0.0.1", "223.255.255.255", "126.0.0.1", "128.0.0.1", "fd00::1", "fe80::1", "::2"] {
            let ip = ip(text);
            assert!(ip.may_be_source(), "{text}");
            assert!(!(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified() || ip.is_loopback()));
        }
    }

    proptest! {
        #[test]
        fn the_standard_library_agrees(bits: u128, v4: bool) {
            let ip = match v4 {
                true => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
                false => IpAddr::V6(Ipv6Addr::from_bits(bits)),
            };
            let address = Address::from(ip);
            prop_assert_eq!(address.is_multicast(), ip.is_multicast());
            prop_assert_eq!(address.is_loopback(), ip.is_loopback());
            prop_assert_eq!(address.is_unspecified(), ip.is_unspecified());
        }

        #[test]
        fn v4_round_trips(bits: u32) {
            let ip = IpAddr::V4(Ipv4Addr::from_bits(bits));
            prop_assert_eq!(Address::from(ip).ip(), ip);
            prop_assert_eq!(Address::from(ip).v4_bits(), Some(bits));
        }

        #[test]
        fn v6_round_trips(bits: u128) {
            let ip = Ipv6Addr::from_bits(bits);
            prop_assume!(ip.to_ipv4_mapped().is_none());
            prop_assert_eq!(Address::from(ip).ip(), IpAddr::V6(ip));
            prop_assert_eq!(Address::from(ip).octets(), ip.octets());
            prop_assert_eq!((Address::from(ip).bits(), Address::from(ip).v4_bits()), (bits, None));
            prop_assert_eq!(Address::from_bits(bits), Address::from(ip));
        }
    }
}
