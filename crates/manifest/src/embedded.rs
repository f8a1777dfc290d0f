//! Objects inside documents of another form.

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer};

use crate::diagnostic::{Diagnostic, Severity};
use crate::object;
use crate::reader::Reader;
use crate::tree::{Node, Value};
use crate::{Item, Parsed};

/// A Kubernetes object as part of a document of another form, with the positions of that document. Read it
/// with `serde-saphyr`: other libraries know no positions.
#[derive(Debug)]
pub struct Embedded(Node);

impl Embedded {
    /// The text, if it is a string and no object.
    #[must_use]
    pub const fn as_text(&self) -> Option<&str> {
        match &self.0.value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The line and the column where it begins, from one.
    #[must_use]
    pub const fn position(&self) -> (u64, u64) {
        (self.0.line, self.0.column)
    }

    /// Reads it as [`parse`](crate::parse) reads a document: strictly, and a list gives several objects.
    /// `text` is the whole text that it was read from, without a byte order mark.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, warnings included.
    pub fn read(&self, source: &Arc<str>, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
        let mut reader = Reader::new(Arc::clone(source), text);
        let mut objects: Vec<Item> = Vec::new();
        object::read(&mut reader, &self.0, &mut objects);
        let diagnostics = reader.finish();
        if diagnostics.iter().any(|d| d.severity == Severity::Error) {
            return Err(diagnostics);
        }
        Ok(Parsed { objects, warnings: diagnostics, nodes: self.0.size() })
    }
}

impl<'de> Deserialize<'de> for Embedded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_the_positions_of_the_document_around_it() {
        let text = "apply:\n- file.yaml\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: x}\n- {kind: Pood, apiVersion: v1}\n";
        let read: std::collections::BTreeMap<String, Vec<Embedded>> = serde_saphyr::from_str(text).unwrap();
        let [file, namespace, wrong] = &read["apply"][..] else { panic!("three items") };
        let source = Arc::from("t.yaml");
        assert_eq!((file.as_text(), file.position()), (Some("file.yaml"), (2, 3)));
        let parsed = namespace.read(&source, text).unwrap();
        let origin = &parsed.objects[0].origin;
        assert_eq!((parsed.objects[0].object.name().as_str(), origin.line, origin.column), ("x", 5, 20));
        let warnings = wrong.read(&source, text).unwrap().warnings;
        assert_eq!((warnings[0].code, warnings[0].line, warnings[0].column), ("ignored-kind", 6, 10));
    }
}
