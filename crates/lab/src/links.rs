//! The lines for `ip -batch` and the sysctls that join pods, node and outside.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use flow::MacAddr;

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
const FIRST_INDEX: usize = 1000;

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
        let PodLink { interface, host_mac, pod_mac, namespace, .. } = pod;
        let index = FIRST_INDEX + pod.number;
        line(
            &mut batch,
            format_args!(
                "link add name {interface} index {index} address {host_mac} type veth \
                 peer name eth0 address {pod_mac} netns {namespace}"
            ),
        );
        line(&mut batch, format_args!("link set {interface} addrgenmode none"));
        line(&mut batch, format_args!("address add {}/32 dev {interface} scope link", POD_GATEWAY[0]));
        line(&mut batch, format_args!("address add {}/64 dev {interface} nodad", POD_GATEWAY[1]));
        line(&mut batch, format_args!("link set {interface} up"));
        for address in pod.addresses {
            // The node speaks to pods from its own address, not from the gateway's.
            let source = sources(node)[usize::from(address.is_ipv6())];
            let source = source.map_or_else(String::new, |source| format!(" src {source}"));
            line(&mut batch, format_args!("route add {} dev {interface}{source}", host_route(address)));
        }
    }
    batch
}

/// A pod's own end.
pub(crate) fn pod(addresses: &[IpAddr]) -> String {
    let mut batch = String::from("link set lo up\n");
    for address in addresses {
        line(&mut batch, format_args!("address add {} dev eth0{}", host_route(address), no_dad(address)));
    }
    line(&mut batch, format_args!("link set eth0 up"));
    for (gateway, source) in POD_GATEWAY.iter().zip(sources(addresses)) {
        let Some(source) = source else { continue };
        line(&mut batch, format_args!("route add default via {gateway} dev eth0 onlink src {source}"));
    }
    batch
}

/// The outside: `hosts` are its addresses, `pods` those behind the node.
pub(crate) fn outside(hosts: &[IpAddr], node: &[IpAddr], pods: &[IpAddr]) -> String {
    let mut batch = String::from("link set lo up\nlink set eth0 addrgenmode none\n");
    for address in hosts {
        line(&mut batch, format_args!("address add {} dev lo{}", host_route(address), no_dad(address)));
    }
    line(&mut batch, format_args!("address add {}/32 dev eth0 scope link", OUTSIDE_GATEWAY[0]));
    line(&mut batch, format_args!("address add {}/64 dev eth0 nodad", OUTSIDE_GATEWAY[1]));
    line(&mut batch, format_args!("link set eth0 up"));
    for address in node {
        line(&mut batch, format_args!("route add {} dev eth0", host_route(address)));
    }
    let [v4, _] = sources(node);
    for address in pods {
        match (address, v4) {
            (IpAddr::V6(_), _) => {
                let prefix = host_route(address);
                line(&mut batch, format_args!("route add {prefix} via {NODE_LINK_LOCAL} dev eth0"));
            }
            (IpAddr::V4(_), Some(via)) => {
                line(&mut batch, format_args!("route add {} via {via} dev eth0 onlink", host_route(address)));
            }
            // A node without IPv4 has no next hop for the pods' IPv4.
            (IpAddr::V4(_), None) => {}
        }
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
