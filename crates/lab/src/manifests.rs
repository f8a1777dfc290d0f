//! Objects as Kubernetes manifests: what an agent in a lab is given.

use std::fmt::Write as _;

use policy::model::{
    Cluster, Isolation, Labels, Namespaces, NetworkPolicy, Peer, Peers, Phase, Pod, PortMatch, PortSet,
    Ports, Rule,
};
use policy::selector::{Operator, Requirement, Selector};

/// All objects of a cluster in one YAML stream. Read again, they mean the same to policy.
#[must_use]
pub fn manifests(cluster: &Cluster) -> String {
    let mut text = String::new();
    for namespace in &cluster.namespaces {
        let labels = labels(&namespace.labels);
        let _infallible = write!(
            text,
            "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {:?}\n  labels: {labels}\n",
            namespace.name
        );
    }
    for node in &cluster.nodes {
        let _infallible = write!(
            text,
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {:?}\nstatus:\n  addresses: {}\n",
            node.name,
            list(&node.addresses, |address| format!("{{type: InternalIP, address: \"{address}\"}}"))
        );
    }
    cluster.pods.iter().for_each(|it| text.push_str(&pod(it)));
    // One that isolates nobody cannot be written: without types, `Ingress` is the default.
    let effective = |it: &&NetworkPolicy| (&it.ingress, &it.egress) != (&Isolation::Open, &Isolation::Open);
    cluster.policies.iter().filter(effective).for_each(|it| text.push_str(&network_policy(it)));
    text
}

fn pod(pod: &Pod) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  namespace: {:?}\n  name: {:?}\n  labels: {}\n",
        pod.name.namespace,
        pod.name.name,
        labels(&pod.labels),
    );
    if !pod.uid.is_empty() {
        let _infallible = writeln!(text, "  uid: {:?}", pod.uid);
    }
    text.push_str("spec:\n");
    if !pod.node.is_empty() {
        let _infallible = writeln!(text, "  nodeName: {:?}", pod.node);
    }
    if pod.host_network {
        text.push_str("  hostNetwork: true\n");
    }
    let ports = list(&pod.ports, |port| {
        format!("{{name: {:?}, protocol: {}, containerPort: {}}}", port.name, port.protocol, port.number)
    });
    let phase = match pod.phase {
        Phase::Running => "Running",
        Phase::Pending => "Pending",
        Phase::Ended => "Succeeded",
    };
    let _infallible = writeln!(text, "  containers:\n  - name: main\n    ports: {ports}\nstatus:");
    if !pod.started.is_empty() {
        let _infallible = writeln!(text, "  startTime: {:?}", pod.started);
    }
    let addresses = list(&pod.addresses, |address| format!("{{ip: \"{address}\"}}"));
    let _infallible = writeln!(text, "  phase: {phase}\n  podIPs: {addresses}");
    text
}

fn network_policy(policy: &NetworkPolicy) -> String {
    // The policy that an annotation becomes has a name that nobody could write.
    let name = policy.name.name.replace('/', "-");
    let mut text = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  namespace: {:?}\n  name: {:?}\n\
         spec:\n  podSelector: {}\n",
        policy.name.namespace,
        name,
        selector(&policy.subjects),
    );
    let directions =
        [("Ingress", "ingress", "from", &policy.ingress), ("Egress", "egress", "to", &policy.egress)];
    let mut types = Vec::new();
    for (name, field, peers, isolation) in directions {
        if let Isolation::Isolated { rules } = isolation {
            types.push(name);
            let _infallible = writeln!(text, "  {field}: {}", list(rules, |it| rule(it, peers)));
        }
    }
    let _infallible = writeln!(text, "  policyTypes: [{}]", types.join(", "));
    text
}

/// The index of a rule is part of its name, so one that allows nothing keeps its place.
fn rule(rule: &Rule, field: &str) -> String {
    let nobody = matches!(&rule.peers, Peers::OneOf(peers) if peers.is_empty())
        || matches!(&rule.ports, Ports::OneOf(ports) if ports.is_empty());
    if nobody {
        // No label is there and not there.
        let nobody = "{key: a, operator: Exists}, {key: a, operator: DoesNotExist}";
        return format!("{{{field}: [{{podSelector: {{matchExpressions: [{nobody}]}}}}]}}");
    }
    let mut parts = Vec::new();
    if let Peers::OneOf(peers) = &rule.peers {
        parts.push(format!("{field}: {}", list(peers, peer)));
    }
    if let Ports::OneOf(ports) = &rule.ports {
        parts.push(format!("ports: {}", list(ports, port)));
    }
    format!("{{{}}}", parts.join(", "))
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces: Namespaces::SameAsPolicy, pods } => {
            format!("{{podSelector: {}}}", selector(pods))
        }
        Peer::Pods { namespaces: Namespaces::Matching(namespaces), pods } => {
            format!("{{namespaceSelector: {}, podSelector: {}}}", selector(namespaces), selector(pods))
        }
        Peer::Block(block) => {
            let except = list(&block.except, |hole| format!("\"{hole}\""));
            format!("{{ipBlock: {{cidr: \"{}\", except: {except}}}}}", block.cidr)
        }
    }
}

fn port(port: &PortMatch) -> String {
    let protocol = port.protocol;
    match &port.port {
        PortSet::All => format!("{{protocol: {protocol}}}"),
        PortSet::Range(first, last) if first == last => format!("{{protocol: {protocol}, port: {first}}}"),
        PortSet::Range(first, last) => format!("{{protocol: {protocol}, port: {first}, endPort: {last}}}"),
        PortSet::Named(name) => format!("{{protocol: {protocol}, port: {name:?}}}"),
    }
}

fn selector(selector: &Selector) -> String {
    let requirement = |Requirement { key, operator }: &Requirement| {
        let (operator, values) = match operator {
            Operator::In(values) => ("In", values.as_slice()),
            Operator::NotIn(values) => ("NotIn", values.as_slice()),
            Operator::Exists => ("Exists", &[][..]),
            Operator::DoesNotExist => ("DoesNotExist", &[][..]),
        };
        let values = list(values, |value| format!("{value:?}"));
        format!("{{key: {key:?}, operator: {operator}, values: {values}}}")
    };
    format!("{{matchExpressions: {}}}", list(&selector.requirements, requirement))
}

/// A flow mapping. Debug strings are YAML double-quoted strings for what labels may hold.
fn labels(labels: &Labels) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key:?}: {value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// A flow sequence.
fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use crate::topology::Topology;

    #[test]
    fn manifests_name_every_object_once() {
        let text = Topology::nine("t").manifests();
        assert_eq!(text.matches("kind: Pod\n").count(), 9);
        assert_eq!(text.matches("kind: Namespace\n").count(), 3);
        assert_eq!(text.matches("kind: Node\n").count(), 1);
        assert!(text.contains("  namespace: \"y\"\n  name: \"c\"\n  labels: {\"pod\": \"c\"}\n"));
        assert!(text.contains("podIPs: [{ip: \"10.1.2.3\"}, {ip: \"fd10:2::3\"}]\n"), "{text}");
    }
}
