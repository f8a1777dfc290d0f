//! Clusters that nobody would run, each against one structure of the table.

use compiler::Scope;
use flow::Protocol;
use ipnet::IpNet;
use policy::model::{
    IpBlock, Isolation, Namespaces, NetworkPolicy, ObjectName, Peer, Peers, PortMatch, PortSet, Ports,
};
use policy::selector::{Operator, Requirement, Selector};

use crate::cluster::parts::{isolated, namespace_name, origin, requirement, selector, tcp, v4_net, v6_net};
use crate::cluster::{Shape, Workload};
use crate::random::Random;

/// One such cluster.
pub struct Adversary {
    /// Its name in records.
    pub name: &'static str,
    /// What is unusual about it.
    pub sentence: &'static str,
    /// Makes it, out of a realistic shape that says how large it is.
    pub make: fn(&Shape) -> (Workload, Scope),
}

/// Labels that split pods in two, each; the pods of [`distinct_label_sets`] have them in all combinations.
const FLAGS: usize = 14;

/// All of them.
pub const ADVERSARIES: [Adversary; 6] = [
    Adversary {
        name: "own_labels",
        sentence: "every pod has a label of its own, and policies name pods one by one",
        make: own_labels,
    },
    Adversary {
        name: "overlapping_blocks",
        sentence: "2,000 policies with nested blocks, each on a port of its own",
        make: overlapping_blocks,
    },
    Adversary { name: "thousand_excepts", sentence: "ten policies, each with 1,000 excepts", make: excepts },
    Adversary {
        name: "whole_port_range",
        sentence: "500 policies with port 1 and endPort 65535, or most of it, for each protocol",
        make: port_ranges,
    },
    Adversary {
        name: "distinct_label_sets",
        sentence: "10,000 distinct label sets, and selectors that split them all",
        make: distinct_label_sets,
    },
    Adversary {
        name: "all_local",
        sentence: "the realistic cluster with all of its pods judged, as reachability queries and wire mode need",
        make: all_local,
    },
];

/// The realistic pods with other policies.
fn with_policies(shape: &Shape, policies: impl IntoIterator<Item = NetworkPolicy>) -> (Workload, Scope) {
    let mut workload = Shape { policies: 0, ..*shape }.workload();
    workload.cluster.policies = policies.into_iter().collect();
    let scope = workload.scope();
    (workload, scope)
}

/// A policy for all pods of a namespace.
fn policy(index: usize, space: usize, ingress: Isolation, egress: Isolation) -> NetworkPolicy {
    NetworkPolicy {
        name: ObjectName::new(namespace_name(space), format!("policy-{index}")),
        origin: origin(),
        subjects: Selector::default(),
        ingress,
        egress,
    }
}

fn own_labels(shape: &Shape) -> (Workload, Scope) {
    let mut random = Random::of(shape.seed, 10, 0);
    let peers = |random: &mut Random| {
        let ids = random.distinct(5, shape.pods.max(1)).iter().map(usize::to_string).collect();
        let of = Requirement { key: "id".into(), operator: Operator::In(ids) };
        let everywhere = Namespaces::Matching(Selector::default());
        Peers::OneOf(vec![Peer::Pods { namespaces: everywhere, pods: Selector { requirements: vec![of] } }])
    };
    let policies = (0..shape.policies).map(|index| {
        let port = 1 + (index % 60_000) as u16;
        let rule = [(peers(&mut random), Ports::OneOf(vec![tcp(port, port)]))];
        let isolation = isolated(rule);
        let space = index % shape.namespaces;
        if index.is_multiple_of(2) {
            policy(index, space, isolation, Isolation::Open)
        } else {
            policy(index, space, Isolation::Open, isolation)
        }
    });
    let (mut workload, scope) = with_policies(shape, policies.collect::<Vec<_>>());
    for (index, pod) in workload.cluster.pods.iter_mut().enumerate() {
        pod.labels.insert("id".into(), index.to_string());
    }
    (workload, scope)
}

fn overlapping_blocks(shape: &Shape) -> (Workload, Scope) {
    let mut random = Random::of(shape.seed, 11, 0);
    let policies = (0..2000.min(shape.policies)).map(|index| {
        let port = 1 + index as u16;
        // Lengths from 1 up, all around few places, the pods' own network among them.
        let address = [0x0a40_0000, 0x1400_0000, 0xc000_0200][index % 3] | random.bits() as u32 & 0x000f_ffff;
        let v6 = 0xfd00_0010_u128 << 96 | u128::from(random.bits() & 0xff_ffff) << 64;
        let nets = [
            v4_net(address, 1 + random.below(32) as u8),
            v4_net(address, 8 + random.below(25) as u8),
            v6_net(v6, 1 + random.below(96) as u8),
        ];
        let block = |cidr: IpNet| Peer::Block(IpBlock { cidr, except: Vec::new() });
        let rule = [(Peers::OneOf(nets.map(block).into()), Ports::OneOf(vec![tcp(port, port)]))];
        policy(index, index % shape.namespaces, isolated(rule.clone()), isolated(rule))
    });
    with_policies(shape, policies.collect::<Vec<_>>())
}

fn excepts(shape: &Shape) -> (Workload, Scope) {
    let mut random = Random::of(shape.seed, 12, 0);
    let homes = homes(shape);
    let policies = (0..10).map(|index| {
        let v4 = (0..500).map(|_| v4_net(random.bits() as u32, 16 + random.below(17) as u8)).collect();
        let v6 =
            (0..500).map(|_| v6_net(0x2000_u128 << 112 | u128::from(random.bits() >> 4) << 60, 48)).collect();
        let all = |cidr: IpNet, except| Peer::Block(IpBlock { cidr, except });
        let peers = Peers::OneOf(vec![all(v4_net(0, 0), v4), all(v6_net(0, 0), v6)]);
        let port = 443 + index as u16;
        let rule = [(peers, Ports::OneOf(vec![tcp(port, port)]))];
        policy(index, homes[index % homes.len()], Isolation::Open, isolated(rule))
    });
    with_policies(shape, policies.collect::<Vec<_>>())
}

fn port_ranges(shape: &Shape) -> (Workload, Scope) {
    let mut random = Random::of(shape.seed, 13, 0);
    let homes = homes(shape);
    let policies = (0..500.min(shape.policies)).map(|index| {
        let ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].map(|protocol| {
            let (first, last) = if random.percent(50) {
                (1, 65_535)
            } else {
                (1 + random.below(30_000) as u16, 65_535 - random.below(30_000) as u16)
            };
            PortMatch { protocol, port: PortSet::Range(first, last) }
        });
        let app = ["frontend", "gateway", "api", "auth", "cart"][random.below(5)];
        let pods = selector([requirement("app", [app.into()])]);
        let team = selector([requirement("team", [format!("team-{}", random.below(20))])]);
        let peer = Peer::Pods { namespaces: Namespaces::Matching(team), pods };
        let rule = [(Peers::OneOf(vec![peer]), Ports::OneOf(ports.into()))];
        policy(index, homes[index % homes.len()], isolated(rule), Isolation::Open)
    });
    with_policies(shape, policies.collect::<Vec<_>>())
}

fn distinct_label_sets(shape: &Shape) -> (Workload, Scope) {
    let mut random = Random::of(shape.seed, 14, 0);
    let homes = homes(shape);
    let policies = (0..500.min(shape.policies)).map(|index| {
        let requirements = (0..2).map(|_| {
            let key = format!("flag-{}", random.below(FLAGS));
            let operator = match random.below(4) {
                0 => Operator::Exists,
                1 => Operator::DoesNotExist,
                2 => Operator::In(vec!["on".into()]),
                _ => Operator::NotIn(vec!["on".into()]),
            };
            Requirement { key, operator }
        });
        let pods = Selector { requirements: requirements.collect() };
        let peer = Peer::Pods { namespaces: Namespaces::Matching(Selector::default()), pods };
        let port = 1 + index as u16;
        let rule = [(Peers::OneOf(vec![peer]), Ports::OneOf(vec![tcp(port, port)]))];
        policy(index, homes[index % homes.len()], isolated(rule), Isolation::Open)
    });
    let (mut workload, scope) = with_policies(shape, policies.collect::<Vec<_>>());
    for (index, pod) in workload.cluster.pods.iter_mut().enumerate() {
        let set = index % 10_000;
        for flag in (0..FLAGS).filter(|flag| set >> flag & 1 == 1) {
            pod.labels.insert(format!("flag-{flag}"), "on".into());
        }
    }
    (workload, scope)
}

fn all_local(shape: &Shape) -> (Workload, Scope) {
    (shape.workload(), Scope::AllPods)
}

/// The namespaces with local pods: policies in these are not in vain.
fn homes(shape: &Shape) -> Vec<usize> {
    let workload = Shape { policies: 0, ..*shape }.workload();
    let has_local = |&space: &usize| {
        let name = namespace_name(space);
        workload.local.iter().any(|pod| pod.namespace == name)
    };
    (0..shape.namespaces).filter(has_local).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_is_what_its_sentence_says() {
        let shape = Shape { namespaces: 10, pods: 300, policies: 60, local: 30, ..Shape::LARGE };
        for adversary in &ADVERSARIES {
            let (workload, scope) = (adversary.make)(&shape);
            assert_eq!((adversary.make)(&shape).0, workload, "{}", adversary.name);
            assert_eq!(scope == Scope::AllPods, adversary.name == "all_local");
            let policies = &workload.cluster.policies;
            assert_eq!(policies.len(), if adversary.name == "thousand_excepts" { 10 } else { 60 });
        }
        let sets = |(workload, _): (Workload, Scope)| {
            let labels = workload.cluster.pods.iter().map(|pod| &pod.labels);
            labels.collect::<HashSet<_>>().len()
        };
        assert_eq!(sets(own_labels(&shape)), 300);
        assert_eq!(sets(distinct_label_sets(&shape)), 300);
        let excepts = excepts(&shape).0.cluster.policies;
        let Isolation::Isolated { rules } = &excepts[0].egress else { panic!("open") };
        let Peers::OneOf(peers) = &rules[0].peers else { panic!("any") };
        let holes = |peer: &Peer| if let Peer::Block(block) = peer { block.except.len() } else { 0 };
        assert_eq!(peers.iter().map(holes).sum::<usize>(), 1000);
    }
}
