//! YAML text to nodes that know where they were written. The only place that knows the YAML library.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, NonFiniteFloatPolicy, Spanned};

use crate::diagnostic::Diagnostic;

/// Most nodes of one text, those that aliases repeat included: two million.
const MAX_NODES: usize = 2 << 20;
/// Most documents of one text.
const MAX_DOCUMENTS: usize = 1 << 16;
/// Deepest nesting. Objects of Kubernetes stay below 25; without optimisation a level takes 40 KB of stack, and a
/// thread has 2 MB.
const MAX_DEPTH: usize = 40;
/// Most nodes that aliases may repeat; people write a handful.
const MAX_REPEATED: usize = 20_000;

/// A YAML node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Line, from one.
    pub(crate) line: u64,
    /// Column in characters, from one.
    pub(crate) column: u64,
    /// Where a scalar stands in the text, in bytes: what was written before it was understood.
    written: (usize, usize),
    /// What it is.
    pub(crate) value: Value,
}

/// What a node is, by the rules of YAML 1.1 for bare words: kubectl reads `yes` and `n` as booleans.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is no 64-bit integer.
    Number,
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// The scalar as it was written, quotes included.
    pub(crate) fn raw<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.written.0..self.written.1).unwrap_or_default()
    }

    /// How many nodes it is made of, itself included.
    pub(crate) fn size(&self) -> usize {
        1 + match &self.value {
            Value::Sequence(items) => items.iter().map(Self::size).sum(),
            Value::Mapping(entries) => entries.iter().map(|(key, value)| key.size() + value.size()).sum(),
            _ => 0,
        }
    }

    /// What kind of thing it is, for messages.
    pub(crate) const fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) | Value::Number => "a number",
            Value::Text(_) => "a string",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// The documents of a text; empty ones are left out.
pub(crate) fn documents(source: &Arc<str>, text: &str) -> Result<Vec<Node>, Diagnostic> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_documents: MAX_DOCUMENTS,
            max_depth: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPEATED,
        },
        // Only text: a label `.nan` harms nobody, and no field that is read is a fraction.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let documents: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| refuse(source, text, &error))?;
    Ok(documents.into_iter().filter(|node| !matches!(node.value, Value::Null)).collect())
}

/// The library's error in our words.
fn refuse(source: &Arc<str>, text: &str, error: &Error) -> Diagnostic {
    let error = match error {
        Error::AliasError { error, .. } => error.without_snippet(),
        error => error.without_snippet(),
    };
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let line = text.lines().nth((location.line().max(1) - 1) as usize).unwrap_or_default();
    let diagnostic = match error {
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("of this mapping");
            Diagnostic::error(
                Arc::clone(source),
                "duplicate-key",
                format!("the key `{key}` is written twice"),
            )
            .suggest("only one of them would count; `---` on a line of its own starts another object")
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => Diagnostic::error(
            Arc::clone(source),
            "too-large",
            format!("more than is read of one file: {error}"),
        ),
        error => {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            let diagnostic =
                Diagnostic::error(Arc::clone(source), "yaml-syntax", format!("not YAML: {message}"));
            if line.trim_start_matches(' ').starts_with('\t') {
                diagnostic.suggest("indent with spaces, not with tabs")
            } else if matches!(error, Error::UnknownAnchor { .. }) {
                diagnostic.suggest("a bare `*` starts an alias: remove it, or quote the value")
            } else {
                diagnostic
            }
        }
    };
    diagnostic.at(location.line(), location.column())
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        // Of what an alias repeats, the place where it is written out.
        let place = spanned.defined;
        let start = place.span().byte_offset().unwrap_or_default() as usize;
        let len = place.span().byte_len().unwrap_or_default() as usize;
        Ok(Self {
            line: place.line(),
            column: place.column(),
            written: (start, start.saturating_add(len)),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Builder)
    }
}

struct Builder;

impl<'de> Visitor<'de> for Builder {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Number, Value::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element()? {
            nodes.push(node);
        }
        Ok(Value::Sequence(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            nodes.push(entry);
        }
        Ok(Value::Mapping(nodes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> Diagnostic {
        documents(&Arc::from("t"), text).expect_err("refused")
    }

    #[test]
    fn positions_are_those_of_the_text() {
        let text = "# note\na: 1\nü:\n- x: yes\n  'y': \"q\"\n";
        let documents = documents(&Arc::from("t"), text).unwrap();
        let Value::Mapping(entries) = &documents[0].value else { panic!("a mapping") };
        assert_eq!((entries[0].1.line, entries[0].1.column, entries[0].1.raw(text)), (2, 4, "1"));
        let Value::Sequence(items) = &entries[1].1.value else { panic!("a list") };
        let Value::Mapping(item) = &items[0].value else { panic!("a mapping") };
        assert_eq!((items[0].line, items[0].column), (4, 3));
        assert!(matches!(item[0].1.value, Value::Bool(true)));
        assert_eq!(item[0].1.raw(text), "yes");
        assert!(matches!(&item[1].0.value, Value::Text(key) if key == "y"));
        assert_eq!((item[1].1.line, item[1].1.column, item[1].1.raw(text)), (5, 8, "\"q\""));
    }

    #[test]
    fn what_is_not_yaml_has_a_place() {
        for (text, code, line, column) in [
            ("a:\n\tb: 1\n", "yaml-syntax", 2, 2),
            ("a: 1\nb: 2\na: 3\n", "duplicate-key", 3, 1),
            ("port: **80**\n", "yaml-syntax", 1, 7),
            ("a: \0\n", "yaml-syntax", 1, 4),
        ] {
            let error = error_of(text);
            assert_eq!((error.code, error.line, error.column), (code, line, column), "{error}");
        }
        assert_eq!(error_of("a:\n\tb: 1\n").suggestion.unwrap(), "indent with spaces, not with tabs");
    }

    #[test]
    fn bombs_are_refused_early() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
        }
        assert_eq!(error_of(&bomb).code, "too-large");
        assert_eq!(error_of(&"---\na: 1\n".repeat(MAX_DOCUMENTS + 1)).code, "too-large");
        for deep in ["[".repeat(100_000), "- ".repeat(10_000), "{a: ".repeat(1000)] {
            assert!(["too-large", "yaml-syntax"].contains(&error_of(&deep).code));
        }
        let deep: String = (0..70).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert_eq!(error_of(&deep).code, "too-large");
    }

    #[test]
    fn empty_documents_are_nothing() {
        for text in ["", "---\n", "# note\n---\n# note\n---\n...\n"] {
            assert!(documents(&Arc::from("t"), text).unwrap().is_empty(), "{text:?}");
        }
    }
}
