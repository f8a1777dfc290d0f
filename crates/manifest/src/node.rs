//! `v1` Node: its addresses, since traffic between a pod and its own node is always allowed.

use policy::model::Node;

use crate::pod;
use crate::reader::{Entries, Reader, get};

/// Reads everything but the name.
pub(crate) fn read(reader: &mut Reader<'_>, object: &Entries, name: String) -> Node {
    let status = get(object, "status").and_then(|node| reader.mapping(node, "`status`")).unwrap_or_default();
    let mut addresses = Vec::new();
    if let Some(list) = get(status, "addresses") {
        for item in reader.sequence(list, "`addresses`").unwrap_or_default() {
            let entries = reader.mapping(item, "an item of `addresses`").unwrap_or_default();
            let kind = get(entries, "type").and_then(|node| reader.string(node, "`type`"));
            if matches!(kind, Some("InternalIP" | "ExternalIP")) {
                addresses
                    .extend(get(entries, "address").and_then(|node| pod::address(reader, node, "`address`")));
            }
        }
    }
    Node { name, addresses }
}
