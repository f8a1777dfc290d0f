//! Random clusters, and connections into them.
//!
//! Few labels, ports and blocks, so that things collide: selectors match often, blocks overlap and have holes
//! where pods are, port names mean different numbers, pods claim the addresses of others. Names of namespaces
//! and policies are unique, as in an API server; names of pods with their uid.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use flow::{Address, Protocol};
use ipnet::IpNet;
use policy::Connection;
use policy::model::{
    Cluster, IpBlock, Isolation, Labels, NamedPort, Namespace, Namespaces, NetworkPolicy, Node, ObjectName,
    Origin, Peer, Peers, Phase, Pod, PortMatch, PortSet, Ports, Rule,
};
use policy::selector::{Operator, Requirement, Selector};
use proptest::collection::{btree_map, vec};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["a", "b", ""];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const PORTS: [u16; 6] = [0, 53, 79, 80, 81, 65535];
const BLOCKS: [&str; 14] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/28",
    "10.0.0.0/29",
    "10.0.0.4/30",
    "10.0.0.5/32",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "::/0",
    "fd00::/64",
    "fd00::/125",
    "fd00::4/126",
    "fd00::5/128",
    "2001:db8::/32",
];
const EXTERNALS: [&str; 6] =
    ["192.0.2.1", "192.0.2.200", "10.9.9.9", "255.255.255.255", "2001:db8::1", "fd00:0:0:1::1"];
/// Pods claim addresses whose last number is below this one, so some are claimed twice.
const CLAIMED: u8 = 14;

/// A random cluster: some nodes, up to twelve pods in three namespaces, up to nine policies.
pub fn clusters() -> impl Strategy<Value = Cluster> {
    let namespaces = btree_map(select(&NAMESPACES[..]), labels(), 0..=3);
    let nodes = vec(weighted(0.8, vec(node_address(), 0..=2)), NODES.len());
    let policies = btree_map((select(&NAMESPACES[..]), 0..4_u8), policy_body(), 0..=9);
    (namespaces, nodes, vec(pod(), 1..=12), policies).prop_map(|(namespaces, nodes, pods, policies)| {
        Cluster {
            namespaces: namespaces
                .into_iter()
                .map(|(name, labels)| Namespace { name: name.into(), labels })
                .collect(),
            nodes: NODES
                .into_iter()
                .zip(nodes)
                .filter_map(|(name, addresses)| Some(Node { name: name.into(), addresses: addresses? }))
                .collect(),
            pods: pods
                .into_iter()
                .enumerate()
                .map(|(index, mut pod)| {
                    pod.name.name = format!("pod-{index}");
                    pod
                })
                .collect(),
            policies: policies
                .into_iter()
                .map(|((namespace, number), (subjects, ingress, egress))| NetworkPolicy {
                    name: ObjectName::new(namespace, format!("policy-{number}")),
                    origin: origin(),
                    subjects,
                    ingress,
                    egress,
                })
                .collect(),
        }
    })
}

/// A random cluster with `count` connections: between its pods, its nodes, externals and the edges of its blocks.
pub fn clusters_with_connections(count: usize) -> impl Strategy<Value = (Cluster, Vec<Connection>)> {
    let families = prop::bool::weighted(0.95);
    let raw = (any::<Index>(), any::<Index>(), families, wire_protocol(), select(&PORTS[..]));
    (clusters(), vec(raw, count)).prop_map(|(cluster, raw)| {
        let places = places(&cluster);
        let (v4, v6): (Vec<_>, Vec<_>) = places.iter().copied().partition(|place| place.is_v4());
        let connections = raw
            .into_iter()
            .map(|(src, dst, one_family, protocol, port)| {
                let src: Address = *src.get(&places);
                let alike = if src.is_v4() { &v4 } else { &v6 };
                let dst = *dst.get(if one_family { alike } else { &places });
                Connection { src, dst, protocol, port }
            })
            .collect();
        (cluster, connections)
    })
}

/// One random policy, for a place in a cluster: its subjects and what it does in either direction.
pub fn policy_body() -> impl Strategy<Value = (Selector, Isolation, Isolation)> {
    (selector(), isolation(), isolation())
}

/// Every address that somebody could care about in a cluster; those of pods more than once.
#[must_use]
pub fn places(cluster: &Cluster) -> Vec<Address> {
    let pods = cluster.pods.iter().flat_map(|pod| pod.addresses.iter().copied());
    let nodes = cluster.nodes.iter().flat_map(|node| node.addresses.iter().copied());
    let externals = EXTERNALS.iter().map(|text| ip(text));
    let edges = rules(cluster)
        .filter_map(|rule| match &rule.peers {
            Peers::Any => None,
            Peers::OneOf(peers) => Some(peers),
        })
        .flatten()
        .filter_map(|peer| match peer {
            Peer::Pods { .. } => None,
            Peer::Block(block) => Some(block),
        })
        .flat_map(|block| [block.cidr].into_iter().chain(block.except.iter().copied()))
        .flat_map(|net| [net.network().into(), net.broadcast().into()]);
    let mut places: Vec<Address> = externals.chain(nodes.clone()).chain(nodes).chain(edges).collect();
    let pods: Vec<Address> = pods.collect();
    // Two or three times as many places are pods as are anything else.
    for _ in 0..=(2 * places.len() / pods.len().max(1)) {
        places.extend(&pods);
    }
    places
}

fn rules(cluster: &Cluster) -> impl Iterator<Item = &Rule> {
    let isolations = cluster.policies.iter().flat_map(|policy| [&policy.ingress, &policy.egress]);
    isolations.flat_map(|isolation| match isolation {
        Isolation::Open => &[][..],
        Isolation::Isolated { rules } => rules,
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    let place = (select(&NAMESPACES[..]), labels(), prop_oneof![6 => select(&NODES[..]), 1 => Just("")]);
    let state = (
        prop_oneof![12 => Just(Phase::Running), 1 => Just(Phase::Pending), 2 => Just(Phase::Ended)],
        prop::bool::weighted(0.1),
        0..3_u8,
        0..2_u8,
    );
    (place, pod_addresses(), vec(named_port(), 0..=3), state).prop_map(
        |((namespace, labels, node), addresses, ports, (phase, host_network, started, uid))| Pod {
            name: ObjectName::new(namespace, ""),
            uid: format!("uid-{uid}"),
            labels,
            node: node.into(),
            addresses,
            host_network,
            phase,
            started: if started == 0 { String::new() } else { format!("2024-01-01T00:00:0{started}Z") },
            ports,
        },
    )
}

/// Of both families, of one, or none.
fn pod_addresses() -> impl Strategy<Value = Vec<Address>> {
    let v4 = weighted(0.95, (0..CLAIMED).prop_map(pod_v4));
    let v6 = weighted(0.7, (0..CLAIMED).prop_map(pod_v6));
    (v4, v6).prop_map(|(v4, v6)| v4.into_iter().chain(v6).collect())
}

/// Apart from the pods', except that one may be a pod's.
fn node_address() -> impl Strategy<Value = Address> {
    prop_oneof![
        4 => (200..204_u8).prop_map(pod_v4),
        4 => (200..204_u8).prop_map(pod_v6),
        1 => (0..CLAIMED).prop_map(pod_v4),
    ]
}

const fn pod_v4(last: u8) -> Address {
    Address::v4([10, 0, 0, last])
}

const fn pod_v6(last: u8) -> Address {
    Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

fn named_port() -> impl Strategy<Value = NamedPort> {
    (select(&PORT_NAMES[..]), protocol(), select(&PORTS[1..]))
        .prop_map(|(name, protocol, number)| NamedPort { name: name.into(), protocol, number })
}

fn labels() -> impl Strategy<Value = Labels> {
    let lie = weighted(0.1, select(&NAMESPACES[..]));
    (btree_map(select(&KEYS[..]), select(&VALUES[..]), 0..=2), lie).prop_map(|(labels, lie)| {
        let lie = lie.map(|name| ("kubernetes.io/metadata.name", name));
        let all: BTreeMap<_, _> = labels.into_iter().chain(lie).collect();
        all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let requirements = prop_oneof![
        4 => Just(Vec::new()),
        3 => vec(requirement(), 1),
        1 => vec(requirement(), 2),
    ];
    requirements.prop_map(|requirements| Selector { requirements })
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let by_label = (select(&KEYS[..]), vec(select(&VALUES[..]), 1..=2));
    let by_name = (Just("kubernetes.io/metadata.name"), vec(select(&NAMESPACES[..]), 1..=2));
    (prop_oneof![4 => by_label, 1 => by_name], 0..4_u8).prop_map(|((key, values), operator)| {
        let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
        let operator = match operator {
            0 => Operator::In(values),
            1 => Operator::NotIn(values),
            2 => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        Requirement { key: key.to_owned(), operator }
    })
}

fn isolation() -> impl Strategy<Value = Isolation> {
    prop_oneof![
        1 => Just(Isolation::Open),
        5 => vec(arbitrary_rule(), 0..=4).prop_map(|rules| Isolation::Isolated { rules }),
    ]
}

fn arbitrary_rule() -> impl Strategy<Value = Rule> {
    let peers = prop_oneof![1 => Just(Peers::Any), 4 => vec(peer(), 0..=4).prop_map(Peers::OneOf)];
    let ports = prop_oneof![1 => Just(Ports::Any), 2 => vec(port_match(), 0..=3).prop_map(Ports::OneOf)];
    (peers, ports).prop_map(|(peers, ports)| Rule { origin: origin(), peers, ports })
}

fn peer() -> impl Strategy<Value = Peer> {
    let namespaces = prop_oneof![Just(Namespaces::SameAsPolicy), selector().prop_map(Namespaces::Matching),];
    let by_label = (namespaces, selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods });
    let by_block =
        (net(), vec(net(), 0..=2)).prop_map(|(cidr, except)| Peer::Block(IpBlock { cidr, except }));
    prop_oneof![3 => by_label, 2 => by_block]
}

fn net() -> impl Strategy<Value = IpNet> {
    select(&BLOCKS[..]).prop_map(|text| text.parse().expect("a block of the list"))
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let port = prop_oneof![
        1 => Just(PortSet::All),
        2 => (select(&PORTS[..]), select(&PORTS[..])).prop_map(|(a, b)| PortSet::Range(a.min(b), a.max(b))),
        1 => select(&PORTS[..]).prop_map(|port| PortSet::Range(port, port)),
        3 => select(&PORT_NAMES[..]).prop_map(|name| PortSet::Named(name.to_owned())),
    ];
    (protocol(), port).prop_map(|(protocol, port)| PortMatch { protocol, port })
}

/// A protocol that a policy can name.
fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::TCP), 2 => Just(Protocol::UDP), 1 => Just(Protocol::SCTP)]
}

/// A protocol that a packet can have.
fn wire_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        8 => protocol(),
        1 => Just(Protocol::ICMP),
        1 => Just(Protocol::ICMPV6),
        1 => any::<u8>().prop_map(Protocol),
    ]
}

fn origin() -> Origin {
    Origin { source: Arc::from("random"), line: 0, column: 0 }
}

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address of the list").into()
}
