//! Typed access to nodes: each accessor answers, or says in place what is wrong and answers nothing.
//!
//! Within [`Reader::leniently`] a fault in a stored object is a warning with the path of its field, and
//! the [`item`](Reader::item) around it has no answer: what reads the item then takes what allows least.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use policy::model::{Labels, Origin};

use crate::diagnostic::{Diagnostic, Severity};
use crate::suggest;
use crate::tree::{Node, Value};

/// More diagnostics of one text are counted, not kept.
const MAX_DIAGNOSTICS: usize = 100;

/// The entries of a mapping.
pub(crate) type Entries = [(Node, Node)];

/// Reads one text and gathers what is wrong with it.
pub(crate) struct Reader<'t> {
    source: Arc<str>,
    text: &'t str,
    diagnostics: Vec<Diagnostic>,
    /// Errors and warnings that are counted only.
    dropped: (usize, usize),
    /// Faults in the item that is being read.
    faults: usize,
    /// What becomes of the item that is being read if there is a fault in it.
    consequence: &'static str,
    /// Whether the object that is being read was stored by an API server.
    stored: bool,
    /// Diagnostics that still lack the path of their field, by the node that they are about.
    pathless: HashMap<*const Node, Vec<usize>>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(source: Arc<str>, text: &'t str) -> Self {
        Self {
            source,
            text,
            diagnostics: Vec::new(),
            dropped: (0, 0),
            faults: 0,
            consequence: "",
            stored: false,
            pathless: HashMap::new(),
        }
    }

    /// Reads parts of an object, `root`. In one that an API server took, a `stored` one, what is not understood is told
    /// and matches nothing.
    pub(crate) fn leniently<T>(&mut self, root: &Node, stored: bool, read: impl FnOnce(&mut Self) -> T) -> T {
        self.stored |= stored;
        let read = read(self);
        if stored {
            self.stored = false;
            self.tell_paths(root);
        }
        read
    }

    /// Names the fields of what was told without.
    fn tell_paths(&mut self, root: &Node) {
        let pathless = std::mem::take(&mut self.pathless);
        if !pathless.is_empty() {
            self.name_paths(root, &mut String::new(), &pathless);
        }
    }

    /// Puts the path of its field before each message of `pathless`.
    fn name_paths(&mut self, node: &Node, path: &mut String, pathless: &HashMap<*const Node, Vec<usize>>) {
        for &index in pathless.get(&std::ptr::from_ref(node)).into_iter().flatten() {
            if let Some(diagnostic) = self.diagnostics.get_mut(index).filter(|_| !path.is_empty()) {
                diagnostic.message = format!("{path}: {}", diagnostic.message);
            }
        }
        let length = path.len();
        let mut deeper = |reader: &mut Self, step: std::fmt::Arguments<'_>, nodes: [Option<&Node>; 2]| {
            // Writing to a string cannot fail.
            let _infallible = path.write_fmt(step);
            for node in nodes.into_iter().flatten() {
                reader.name_paths(node, path, pathless);
            }
            path.truncate(length);
        };
        match &node.value {
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    deeper(self, format_args!("[{index}]"), [Some(item), None]);
                }
            }
            Value::Mapping(entries) => {
                for (key, value) in entries {
                    let name = if let Value::Text(name) = &key.value { name } else { key.raw(self.text) };
                    let name = name.escape_debug().to_string();
                    match (length, name.contains(['.', '/', ' '])) {
                        (_, true) => deeper(self, format_args!("[{name}]"), [Some(key), Some(value)]),
                        (0, false) => deeper(self, format_args!("{name}"), [Some(key), Some(value)]),
                        (_, false) => deeper(self, format_args!(".{name}"), [Some(key), Some(value)]),
                    }
                }
            }
            _ => {}
        }
    }

    /// Reads something that counts as a whole or not at all: `None` if there was a fault in it. `consequence` says
    /// of a stored object what that means.
    pub(crate) fn item<T>(
        &mut self,
        consequence: &'static str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let outer = (std::mem::take(&mut self.faults), std::mem::replace(&mut self.consequence, consequence));
        let read = read(self);
        let whole = self.faults == 0;
        (self.faults, self.consequence) = outer;
        read.filter(|_| whole)
    }

    /// All that was said, in the order of the text.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|d| (d.line, d.column));
        match self.dropped {
            (0, 0) => {}
            (0, warnings) => {
                let message = format!("and {warnings} more");
                self.diagnostics.push(Diagnostic::warning(self.source, "too-many", message));
            }
            (errors, _) => {
                let message = format!("and {errors} more");
                self.diagnostics.push(Diagnostic::error(self.source, "too-many", message));
            }
        }
        self.diagnostics
    }

    pub(crate) fn origin(&self, node: &Node) -> Origin {
        let short = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Origin { source: Arc::clone(&self.source), line: short(node.line), column: short(node.column) }
    }

    pub(crate) fn error(&mut self, at: &Node, code: &'static str, message: impl Into<String>) {
        let diagnostic = Diagnostic::error(Arc::clone(&self.source), code, message);
        self.fault(at, diagnostic.at(at.line, at.column));
    }

    pub(crate) fn error_with(
        &mut self,
        at: &Node,
        code: &'static str,
        message: impl Into<String>,
        suggestion: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::error(Arc::clone(&self.source), code, message);
        self.fault(at, diagnostic.at(at.line, at.column).suggest(suggestion));
    }

    fn fault(&mut self, at: &Node, mut diagnostic: Diagnostic) {
        self.faults += 1;
        if self.stored {
            diagnostic.severity = Severity::Warning;
            if !self.consequence.is_empty() {
                diagnostic.message = format!("{}; {}", diagnostic.message, self.consequence);
            }
            if self.diagnostics.len() < MAX_DIAGNOSTICS {
                let index = self.diagnostics.len();
                self.pathless.entry(std::ptr::from_ref(at)).or_default().push(index);
            }
        }
        self.say(diagnostic);
    }

    pub(crate) fn warn(&mut self, at: &Node, code: &'static str, message: impl Into<String>) {
        self.say(Diagnostic::warning(Arc::clone(&self.source), code, message).at(at.line, at.column));
    }

    fn say(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < MAX_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        } else if diagnostic.severity == Severity::Error {
            // An error among many warnings must still be seen.
            match self.diagnostics.iter_mut().rfind(|kept| kept.severity == Severity::Warning) {
                Some(warning) => {
                    *warning = diagnostic;
                    self.dropped.1 += 1;
                }
                None => self.dropped.0 += 1,
            }
        } else {
            self.dropped.1 += 1;
        }
    }

    /// The entries of a mapping. `what` names it in the message.
    pub(crate) fn mapping<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n Entries> {
        match &node.value {
            Value::Mapping(entries) => Some(entries),
            _ => {
                self.wrong_type(node, what, "a mapping");
                None
            }
        }
    }

    /// The items of a list.
    pub(crate) fn sequence<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::Sequence(items) => Some(items),
            _ => {
                self.wrong_type(node, what, "a list");
                None
            }
        }
    }

    /// A string. What is bare and means something else in YAML 1.1 is refused, as kubectl's conversion and
    /// the API server would ("cannot unmarshal bool into Go struct field of type string").
    pub(crate) fn string<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Integer(_) | Value::Number => {
                let raw = node.raw(self.text);
                let message = format!("{what} must be a string, and a bare `{raw}` is {}", node.describe());
                self.error_with(node, "quote-needed", message, format!("quote it: \"{raw}\""));
                None
            }
            _ => {
                self.wrong_type(node, what, "a string");
                None
            }
        }
    }

    /// A whole number in decimal digits.
    pub(crate) fn integer(&mut self, node: &Node, what: &str) -> Option<i64> {
        match node.value {
            _ if self.is_ambiguous(node) => {
                let raw = node.raw(self.text);
                let message =
                    format!("{what} is written as `{raw}`, which YAML 1.1 and 1.2 read differently");
                self.error_with(node, "ambiguous-number", message, "write it in decimal digits");
                None
            }
            Value::Integer(number) => Some(number),
            _ => {
                self.wrong_type(node, what, "a whole number");
                None
            }
        }
    }

    /// Whether a whole number is another number, or none, to other readers: `010` is eight by YAML 1.1 and ten by
    /// YAML 1.2, `0o10` a string or eight.
    pub(crate) fn is_ambiguous(&self, node: &Node) -> bool {
        let raw = node.raw(self.text);
        let digits = raw.strip_prefix('-').unwrap_or(raw);
        let leading_zero = digits.len() > 1 && digits.starts_with('0');
        match node.value {
            Value::Integer(_) => leading_zero || !digits.bytes().all(|b| b.is_ascii_digit()),
            Value::Number => leading_zero && !raw.contains(['.', 'e', 'E']),
            _ => false,
        }
    }

    /// A boolean.
    pub(crate) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong_type(node, what, "a boolean");
                None
            }
        }
    }

    pub(crate) fn wrong_type(&mut self, node: &Node, what: &str, wanted: &str) {
        let message = format!("{what} must be {wanted}, and this is {}", node.describe());
        match (wanted, &node.value) {
            ("a list", Value::Mapping(_)) => {
                self.error_with(node, "wrong-type", message, "begin each item with `- `");
            }
            ("a mapping", Value::Sequence(_)) => {
                self.error_with(node, "wrong-type", message, "remove the `- `");
            }
            ("a list", Value::Text(_)) => {
                self.error_with(node, "wrong-type", message, "write it as an item: `- ...`");
            }
            _ => self.error(node, "wrong-type", message),
        }
    }

    /// The key of an entry as the API server would see it: bare numbers and booleans become text there, which
    /// is never what somebody meant by a bare `y`.
    pub(crate) fn key<'n>(&mut self, key: &'n Node, what: &str) -> Option<&'n str> {
        self.string(key, what)
    }

    /// Says of every entry whose key is not one of `known` that it is unknown. `fallback` is what to suggest
    /// when nothing better is known.
    pub(crate) fn only(&mut self, entries: &Entries, known: &[&str], fallback: Option<&str>) {
        for (key, _) in entries {
            let Some(field) = self.key(key, "a field") else { continue };
            if known.contains(&field) {
                continue;
            }
            let message = format!("unknown field `{field}`");
            let close = suggest::closest(field, known);
            let suggestion = match (close, suggest::home(field)) {
                (Some(near), _) if near.eq_ignore_ascii_case(field) => format!("did you mean `{near}`?"),
                (_, Some(home)) => home.to_owned(),
                (Some(near), None) => format!("did you mean `{near}`?"),
                (None, None) => match fallback {
                    Some(fallback) => fallback.to_owned(),
                    None => format!("known here: {}", known.join(", ")),
                },
            };
            self.error_with(key, "unknown-field", message, suggestion);
        }
    }

    /// Labels or annotations: strings to strings. A value that was left out is the empty string.
    pub(crate) fn strings<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
    ) -> Vec<(&'n Node, &'n str, &'n Node, &'n str)> {
        let mut pairs = Vec::new();
        for (key_node, value_node) in self.mapping(node, what).unwrap_or_default() {
            let key = self.key(key_node, "a label's key");
            let value = match value_node.value {
                Value::Null => Some(""),
                _ => self.string(value_node, &format!("the value of `{}`", key.unwrap_or_default())),
            };
            if let (Some(key), Some(value)) = (key, value) {
                pairs.push((key_node, key, value_node, value));
            }
        }
        pairs
    }

    /// `metadata.labels` of an object.
    pub(crate) fn labels(&mut self, metadata: &Entries) -> Labels {
        let Some(node) = get(metadata, "labels") else { return Labels::new() };
        let pairs = self.strings(node, "`labels`");
        pairs.into_iter().map(|(_, key, _, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// A field that must be there. `owner` is where its absence is reported.
    pub(crate) fn require<'n>(
        &mut self,
        owner: &Node,
        entries: &'n Entries,
        field: &str,
    ) -> Option<&'n Node> {
        let found = get(entries, field);
        if found.is_none() {
            self.error(owner, "missing-field", format!("`{field}` is missing"));
        }
        found
    }
}

/// A field that is there and not null: null means absent everywhere in the API.
pub(crate) fn get<'n>(entries: &'n Entries, field: &str) -> Option<&'n Node> {
    entries
        .iter()
        .find(|(key, value)| {
            matches!(&key.value, Value::Text(text) if text == field) && !matches!(value.value, Value::Null)
        })
        .map(|(_, value)| value)
}
