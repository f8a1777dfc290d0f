//! Seeded clusters: the same shape and seed give the same cluster.
//!
//! Namespaces, pods and policies as in the scale test of OpenShift: in each namespace apps with replicas, and
//! policies with 5 ports, 5 port ranges, 5 remote namespaces, 5 remote apps in them and 5 blocks; beside these
//! what people write by hand: default denies, DNS, named ports, the internet without the private networks. Pods
//! are dealt to the nodes in random order, as a scheduler that spreads them would. Everything has IPv4 and IPv6.

pub(crate) mod parts;

use std::collections::BTreeSet;

use compiler::Scope;
use flow::{FlowKey, Protocol, Verdict};
use policy::model::{
    Cluster, IpBlock, Isolation, NamedPort, Namespaces, NetworkPolicy, ObjectName, Peer, Peers, Phase, Pod,
    PortMatch, PortSet, Ports, Rule,
};
use policy::selector::Selector;
use policy::{Connection, Side, evaluate};

use table::PolicyTable;

use self::parts::{
    block, env, internet, isolated, labels, named, namespace, namespace_name, node, node_name, numbers,
    origin, pod_addresses, pods_of, protocol, requirement, same_namespace, selector, tcp,
};
use crate::random::Random;

/// The label by which a namespace is found by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Apps of a namespace; its pods are replicas of these. The label `num` tells them apart in the scale test.
const APPS: [(&str, &str); 10] = [
    ("frontend", "web"),
    ("gateway", "web"),
    ("api", "backend"),
    ("auth", "backend"),
    ("cart", "backend"),
    ("orders", "backend"),
    ("search", "backend"),
    ("worker", "batch"),
    ("cache", "data"),
    ("db", "data"),
];
/// Blocks that many policies name: partners, offices, clouds.
const SHARED_BLOCKS: usize = 200;
/// What a /24 for the pods of a node has room for: not the network, the gateway and the broadcast address.
const PODS_PER_NODE: usize = 253;

/// How large a cluster is, and how much its policies name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Decides everything that is random.
    pub seed: u64,
    /// Namespaces.
    pub namespaces: usize,
    /// Pods, dealt to the namespaces in turn.
    pub pods: usize,
    /// Policies, dealt to the namespaces in turn. Fewer policies are the first of more.
    pub policies: usize,
    /// Pods of a node, so of this node too; at most 253.
    pub local: usize,
    /// Single ports of a rule.
    pub ports: usize,
    /// Port ranges of a rule.
    pub ranges: usize,
    /// Remote namespaces of a rule.
    pub remote_namespaces: usize,
    /// Apps that a rule selects in them.
    pub remote_apps: usize,
    /// Blocks of a rule.
    pub blocks: usize,
}

/// A cluster, and which of its pods are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The cluster.
    pub cluster: Cluster,
    /// Names of the pods of this node.
    pub local: BTreeSet<ObjectName>,
}

impl Shape {
    /// The large cluster of the targets: 10,000 policies, 100,000 pods, 250 of them local.
    pub const LARGE: Self = Self {
        seed: 1,
        namespaces: 500,
        pods: 100_000,
        policies: 10_000,
        local: 250,
        ports: 5,
        ranges: 5,
        remote_namespaces: 5,
        remote_apps: 5,
        blocks: 5,
    };

    /// Nodes of the cluster.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        let nodes = self.pods.div_ceil(self.local);
        if nodes == 0 { 1 } else { nodes }
    }

    /// The cluster.
    ///
    /// # Panics
    ///
    /// When a node has more pods than addresses, or there are no namespaces.
    #[must_use]
    pub fn workload(&self) -> Workload {
        assert!(self.local <= PODS_PER_NODE, "a node has addresses for {PODS_PER_NODE} pods");
        let mut places: Vec<usize> = (0..self.pods).collect();
        Random::of(self.seed, 1, 0).shuffle(&mut places);
        let nodes = self.nodes();
        let pods: Vec<Pod> = places
            .iter()
            .enumerate()
            .map(|(index, place)| self.pod(index, place % nodes, place / nodes))
            .collect();
        let local: BTreeSet<_> =
            pods.iter().filter(|pod| pod.node == node_name(0)).map(|pod| pod.name.clone()).collect();
        // The first policy is in a namespace with a local pod, so that a single policy isolates somebody.
        let home = places.iter().position(|place| place % nodes == 0).map_or(0, |pod| pod % self.namespaces);
        let blocks = self.shared_blocks();
        let cluster = Cluster {
            namespaces: (0..self.namespaces).map(namespace).collect(),
            pods,
            nodes: (0..nodes).map(node).collect(),
            policies: (0..self.policies).map(|index| self.policy(index, home, &blocks)).collect(),
        };
        Workload { cluster, local }
    }

    /// Pod `index`, on a node, with the addresses of a place on it.
    #[must_use]
    pub fn pod(&self, index: usize, node: usize, place: usize) -> Pod {
        let (space, member) = (index % self.namespaces, index / self.namespaces);
        let number = member % APPS.len();
        let (app, tier) = APPS[number];
        let version = if member.is_multiple_of(7) { "v2" } else { "v1" };
        let hash = Random::of(self.seed, 2, space * APPS.len() + number).bits() as u32;
        let mut labels = labels(&[("app", app), ("tier", tier), ("version", version)]);
        labels.insert("num".into(), number.to_string());
        labels.insert("app.kubernetes.io/part-of".into(), format!("product-{}", space % 40));
        labels.insert("pod-template-hash".into(), format!("{hash:08x}"));
        if space == 0 && number == 0 {
            labels.insert("k8s-app".into(), "kube-dns".into());
        }
        // Two generations of an app listen on different ports under one name.
        let http = if member % 7 == 0 { 8081 } else { 8080 };
        let named = |name: &str, number| NamedPort { name: name.into(), protocol: Protocol::TCP, number };
        Pod {
            name: ObjectName::new(namespace_name(space), format!("{app}-{hash:08x}-{member}")),
            uid: format!("uid-{index}"),
            labels,
            node: node_name(node),
            addresses: pod_addresses(node, place).into(),
            host_network: false,
            phase: Phase::Running,
            started: "2026-01-01T00:00:00Z".into(),
            ports: vec![named("http", http), named("metrics", 9090)],
        }
    }

    /// Policy `index`, in namespace `home` if it is the first. What it names is its own affair, whatever else exists.
    fn policy(&self, index: usize, home: usize, shared: &[IpBlock]) -> NetworkPolicy {
        let (space, round) = ((home + index) % self.namespaces, index / self.namespaces);
        let mut random = Random::of(self.seed, 3, round * self.namespaces + space);
        let (mut ingress, mut egress) = (Isolation::Open, Isolation::Open);
        let mut subjects = Selector::default();
        let kind = match round % 20 {
            0 => {
                ingress = isolated([(Peers::OneOf(vec![same_namespace()]), Ports::Any)]);
                "allow-same-namespace"
            }
            1 if space.is_multiple_of(2) => {
                (ingress, egress) = (isolated([]), isolated([]));
                "default-deny"
            }
            2 => {
                let dns = [tcp(53, 53), PortMatch { protocol: Protocol::UDP, port: PortSet::Range(53, 53) }];
                let server = pods_of(&[namespace_name(0)], [requirement("k8s-app", ["kube-dns".into()])]);
                egress = isolated([(Peers::OneOf(vec![server]), Ports::OneOf(dns.into()))]);
                "allow-dns"
            }
            3 => {
                subjects = selector([requirement("tier", ["web".into(), "backend".into()])]);
                let env = Namespaces::Matching(selector([requirement("env", [env(space).into()])]));
                let gateways = selector([requirement("app", ["gateway".into()])]);
                let clients = Peer::Pods { namespaces: env, pods: gateways };
                let team = selector([requirement("team", ["team-0".into()])]);
                let monitors =
                    Peer::Pods { namespaces: Namespaces::Matching(team), pods: Selector::default() };
                ingress = isolated([
                    (Peers::OneOf(vec![clients]), Ports::OneOf(vec![named("http")])),
                    (Peers::OneOf(vec![monitors]), Ports::OneOf(vec![named("metrics")])),
                ]);
                "allow-named"
            }
            4 => {
                subjects = selector([requirement("tier", ["batch".into()])]);
                let web = vec![tcp(80, 80), tcp(443, 443)];
                egress = isolated([(Peers::OneOf(internet()), Ports::OneOf(web))]);
                "allow-internet"
            }
            scale => {
                subjects = selector([numbers(&mut random, APPS.len() / 2)]);
                let rule = [self.rule(&mut random, shared)];
                if scale.is_multiple_of(2) {
                    egress = isolated(rule)
                } else {
                    ingress = isolated(rule)
                }
                "scale"
            }
        };
        NetworkPolicy {
            name: ObjectName::new(namespace_name(space), format!("{kind}-{round}")),
            origin: origin(),
            subjects,
            ingress,
            egress,
        }
    }

    /// A rule of the scale test.
    pub(crate) fn rule(&self, random: &mut Random, shared: &[IpBlock]) -> (Peers, Ports) {
        let spaces: Vec<String> = random
            .distinct(self.remote_namespaces, self.namespaces)
            .into_iter()
            .map(namespace_name)
            .collect();
        let mut peers = vec![pods_of(&spaces, [numbers(random, self.remote_apps)])];
        for number in 0..self.blocks {
            let one = if random.percent(50) && !shared.is_empty() {
                random.pick(shared).clone()
            } else {
                block(random, number % 5 == 4)
            };
            peers.push(Peer::Block(one));
        }
        let mut ports = Vec::new();
        for _ in 0..self.ports {
            let port = 1 + random.below(32_000) as u16;
            ports.push(PortMatch { protocol: protocol(random), port: PortSet::Range(port, port) });
        }
        for _ in 0..self.ranges {
            let first = 1 + random.below(32_000) as u16;
            let last = first + 1 + random.below(100) as u16;
            ports.push(PortMatch { protocol: protocol(random), port: PortSet::Range(first, last) });
        }
        (Peers::OneOf(peers), Ports::OneOf(ports))
    }

    /// The blocks that many policies name.
    pub(crate) fn shared_blocks(&self) -> Vec<IpBlock> {
        let mut random = Random::of(self.seed, 4, 0);
        (0..SHARED_BLOCKS).map(|number| block(&mut random, number % 5 == 4)).collect()
    }
}

impl Workload {
    /// Its table.
    ///
    /// # Errors
    ///
    /// When the compiler refuses it.
    pub fn table(&self) -> anyhow::Result<PolicyTable> {
        crate::compiled(&self.cluster, &self.scope())
    }

    /// Whose connections are judged: those of the local pods.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Pods(self.local.clone())
    }

    /// The local pods.
    pub fn local_pods(&self) -> impl Iterator<Item = &Pod> {
        self.cluster.pods.iter().filter(|pod| self.local.contains(&pod.name))
    }

    /// Addresses of all pods.
    #[must_use]
    pub fn pod_addresses(&self) -> usize {
        self.cluster.pods.iter().map(|pod| pod.addresses.len()).sum()
    }

    /// The oracle's verdict for a connection as this node sees it: other nodes judge their own pods.
    #[must_use]
    pub fn judge(&self, key: &FlowKey) -> Verdict {
        let (src, dst) = (key.src.address, key.dst.address);
        let connection = Connection { src, dst, protocol: key.protocol, port: key.dst.port };
        let mut decision = evaluate(&self.cluster, &connection);
        let owners = self.cluster.owners();
        let is_local = |address| {
            owners.get(address).is_some_and(|&pod| self.local.contains(&self.cluster.pods[pod].name))
        };
        if !is_local(&src) {
            decision.egress = Side::Open;
        }
        if !is_local(&dst) {
            decision.ingress = Side::Open;
        }
        decision.verdict()
    }

    /// What the policies come to: at least one peer times at least one port, summed over all rules.
    #[must_use]
    pub fn compiled_rules(&self) -> usize {
        let count = |rule: &Rule| {
            let peers = if let Peers::OneOf(peers) = &rule.peers { peers.len() } else { 1 };
            let ports = if let Ports::OneOf(ports) = &rule.ports { ports.len() } else { 1 };
            peers.max(1) * ports.max(1)
        };
        let isolations = self.cluster.policies.iter().flat_map(|policy| [&policy.ingress, &policy.egress]);
        let rules = isolations.flat_map(|isolation| match isolation {
            Isolation::Open => &[][..],
            Isolation::Isolated { rules } => rules,
        });
        rules.map(count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn small() -> Shape {
        Shape { namespaces: 10, pods: 400, policies: 200, local: 40, ..Shape::LARGE }
    }

    #[test]
    fn a_seed_is_a_cluster() {
        let workload = small().workload();
        assert_eq!(workload, small().workload());
        let other = Shape { seed: 2, ..small() }.workload();
        assert_ne!(workload.cluster.policies, other.cluster.policies);
        assert_ne!(workload.local, other.local);
    }

    #[test]
    fn fewer_policies_are_the_first_of_more() {
        let (many, few) = (small().workload(), Shape { policies: 37, ..small() }.workload());
        assert_eq!(few.cluster.policies, many.cluster.policies[..37]);
        assert_eq!((few.cluster.pods, few.local), (many.cluster.pods, many.local));
    }

    #[test]
    fn pods_have_addresses_of_their_own_on_their_node() {
        let workload = small().workload();
        assert_eq!(workload.local.len(), 40);
        assert_eq!(workload.local_pods().count(), 40);
        let spaces: HashSet<_> = workload.local.iter().map(|name| &name.namespace).collect();
        assert!(spaces.len() >= 8, "a scheduler spreads the pods of a namespace: {spaces:?}");
        let pods = &workload.cluster.pods;
        let addresses: HashSet<_> = pods.iter().flat_map(|pod| &pod.addresses).collect();
        assert_eq!((addresses.len(), workload.pod_addresses()), (800, 800));
        let names: HashSet<_> = pods.iter().map(|pod| &pod.name).collect();
        assert_eq!(names.len(), 400);
        let policies: HashSet<_> = workload.cluster.policies.iter().map(|policy| &policy.name).collect();
        assert_eq!(policies.len(), 200);
    }

    #[test]
    fn the_first_policy_isolates_a_local_pod() {
        for seed in 0..8 {
            let workload = Shape { seed, policies: 1, ..small() }.workload();
            let policy = &workload.cluster.policies[0];
            assert!(policy.subjects.requirements.is_empty() && policy.ingress != Isolation::Open);
            assert!(workload.local.iter().any(|name| name.namespace == policy.name.namespace));
        }
    }

    #[test]
    fn a_rule_is_counted_by_its_peers_and_ports() {
        let shape = Shape { namespaces: 2, policies: 12, ..small() };
        // By kind, one for each namespace: same namespace 1; deny 0 or scale 6 x 10; DNS 2; named 1 + 1;
        // internet 2 x 2; scale 6 x 10.
        assert_eq!(shape.workload().compiled_rules(), 2 + 60 + 2 * 2 + 2 * 2 + 2 * 4 + 2 * 60);
    }
}
