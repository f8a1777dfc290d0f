//! The policies of a small cluster as a list of 5-tuple rules, as an access-control list wants them.
//!
//! A connection with a local pod at one end or both is allowed if and only if a rule of the list matches it. So
//! the list carries all that policy means: selectors have become addresses, excepts and local pods are cut out of
//! blocks, a pair of local pods has what both sides allow, and a pod's own node and the pod itself may always talk
//! to it. IPv4 only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use flow::{Address, Direction, FlowKey, Protocol};
use ipnet::{IpNet, Ipv4Net};
use policy::model::{
    Isolation, Labels, Namespaces, NetworkPolicy, Peer, Peers, Pod, PortMatch, PortSet, Ports, Rule,
};

use crate::cluster::Workload;

/// One rule of the list: it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FiveTuple {
    /// From whom.
    pub src: Ipv4Net,
    /// To whom.
    pub dst: Ipv4Net,
    /// On which destination ports.
    pub service: Service,
}

/// Destination ports: of one protocol, or everything of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The protocol; `None`: all of them.
    pub protocol: Option<Protocol>,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// What one side of a local pod allows: with whom, on which ports.
type Allowed = Vec<(Ipv4Net, Service)>;

/// The list of a workload's policies.
#[must_use]
pub fn expand(workload: &Workload) -> Vec<FiveTuple> {
    let population = Population::of(workload);
    let mut list = BTreeSet::new();
    let mut sides = BTreeMap::new();
    for (&address, &pod) in &population.local {
        let side = |direction| population.allowed(address, pod, direction);
        sides.insert(address, [side(Direction::Egress), side(Direction::Ingress)]);
    }
    for (&own, [egress, ingress]) in &sides {
        let host = host(own);
        for &(other, service) in egress {
            for dst in population.without_local(other) {
                list.insert(FiveTuple { src: host, dst, service });
            }
        }
        for &(other, service) in ingress {
            for src in population.without_local(other) {
                list.insert(FiveTuple { src, dst: host, service });
            }
        }
        // Pairs of local pods: both sides must allow.
        for (&peer, [_, into]) in &sides {
            let out = egress.iter().filter(|(net, _)| net.contains(&peer));
            for (_, one) in out {
                for (_, other) in into.iter().filter(|(net, _)| net.contains(&own)) {
                    let both = one.and(other);
                    list.extend(both.map(|service| FiveTuple { src: host, dst: self::host(peer), service }));
                }
            }
        }
    }
    list.into_iter().collect()
}

impl FiveTuple {
    /// Whether the rule matches a connection.
    #[must_use]
    pub fn matches(&self, key: &FlowKey) -> bool {
        let inside =
            |net: &Ipv4Net, address: Address| v4(address).is_some_and(|address| net.contains(&address));
        let Service { protocol, first, last } = self.service;
        inside(&self.src, key.src.address)
            && inside(&self.dst, key.dst.address)
            && protocol
                .is_none_or(|protocol| protocol == key.protocol && (first..=last).contains(&key.dst.port))
    }
}

impl fmt::Display for FiveTuple {
    /// As `dpdk-test-acl` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src, dst, service: Service { protocol, first, last } } = self;
        write!(f, "@{src}\t{dst}\t0 : 65535\t{first} : {last}\t")?;
        match protocol {
            Some(protocol) => write!(f, "{:#04x}/0xff\t", protocol.0),
            None => write!(f, "0x00/0x00\t"),
        }
    }
}

impl Service {
    const ALL: Self = Self { protocol: None, first: 0, last: u16::MAX };

    /// What both allow.
    fn and(&self, other: &Self) -> Option<Self> {
        let protocol = match (self.protocol, other.protocol) {
            (Some(one), Some(other)) if one != other => return None,
            (one, other) => one.or(other),
        };
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { protocol, first, last })
    }
}

/// Who owns which address.
struct Population<'a> {
    workload: &'a Workload,
    pods: BTreeMap<Ipv4Addr, &'a Pod>,
    local: BTreeMap<Ipv4Addr, &'a Pod>,
    /// Labels of the namespaces of pods.
    labels: BTreeMap<&'a str, Labels>,
}

impl<'a> Population<'a> {
    fn of(workload: &'a Workload) -> Self {
        let cluster = &workload.cluster;
        let owners = cluster.owners().into_iter();
        let pods: BTreeMap<_, _> =
            owners.filter_map(|(address, pod)| Some((v4(address)?, &cluster.pods[pod]))).collect();
        let is_local = |(_, pod): &(&Ipv4Addr, &&Pod)| workload.local.contains(&pod.name);
        let local = pods.iter().filter(is_local).map(|(&address, &pod)| (address, pod)).collect();
        let spaces: BTreeSet<_> = pods.values().map(|pod| pod.name.namespace.as_str()).collect();
        let labels = spaces.into_iter().map(|space| (space, cluster.namespace_labels(space))).collect();
        Self { workload, pods, local, labels }
    }

    /// What a local pod may do in one direction.
    fn allowed(&self, own: Ipv4Addr, pod: &Pod, direction: Direction) -> Allowed {
        let cluster = &self.workload.cluster;
        let mut open = true;
        let mut allowed: Allowed = vec![(host(own), Service::ALL)];
        let nodes = cluster.node_addresses(&pod.node).filter_map(v4);
        allowed.extend(nodes.map(|node| (host(node), Service::ALL)));
        let selecting = cluster.policies.iter().filter(|policy| {
            policy.name.namespace == pod.name.namespace && policy.subjects.matches(&pod.labels)
        });
        for policy in selecting {
            let isolation = if direction == Direction::Ingress { &policy.ingress } else { &policy.egress };
            let Isolation::Isolated { rules } = isolation else { continue };
            open = false;
            for rule in rules {
                self.expand_rule(
                    policy,
                    rule,
                    (direction == Direction::Ingress).then_some(pod),
                    &mut allowed,
                );
            }
        }
        if open { vec![(Ipv4Net::default(), Service::ALL)] } else { allowed }
    }

    /// Adds what a rule allows; `subject` is the destination's pod, where it is known.
    fn expand_rule(&self, policy: &NetworkPolicy, rule: &Rule, subject: Option<&Pod>, allowed: &mut Allowed) {
        let nets = match &rule.peers {
            Peers::Any => vec![Ipv4Net::default()],
            Peers::OneOf(peers) => peers.iter().flat_map(|peer| self.nets(policy, peer)).collect(),
        };
        let Ports::OneOf(ports) = &rule.ports else {
            allowed.extend(nets.into_iter().map(|net| (net, Service::ALL)));
            return;
        };
        for PortMatch { protocol, port } in ports {
            let service = |first, last| Service { protocol: Some(*protocol), first, last };
            let (first, last) = match port {
                PortSet::All => (0, u16::MAX),
                PortSet::Range(first, last) => (*first, *last),
                PortSet::Named(name) => {
                    let numbers = |pod: &Pod| -> Vec<u16> {
                        let named = pod.ports.iter();
                        let named = named.filter(|port| port.name == *name && port.protocol == *protocol);
                        named.map(|port| port.number).collect()
                    };
                    if let Some(pod) = subject {
                        for number in numbers(pod) {
                            allowed.extend(nets.iter().map(|&net| (net, service(number, number))));
                        }
                    } else {
                        let of_peers =
                            self.pods.iter().filter(|(at, _)| nets.iter().any(|net| net.contains(*at)));
                        for (&address, pod) in of_peers {
                            let named = numbers(pod).into_iter();
                            allowed.extend(named.map(|number| (host(address), service(number, number))));
                        }
                    }
                    continue;
                }
            };
            allowed.extend(nets.iter().map(|&net| (net, service(first, last))));
        }
    }

    /// The addresses that a peer matches.
    fn nets(&self, policy: &NetworkPolicy, peer: &Peer) -> Vec<Ipv4Net> {
        match peer {
            Peer::Block(block) => {
                let IpNet::V4(cidr) = block.cidr else { return Vec::new() };
                let holes = block.except.iter().filter_map(|hole| match hole {
                    IpNet::V4(hole) => Some(*hole),
                    IpNet::V6(_) => None,
                });
                subtract(cidr, &holes.collect::<Vec<_>>())
            }
            Peer::Pods { namespaces, pods } => {
                let matches = |pod: &Pod| {
                    let space = pod.name.namespace.as_str();
                    pods.matches(&pod.labels)
                        && match namespaces {
                            Namespaces::SameAsPolicy => space == policy.name.namespace,
                            Namespaces::Matching(selector) => selector.matches(&self.labels[space]),
                        }
                };
                self.pods.iter().filter(|(_, pod)| matches(pod)).map(|(&address, _)| host(address)).collect()
            }
        }
    }

    /// A block without the local pods in it.
    fn without_local(&self, net: Ipv4Net) -> Vec<Ipv4Net> {
        let inside = self.local.range(net.network()..=net.broadcast());
        subtract(net, &inside.map(|(&address, _)| host(address)).collect::<Vec<_>>())
    }
}

/// A block without its holes, as prefixes.
fn subtract(net: Ipv4Net, holes: &[Ipv4Net]) -> Vec<Ipv4Net> {
    if holes.iter().any(|hole| hole.contains(&net)) {
        return Vec::new();
    }
    let inside: Vec<_> = holes.iter().copied().filter(|hole| net.contains(hole)).collect();
    if inside.is_empty() {
        return vec![net];
    }
    let halves = net.subnets(net.prefix_len() + 1).expect("it has room for a hole");
    halves.flat_map(|half| subtract(half, &inside)).collect()
}

fn host(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

const fn v4(address: Address) -> Option<Ipv4Addr> {
    match address.ip() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Shape;
    use crate::exact::{RULES, exact};
    use crate::traffic::{Family, Trace};
    use flow::Verdict;
    use testkit::cluster::{block, cluster, pods, policy, rule};

    fn agrees(workload: &Workload, keys: &[FlowKey]) -> [usize; 2] {
        let list = expand(workload);
        let mut seen = [0; 2];
        for key in keys {
            let allowed = workload.judge(key) == Verdict::Allow;
            assert_eq!(list.iter().any(|rule| rule.matches(key)), allowed, "{key}");
            seen[usize::from(allowed)] += 1;
        }
        seen
    }

    #[test]
    fn the_list_says_what_policy_says() {
        for seed in 0..4 {
            let shape = Shape { seed, namespaces: 4, pods: 60, policies: 80, local: 10, ..Shape::LARGE };
            let workload = shape.workload();
            let trace = Trace::of(&workload);
            let seen = agrees(&workload, &trace.hot(Family::V4, seed, 400));
            assert!(seen[0] > 50 && seen[1] > 50, "{seen:?}");
        }
    }

    #[test]
    fn blocks_around_local_pods_and_names_at_the_peer_expand() {
        let cluster = cluster()
            .node("node", "192.168.0.1")
            .pod("x/a", "10.0.0.1", "app=a")
            .pod("x/b", "10.0.0.2", "app=b")
            .named("web", "TCP/8080")
            .pod("x/far", "10.0.0.3", "app=far")
            .on("far")
            .named("web", "TCP/9090")
            .policy(
                policy("x/out")
                    .subjects("app=a")
                    .egress([rule().with(block("10.0.0.0/29", &["10.0.0.4/32"])).on("TCP/web").on("UDP/53")]),
            )
            .policy(
                policy("x/in").subjects("app=b").ingress([rule().with(pods("app=a")).on("TCP/8000-8080")]),
            )
            .build();
        let local = cluster.pods[..2].iter().map(|pod| pod.name.clone()).collect();
        let workload = Workload { cluster, local };
        let places = (0..8).map(|last| Address::v4([10, 0, 0, last])).chain([Address::v4([192, 168, 0, 1])]);
        let places: Vec<_> = places.collect();
        let mut keys = Vec::new();
        for own in &places[1..3] {
            for other in &places {
                for (protocol, port) in [(6, 8080), (6, 9090), (6, 8000), (17, 53), (17, 8080), (1, 0)] {
                    keys.push(FlowKey::new(Protocol(protocol), (*own, 1), (*other, port)));
                    keys.push(FlowKey::new(Protocol(protocol), (*other, 1), (*own, port)));
                }
            }
        }
        let seen = agrees(&workload, &keys);
        assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}");
    }

    #[test]
    fn the_clusters_for_the_peer_have_as_many_rules_as_they_say() {
        for rules in RULES {
            let workload = exact(rules);
            assert_eq!(workload, exact(rules));
            assert_eq!(expand(&workload).len(), rules);
        }
        let workload = exact(1000);
        let seen = agrees(&workload, &Trace::of(&workload).hot(Family::V4, 1, 400));
        assert!(seen[0] > 100 && seen[1] > 100, "{seen:?}");
    }

    #[test]
    fn a_rule_is_written_as_the_peer_reads_it() {
        let nets = ["10.0.0.0/24", "10.64.0.2/32"].map(|net| net.parse().unwrap());
        let service = Service { protocol: Some(Protocol::TCP), first: 80, last: 81 };
        let rule = FiveTuple { src: nets[0], dst: nets[1], service };
        assert_eq!(rule.to_string(), "@10.0.0.0/24\t10.64.0.2/32\t0 : 65535\t80 : 81\t0x06/0xff\t");
        let rule = FiveTuple { service: Service::ALL, ..rule };
        assert_eq!(rule.to_string(), "@10.0.0.0/24\t10.64.0.2/32\t0 : 65535\t0 : 65535\t0x00/0x00\t");
    }
}
