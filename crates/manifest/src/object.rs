//! Documents, lists, kinds and metadata: from the root of a document to the objects in it.

use policy::model::{Namespace, ObjectName};

use crate::annotation;
use crate::names;
use crate::network_policy;
use crate::node;
use crate::pod;
use crate::reader::{Entries, Reader, get};
use crate::selector;
use crate::suggest;
use crate::tree::{Node, Value};
use crate::{Item, Object};

const KINDS: [&str; 5] = ["Namespace", "Pod", "Node", "NetworkPolicy", "List"];

/// Reads one document into `objects`.
pub(crate) fn read(reader: &mut Reader<'_>, document: &Node, objects: &mut Vec<Item>) {
    one(reader, document, None, objects);
}

/// One object or list. `listed` is the kind that a typed list gives to items that do not say theirs.
fn one(reader: &mut Reader<'_>, node: &Node, listed: Option<&str>, objects: &mut Vec<Item>) {
    let Some(entries) = reader.mapping(node, "an object") else { return };
    let (kind_node, kind) = match (get(entries, "kind"), listed) {
        (Some(at), _) => match reader.string(at, "`kind`") {
            Some(kind) => (at, kind),
            None => return,
        },
        (None, Some(kind)) => (node, kind),
        (None, None) => {
            reader.error(node, "missing-field", "`kind` is missing");
            return;
        }
    };
    let version = match (get(entries, "apiVersion"), listed) {
        (Some(at), _) => match reader.string(at, "`apiVersion`") {
            Some(version) => Some((at, version)),
            None => return,
        },
        (None, Some(_)) => None,
        (None, None) => {
            reader.error(node, "missing-field", "`apiVersion` is missing");
            return;
        }
    };
    if let Some(kind) = list_of(kind) {
        if listed.is_some() {
            reader.error(node, "unsupported-value", "a list in a list");
            return;
        }
        let Some(items) = reader.require(node, entries, "items") else { return };
        for item in reader.sequence(items, "`items`").unwrap_or_default() {
            // Items of a plain List name their own kind.
            one(reader, item, Some(kind).filter(|kind| !kind.is_empty()), objects);
        }
        return;
    }
    let wanted = match kind {
        "Namespace" | "Pod" | "Node" => "v1",
        "NetworkPolicy" => "networking.k8s.io/v1",
        other => {
            stranger(reader, kind_node, other);
            return;
        }
    };
    if let Some((at, version)) = version.filter(|(_, version)| *version != wanted) {
        let message = format!("no matches for kind \"{kind}\" in version \"{}\"", version.escape_debug());
        reader.error_with(at, "unsupported-api-version", message, format!("use `apiVersion: {wanted}`"));
        return;
    }
    let origin = reader.origin(kind_node);
    let Some(at) = reader.require(node, entries, "metadata") else { return };
    let Some(metadata) = reader.mapping(at, "`metadata`") else { return };
    let Some(name_node) = reader.require(at, metadata, "name") else { return };
    let name = name(reader, name_node, kind);
    let origin = if name.is_some() { reader.origin(name_node) } else { origin };
    let name = name.unwrap_or_default();
    let stored = is_stored(metadata);
    let object = match kind {
        "Namespace" => {
            if let Some(policy) = annotation::isolation(reader, metadata, &name) {
                objects.push(policy);
            }
            Object::Namespace(Namespace { name, labels: reader.labels(metadata) })
        }
        "Node" => reader.leniently(node, stored, |reader| Object::Node(node::read(reader, entries, name))),
        "Pod" => {
            let name = ObjectName::new(namespace(reader, metadata), name);
            let labels = reader.labels(metadata);
            Object::Pod(pod::read(reader, (node, entries), (metadata, stored), name, labels))
        }
        _ => {
            let name = ObjectName::new(namespace(reader, metadata), name);
            reader.leniently(node, stored, |reader| {
                network_policy::passed_over(reader, |reader| {
                    reader.only(metadata, &network_policy::METADATA, None);
                    check_labels(reader, metadata);
                });
                Object::NetworkPolicy(network_policy::read(reader, entries, name, origin.clone()))
            })
        }
    };
    objects.push(Item { object, origin });
}

/// Whether an API server stored the object: these fields are written by nobody else, and sent back empty or null by
/// some clients.
fn is_stored(metadata: &Entries) -> bool {
    ["uid", "resourceVersion", "creationTimestamp", "managedFields"].into_iter().any(|field| {
        match get(metadata, field).map(|node| &node.value) {
            None | Some(Value::Null) => false,
            Some(Value::Text(text)) => !text.is_empty(),
            Some(Value::Sequence(items)) => !items.is_empty(),
            Some(_) => true,
        }
    })
}

/// The kind of the items if `kind` is a list: empty for a List, whose items say it themselves.
fn list_of(kind: &str) -> Option<&str> {
    kind.strip_suffix("List").filter(|kind| kind.is_empty() || KINDS.contains(kind))
}

/// A kind that policy does not look at: passed over with a word, unless it is one of ours misspelt.
fn stranger(reader: &mut Reader<'_>, at: &Node, kind: &str) {
    let misspelt = KINDS.iter().find(|known| {
        known.eq_ignore_ascii_case(kind) || (known.len() > 8 && suggest::closest(kind, &[known]).is_some())
    });
    // Kinds of others contain one of ours whole, such as CiliumNetworkPolicy.
    match misspelt.filter(|known| !kind.contains(**known)) {
        Some(known) => {
            let message = format!("unknown kind \"{}\"", kind.escape_debug());
            reader.error_with(at, "unknown-kind", message, format!("did you mean `{known}`?"));
        }
        None => {
            reader.warn(
                at,
                "ignored-kind",
                format!("objects of kind \"{}\" are ignored", kind.escape_debug()),
            );
        }
    }
}

/// `metadata.name`, in a spelling that the API server admits.
fn name(reader: &mut Reader<'_>, node: &Node, kind: &str) -> Option<String> {
    let name = reader.string(node, "`name`")?;
    let good = if kind == "Namespace" { names::is_dns_label(name) } else { names::is_subdomain(name) };
    if !good {
        let message = format!("`{}` is not a name", name.escape_debug());
        reader.error_with(
            node,
            "invalid-name",
            message,
            "lower-case letters, digits and '-', as in a DNS name",
        );
        return None;
    }
    Some(name.to_owned())
}

/// `metadata.namespace`, "default" where it is absent, as for kubectl without a context's own.
fn namespace(reader: &mut Reader<'_>, metadata: &Entries) -> String {
    let Some(node) = get(metadata, "namespace") else { return String::from("default") };
    match reader.string(node, "`namespace`") {
        None | Some("") => String::from("default"),
        Some(namespace) => {
            if !names::is_dns_label(namespace) {
                let message = format!("`{}` is not the name of a namespace", namespace.escape_debug());
                let suggestion = "lower-case letters, digits and '-', at most 63";
                reader.error_with(node, "invalid-name", message, suggestion);
            }
            namespace.to_owned()
        }
    }
}

/// Labels and annotations of what people write: strings, and labels well spelt.
fn check_labels(reader: &mut Reader<'_>, metadata: &Entries) {
    if let Some(labels) = get(metadata, "labels") {
        for (key_node, key, value_node, value) in reader.strings(labels, "`labels`") {
            selector::check_key(reader, key_node, key);
            selector::check_value(reader, value_node, value);
        }
    }
    if let Some(annotations) = get(metadata, "annotations") {
        reader.strings(annotations, "`annotations`");
    }
}
