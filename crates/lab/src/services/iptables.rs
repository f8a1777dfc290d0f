//! The rules of kube-proxy's mode `iptables`, for iptables-restore.

use std::fmt::Write as _;

use super::{Masquerade, Service, protocol, rule};

/// Tables `nat` and `filter`, in the place of those before. The family is that of the services, and of the program
/// that reads this.
pub(super) fn rules(services: &[&Service], masquerade: Masquerade) -> String {
    let mut text = String::new();
    rule!(text, "*nat");
    for chain in ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"] {
        rule!(text, ":{chain} - [0:0]");
    }
    for (n, service) in services.iter().enumerate() {
        rule!(text, ":KUBE-SVC-{n} - [0:0]\n:KUBE-EXT-{n} - [0:0]");
        for m in 0..service.backends.len() {
            rule!(text, ":KUBE-SEP-{n}-{m} - [0:0]");
        }
    }
    rule!(
        text,
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000"
    );
    for (n, service) in services.iter().enumerate() {
        chains(&mut text, n, service, masquerade);
    }
    rule!(text, "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT");
    rule!(
        text,
        "*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT"
    );
    text
}

/// Those of one Service: its own, its backends', and that of its node port.
fn chains(text: &mut String, n: usize, service: &Service, masquerade: Masquerade) {
    let Service { address, port, backends, node_port, .. } = service;
    let protocol = protocol(service);
    let here = format!("-d {address} -p {protocol} -m {protocol} --dport {port}");
    rule!(text, "-A KUBE-SERVICES {here} -j KUBE-SVC-{n}");
    if masquerade == Masquerade::All {
        rule!(text, "-A KUBE-SVC-{n} {here} -j KUBE-MARK-MASQ");
    }
    for (m, backend) in backends.iter().enumerate() {
        // Each takes its share of what those before have left.
        let left = backends.len() - m;
        let share = match left {
            1 => String::new(),
            _ => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
        };
        rule!(text, "-A KUBE-SVC-{n} {share}-j KUBE-SEP-{n}-{m}");
        rule!(text, "-A KUBE-SEP-{n}-{m} -s {} -j KUBE-MARK-MASQ", backend.ip());
        rule!(text, "-A KUBE-SEP-{n}-{m} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}");
    }
    if let Some(node_port) = node_port {
        rule!(text, "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{n}");
        rule!(text, "-A KUBE-EXT-{n} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{n} -j KUBE-SVC-{n}");
    }
}
