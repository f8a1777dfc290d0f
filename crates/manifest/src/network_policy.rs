//! `networking.k8s.io/v1` NetworkPolicy: the fields, checks and defaults of the API server, unknown fields
//! refused.
//!
//! What is not understood in a stored object is an item less that allows something, never one more: a peer or a
//! port that matches nothing, a rule that allows nothing, a policy that isolates without allowing.

use ipnet::IpNet;
use policy::model::{
    IpBlock, Isolation, Namespaces, NetworkPolicy, ObjectName, Origin, Peer, Peers, Ports, Rule,
};
use policy::selector::Selector;

use crate::cidr;
use crate::names;
use crate::ports;
use crate::reader::{Entries, Reader, get};
use crate::selector;
use crate::suggest;
use crate::tree::{Node, Value};

/// The fields of the object itself.
pub(crate) const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// What people write in `metadata`, and what the API server and kubectl add.
pub(crate) const METADATA: [&str; 15] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
];
const SPEC: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];
const PEER: [&str; 3] = ["podSelector", "namespaceSelector", "ipBlock"];

/// The two halves of a policy, which differ in the words only.
#[derive(Clone, Copy)]
struct Side {
    rules: &'static str,
    peers: &'static str,
}

const INGRESS: Side = Side { rules: "ingress", peers: "from" };
const EGRESS: Side = Side { rules: "egress", peers: "to" };

/// Reads everything but the name.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    object: &Entries,
    name: ObjectName,
    origin: Origin,
) -> NetworkPolicy {
    passed_over(reader, |reader| reader.only(object, &FIELDS, None));
    let isolated = |rules| Isolation::Isolated { rules };
    let spec = reader.item("the policy isolates every pod of its namespace and allows nothing", |reader| {
        get(object, "spec").map_or(Some(&[][..]), |node| reader.mapping(node, "`spec`"))
    });
    let Some(spec) = spec else {
        let (ingress, egress) = (isolated(Vec::new()), isolated(Vec::new()));
        return NetworkPolicy { name, origin, subjects: Selector::default(), ingress, egress };
    };
    passed_over(reader, |reader| reader.only(spec, &SPEC, None));
    // "An empty selector matches all pods in the policy's namespace."
    let subjects =
        reader.item("the policy isolates every pod of its namespace and allows nothing", |reader| {
            let read = |node| selector::read(reader, node, "`podSelector`");
            Some(get(spec, "podSelector").map_or_else(Selector::default, read))
        });
    let ingress = rules(reader, spec, INGRESS);
    let egress = rules(reader, spec, EGRESS);
    let types = policy_types(reader, spec);
    // SetDefaults_NetworkPolicy: "[Ingress]" if none is given, and "Egress" if there are egress rules.
    let egress_rules = egress.as_ref().is_none_or(|rules| !rules.is_empty());
    let (into, out_of) = types.unwrap_or((true, egress_rules));
    let allowed = |rules: Option<Vec<Rule>>| rules.filter(|_| subjects.is_some()).unwrap_or_default();
    let isolation = |named: bool, rules| if named { isolated(allowed(rules)) } else { Isolation::Open };
    let (ingress, egress) = (isolation(into, ingress), isolation(out_of, egress));
    NetworkPolicy { name, origin, subjects: subjects.unwrap_or_default(), ingress, egress }
}

/// What a stored object says beside what is read of it means nothing here.
pub(crate) fn passed_over(reader: &mut Reader<'_>, check: impl FnOnce(&mut Reader<'_>)) {
    let _checked: Option<()> = reader.item("it is passed over", |reader| {
        check(reader);
        Some(())
    });
}

/// Whether `policyTypes` names ingress and egress; nothing where it is absent or empty.
fn policy_types(reader: &mut Reader<'_>, spec: &Entries) -> Option<(bool, bool)> {
    let list = get(spec, "policyTypes")?;
    let read = reader.item("the policy isolates in both directions", |reader| {
        let items = reader.sequence(list, "`policyTypes`")?;
        if items.len() > 2 {
            let message = "`policyTypes` may not specify more than two policy types";
            reader.error(list, "unsupported-value", message);
        }
        let mut named = (false, false);
        for item in items {
            policy_type(reader, item, &mut named);
        }
        Some((!items.is_empty()).then_some(named))
    });
    // What is not understood may stand for either direction.
    read.unwrap_or(Some((true, true)))
}

/// One entry of `policyTypes`.
fn policy_type(reader: &mut Reader<'_>, item: &Node, named: &mut (bool, bool)) {
    let Some(text) = reader.string(item, "an item of `policyTypes`") else { return };
    let slot = match text {
        "Ingress" => &mut named.0,
        "Egress" => &mut named.1,
        other => {
            let message = format!("unsupported policy type \"{}\"", other.escape_debug());
            let suggestion = match suggest::closest(other, &["Egress", "Ingress"]) {
                Some(near) => format!("did you mean `{near}`?"),
                None => String::from("supported: Egress, Ingress"),
            };
            reader.error_with(item, "unsupported-value", message, suggestion);
            return;
        }
    };
    if *slot {
        reader.warn(item, "duplicate-policy-type", format!("`{text}` is written twice"));
    }
    *slot = true;
}

/// The rules of one direction; `None` if they are no list.
fn rules(reader: &mut Reader<'_>, spec: &Entries, side: Side) -> Option<Vec<Rule>> {
    let Some(node) = get(spec, side.rules) else { return Some(Vec::new()) };
    let items = reader.item("the policy isolates and allows nothing in this direction", |reader| {
        reader.sequence(node, &format!("`{}`", side.rules))
    })?;
    Some(items.iter().map(|item| rule(reader, item, side)).collect())
}

fn rule(reader: &mut Reader<'_>, node: &Node, side: Side) -> Rule {
    let read = reader.item("the rule allows nothing", |reader| {
        let entries = match node.value {
            // A null item is `{}` to the API server, which allows everything: hardly what an empty line meant.
            Value::Null => {
                let message = format!("an empty item of `{}` is a rule that allows everything", side.rules);
                reader.warn(node, "empty-rule", message);
                &[]
            }
            _ => reader.mapping(node, &format!("an item of `{}`", side.rules))?,
        };
        reader.only(entries, &[side.peers, "ports"], None);
        let peers = peers(reader, get(entries, side.peers), side);
        let ports = ports::read(reader, get(entries, "ports"));
        Some((peers, ports))
    });
    let (peers, ports) = read.unwrap_or((Peers::OneOf(Vec::new()), Ports::Any));
    Rule { origin: reader.origin(node), peers, ports }
}

/// `from` or `to`: absent or empty means anybody.
fn peers(reader: &mut Reader<'_>, node: Option<&Node>, side: Side) -> Peers {
    let items = node.and_then(|n| reader.sequence(n, &format!("`{}`", side.peers))).unwrap_or_default();
    if items.is_empty() {
        return Peers::Any;
    }
    let read = |item| reader.item("the peer matches nothing", |reader| peer(reader, item));
    Peers::OneOf(items.iter().filter_map(read).collect())
}

fn peer(reader: &mut Reader<'_>, node: &Node) -> Option<Peer> {
    let entries = match node.value {
        Value::Null => &[],
        _ => reader.mapping(node, "a peer")?,
    };
    reader.only(entries, &PEER, None);
    let block = get(entries, "ipBlock");
    let pods = get(entries, "podSelector");
    let namespaces = get(entries, "namespaceSelector");
    match (block, pods, namespaces) {
        (None, None, None) => {
            // What is unknown in it has been named already; saying more would blur that.
            if entries.iter().all(|(_, value)| matches!(value.value, Value::Null)) {
                let suggestion =
                    "`podSelector: {}` is all pods of the namespace, `namespaceSelector: {}` all pods";
                reader.error_with(node, "empty-peer", "must specify a peer", suggestion);
            }
            None
        }
        (Some(block), None, None) => Some(Peer::Block(ip_block(reader, block)?)),
        (Some(block), _, _) => {
            reader.error_with(
                block,
                "mixed-peer",
                "may not specify both ipBlock and another peer",
                "make it an item of its own, with its own `- `",
            );
            None
        }
        (None, pods, namespaces) => Some(Peer::Pods {
            namespaces: namespaces.map_or(Namespaces::SameAsPolicy, |n| {
                Namespaces::Matching(selector::read(reader, n, "`namespaceSelector`"))
            }),
            pods: pods.map_or_else(Selector::default, |n| selector::read(reader, n, "`podSelector`")),
        }),
    }
}

fn ip_block(reader: &mut Reader<'_>, node: &Node) -> Option<IpBlock> {
    if let Value::Text(text) = &node.value {
        let message = "`ipBlock` must be a mapping, and this is a string";
        reader.error_with(node, "wrong-type", message, format!("write `ipBlock: {{cidr: {text}}}`"));
        return None;
    }
    let entries = reader.mapping(node, "`ipBlock`")?;
    reader.only(entries, &["cidr", "except"], None);
    let cidr = reader.require(node, entries, "cidr").and_then(|at| block(reader, at, "`cidr`"));
    let mut except = Vec::new();
    if let Some(list) = get(entries, "except") {
        for item in reader.sequence(list, "`except`").unwrap_or_default() {
            let Some(hole) = block(reader, item, "an item of `except`") else { continue };
            if cidr.is_some_and(|cidr| hole == cidr || !cidr.contains(&hole)) {
                let message = format!("`except`: {hole} must be a strict subset of `cidr`");
                reader.error(item, "except-outside-cidr", message);
            }
            except.push(hole);
        }
    }
    Some(IpBlock { cidr: cidr?, except })
}

fn block(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<IpNet> {
    let text = reader.string(node, what)?;
    let Some(written) = cidr::parse(text) else {
        let message = format!("{what}: \"{}\" is not a valid CIDR value", text.escape_debug());
        let suggestion = if names::typographic(text) {
            String::from("write plain quotes (\"), not typographic ones")
        } else {
            match text.parse::<std::net::IpAddr>() {
                Ok(ip) => format!("for one address, write {ip}/{}", if ip.is_ipv4() { 32 } else { 128 }),
                Err(_) => String::from("for example 10.9.8.0/24 or 2001:db8::/64"),
            }
        };
        reader.error_with(node, "invalid-cidr", message, suggestion);
        return None;
    };
    if let Some(objection) = written.objection {
        let message = format!("{what}: \"{text}\" has {objection}; read as {}", written.block);
        reader.warn(node, "ambiguous-cidr", message);
    }
    Some(written.block)
}
