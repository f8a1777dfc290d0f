//! Clusters in a few lines of text.
//!
//! Texts are read as people write them: labels `app=web,tier=front`; selectors as kubectl takes them,
//! `app=web,tier!=db,env in (a b),!old`; addresses `10.0.1.1 fd00::1`; ports `TCP/80`, `UDP/53-60`, `TCP/web`
//! or `SCTP`. A text that cannot be read panics: the test is wrong.

use std::sync::Arc;

use flow::{Address, Protocol};
use ipnet::IpNet;
use policy::Connection;
use policy::model::{
    Cluster, IpBlock, Isolation, Labels, NamedPort, Namespace, Namespaces, NetworkPolicy, Node, ObjectName,
    Origin, Peer, Peers, Phase, Pod, PortMatch, PortSet, Ports, Rule,
};
use policy::selector::{Operator, Requirement, Selector};

/// A cluster in the making.
#[derive(Clone, Debug, Default)]
pub struct ClusterBuilder {
    cluster: Cluster,
}

/// A policy in the making. It isolates in a direction once `ingress` or `egress` has been called.
#[derive(Clone, Debug)]
pub struct PolicyBuilder {
    name: ObjectName,
    subjects: Selector,
    ingress: Isolation,
    egress: Isolation,
}

/// A rule in the making: any peer and any port until something narrows it.
#[derive(Clone, Debug)]
pub struct RuleBuilder {
    peers: Peers,
    ports: Ports,
}

/// An empty cluster.
#[must_use]
pub fn cluster() -> ClusterBuilder {
    ClusterBuilder::default()
}

/// A policy `namespace/name` that selects all pods of its namespace and isolates none.
#[must_use]
pub fn policy(name: &str) -> PolicyBuilder {
    PolicyBuilder {
        name: object_name(name),
        subjects: Selector::default(),
        ingress: Isolation::Open,
        egress: Isolation::Open,
    }
}

/// A rule that allows everything.
#[must_use]
pub const fn rule() -> RuleBuilder {
    RuleBuilder { peers: Peers::Any, ports: Ports::Any }
}

/// The pods of the policy's own namespace that a selector matches.
#[must_use]
pub fn pods(pods: &str) -> Peer {
    Peer::Pods { namespaces: Namespaces::SameAsPolicy, pods: selector(pods) }
}

/// All pods of the namespaces that a selector matches.
#[must_use]
pub fn namespaces(namespaces: &str) -> Peer {
    pods_in(namespaces, "")
}

/// The pods that the second selector matches, in the namespaces that the first one matches.
#[must_use]
pub fn pods_in(namespaces: &str, pods: &str) -> Peer {
    Peer::Pods { namespaces: Namespaces::Matching(selector(namespaces)), pods: selector(pods) }
}

/// The addresses of `cidr` that are in none of the holes.
#[must_use]
pub fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block(IpBlock { cidr: net(cidr), except: except.iter().map(|hole| net(hole)).collect() })
}

/// A connection, `10.0.1.1 -> 10.0.1.2 TCP/80` or `fd00::1 -> fd00::2 ICMPv6`.
#[must_use]
pub fn connection(text: &str) -> Connection {
    let read = || {
        let (src, rest) = text.split_once(" -> ")?;
        let (dst, service) = rest.split_once(' ')?;
        Some((address(src), address(dst), service))
    };
    let Some((src, dst, service)) = read() else { panic!("not a connection: {text}") };
    let (protocol, port) = service_of(service);
    Connection { src, dst, protocol, port }
}

impl ClusterBuilder {
    /// Adds a node.
    #[must_use]
    pub fn node(mut self, name: &str, addresses: &str) -> Self {
        self.cluster.nodes.push(Node { name: name.into(), addresses: address_list(addresses) });
        self
    }

    /// Declares a namespace.
    #[must_use]
    pub fn namespace(mut self, name: &str, labels: &str) -> Self {
        self.cluster.namespaces.push(Namespace { name: name.into(), labels: label_map(labels) });
        self
    }

    /// Adds a running pod on the node `node`. What follows until the next pod is about this one.
    #[must_use]
    pub fn pod(mut self, name: &str, addresses: &str, labels: &str) -> Self {
        self.cluster.pods.push(Pod {
            name: object_name(name),
            uid: String::new(),
            labels: label_map(labels),
            node: "node".into(),
            addresses: address_list(addresses),
            host_network: false,
            phase: Phase::Running,
            started: String::new(),
            ports: Vec::new(),
        });
        self
    }

    /// Puts the last pod on another node.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.last_pod(|pod| pod.node = node.into())
    }

    /// Names a port of the last pod.
    #[must_use]
    pub fn named(self, name: &str, port: &str) -> Self {
        let (protocol, number) = service_of(port);
        self.last_pod(|pod| pod.ports.push(NamedPort { name: name.into(), protocol, number }))
    }

    /// Gives the last pod its node's network.
    #[must_use]
    pub fn host_network(self) -> Self {
        self.last_pod(|pod| pod.host_network = true)
    }

    /// Puts the last pod into a phase.
    #[must_use]
    pub fn phase(self, phase: Phase) -> Self {
        self.last_pod(|pod| pod.phase = phase)
    }

    /// Says when the last pod started.
    #[must_use]
    pub fn started(self, when: &str) -> Self {
        self.last_pod(|pod| pod.started = when.into())
    }

    /// Gives the last pod a uid.
    #[must_use]
    pub fn uid(self, uid: &str) -> Self {
        self.last_pod(|pod| pod.uid = uid.into())
    }

    /// Adds a policy. Its origin is `test.yaml`, the line its number among the policies; likewise for its rules.
    #[must_use]
    pub fn policy(mut self, policy: PolicyBuilder) -> Self {
        let line = u32::try_from(self.cluster.policies.len() + 1).expect("a small cluster");
        self.cluster.policies.push(policy.build(line));
        self
    }

    /// The cluster.
    #[must_use]
    pub fn build(self) -> Cluster {
        self.cluster
    }

    fn last_pod(mut self, change: impl FnOnce(&mut Pod)) -> Self {
        change(self.cluster.pods.last_mut().expect("a pod comes first"));
        self
    }
}

impl PolicyBuilder {
    /// Selects only some pods of the namespace.
    #[must_use]
    pub fn subjects(mut self, subjects: &str) -> Self {
        self.subjects = selector(subjects);
        self
    }

    /// Isolates for ingress, but for what the rules allow.
    #[must_use]
    pub fn ingress<const N: usize>(mut self, rules: [RuleBuilder; N]) -> Self {
        self.ingress = isolated(rules);
        self
    }

    /// Isolates for egress, but for what the rules allow.
    #[must_use]
    pub fn egress<const N: usize>(mut self, rules: [RuleBuilder; N]) -> Self {
        self.egress = isolated(rules);
        self
    }

    fn build(mut self, line: u32) -> NetworkPolicy {
        let origin = Origin { source: Arc::from("test.yaml"), line, column: 1 };
        for isolation in [&mut self.ingress, &mut self.egress] {
            if let Isolation::Isolated { rules } = isolation {
                rules.iter_mut().for_each(|rule| rule.origin = origin.clone());
            }
        }
        let Self { name, subjects, ingress, egress } = self;
        NetworkPolicy { name, origin, subjects, ingress, egress }
    }
}

impl RuleBuilder {
    /// Allows this peer, beside those already named.
    #[must_use]
    pub fn with(mut self, peer: Peer) -> Self {
        match &mut self.peers {
            Peers::Any => self.peers = Peers::OneOf(vec![peer]),
            Peers::OneOf(peers) => peers.push(peer),
        }
        self
    }

    /// Allows nobody, as when every peer of the rule turned out to be one that nothing can match.
    #[must_use]
    pub fn with_nobody(mut self) -> Self {
        self.peers = Peers::OneOf(Vec::new());
        self
    }

    /// Allows on no port, as when every port of the rule turned out to be one that nothing can match.
    #[must_use]
    pub fn on_nothing(mut self) -> Self {
        self.ports = Ports::OneOf(Vec::new());
        self
    }

    /// Allows this port, these ports, or this named port, beside those already listed.
    #[must_use]
    pub fn on(mut self, port: &str) -> Self {
        let port = port_match(port);
        match &mut self.ports {
            Ports::Any => self.ports = Ports::OneOf(vec![port]),
            Ports::OneOf(ports) => ports.push(port),
        }
        self
    }
}

fn isolated<const N: usize>(rules: [RuleBuilder; N]) -> Isolation {
    let origin = Origin { source: Arc::from(""), line: 0, column: 0 };
    let rules = rules.map(|RuleBuilder { peers, ports }| Rule { origin: origin.clone(), peers, ports });
    Isolation::Isolated { rules: rules.into() }
}

/// The name that `namespace/name` writes.
#[must_use]
pub fn object_name(text: &str) -> ObjectName {
    let Some((namespace, name)) = text.split_once('/') else { panic!("not a namespace/name: {text}") };
    ObjectName::new(namespace, name)
}

/// The address that a text writes.
#[must_use]
pub fn address(text: &str) -> Address {
    let Ok(ip) = text.trim().parse::<std::net::IpAddr>() else { panic!("not an address: {text}") };
    ip.into()
}

fn address_list(text: &str) -> Vec<Address> {
    text.split_whitespace().map(address).collect()
}

fn net(text: &str) -> IpNet {
    let Ok(net) = text.parse() else { panic!("not a block: {text}") };
    net
}

fn label_map(text: &str) -> Labels {
    let label = |label: &str| {
        let Some((key, value)) = label.split_once('=') else { panic!("not a label: {label}") };
        (key.to_owned(), value.to_owned())
    };
    text.split(',').filter(|part| !part.is_empty()).map(label).collect()
}

/// The selector that a text in the language of `kubectl -l` writes; the empty text matches everything.
#[must_use]
pub fn selector(text: &str) -> Selector {
    let requirements = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(requirement);
    Selector { requirements: requirements.collect() }
}

fn requirement(text: &str) -> Requirement {
    let values = |list: &str| -> Vec<String> {
        list.trim_matches(['(', ')']).split_whitespace().map(str::to_owned).collect()
    };
    let (key, operator) = if let Some((key, list)) = text.split_once(" notin ") {
        (key, Operator::NotIn(values(list)))
    } else if let Some((key, list)) = text.split_once(" in ") {
        (key, Operator::In(values(list)))
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Operator::NotIn(vec![value.to_owned()]))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Operator::In(vec![value.to_owned()]))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Operator::DoesNotExist)
    } else {
        (text, Operator::Exists)
    };
    Requirement { key: key.trim().to_owned(), operator }
}

/// The protocol and port that `TCP/80` or `ICMP` writes; the port is zero where there is none.
#[must_use]
pub fn service_of(text: &str) -> (Protocol, u16) {
    let (name, port) = text.split_once('/').unwrap_or((text, "0"));
    let Ok(port) = port.parse() else { panic!("not a port number: {text}") };
    (protocol(name), port)
}

fn protocol(name: &str) -> Protocol {
    match name {
        "TCP" => Protocol::TCP,
        "UDP" => Protocol::UDP,
        "SCTP" => Protocol::SCTP,
        "ICMP" => Protocol::ICMP,
        "ICMPv6" => Protocol::ICMPV6,
        _ => panic!("not a protocol: {name}"),
    }
}

fn port_match(text: &str) -> PortMatch {
    let Some((name, port)) = text.split_once('/') else {
        return PortMatch { protocol: protocol(text), port: PortSet::All };
    };
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    let port = match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => PortSet::Range(first, last),
        _ => PortSet::Named(port.to_owned()),
    };
    PortMatch { protocol: protocol(name), port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_people_mean() {
        let requirements = selector("app=web,tier!=db,env in (a b),env notin (c),up,!old").requirements;
        let named = |key: &str, operator| Requirement { key: key.into(), operator };
        let texts = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            requirements,
            [
                named("app", Operator::In(texts(&["web"]))),
                named("tier", Operator::NotIn(texts(&["db"]))),
                named("env", Operator::In(texts(&["a", "b"]))),
                named("env", Operator::NotIn(texts(&["c"]))),
                named("up", Operator::Exists),
                named("old", Operator::DoesNotExist),
            ]
        );
        assert_eq!(port_match("UDP/53-60").port, PortSet::Range(53, 60));
        assert_eq!(port_match("TCP/http-2").port, PortSet::Named("http-2".into()));
        assert_eq!(port_match("SCTP"), PortMatch { protocol: Protocol::SCTP, port: PortSet::All });
        let opened = connection("fd00::1 -> fd00::2 TCP/80");
        assert_eq!((opened.src, opened.port), (address("fd00::1"), 80));
    }
}
