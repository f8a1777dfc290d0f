//! `networking.k8s.io/v1` NetworkPolicy: the fields, checks and defaults of the API server, unknown fields
//! refused.

use ipnet::IpNet;
use policy::model::{IpBlock, Isolation, Namespaces, NetworkPolicy, ObjectName, Origin, Peer, Peers, Rule};
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
    reader.only(object, &FIELDS, None);
    let spec = get(object, "spec").and_then(|node| reader.mapping(node, "`spec`")).unwrap_or_default();
    reader.only(spec, &SPEC, None);
    // "podSelector … An empty podSelector matches all pods in this namespace."
    let subjects = get(spec, "podSelector")
        .map_or_else(Selector::default, |n| selector::read(reader, n, "`podSelector`"));
    let ingress = rules(reader, spec, INGRESS);
    let egress = rules(reader, spec, EGRESS);
    let types = policy_types(reader, spec);
    // SetDefaults_NetworkPolicy: "[Ingress]" if none is given, and "Egress" if there are egress rules.
    let (into, out_of) = types.unwrap_or((true, !egress.is_empty()));
    let isolation = |named: bool, rules| if named { Isolation::Isolated { rules } } else { Isolation::Open };
    NetworkPolicy {
        name,
        origin,
        subjects,
        ingress: isolation(into, ingress),
        egress: isolation(out_of, egress),
    }
}

/// Whether `policyTypes` names ingress and egress; nothing where it is absent or empty.
fn policy_types(reader: &mut Reader<'_>, spec: &Entries) -> Option<(bool, bool)> {
    let list = get(spec, "policyTypes")?;
    let items = reader.sequence(list, "`policyTypes`")?;
    if items.len() > 2 {
        reader.error(list, "unsupported-value", "`policyTypes` may not specify more than two policy types");
    }
    let mut named = (false, false);
    for item in items {
        let Some(text) = reader.string(item, "an item of `policyTypes`") else { continue };
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
                continue;
            }
        };
        if *slot {
            reader.warn(item, "duplicate-policy-type", format!("`{text}` is written twice"));
        }
        *slot = true;
    }
    (!items.is_empty()).then_some(named)
}

fn rules(reader: &mut Reader<'_>, spec: &Entries, side: Side) -> Vec<Rule> {
    let Some(node) = get(spec, side.rules) else { return Vec::new() };
    let items = reader.sequence(node, &format!("`{}`", side.rules)).unwrap_or_default();
    items.iter().filter_map(|item| rule(reader, item, side)).collect()
}

fn rule(reader: &mut Reader<'_>, node: &Node, side: Side) -> Option<Rule> {
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
    Some(Rule { origin: reader.origin(node), peers, ports })
}

/// `from` or `to`: absent or empty means anybody.
fn peers(reader: &mut Reader<'_>, node: Option<&Node>, side: Side) -> Peers {
    let items = node.and_then(|n| reader.sequence(n, &format!("`{}`", side.peers))).unwrap_or_default();
    if items.is_empty() {
        return Peers::Any;
    }
    Peers::OneOf(items.iter().filter_map(|item| peer(reader, item)).collect())
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
