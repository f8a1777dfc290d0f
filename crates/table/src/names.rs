//! The names of what decides: policies and their rules, and the pods they decide about.

use std::fmt;

use flow::Direction;

/// The name of a namespaced object, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Name {
    /// The name `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A policy of one table. It means nothing to another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub(crate) u32);

/// A rule of one table. It means nothing to another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub(crate) u32);

/// What a table remembers of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInfo {
    /// Namespace and name.
    pub name: Name,
    /// Where it was written, as `file:line`.
    pub origin: String,
}

/// What a table remembers of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The policy that it belongs to.
    pub policy: PolicyId,
    /// Whether it is an entry of `spec.ingress` or `spec.egress`.
    pub direction: Direction,
    /// Its index there, from zero.
    pub index: usize,
    /// Where it was written, as `file:line`.
    pub origin: String,
}
