//! Of the rules that do not allow a connection, the one that misses it by least.

use std::fmt::Write as _;

use flow::{Direction, Verdict};
use policy::model::{
    Cluster, Isolation, Namespaces, NetworkPolicy, Peer, Peers, PortMatch, PortSet, Ports, Rule,
};
use policy::selector::{Operator, Selector};
use policy::{Connection, evaluate};

use super::Named;
use crate::offline::PortSpec;

/// More peers or ports of a rule than this are counted, not listed.
const LISTED: usize = 4;

/// How far a rule is from a connection (peer, port, distance of ports), and which rule it is.
type Candidate<'a> = ((bool, bool, u32), &'a NetworkPolicy, usize, &'a Rule);

/// How a rule misses a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The rule.
    pub rule: Named,
    /// Whether one of its peers matches.
    pub peer_matches: bool,
    /// Whether one of its ports matches.
    pub port_matches: bool,
    /// What is missing.
    pub message: String,
}

impl Miss {
    /// The rule, and what is missing.
    pub(super) fn sentence(&self) -> String {
        format!("rule {} ({}) {}", self.rule.name, self.rule.origin, self.message)
    }
}

/// The nearest miss among the rules of these policies. A rule that matches the peer is nearer than one that matches
/// the port, and among those the one with the nearest port.
pub(super) fn nearest(
    cluster: &Cluster,
    policies: &[&str],
    direction: Direction,
    connection: &Connection,
) -> Option<Miss> {
    let mut isolating: Vec<&NetworkPolicy> = cluster
        .policies
        .iter()
        .filter(|policy| policies.contains(&policy.name.to_string().as_str()))
        .collect();
    isolating.sort_by_key(|policy| &policy.name);
    let mut trial = Cluster { policies: Vec::new(), ..cluster.clone() };
    let mut best: Option<Candidate<'_>> = None;
    for policy in isolating {
        let isolation = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let Isolation::Isolated { rules } = isolation else { continue };
        for (index, rule) in rules.iter().enumerate() {
            let mut allows = |rule: Rule| {
                trial.policies = vec![alone(policy, direction, rule)];
                evaluate(&trial, connection).verdict() == Verdict::Allow
            };
            let peer = allows(Rule { ports: Ports::Any, ..rule.clone() });
            let port = allows(Rule { peers: Peers::Any, ..rule.clone() });
            // Smaller is nearer.
            let distance = (!peer, !port, distance(&rule.ports, connection));
            if best.as_ref().is_none_or(|(known, ..)| distance < *known) {
                best = Some((distance, policy, index, rule));
            }
        }
    }
    let ((no_peer, no_port, _), policy, index, rule) = best?;
    let named =
        Named { name: format!("{} {direction}[{index}]", policy.name), origin: rule.origin.to_string() };
    let asked = PortSpec { protocol: connection.protocol, port: connection.port };
    let way = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let message = match (no_peer, no_port) {
        (false, _) => format!("matches the peer, but allows {}, not {asked}", ports(&rule.ports)),
        (true, false) => {
            let allowed = if rule.ports == Ports::Any { "any port".to_owned() } else { asked.to_string() };
            format!("allows {allowed}, but not {way} this peer ({})", peers(policy, &rule.peers))
        }
        (true, true) => format!(
            "allows {}, not {asked}, and not {way} this peer ({})",
            ports(&rule.ports),
            peers(policy, &rule.peers)
        ),
    };
    Some(Miss { rule: named, peer_matches: !no_peer, port_matches: !no_port, message })
}

/// The policy with one rule only, which isolates in one direction only.
fn alone(policy: &NetworkPolicy, direction: Direction, rule: Rule) -> NetworkPolicy {
    let only = Isolation::Isolated { rules: vec![rule] };
    let (ingress, egress) = match direction {
        Direction::Ingress => (only, Isolation::Open),
        Direction::Egress => (Isolation::Open, only),
    };
    NetworkPolicy {
        name: policy.name.clone(),
        origin: policy.origin.clone(),
        subjects: policy.subjects.clone(),
        ingress,
        egress,
    }
}

/// How far the nearest port of the same protocol is; another protocol is farther than any port.
fn distance(ports: &Ports, connection: &Connection) -> u32 {
    let Ports::OneOf(matches) = ports else { return 0 };
    let of = |wanted: &PortMatch| match wanted.port {
        _ if wanted.protocol != connection.protocol => u32::MAX,
        PortSet::All => 0,
        PortSet::Named(_) => 1 << 16,
        PortSet::Range(first, last) => {
            let port = connection.port;
            u32::from(first.saturating_sub(port)).max(u32::from(port.saturating_sub(last)))
        }
    };
    matches.iter().map(of).min().unwrap_or(u32::MAX)
}

fn ports(ports: &Ports) -> String {
    let Ports::OneOf(matches) = ports else { return "any port".to_owned() };
    listed(matches.iter().map(|PortMatch { protocol, port }| match port {
        PortSet::All => protocol.to_string(),
        PortSet::Range(first, last) if first == last => format!("{first}/{protocol}"),
        PortSet::Range(first, last) => format!("{first}-{last}/{protocol}"),
        PortSet::Named(name) => format!("{name}/{protocol} (a port's name)"),
    }))
}

fn peers(policy: &NetworkPolicy, peers: &Peers) -> String {
    let Peers::OneOf(peers) = peers else { return "anybody".to_owned() };
    listed(peers.iter().map(|peer| match peer {
        Peer::Pods { namespaces: Namespaces::SameAsPolicy, pods } => {
            format!("podSelector {} in namespace {}", selector(pods), policy.name.namespace)
        }
        Peer::Pods { namespaces: Namespaces::Matching(namespaces), pods } => {
            format!("podSelector {} in namespaces {}", selector(pods), selector(namespaces))
        }
        Peer::Block(block) => {
            let mut text = format!("ipBlock {}", block.cidr);
            for (index, hole) in block.except.iter().enumerate() {
                // Writing to a string cannot fail.
                let _infallible = write!(text, "{} {hole}", if index == 0 { " except" } else { "," });
            }
            text
        }
    }))
}

fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let all = items.len();
    let mut text = items.take(LISTED).collect::<Vec<_>>().join(" or ");
    if all == 0 {
        text.push_str("nothing");
    } else if all > LISTED {
        // Writing to a string cannot fail.
        let _infallible = write!(text, " or {} more", all - LISTED);
    }
    text
}

/// A selector as kubectl takes it; `*` where it selects everything.
fn selector(selector: &Selector) -> String {
    let requirements = selector.requirements.iter().map(|requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            Operator::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
            Operator::In(values) => format!("{key} in ({})", values.join(", ")),
            Operator::NotIn(values) => format!("{key} notin ({})", values.join(", ")),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
        }
    });
    let text = requirements.collect::<Vec<_>>().join(",");
    if text.is_empty() { "*".to_owned() } else { text }
}
