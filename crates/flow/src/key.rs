//! The five-tuple.

use core::fmt;

use crate::{Address, Protocol};

/// One end of a connection: an address and a port.
///
/// The port is zero where the protocol has none; for an ICMP echo it is the identifier, at both ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host byte order.
    pub port: u16,
}

/// The five-tuple of one packet, in the packet's own direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Where the packet comes from.
    pub src: Endpoint,
    /// Where the packet goes to.
    pub dst: Endpoint,
    /// What it speaks.
    pub protocol: Protocol,
}

impl FlowKey {
    /// The key of a packet from `src` to `dst`.
    #[must_use]
    pub fn new(protocol: Protocol, src: (impl Into<Address>, u16), dst: (impl Into<Address>, u16)) -> Self {
        Self {
            src: Endpoint { address: src.0.into(), port: src.1 },
            dst: Endpoint { address: dst.0.into(), port: dst.1 },
            protocol,
        }
    }

    /// The key of a packet that answers this one.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, protocol: self.protocol }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.is_v6() {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.src, self.dst)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_reply_reversed_is_the_request() {
        let key =
            FlowKey::new(Protocol::TCP, (Ipv4Addr::new(10, 0, 0, 1), 4242), (Ipv4Addr::new(10, 0, 0, 2), 80));
        assert_eq!(key.reversed().reversed(), key);
        assert_eq!(key.to_string(), "TCP 10.0.0.1:4242 -> 10.0.0.2:80");
        let key = FlowKey::new(Protocol::UDP, (Ipv6Addr::LOCALHOST, 1), (Ipv6Addr::LOCALHOST, 53));
        assert_eq!(key.reversed().to_string(), "UDP [::1]:53 -> [::1]:1");
    }
}
