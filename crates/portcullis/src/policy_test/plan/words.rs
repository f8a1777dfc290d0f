//! The words of a test: who is meant, and which object.

use std::net::IpAddr;

use flow::Address;
use policy::model::ObjectName;
use policy::selector::{Operator, Requirement, Selector};

use super::Who;
use crate::policy_test::format::{LabelOperator, LabelSelector, Party};
use crate::policy_test::state::Key;

pub(super) fn gather(party: &Party, all: &mut Vec<Who>) -> Result<(), String> {
    match party {
        Party::One(text) => all.push(who(text)?),
        Party::Pods(pods) => all.push(Who::Pods {
            namespace: pods.namespace.clone(),
            namespaces: pods.namespace_selector.as_ref().map(selector).transpose()?,
            pods: pods.pod_selector.as_ref().map(selector).transpose()?,
        }),
        Party::Several(parties) => {
            for party in parties {
                gather(party, all)?;
            }
        }
    }
    Ok(())
}

pub(super) fn who(text: &str) -> Result<Who, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Who::Address(Address::from(ip)));
    }
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Who::Pod(ObjectName::new(namespace, name)))
        }
        _ => Err(format!("`{}` is neither namespace/pod nor an address", text.escape_debug())),
    }
}

pub(super) fn selector(written: &LabelSelector) -> Result<Selector, String> {
    let equal = written.match_labels.iter().map(|(key, value)| {
        Ok(Requirement { key: key.clone(), operator: Operator::In(vec![value.clone()]) })
    });
    let expressions = written.match_expressions.iter().map(|expression| {
        let values = expression.values.clone();
        let operator = match (expression.operator, values.is_empty()) {
            (LabelOperator::In, false) => Operator::In(values),
            (LabelOperator::NotIn, false) => Operator::NotIn(values),
            (LabelOperator::Exists, true) => Operator::Exists,
            (LabelOperator::DoesNotExist, true) => Operator::DoesNotExist,
            (LabelOperator::In | LabelOperator::NotIn, true) => {
                return Err(format!("`values` is missing for the label `{}`", expression.key));
            }
            (operator, false) => return Err(format!("`{operator:?}` takes no `values`")),
        };
        Ok(Requirement { key: expression.key.clone(), operator })
    });
    Ok(Selector { requirements: equal.chain(expressions).collect::<Result<_, String>>()? })
}

/// `Kind/namespace/name`, or `Kind/name` for what has no namespace.
pub(super) fn key(text: &str) -> Result<Key, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        ["Namespace", name] => Ok(("Namespace", name.to_owned())),
        ["Node", name] => Ok(("Node", name.to_owned())),
        ["Pod", namespace, name] => Ok(("Pod", format!("{namespace}/{name}"))),
        ["NetworkPolicy", namespace, name] => Ok(("NetworkPolicy", format!("{namespace}/{name}"))),
        _ => Err(format!(
            "`{}` is none of NetworkPolicy/namespace/name, Pod/namespace/name, Namespace/name, Node/name",
            text.escape_debug()
        )),
    }
}
