//! The parts of a cluster, in few words.

use std::sync::Arc;

use flow::{Address, Protocol};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::model::{
    IpBlock, Isolation, Labels, Namespace, Namespaces, Node, Origin, Peer, Peers, PortMatch, PortSet, Ports,
    Rule,
};
use policy::selector::{Operator, Requirement, Selector};

use super::{APPS, NAME_LABEL};
use crate::random::Random;

/// The two addresses of a place on a node: in its 10.x.y.0/24 and its fd00:10:0:n::/64.
pub(crate) fn pod_addresses(node: usize, place: usize) -> [Address; 2] {
    let host = place + 2;
    let (high, low) = ((node >> 8) as u8, node as u8);
    let mut v6 = [0; 16];
    v6[..4].copy_from_slice(&[0xfd, 0, 0, 0x10]);
    v6[6..8].copy_from_slice(&[high, low]);
    v6[14..].copy_from_slice(&[(host >> 8) as u8, host as u8]);
    [Address::v4([10, 64 + high, low, host as u8]), Address::v6(v6)]
}

pub(crate) fn node(index: usize) -> Node {
    let (high, low) = ((index >> 8) as u8, index as u8);
    let mut v6 = [0; 16];
    v6[..4].copy_from_slice(&[0xfd, 0, 0, 0x20]);
    v6[14..].copy_from_slice(&[high, low]);
    Node { name: node_name(index), addresses: vec![Address::v4([172, 20, high, low]), Address::v6(v6)] }
}

pub(crate) fn node_name(index: usize) -> String {
    format!("node-{index}")
}

pub(crate) fn namespace_name(index: usize) -> String {
    if index == 0 { "kube-system".into() } else { format!("space-{index}") }
}

pub(crate) fn namespace(index: usize) -> Namespace {
    let mut labels = labels(&[("env", env(index))]);
    labels.insert("team".into(), format!("team-{}", index % 20));
    Namespace { name: namespace_name(index), labels }
}

pub(super) const fn env(namespace: usize) -> &'static str {
    ["prod", "staging", "dev"][namespace % 3]
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub(crate) fn origin() -> Origin {
    Origin { source: Arc::from("generated"), line: 0, column: 0 }
}

pub(crate) fn isolated<const N: usize>(rules: [(Peers, Ports); N]) -> Isolation {
    let rule = |(peers, ports)| Rule { origin: origin(), peers, ports };
    Isolation::Isolated { rules: rules.map(rule).into() }
}

pub(crate) fn selector<const N: usize>(requirements: [Requirement; N]) -> Selector {
    Selector { requirements: requirements.into() }
}

pub(crate) fn requirement<const N: usize>(key: &str, values: [String; N]) -> Requirement {
    Requirement { key: key.into(), operator: Operator::In(values.into()) }
}

/// Random apps by their numbers.
pub(super) fn numbers(random: &mut Random, count: usize) -> Requirement {
    let values = random.distinct(count, APPS.len()).iter().map(usize::to_string).collect();
    Requirement { key: "num".into(), operator: Operator::In(values) }
}

pub(crate) fn pods_of<const N: usize>(namespaces: &[String], pods: [Requirement; N]) -> Peer {
    let by_name = Requirement { key: NAME_LABEL.into(), operator: Operator::In(namespaces.to_vec()) };
    Peer::Pods { namespaces: Namespaces::Matching(selector([by_name])), pods: selector(pods) }
}

pub(super) fn same_namespace() -> Peer {
    Peer::Pods { namespaces: Namespaces::SameAsPolicy, pods: Selector::default() }
}

/// Everything outside but the private networks.
pub(super) fn internet() -> Vec<Peer> {
    let net = |text: &str| text.parse::<IpNet>().expect("a block");
    let holes = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"].map(net);
    let v4 = IpBlock { cidr: net("0.0.0.0/0"), except: holes.into() };
    vec![Peer::Block(v4), Peer::Block(IpBlock { cidr: net("::/0"), except: vec![net("fc00::/7")] })]
}

/// A random block of the public address space; one in five has a hole.
pub(super) fn block(random: &mut Random, v6: bool) -> IpBlock {
    let bits = random.bits();
    let (cidr, hole): (IpNet, IpNet) = if v6 {
        let length = *random.pick(&[32, 40, 48, 56, 64]);
        let address = 0x2000_u128 << 112 | u128::from(bits >> 4) << 60;
        (v6_net(address, length), v6_net(address, length + 8))
    } else {
        let length = *random.pick(&[16, 20, 22, 24, 24, 24, 26, 28, 32]);
        let address =
            u32::from_be_bytes([20 + (bits >> 57) as u8, bits as u8, (bits >> 8) as u8, (bits >> 16) as u8]);
        (v4_net(address, length), v4_net(address, (length + 4).min(32)))
    };
    let except = if random.percent(20) && hole != cidr { vec![hole] } else { Vec::new() };
    IpBlock { cidr, except }
}

pub(crate) fn v4_net(address: u32, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new(address.into(), length).expect("at most 32 bits").trunc())
}

pub(crate) fn v6_net(address: u128, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new(address.into(), length).expect("at most 128 bits").trunc())
}

pub(super) fn protocol(random: &mut Random) -> Protocol {
    if random.percent(80) { Protocol::TCP } else { Protocol::UDP }
}

pub(crate) const fn tcp(first: u16, last: u16) -> PortMatch {
    PortMatch { protocol: Protocol::TCP, port: PortSet::Range(first, last) }
}

pub(super) fn named(name: &str) -> PortMatch {
    PortMatch { protocol: Protocol::TCP, port: PortSet::Named(name.into()) }
}
