//! The chains of the interlock, for a kernel that forwards nothing of pods, and for one that does.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{joined, quoted};
use crate::interface::{InterfaceName, InterfacePattern};

/// UDP ports of encapsulations (RFC 7348, RFC 8926, and Linux's default for VXLAN): what a pod sends to one of its
/// node's tunnels would leave the tunnel as traffic of the node.
const TUNNELS: &str = "4789, 6081, 8472";

/// What a kernel forwards that carries what userspace has judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwards {
    /// Networks of the addresses of services. What a pod sends to one, or to another address that the node translates,
    /// is judged where it leaves, and leaves by nothing else than ports and uplinks that are ready.
    pub services: Vec<(IpAddr, u8)>,
}

/// Nothing of a port passes the kernel, but what its program gives it for the node.
///
/// Prerouting at -300 comes before connection tracking; forward at -150 before every ordinary filter (0).
pub(super) fn closed(hold: &[InterfacePattern]) -> String {
    format!(
        "  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname @ports iif != @ready counter drop comment \"not attached\"
    iifname @ports udp dport {{ {TUNNELS} }} counter drop comment \"into a tunnel\"
{}  }}
  chain forward {{
    type filter hook forward priority -150; policy accept;
    oifname @ports counter drop comment \"forwarded to a pod\"
    iifname @ports counter drop comment \"forwarded from a pod\"
{}  }}
",
        held(hold, "iifname"),
        held(hold, "oifname"),
    )
}

/// What comes by a port or an uplink that is ready, and leaves by one, passes. It pays one hook and two lookups by number
/// for it, and with services a look at what is tracked; what else is forwarded or delivered here has to show that it is
/// no port's. Input at -300 comes before whoever takes packets there to send them on. Both hooks come before an address
/// of the node takes the place of a packet's source, and before connection tracking keeps whom it has seen.
pub(super) fn forwarding(forwards: &Forwards, ports: &[InterfaceName], hold: &[InterfacePattern]) -> String {
    format!(
        "  chain input {{
    type filter hook input priority -300; policy accept;
    iif != @ready jump from_others
{pretended}    udp dport {{ {TUNNELS} }} iifname @ports counter drop comment \"into a tunnel\"
  }}
  chain forward {{
    type filter hook forward priority -150; policy accept;
    iif != @ready jump from_others
{pretended}    oif != @ready jump to_others
  }}
  chain from_others {{
    iifname @ports counter drop comment \"not attached\"
{}  }}
  chain to_others {{
    oifname @ports counter drop comment \"forwarded to a pod\"
{}{}  }}
",
        held(hold, "iifname"),
        held(hold, "oifname"),
        forwards.unguarded(),
        pretended = forwards.pretended(ports),
    )
}

impl Forwards {
    /// The rule for what comes by no port under an address to which the route leads by one, of a connection that the node
    /// translates: under another address it would go on with the rights of the pod. What is not translated shows the
    /// programs whose it claims to be, and what the node sends to itself belongs to no pod.
    fn pretended(&self, ports: &[InterfaceName]) -> String {
        if ports.is_empty() || self.services.is_empty() {
            return String::new();
        }
        format!(
            "    ct status snat,dnat iifname != @ports iif != lo fib saddr . iif oif missing fib saddr oifname {{ {} }} \
             counter drop comment \"under a pod's address\"\n",
            quoted(ports)
        )
    }

    /// Rules for what a pod sent to a service, and would leave where no program sees which backend that is.
    fn unguarded(&self) -> String {
        let rule = |which: &str| {
            format!("    iifname @ports ct {which} counter drop comment \"a service, by no uplink\"\n")
        };
        let to_networks = |family: &str, v4: bool| -> String {
            let of_family = self.services.iter().filter(|(address, _)| address.is_ipv4() == v4);
            let networks = joined(of_family.map(|(address, length)| format!("{address}/{length}")));
            if networks.is_empty() {
                return networks;
            }
            rule(&format!("original {family} daddr {{ {networks} }}"))
        };
        if self.services.is_empty() {
            return String::new();
        }
        // Those of other addresses: node ports, load balancers.
        let translated = rule("direction original ct status dnat");
        to_networks("ip", true) + &to_networks("ip6", false) + &translated
    }
}

fn held(hold: &[InterfacePattern], direction: &str) -> String {
    let rule = |pattern| {
        format!("    {direction} \"{pattern}\" {direction} != @ports counter drop comment \"held\"\n")
    };
    hold.iter().map(rule).collect()
}
