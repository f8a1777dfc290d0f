//! Clusters whose policies expand to a stated number of 5-tuple rules.
//!
//! Every app has two replicas on this node, a default deny, clients (pods on other nodes and blocks) that may open
//! connections to it, and servers to which it may open some. The counts come out even because each local pod brings
//! its own: its clients times their ports, its servers times theirs, and three for what is always allowed (to and
//! from its node, with itself).

use flow::Address;
use policy::model::{
    Cluster, IpBlock, Isolation, Namespaces, NetworkPolicy, ObjectName, Peer, Peers, Phase, Pod, PortMatch,
    Ports,
};
use policy::selector::Selector;

use crate::cluster::Workload;
use crate::cluster::parts::{
    isolated, labels, namespace, namespace_name, node, node_name, origin, pod_addresses, requirement,
    selector, tcp, v4_net,
};
use crate::random::Random;

/// How many rules there can be.
pub const RULES: [usize; 3] = [100, 1000, 10_000];

/// What one local pod brings: clients and their ports, servers and theirs.
struct Plan {
    pods: usize,
    clients: usize,
    client_ports: usize,
    servers: usize,
    server_ports: usize,
}

const REPLICAS: usize = 2;
const NODES: usize = 8;

/// The cluster that expands to `rules` rules.
///
/// # Panics
///
/// When `rules` is none of [`RULES`].
#[must_use]
pub fn exact(rules: usize) -> Workload {
    let plan = match rules {
        100 => Plan { pods: 4, clients: 3, client_ports: 4, servers: 5, server_ports: 2 },
        1000 => Plan { pods: 20, clients: 7, client_ports: 5, servers: 4, server_ports: 3 },
        10_000 => Plan { pods: 100, clients: 12, client_ports: 6, servers: 5, server_ports: 5 },
        _ => panic!("no cluster has {rules} rules"),
    };
    let mut random = Random::of(1, 30, rules);
    let mut places = [0; NODES];
    let mut cluster = Cluster { nodes: (0..NODES).map(node).collect(), ..Cluster::default() };
    for app in 0..plan.pods / REPLICAS {
        let space = 1 + app;
        cluster.namespaces.push(namespace(space));
        let mut pod = |role: &str, number: usize, node: usize| {
            let place = places[node];
            places[node] += 1;
            let [v4, _] = pod_addresses(node, place);
            cluster.pods.push(remote_or_local(space, role, number, node, v4));
        };
        (0..REPLICAS).for_each(|number| pod("app", number, 0));
        // One peer in four is a block.
        let (clients, servers) = (plan.clients - plan.clients / 4, plan.servers - plan.servers / 4);
        (0..clients).for_each(|number| pod("client", number, 1 + random.below(NODES - 1)));
        (0..servers).for_each(|number| pod("server", number, 1 + random.below(NODES - 1)));
        let mut peers = |role: &str, blocks: usize| {
            let pods = selector([requirement("role", [role.into()])]);
            let mut peers = vec![Peer::Pods { namespaces: Namespaces::SameAsPolicy, pods }];
            peers.extend((0..blocks).map(|_| Peer::Block(block(&mut random))));
            Peers::OneOf(peers)
        };
        let ingress = (peers("client", plan.clients / 4), ports(8000, plan.client_ports));
        let egress = (peers("server", plan.servers / 4), ports(5000, plan.server_ports));
        cluster.policies.extend([
            policy(space, "default-deny", isolated([]), isolated([])),
            policy(space, "clients", isolated([ingress]), Isolation::Open),
            policy(space, "servers", Isolation::Open, isolated([egress])),
        ]);
    }
    let local =
        cluster.pods.iter().filter(|pod| pod.node == node_name(0)).map(|pod| pod.name.clone()).collect();
    Workload { cluster, local }
}

fn remote_or_local(space: usize, role: &str, number: usize, node: usize, address: Address) -> Pod {
    Pod {
        name: ObjectName::new(namespace_name(space), format!("{role}-{number}")),
        uid: String::new(),
        labels: labels(&[("role", role)]),
        node: node_name(node),
        addresses: vec![address],
        host_network: false,
        phase: Phase::Running,
        started: String::new(),
        ports: Vec::new(),
    }
}

fn policy(space: usize, name: &str, ingress: Isolation, egress: Isolation) -> NetworkPolicy {
    let subjects = if name == "default-deny" {
        Selector::default()
    } else {
        selector([requirement("role", ["app".into()])])
    };
    NetworkPolicy {
        name: ObjectName::new(namespace_name(space), name),
        origin: origin(),
        subjects,
        ingress,
        egress,
    }
}

/// Single ports, and one range from four ports on.
fn ports(first: u16, count: usize) -> Ports {
    let port = |number: usize| -> PortMatch {
        let from = first + 100 * number as u16;
        tcp(from, if number == 3 { from + 9 } else { from })
    };
    Ports::OneOf((0..count).map(port).collect())
}

/// A block of the public address space.
fn block(random: &mut Random) -> IpBlock {
    let length = *random.pick(&[16, 20, 24, 28]);
    let bits = random.bits();
    let address = u32::from_be_bytes([20 + (bits >> 57) as u8, bits as u8, (bits >> 8) as u8, 0]);
    IpBlock { cidr: v4_net(address, length), except: Vec::new() }
}
