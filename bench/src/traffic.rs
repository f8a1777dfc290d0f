//! Seeded traces: which connections a lookup is asked about.
//!
//! Each key has a local pod at one end at least, and that pod, the other end and the direction are drawn anew for
//! each key. [`Trace::hot`] follows the rules for half of its keys, so that about half are allowed; [`Trace::cold`]
//! draws the other end uniformly from all pods.

use flow::{Address, Direction, FlowKey, Protocol};
use policy::model::{
    IpBlock, Isolation, Namespaces, NetworkPolicy, Peer, Peers, Pod, PortMatch, PortSet, Ports, Rule,
};
use std::collections::HashMap;

use crate::cluster::Workload;
use crate::random::Random;

/// Keys of a hot trace.
pub const HOT: usize = 1024;

/// The family of a trace's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Draws traces for one workload.
pub struct Trace<'a> {
    workload: &'a Workload,
    local: Vec<&'a Pod>,
    /// Pods by namespace.
    pods: HashMap<&'a str, Vec<&'a Pod>>,
    /// For each local pod its rules, with the direction and the namespace of the policy.
    rules: Vec<Vec<(Direction, &'a Rule)>>,
}

impl<'a> Trace<'a> {
    /// Traces for a workload.
    #[must_use]
    pub fn of(workload: &'a Workload) -> Self {
        let local: Vec<&Pod> = workload.local_pods().collect();
        let mut pods: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &workload.cluster.pods {
            pods.entry(&pod.name.namespace).or_default().push(pod);
        }
        let mut policies: HashMap<&str, Vec<&NetworkPolicy>> = HashMap::new();
        for policy in &workload.cluster.policies {
            policies.entry(&policy.name.namespace).or_default().push(policy);
        }
        let of = |pod: &&Pod| policies.get(pod.name.namespace.as_str()).map_or(&[][..], |policies| policies);
        let rules = local.iter().map(|pod| rules_of(of(pod), pod)).collect();
        Self { workload, local, pods, rules }
    }

    /// Keys that stay in the cache: for half of them (where there are rules) a peer and a port that a rule of the
    /// local pod allows, four in ten with any pod on any port, one in ten with an address outside the cluster.
    #[must_use]
    pub fn hot(&self, family: Family, seed: u64, count: usize) -> Vec<FlowKey> {
        let mut random = Random::of(seed, 20, 0);
        let draw = |_| match random.below(10) {
            0..5 => {
                let drawn = (0..20).find_map(|_| self.by_rule(family, &mut random));
                drawn.unwrap_or_else(|| self.any(family, &mut random))
            }
            5..9 => self.any(family, &mut random),
            _ => self.external(family, &mut random),
        };
        (0..count).map(draw).collect()
    }

    /// Keys whose other end is uniform over all pods of the cluster.
    #[must_use]
    pub fn cold(&self, family: Family, seed: u64, count: usize) -> Vec<FlowKey> {
        let mut random = Random::of(seed, 21, 0);
        (0..count).map(|_| self.any(family, &mut random)).collect()
    }

    /// A local pod with any pod, on any port.
    fn any(&self, family: Family, random: &mut Random) -> FlowKey {
        let own = *random.pick(&self.local);
        let other = random.pick(&self.workload.cluster.pods);
        let port = if random.percent(50) { *random.pick(&[53, 80, 443, 8080, 9090]) } else { port(random) };
        let direction = direction(random);
        key(direction, address(own, family), address(other, family), protocol(random), port, random)
    }

    /// A local pod with somebody outside the cluster.
    fn external(&self, family: Family, random: &mut Random) -> FlowKey {
        let own = *random.pick(&self.local);
        let bits = random.bits();
        let other = match family {
            Family::V4 => {
                Address::v4([20 + (bits >> 57) as u8, bits as u8, (bits >> 8) as u8, (bits >> 16) as u8])
            }
            Family::V6 => v6(0x2000_u128 << 112 | u128::from(bits >> 4) << 60 | 1),
        };
        let port = *random.pick(&[53, 80, 443]);
        let direction = direction(random);
        key(direction, address(own, family), other, protocol(random), port, random)
    }

    /// A connection that a rule of a local pod names; `None` where the draw found none.
    fn by_rule(&self, family: Family, random: &mut Random) -> Option<FlowKey> {
        let at = random.below(self.local.len());
        let (own, rules) = (self.local[at], &self.rules[at]);
        if rules.is_empty() {
            return None;
        }
        let &(direction, rule) = random.pick(rules);
        let other = match &rule.peers {
            Peers::Any => address(random.pick(&self.workload.cluster.pods), family),
            Peers::OneOf(peers) if peers.is_empty() => return None,
            Peers::OneOf(peers) => self.peer(own, random.pick(peers), family, random)?,
        };
        let destination = if direction == Direction::Ingress { Some(own) } else { None };
        let (protocol, port) = match &rule.ports {
            Ports::Any => (protocol(random), port(random)),
            Ports::OneOf(ports) if ports.is_empty() => return None,
            Ports::OneOf(ports) => port_of(random.pick(ports), destination, random)?,
        };
        Some(key(direction, address(own, family), other, protocol, port, random))
    }

    /// An address that a peer of a rule of `own` matches.
    fn peer(&self, own: &Pod, peer: &Peer, family: Family, random: &mut Random) -> Option<Address> {
        let (namespaces, pods) = match peer {
            Peer::Block(block) => return inside(block, family, random),
            Peer::Pods { namespaces, pods } => (namespaces, pods),
        };
        // Whatever a selector matches is found soon, or the draw is given up.
        for _ in 0..200 {
            let space = match namespaces {
                Namespaces::SameAsPolicy => own.name.namespace.as_str(),
                Namespaces::Matching(selector) => {
                    let space = random.pick(&self.workload.cluster.namespaces);
                    if !selector.matches(&policy::labels_of(&space.name, Some(space))) {
                        continue;
                    }
                    space.name.as_str()
                }
            };
            let pod = self.pods.get(space).map(|pods| *random.pick(pods));
            if let Some(pod) = pod.filter(|pod| pods.matches(&pod.labels)) {
                return Some(address(pod, family));
            }
        }
        None
    }
}

/// The rules of the policies that isolate a pod, out of those of its namespace.
fn rules_of<'a>(policies: &[&'a NetworkPolicy], pod: &Pod) -> Vec<(Direction, &'a Rule)> {
    let selecting = policies.iter().filter(|policy| policy.subjects.matches(&pod.labels));
    selecting
        .flat_map(|policy| [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)])
        .flat_map(|(direction, isolation)| {
            let rules = if let Isolation::Isolated { rules } = isolation { &rules[..] } else { &[] };
            rules.iter().map(move |rule| (direction, rule))
        })
        .collect()
}

fn key(
    direction: Direction,
    own: Address,
    other: Address,
    protocol: Protocol,
    port: u16,
    random: &mut Random,
) -> FlowKey {
    let ephemeral = 32_768 + random.below(28_232) as u16;
    match direction {
        Direction::Egress => FlowKey::new(protocol, (own, ephemeral), (other, port)),
        Direction::Ingress => FlowKey::new(protocol, (other, ephemeral), (own, port)),
    }
}

/// The pod's address of a family; its first where it has none of it.
fn address(pod: &Pod, family: Family) -> Address {
    let of_family = |address: &&Address| address.is_v4() == (family == Family::V4);
    *pod.addresses.iter().find(of_family).unwrap_or(&pod.addresses[0])
}

/// A random address of a block, outside its holes.
fn inside(block: &IpBlock, family: Family, random: &mut Random) -> Option<Address> {
    if (family == Family::V4) != matches!(block.cidr, ipnet::IpNet::V4(_)) {
        return None;
    }
    let host = u128::from(random.bits()) << 64 | u128::from(random.bits());
    let address = match block.cidr {
        ipnet::IpNet::V4(net) => {
            let bits = u32::from(net.network()) | host as u32 & u32::from(net.hostmask());
            Address::v4(bits.to_be_bytes())
        }
        ipnet::IpNet::V6(net) => v6(u128::from(net.network()) | host & u128::from(net.hostmask())),
    };
    Some(address).filter(|&address| block.contains(address))
}

/// A port that an entry names, at a destination pod where it is known.
fn port_of(wanted: &PortMatch, destination: Option<&Pod>, random: &mut Random) -> Option<(Protocol, u16)> {
    let port = match &wanted.port {
        PortSet::All => port(random),
        PortSet::Range(first, last) => first + random.below(usize::from(last - first) + 1) as u16,
        PortSet::Named(name) => destination?.ports.iter().find(|port| port.name == *name)?.number,
    };
    Some((wanted.protocol, port))
}

fn direction(random: &mut Random) -> Direction {
    if random.percent(50) { Direction::Egress } else { Direction::Ingress }
}

fn protocol(random: &mut Random) -> Protocol {
    if random.percent(80) { Protocol::TCP } else { Protocol::UDP }
}

fn port(random: &mut Random) -> u16 {
    1 + random.below(65_535) as u16
}

const fn v6(bits: u128) -> Address {
    Address::v6(bits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Shape;
    use flow::Verdict;
    use std::collections::HashSet;

    fn workload() -> Workload {
        Shape { namespaces: 10, pods: 400, policies: 200, local: 40, ..Shape::LARGE }.workload()
    }

    #[test]
    fn a_seed_is_a_trace() {
        let workload = workload();
        let trace = Trace::of(&workload);
        assert_eq!(trace.hot(Family::V4, 3, 64), trace.hot(Family::V4, 3, 64));
        assert_ne!(trace.hot(Family::V4, 3, 64), trace.hot(Family::V4, 4, 64));
        assert_ne!(trace.cold(Family::V4, 3, 64), trace.cold(Family::V4, 4, 64));
    }

    #[test]
    fn one_end_is_local_and_a_good_share_is_allowed() {
        let workload = workload();
        let trace = Trace::of(&workload);
        let local: HashSet<_> = workload.local_pods().flat_map(|pod| &pod.addresses).copied().collect();
        for family in [Family::V4, Family::V6] {
            let keys = trace.hot(family, 1, 256);
            let is_local =
                |key: &&FlowKey| local.contains(&key.src.address) || local.contains(&key.dst.address);
            assert_eq!(keys.iter().filter(is_local).count(), 256);
            assert!(keys.iter().all(|key| key.src.address.is_v4() == (family == Family::V4)));
            let allowed = keys.iter().filter(|key| workload.judge(key) == Verdict::Allow);
            let allowed = allowed.count();
            assert!((64..200).contains(&allowed), "{family:?}: {allowed} of 256");
        }
        let others: HashSet<_> = trace.cold(Family::V6, 1, 4096).iter().map(|key| key.dst.address).collect();
        assert!(
            others.len() > 300,
            "uniform over 400 pods, half of the time as destination: {}",
            others.len()
        );
    }
}
