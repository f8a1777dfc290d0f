//! ARP and neighbour discovery, for frames that say who is who on a link.

use std::net::IpAddr;

use etherparse::{ArpEthIpv4Packet, ArpOperation};
use flow::MacAddr;

use super::{frame, ip};

/// A broadcast ARP request: `mac` at `sender` asks who has `target`.
#[must_use]
pub fn arp_request(mac: MacAddr, sender: &str, target: &str) -> Vec<u8> {
    arp(ArpOperation::REQUEST, mac, sender, MacAddr([0xff; 6]), target)
}

/// An ARP reply: `mac` tells `to` at `target` that it has `sender`.
#[must_use]
pub fn arp_reply(mac: MacAddr, sender: &str, to: MacAddr, target: &str) -> Vec<u8> {
    arp(ArpOperation::REPLY, mac, sender, to, target)
}

fn arp(operation: ArpOperation, mac: MacAddr, sender: &str, to: MacAddr, target: &str) -> Vec<u8> {
    let (IpAddr::V4(sender), IpAddr::V4(target)) = (ip(sender), ip(target)) else {
        panic!("ARP is for IPv4, not for {sender} and {target}");
    };
    let message = ArpEthIpv4Packet {
        operation,
        sender_mac: mac.0,
        sender_ipv4: sender.octets(),
        target_mac: if operation == ArpOperation::REQUEST { [0; 6] } else { to.0 },
        target_ipv4: target.octets(),
    };
    [frame().from(mac).to(to).ethernet(0x0806), message.to_bytes().to_vec()].concat()
}

/// A neighbour solicitation: `mac` at `source` asks who has `target`. Like every sender with an address, it
/// tells its own MAC address.
#[must_use]
pub fn neighbour_solicitation(mac: MacAddr, source: &str, target: &str) -> Vec<u8> {
    let IpAddr::V6(asked) = ip(target) else { panic!("neighbour discovery is for IPv6, not for {target}") };
    let [.., a, b, c] = asked.octets();
    let group = format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}");
    let option = if ip(source).is_unspecified() { None } else { Some((1, mac)) };
    neighbour_discovery(mac, MacAddr([0x33, 0x33, 0xff, a, b, c]), source, &group, 135, target, option)
}

/// A neighbour advertisement: `mac` tells `to` at `destination` that it has `target`.
#[must_use]
pub fn neighbour_advertisement(mac: MacAddr, target: &str, to: MacAddr, destination: &str) -> Vec<u8> {
    neighbour_discovery(mac, to, target, destination, 136, target, Some((2, mac)))
}

/// A neighbour solicitation (135) or advertisement (136) of every kind, with a link-layer address option
/// of this number or without.
#[must_use]
pub fn neighbour_discovery(
    mac: MacAddr,
    to: MacAddr,
    source: &str,
    destination: &str,
    kind: u8,
    target: &str,
    option: Option<(u8, MacAddr)>,
) -> Vec<u8> {
    let IpAddr::V6(target) = ip(target) else { panic!("neighbour discovery is for IPv6, not for {target}") };
    let flags = if kind == 136 { [0x60, 0, 0, 0] } else { [0; 4] };
    let mut message = frame().from(mac).to(to).ip(source, destination).ttl(255);
    message = message.icmp(kind, 0, flags).payload(&target.octets());
    if let Some((number, address)) = option {
        message = message.payload(&[number, 1]).payload(&address.0);
    }
    message.build()
}
