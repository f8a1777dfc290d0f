//! The lines for `ip -batch` and the sysctls that join pods, node and outside.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flow::MacAddr;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use crate::error::Error;
use crate::netns::Namespace;

/// The pods' gateways, on the node's side of every pod veth.
const POD_GATEWAY: [&str; 2] = ["169.254.1.1", "fe80::1"];
/// The node's gateways, on the outside's end of the uplink.
const OUTSIDE_GATEWAY: [&str; 2] = ["169.254.2.1", "fe80::2"];
/// The node's link-local address on the uplink: the outside's next hop to the pods.
const NODE_LINK_LOCAL: &str = "fe80::3";

/// Interfaces of the node are numbered from here. A veth whose two ends have the same number in their two
/// namespaces looks like no pair to the kernel's link watch, which then takes up to a second to bring it up.
pub(crate) const FIRST_INDEX: usize = 1000;

/// How long links may take to come up.
const LINKS_UP: Duration = Duration::from_secs(5);

/// The veth pair of one pod.
pub(crate) struct PodLink<'a> {
    pub(crate) number: usize,
    pub(crate) interface: &'a str,
    pub(crate) host_mac: MacAddr,
    pub(crate) pod_mac: MacAddr,
    pub(crate) namespace: &'a str,
    pub(crate) addresses: &'a [IpAddr],
}

/// Forwarding, no reverse path filter, no redirects, no wait for duplicate addresses.
pub(crate) const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// What a container runtime sets in a pod, and no wait for duplicate addresses.
pub(crate) const HOST_SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// The node's links, addresses and routes.
pub(crate) fn node(uplink: &str, outside: &str, node: &[IpAddr], pods: &[PodLink<'_>]) -> String {
    let mut batch = String::from("link set lo up\n");
    let index = FIRST_INDEX;
    line(
        &mut batch,
        format_args!("link add name {uplink} index {index} type veth peer name eth0 netns {outside}"),
    );
    line(&mut batch, format_args!("link set {uplink} addrgenmode none"));
    for address in node {
        line(&mut batch, format_args!("address add {} dev {uplink}{}", host_route(address), no_dad(address)));
    }
    line(&mut batch, format_args!("address add {NODE_LINK_LOCAL}/64 dev {uplink} nodad"));
    line(&mut batch, format_args!("link set {uplink} up"));
    for (gateway, source) in OUTSIDE_GATEWAY.iter().zip(sources(node)) {
        let Some(source) = source else { continue };
        line(&mut batch, format_args!("route add default via {gateway} dev {uplink} onlink src {source}"));
    }
    for pod in pods {
        batch.push_str(&pod_link(pod, FIRST_INDEX + pod.number, node));
    }
    batch
}

/// The veth pair of one pod, and the node's end of it.
pub(crate) fn pod_link(pod: &PodLink<'_>, index: usize, node: &[IpAddr]) -> String {
    let mut batch = String::new();
    let PodLink { interface, host_mac, pod_mac, namespace, .. } = pod;
    line(
        &mut batch,
        format_args!(
            "link add name {interface} index {index} address {host_mac} type veth \
             peer name eth0 address {pod_mac} netns {namespace}"
        ),
    );
    line(&mut batch, format_args!("link set {interface} addrgenmode none"));
    batch + &pod_link_up(pod, node)
}

/// The node's end of a pod's veth pair, up, with what it loses when it goes down.
pub(crate) fn pod_link_up(pod: &PodLink<'_>, node: &[IpAddr]) -> String {
    let mut batch = String::new();
    let interface = pod.interface;
    line(&mut batch, format_args!("address replace {}/32 dev {interface} scope link", POD_GATEWAY[0]));
    line(&mut batch, format_args!("address replace {}/64 dev {interface} nodad", POD_GATEWAY[1]));
    line(&mut batch, format_args!("link set {interface} up"));
    for address in pod.addresses {
        // The node speaks to pods from its own address, not from the gateway's.
        let source = sources(node)[usize::from(address.is_ipv6())];
        let source = source.map_or_else(String::new, |source| format!(" src {source}"));
        line(&mut batch, format_args!("route replace {} dev {interface}{source}", host_route(address)));
    }
    batch
}

/// What a pod knows of its gateways from the start: it asks nobody before it sends.
pub(crate) fn known_gateways(host_mac: MacAddr) -> String {
    let mut batch = String::new();
    for gateway in POD_GATEWAY {
        line(
            &mut batch,
            format_args!("neighbour replace {gateway} lladdr {host_mac} dev eth0 nud permanent"),
        );
    }
    batch
}

/// A pod's own end, up, with what it loses when it goes down.
pub(crate) fn pod(addresses: &[IpAddr]) -> String {
    let mut batch = String::from("link set lo up\n");
    for address in addresses {
        line(&mut batch, format_args!("address replace {} dev eth0{}", host_route(address), no_dad(address)));
    }
    line(&mut batch, format_args!("link set eth0 up"));
    for (gateway, source) in POD_GATEWAY.iter().zip(sources(addresses)) {
        let Some(source) = source else { continue };
        line(&mut batch, format_args!("route replace default via {gateway} dev eth0 onlink src {source}"));
    }
    batch
}

/// The outside: `hosts` are its addresses, `pods` those behind the node.
pub(crate) fn outside(hosts: &[IpAddr], node: &[IpAddr], pods: &[IpAddr]) -> String {
    let mut batch = String::from("link set lo up\nlink set eth0 addrgenmode none\n");
    batch.push_str(&self::hosts(hosts));
    line(&mut batch, format_args!("address add {}/32 dev eth0 scope link", OUTSIDE_GATEWAY[0]));
    line(&mut batch, format_args!("address add {}/64 dev eth0 nodad", OUTSIDE_GATEWAY[1]));
    line(&mut batch, format_args!("link set eth0 up"));
    for address in node {
        line(&mut batch, format_args!("route add {} dev eth0", host_route(address)));
    }
    batch + &by_the_node(pods, node)
}

/// The outside's routes to addresses that it reaches by the node.
pub(crate) fn by_the_node(addresses: &[IpAddr], node: &[IpAddr]) -> String {
    let mut batch = String::new();
    let [v4, _] = sources(node);
    for address in addresses {
        let prefix = host_route(address);
        match (address, v4) {
            (IpAddr::V6(_), _) => {
                line(&mut batch, format_args!("route replace {prefix} via {NODE_LINK_LOCAL} dev eth0"));
            }
            (IpAddr::V4(_), Some(via)) => {
                line(&mut batch, format_args!("route replace {prefix} via {via} dev eth0 onlink"));
            }
            // A node without IPv4 has no next hop for their IPv4.
            (IpAddr::V4(_), None) => {}
        }
    }
    batch
}

/// The addresses of hosts outside.
pub(crate) fn hosts(addresses: &[IpAddr]) -> String {
    let mut batch = String::new();
    for address in addresses {
        line(&mut batch, format_args!("address add {} dev lo{}", host_route(address), no_dad(address)));
    }
    batch
}

/// Runs a batch in a namespace.
pub(crate) fn ip(namespace: &Namespace, batch: &str) -> Result<(), Error> {
    let output = namespace
        .run(|| {
            let mut child = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            // Dropped at the end of the statement: the batch ends there.
            child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(batch.as_bytes()))?;
            child.wait_with_output()
        })?
        .map_err(Error::io("running ip (of iproute2)"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let number = message.rsplit_once("-:").and_then(|(_, number)| number.parse::<usize>().ok());
    if let Some(refused) = number.and_then(|number| batch.lines().nth(number.checked_sub(1)?)) {
        let _infallible = write!(message, " ({refused})");
    }
    Err(Error::Ip { namespace: namespace.name().to_owned(), message })
}

/// Waits until every link of a namespace carries packets and every IPv6 address can be resolved. The kernel's
/// link watch and its IPv6 workers come to that in their own time after `ip` has returned, and what is sent
/// before is lost.
pub(crate) fn wait_until_ready(namespace: &Namespace) -> Result<(), Error> {
    let is_running = |link: InterfaceAddress| {
        link.flags.intersects(InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_LOOPBACK)
    };
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        fs::read_to_string(&path).map_err(Error::io(format!("reading {path}")))
    };
    namespace.run(|| {
        let deadline = Instant::now() + LINKS_UP;
        while !(getifaddrs().map_err(Error::sys("listing interfaces"))?.all(is_running)
            && can_be_resolved(&read("if_inet6")?, &read("igmp6")?))
        {
            if Instant::now() > deadline {
                let message = "a link has not come up".to_owned();
                return Err(Error::Ip { namespace: namespace.name().to_owned(), message });
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })?
}

/// Whether each address of `/proc/net/if_inet6`, but those of `lo`, has its solicited-node group (RFC 4291,
/// section 2.7.1) in `/proc/net/igmp6`: only then is a neighbour solicitation for it heard.
fn can_be_resolved(addresses: &str, groups: &str) -> bool {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let groups: HashSet<_> = groups
        .lines()
        .map(words)
        .filter_map(|line| Some((line.get(1)?.clone(), line.get(2)?.clone())))
        .collect();
    addresses.lines().map(words).all(|line| match (line.first(), line.last()) {
        (Some(address), Some(interface)) if interface != "lo" && address.len() == 32 => {
            let group = format!("ff0200000000000000000001ff{}", &address[26..]);
            groups.contains(&(interface.clone(), group))
        }
        _ => true,
    })
}

/// Writes sysctls under `/proc/sys/net` of a namespace.
pub(crate) fn sysctls(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<(), Error> {
    namespace.run(|| {
        for (key, value) in settings {
            // Seen from a thread, /proc/sys/net is that of the thread's own namespace.
            let path = format!("/proc/sys/net/{key}");
            fs::write(&path, value).map_err(Error::io(format!("writing {path}")))?;
        }
        Ok(())
    })?
}

fn line(batch: &mut String, words: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(batch, "{words}");
}

fn host_route(address: &IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

const fn no_dad(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "" } else { " nodad" }
}

/// The first address of each family.
fn sources(addresses: &[IpAddr]) -> [Option<IpAddr>; 2] {
    [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|family| addresses.iter().copied().find(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_can_be_resolved_once_its_group_is_joined_on_its_own_link() {
        let addresses = "fd100001000000000000000000000001 02 80 00 82     eth0\n\
                         00000000000000000000000000000001 01 80 10 80       lo\n";
        let all_nodes = "2    eth0            ff020000000000000000000000000001     1 0000000C 0\n";
        let group = |link: &str| {
            format!("2    {link}            ff0200000000000000000001ff000001     1 00000004 0\n")
        };
        assert!(!can_be_resolved(addresses, all_nodes));
        assert!(!can_be_resolved(addresses, &group("eth1")));
        assert!(can_be_resolved(addresses, &(all_nodes.to_owned() + &group("eth0"))));
    }

    #[test]
    fn a_family_that_a_pod_lacks_gets_no_address_and_no_route() {
        let batch = pod(&[IpAddr::from([10, 1, 1, 1])]);
        assert!(batch.contains("route replace default via 169.254.1.1 dev eth0 onlink src 10.1.1.1\n"));
        assert!(!batch.contains("fe80"), "{batch}");
    }
}
