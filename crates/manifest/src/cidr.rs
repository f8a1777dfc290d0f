//! Address blocks, as forgiving as the API servers that stored them.
//!
//! Until strict validation became the default (KEP-4858), API servers read CIDRs with Go's `ParseCIDRSloppy`:
//! leading zeros are decimal, host bits are cut off, an IPv4-mapped block is an IPv4 block. Such objects
//! exist, and a block that one side refuses while the other enforces it would be a hole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A block, and what an API server of today would object to in how it is written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) block: IpNet,
    pub(crate) objection: Option<&'static str>,
}

/// The block that `text` stands for, if it stands for one.
pub(crate) fn parse(text: &str) -> Option<Written> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || length.len() > 4 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut zeros = length.len() > 1 && length.starts_with('0');
    let length: u8 = length.parse().ok()?;
    let ip = match address.parse() {
        Ok(ip) => ip,
        Err(_) => {
            zeros = true;
            without_leading_zeros(address)?.parse().ok()?
        }
    };
    let (block, mapped) = match ip {
        IpAddr::V4(ip) => (IpNet::V4(Ipv4Net::new(ip, length).ok()?), false),
        IpAddr::V6(ip) => block_of_v6(ip, length)?,
    };
    let objection = if zeros {
        Some("leading zeros")
    } else if mapped {
        Some("an IPv4-mapped address")
    } else if block.trunc() != block {
        Some("bits set beyond the prefix")
    } else {
        None
    };
    Some(Written { block: block.trunc(), objection })
}

/// Go keeps the sixteen bytes: only where the mask leaves the mapping prefix whole does it see IPv4.
fn block_of_v6(ip: Ipv6Addr, length: u8) -> Option<(IpNet, bool)> {
    match (ip.to_ipv4_mapped(), length) {
        (Some(ip), 96..=128) => Some((IpNet::V4(Ipv4Net::new(ip, length - 96).ok()?), true)),
        _ => Some((IpNet::V6(Ipv6Net::new(ip, length).ok()?), false)),
    }
}

/// The address with the leading zeros of its dotted part removed, if it has a dotted part of four.
fn without_leading_zeros(address: &str) -> Option<String> {
    let (front, dotted) = match address.rfind(':') {
        Some(at) => address.split_at(at + 1),
        None => ("", address),
    };
    let mut octets = [0; 4];
    let mut parts = dotted.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.len() <= 64)?;
        let digits = part.trim_start_matches('0');
        *octet = match digits {
            "" if part.is_empty() => return None,
            "" => 0,
            digits => digits.parse().ok()?,
        };
    }
    parts.next().is_none().then(|| format!("{front}{}", Ipv4Addr::from(octets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_blocks() {
        for (text, block, objection) in [
            ("10.0.0.0/8", "10.0.0.0/8", None),
            ("0.0.0.0/0", "0.0.0.0/0", None),
            ("::/0", "::/0", None),
            ("2001:db8::/64", "2001:db8::/64", None),
            ("10.0.0.5/8", "10.0.0.0/8", Some("bits set beyond the prefix")),
            ("2001:db8::1/64", "2001:db8::/64", Some("bits set beyond the prefix")),
            ("010.000.0.0/8", "10.0.0.0/8", Some("leading zeros")),
            ("10.0.0.0/08", "10.0.0.0/8", Some("leading zeros")),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", Some("an IPv4-mapped address")),
            ("::ffff:010.1.2.3/104", "10.0.0.0/8", Some("leading zeros")),
            ("::ffff:a00:0/128", "10.0.0.0/32", Some("an IPv4-mapped address")),
            ("::ffff:0:0/96", "0.0.0.0/0", Some("an IPv4-mapped address")),
            ("::ffff:10.0.0.0/90", "::ffc0:0:0/90", Some("bits set beyond the prefix")),
        ] {
            let written = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(written, Written { block: block.parse().unwrap(), objection }, "{text}");
        }
    }

    #[test]
    fn what_no_server_took() {
        for text in [
            "",
            "/",
            "10.0.0.1",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/255.0.0.0",
            "10.0.0/8",
            "10.0.0.256/8",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "a.b.c.d/8",
            "1.2.3.4.5/8",
            "1..2.3/8",
            "fe80::1%eth0/64",
            "“10.0.0.0/8”",
            " 10.0.0.0/8",
            "10.0.0.0/8 ",
            "10.0.0.0/99999",
            "*",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
