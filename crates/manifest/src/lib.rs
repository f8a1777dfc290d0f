//! Kubernetes YAML text to the policy model, with source positions.
//!
//! ```text
//! bytes ─ tree ──────── nodes with positions (the only place that knows the YAML library)
//!           └ object ── documents, lists, kinds, metadata
//!                ├ network_policy ─ selector, ports, cidr     unknown fields refused: people write these
//!                ├ annotation                                 a namespace's isolation of before the API
//!                └ pod, node                                  unknown fields passed over: kubectl prints these
//! ```
//!
//! A NetworkPolicy is judged as the API server would judge it, and unknown fields are errors: a field that is
//! silently lost usually means a policy that silently allows. Of a Pod, Namespace or Node only the fields that
//! policy looks at are read. JSON is read too, being YAML.
//!
//! An object that carries `metadata.uid`, `resourceVersion`, `creationTimestamp` or `managedFields` comes from a
//! cluster: an API server took it, perhaps a newer or an older one, and refusing the file would help nobody. What
//! is not understood in it is a warning and matches nothing. Its name, labels and addresses must be readable all
//! the same: there is no closed reading of a pod that no policy finds.
//!
//! Nil and empty die here, by the defaulting of networking.k8s.io/v1 (`pkg/apis/networking/v1/defaults.go`):
//! what comes out is a [`policy::model`] object that cannot express the difference.
//!
//! Input may be hostile: size, depth, nodes, documents and alias expansion are bounded, and nothing panics.

mod diagnostic;
mod tree;
mod suggest;
mod reader;
mod object;
mod annotation;
mod network_policy;
mod selector;
mod ports;
mod cidr;
mod names;
mod pod;
mod node;
mod embedded;

use std::sync::Arc;

use policy::model::{Namespace, NetworkPolicy, Node, Origin, Pod};

pub use diagnostic::{Diagnostic, Severity};
pub use embedded::Embedded;
pub use suggest::closest;

use crate::reader::Reader;

/// The largest text that is read, in bytes: 16 MiB.
pub const MAX_BYTES: usize = 16 << 20;

/// What a text said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The objects, in the order they were written.
    pub objects: Vec<Item>,
    /// What is accepted but deserves a word.
    pub warnings: Vec<Diagnostic>,
    /// How many YAML nodes the text has, those that aliases repeat included: what it costs to keep.
    pub nodes: usize,
}

/// An object and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The object.
    pub object: Object,
    /// Where its name was written.
    pub origin: Origin,
}

/// The kinds of object that policy is evaluated against.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1` Namespace.
    Namespace(Namespace),
    /// `v1` Pod.
    Pod(Pod),
    /// `v1` Node.
    Node(Node),
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
}

impl Object {
    /// Its kind, as Kubernetes spells it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "Namespace",
            Self::Pod(_) => "Pod",
            Self::Node(_) => "Node",
            Self::NetworkPolicy(_) => "NetworkPolicy",
        }
    }

    /// Its name within its kind: `namespace/name`, or `name` for what has no namespace.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Namespace(namespace) => namespace.name.clone(),
            Self::Pod(pod) => pod.name.to_string(),
            Self::Node(node) => node.name.clone(),
            Self::NetworkPolicy(policy) => policy.name.to_string(),
        }
    }
}

/// Reads the objects of a text: one or more YAML documents, or JSON. `source` names it in positions.
///
/// # Errors
///
/// Everything that is wrong with the text, warnings included, in the order of the text. A text that is not
/// YAML gives one error, since nothing after it can be trusted.
pub fn parse(source: &str, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let source: Arc<str> = Arc::from(source);
    if text.len() > MAX_BYTES {
        return Err(vec![too_large(&source, text.len())]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = tree::documents(&source, text).map_err(|error| vec![error])?;
    let mut reader = Reader::new(source, text);
    let mut objects = Vec::new();
    for document in &documents {
        object::read(&mut reader, document, &mut objects);
    }
    let diagnostics = reader.finish();
    if diagnostics.iter().any(|d| d.severity == Severity::Error) {
        return Err(diagnostics);
    }
    let nodes = documents.iter().map(tree::Node::size).sum();
    Ok(Parsed { objects, warnings: diagnostics, nodes })
}

/// Like [`parse`], for bytes that may not be text.
///
/// # Errors
///
/// As [`parse`]; bytes that are not UTF-8 give one error at the first of them.
pub fn parse_bytes(source: &str, bytes: &[u8]) -> Result<Parsed, Vec<Diagnostic>> {
    if bytes.len() > MAX_BYTES {
        return Err(vec![too_large(&Arc::from(source), bytes.len())]);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(source, text),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = 1 + good.matches('\n').count();
            let column = 1 + good.rsplit('\n').next().map_or(0, |last| last.chars().count());
            Err(vec![
                Diagnostic::error(Arc::from(source), "not-utf8", "this byte is not UTF-8 text")
                    .at(line as u64, column as u64)
                    .suggest("save the file as UTF-8"),
            ])
        }
    }
}

fn too_large(source: &Arc<str>, bytes: usize) -> Diagnostic {
    let message = format!("{bytes} bytes are too many: a file may have {MAX_BYTES}");
    Diagnostic::error(Arc::clone(source), "too-large", message).suggest("split it into several files")
}
