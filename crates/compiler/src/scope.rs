//! Whose connections a table judges.

use std::collections::BTreeSet;

use policy::model::ObjectName;

/// Whose connections the table judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of these pods. Other pods are peers only.
    Pods(BTreeSet<ObjectName>),
    /// Those of all pods.
    AllPods,
}

impl Scope {
    /// Whether the pods of this name are judged.
    pub(crate) fn judges(&self, pod: &ObjectName) -> bool {
        match self {
            Self::Pods(judged) => judged.contains(pod),
            Self::AllPods => true,
        }
    }
}
