//! Isolation by annotation, from before NetworkPolicy was an API: `net.beta.kubernetes.io/network-policy` on a
//! namespace, `{"ingress": {"isolation": "DefaultDeny"}}`. It becomes a policy.

use policy::model::{Isolation, NetworkPolicy, ObjectName};
use policy::selector::Selector;
use serde_json::Value as Json;

use crate::reader::{Entries, Reader, get};
use crate::{Item, Object};

/// The annotation, and the name of the policy that it becomes. A policy that somebody writes cannot have a name
/// with a slash.
const NETWORK_POLICY: &str = "net.beta.kubernetes.io/network-policy";
/// Longer contents cannot be what is looked for.
const MAX_BYTES: usize = 4096;

/// The policy that isolates all pods of the namespace `name` for ingress, if its annotation asks for that.
pub(crate) fn isolation(reader: &mut Reader<'_>, metadata: &Entries, name: &str) -> Option<Item> {
    let annotations = reader.mapping(get(metadata, "annotations")?, "`annotations`")?;
    let node = get(annotations, NETWORK_POLICY)?;
    let text = reader.string(node, &format!("the value of `{NETWORK_POLICY}`"))?;
    let json: Option<Json> =
        Some(text).filter(|text| text.len() <= MAX_BYTES).and_then(|text| serde_json::from_str(text).ok());
    let isolates = json.as_ref().and_then(|json| json.pointer("/ingress/isolation"))
        == Some(&Json::String("DefaultDeny".into()));
    let alone = |json: &Json| json.as_object().is_some_and(|fields| fields.len() == 1);
    let understood = json.as_ref().is_some_and(|json| alone(json) && alone(&json["ingress"]));
    if !isolates || !understood {
        let message = format!(
            "`{NETWORK_POLICY}` is understood as {{\"ingress\":{{\"isolation\":\"DefaultDeny\"}}}} only; {}",
            if isolates { "what else it says is passed over" } else { "it is passed over" }
        );
        reader.warn(node, "legacy-annotation", message);
    }
    if !isolates {
        return None;
    }
    let origin = reader.origin(node);
    let policy = NetworkPolicy {
        name: ObjectName::new(name, NETWORK_POLICY),
        origin: origin.clone(),
        subjects: Selector::default(),
        ingress: Isolation::Isolated { rules: Vec::new() },
        egress: Isolation::Open,
    };
    Some(Item { object: Object::NetworkPolicy(policy), origin })
}
