//! Label selectors: `matchLabels` and `matchExpressions`, all required together.

use policy::selector::{Operator, Requirement, Selector};

use crate::names;
use crate::reader::{Entries, Reader, get};
use crate::suggest;
use crate::tree::{Node, Value};

const FIELDS: [&str; 2] = ["matchLabels", "matchExpressions"];
const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// A selector that is written down; `{}` selects everything.
pub(crate) fn read(reader: &mut Reader<'_>, node: &Node, what: &str) -> Selector {
    let mut requirements = Vec::new();
    let entries = reader.mapping(node, what).unwrap_or_default();
    reader.only(entries, &FIELDS, Some("labels go under `matchLabels`"));
    if let Some(labels) = get(entries, "matchLabels") {
        for (key_node, key, value_node, value) in reader.strings(labels, "`matchLabels`") {
            check_key(reader, key_node, key);
            check_value(reader, value_node, value);
            if matches!(value_node.value, Value::Null) {
                reader.warn(
                    key_node,
                    "empty-label-value",
                    format!("`{key}` has no value here: only pods or namespaces with an empty value match"),
                );
            }
            requirements
                .push(Requirement { key: key.to_owned(), operator: Operator::In(vec![value.to_owned()]) });
        }
    }
    if let Some(list) = get(entries, "matchExpressions") {
        for item in reader.sequence(list, "`matchExpressions`").unwrap_or_default() {
            requirements.extend(expression(reader, item));
        }
    }
    Selector { requirements }
}

fn expression(reader: &mut Reader<'_>, node: &Node) -> Option<Requirement> {
    let entries = reader.mapping(node, "an item of `matchExpressions`")?;
    reader.only(entries, &["key", "operator", "values"], None);
    let key = reader.require(node, entries, "key").and_then(|at| {
        let key = reader.string(at, "`key`")?;
        check_key(reader, at, key);
        Some(key.to_owned())
    });
    let operator = reader.require(node, entries, "operator").and_then(|at| operator(reader, at, entries));
    Some(Requirement { key: key?, operator: operator? })
}

fn operator(reader: &mut Reader<'_>, at: &Node, entries: &Entries) -> Option<Operator> {
    let name = reader.string(at, "`operator`")?;
    let values_node = get(entries, "values");
    let mut values = Vec::new();
    if let Some(list) = values_node {
        for item in reader.sequence(list, "`values`")? {
            let value = reader.string(item, "an item of `values`")?;
            check_value(reader, item, value);
            values.push(value.to_owned());
        }
    }
    match name {
        "In" | "NotIn" if values.is_empty() => {
            let at = values_node.unwrap_or(at);
            reader.error(
                at,
                "invalid-selector",
                "`values` must be specified when `operator` is 'In' or 'NotIn'",
            );
            None
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let at = values_node.unwrap_or(at);
            let message = "`values` may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            reader.error(at, "invalid-selector", message);
            None
        }
        "In" => Some(Operator::In(values)),
        "NotIn" => Some(Operator::NotIn(values)),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::DoesNotExist),
        other => {
            let message = format!("`{other}` is not a valid selector operator");
            let suggestion = match suggest::closest(other, &OPERATORS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("supported: {}", OPERATORS.join(", ")),
            };
            reader.error_with(at, "invalid-selector", message, suggestion);
            None
        }
    }
}

/// Says if a label's key cannot be one.
pub(crate) fn check_key(reader: &mut Reader<'_>, at: &Node, key: &str) {
    if !names::is_label_key(key) {
        let message = format!("`{}` is not a label key", key.escape_debug());
        reader.error_with(
            at,
            "invalid-label",
            message,
            hint(key, "letters, digits, '-', '_' and '.', at most 63"),
        );
    }
}

/// Says if a label's value cannot be one.
pub(crate) fn check_value(reader: &mut Reader<'_>, at: &Node, value: &str) {
    if !names::is_label_value(value) {
        let message = format!("`{}` is not a label value", value.escape_debug());
        let otherwise = if value.contains(',') {
            "for one of several values, use `matchExpressions` with `operator: In`"
        } else {
            "letters, digits, '-', '_' and '.', at most 63"
        };
        reader.error_with(at, "invalid-label", message, hint(value, otherwise));
    }
}

fn hint(text: &str, otherwise: &'static str) -> &'static str {
    if names::typographic(text) { "write plain quotes (\"), not typographic ones" } else { otherwise }
}
