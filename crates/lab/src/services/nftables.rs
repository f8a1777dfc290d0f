//! The rules of kube-proxy's mode `nftables`.

use std::fmt::Write as _;

use super::{Masquerade, Service, protocol, rule};
use crate::topology::Family;

/// The table of one family, in the place of the one before.
pub(super) fn rules(family: Family, services: &[&Service], masquerade: Masquerade) -> String {
    let (ip, address) = match family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let mut text = String::new();
    rule!(text, "table {ip} kube-proxy {{}}\ndelete table {ip} kube-proxy\ntable {ip} kube-proxy {{");
    let numbered = || services.iter().enumerate();
    let ports: Vec<String> = numbered()
        .map(|(n, service)| {
            format!("{} . {} . {} : goto service-{n}", service.address, protocol(service), service.port)
        })
        .collect();
    let node_ports: Vec<String> = numbered()
        .filter_map(|(n, service)| {
            Some(format!("{} . {} : goto external-{n}", protocol(service), service.node_port?))
        })
        .collect();
    map(&mut text, "service-ips", &format!("{address} . inet_proto . inet_service"), &ports);
    map(&mut text, "service-nodeports", "inet_proto . inet_service", &node_ports);
    for (n, service) in numbered() {
        chains(&mut text, ip, n, service, masquerade);
    }
    rule!(
        text,
        "chain mark-for-masquerade {{
  mark set mark or 0x4000
}}
chain masquerading {{
  mark and 0x4000 == 0 return
  mark set mark xor 0x4000
  masquerade fully-random
}}
chain services {{
  {ip} daddr . meta l4proto . th dport vmap @service-ips
  fib daddr type local meta l4proto . th dport vmap @service-nodeports
}}
chain filter-forward {{
  type filter hook forward priority -110; policy accept;
  ct state invalid drop
}}
chain nat-prerouting {{
  type nat hook prerouting priority dstnat; policy accept;
  jump services
}}
chain nat-output {{
  type nat hook output priority -100; policy accept;
  jump services
}}
chain nat-postrouting {{
  type nat hook postrouting priority srcnat; policy accept;
  jump masquerading
}}
}}"
    );
    text
}

fn map(text: &mut String, name: &str, key: &str, elements: &[String]) {
    rule!(text, "map {name} {{\n  type {key} : verdict");
    if !elements.is_empty() {
        rule!(text, "  elements = {{ {} }}", elements.join(", "));
    }
    rule!(text, "}}");
}

/// Those of one Service: its own, its backends', and that of its node port.
fn chains(text: &mut String, ip: &str, n: usize, service: &Service, masquerade: Masquerade) {
    let protocol = protocol(service);
    for (m, backend) in service.backends.iter().enumerate() {
        rule!(text, "chain endpoint-{n}-{m} {{");
        rule!(text, "  {ip} saddr {} jump mark-for-masquerade", backend.ip());
        rule!(text, "  meta l4proto {protocol} dnat to {backend}\n}}");
    }
    rule!(text, "chain service-{n} {{");
    if masquerade == Masquerade::All {
        let Service { address, port, .. } = service;
        rule!(text, "  {ip} daddr {address} {protocol} dport {port} jump mark-for-masquerade");
    }
    let endpoints: Vec<String> =
        (0..service.backends.len()).map(|m| format!("{m} : goto endpoint-{n}-{m}")).collect();
    if !endpoints.is_empty() {
        rule!(text, "  numgen random mod {} vmap {{ {} }}", endpoints.len(), endpoints.join(", "));
    }
    rule!(text, "}}");
    if service.node_port.is_some() {
        rule!(text, "chain external-{n} {{\n  jump mark-for-masquerade\n  goto service-{n}\n}}");
    }
}
