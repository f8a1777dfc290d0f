//! Text to documents of the form, within bounds.

use std::collections::HashMap;
use std::sync::Arc;

use manifest::{Diagnostic, MAX_BYTES, closest};
use serde_saphyr::{Error, Location};

use super::format::Document;

/// Most tests of one file.
const MAX_DOCUMENTS: usize = 10_000;
/// Most nodes of one file, those that aliases repeat included.
const MAX_NODES: usize = 2 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 40;
/// Most nodes that aliases may repeat.
const MAX_REPEATED: usize = 100_000;

/// The documents of a test file, and its text without a byte order mark.
pub(super) fn documents<'t>(
    source: &Arc<str>,
    bytes: &'t [u8],
) -> Result<(Vec<Document>, &'t str), Vec<Diagnostic>> {
    if bytes.len() > MAX_BYTES {
        let message = format!("{} bytes are too many: a file may have {MAX_BYTES}", bytes.len());
        return Err(vec![Diagnostic::error(Arc::clone(source), "too-large", message)]);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = 1 + good.matches('\n').count() as u64;
        let column = 1 + good.rsplit('\n').next().map_or(0, |last| last.chars().count()) as u64;
        let diagnostic = Diagnostic::error(Arc::clone(source), "not-utf8", "this byte is not UTF-8 text");
        vec![diagnostic.at(line, column).suggest("save the file as UTF-8")]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
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
        // A bare `yes` or `1` where text is wanted is a boolean or a number to kubectl.
        no_schema: true,
        with_snippet: false,
    };
    let read = serde_saphyr::from_multiple_with_options::<Option<Document>>(text, options);
    let documents: Vec<Document> = match read {
        Ok(documents) => documents.into_iter().flatten().collect(),
        Err(error) => return Err(vec![refuse(source, text, &error)]),
    };
    if documents.is_empty() {
        return Err(vec![Diagnostic::error(Arc::clone(source), "empty", "no test is in this file")]);
    }
    let mut names: HashMap<&str, u64> = HashMap::new();
    let mut errors = Vec::new();
    for document in &documents {
        let (name, at) = (document.name.value.as_str(), document.name.referenced);
        if name.trim().is_empty() {
            errors.push(place(source, at, "missing-field", "`name` is empty"));
        } else if let Some(line) = names.insert(name, at.line()) {
            let message = format!("the test of line {line} has this name already");
            errors.push(place(source, at, "duplicate-name", message));
        }
    }
    if errors.is_empty() { Ok((documents, text)) } else { Err(errors) }
}

/// An error at a place of the file.
pub(super) fn place(
    source: &Arc<str>,
    at: Location,
    code: &'static str,
    message: impl Into<String>,
) -> Diagnostic {
    Diagnostic::error(Arc::clone(source), code, message).at(at.line(), at.column())
}

/// The library's error in our words.
fn refuse(source: &Arc<str>, text: &str, error: &Error) -> Diagnostic {
    let error = match error {
        Error::AliasError { error, .. } => error.without_snippet(),
        error => error.without_snippet(),
    };
    let at = error.location().unwrap_or(Location::UNKNOWN);
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let diagnostic = place(source, at, "unknown-field", format!("unknown field `{field}`"));
            match closest(field, expected) {
                Some(near) => diagnostic.suggest(format!("did you mean `{near}`?")),
                None => diagnostic.suggest(format!("known here: {}", expected.join(", "))),
            }
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            let message = format!("`{variant}` is not one of {}", expected.join(", "));
            let diagnostic = place(source, at, "unsupported-value", message);
            match closest(variant, expected) {
                Some(near) => diagnostic.suggest(format!("did you mean `{near}`?")),
                None => diagnostic,
            }
        }
        Error::SerdeMissingField { field, .. } => {
            place(source, at, "missing-field", format!("`{field}` is missing"))
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("of this mapping");
            place(source, at, "duplicate-key", format!("the key `{key}` is written twice"))
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            place(source, at, "too-large", format!("more than is read of one file: {error}"))
        }
        error => {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            let diagnostic = place(source, at, "invalid", message);
            let line = text.lines().nth((at.line().max(1) - 1) as usize).unwrap_or_default();
            if line.trim_start_matches(' ').starts_with('\t') {
                diagnostic.suggest("indent with spaces, not with tabs")
            } else {
                diagnostic
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "schema: portcullis.test/v1\nname: t\nmanifests: [a.yaml]\n";

    fn error(rest: &str) -> String {
        let text = format!("{HEAD}{rest}");
        let errors = documents(&Arc::from("t.yaml"), text.as_bytes()).expect_err("refused");
        errors[0].to_string()
    }

    #[test]
    fn mistakes_have_a_place_and_a_way_out() {
        for (rest, expected) in [
            (
                "expct: []\n",
                "t.yaml:4:1: error[unknown-field]: unknown field `expct`: did you mean `expect`?",
            ),
            (
                "expect:\n- {from: x/a, to: x/b, ports: 80, verdict: alow}\n",
                "t.yaml:5:44: error[unsupported-value]: `alow` is not one of allow, deny: did you mean `allow`?",
            ),
            (
                "expect:\n- {from: x/a, to: x/b, ports: 80}\n",
                "t.yaml:5:24: error[missing-field]: `verdict` is missing",
            ),
            ("name: u\n", "t.yaml:4:1: error[duplicate-key]: the key `name` is written twice"),
            (
                "---\nschema: portcullis.test/v1\nname: t\nmanifests: []\n",
                "t.yaml:6:7: error[duplicate-name]: the test of line 2 has this name already",
            ),
        ] {
            assert_eq!(error(rest), expected);
        }
        for (rest, place) in [
            ("expect:\n- {from: x/a, to: x/b, ports: 80, family: 5, verdict: deny}\n", "t.yaml:5:35: "),
            ("expect:\n- {from: {podSelektor: {}}, to: x/b, ports: 80, verdict: deny}\n", "t.yaml:5:11: "),
            ("steps:\n- label:\n  - {namespace: x, set: {team: yes}}\n", "t.yaml:6:32: "),
            ("steps:\n\t- label: []\n", "t.yaml:5:"),
        ] {
            assert!(error(rest).starts_with(place), "{}", error(rest));
        }
    }

    #[test]
    fn hostile_text_is_refused_early() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
        }
        let many = format!("---\n{HEAD}").repeat(MAX_DOCUMENTS + 1);
        for text in
            [bomb, many, "[".repeat(100_000), "\0".to_owned(), String::new(), "# nothing\n".to_owned()]
        {
            assert!(documents(&Arc::from("t"), text.as_bytes()).is_err());
        }
        let latin = documents(&Arc::from("t"), b"schema: \xe9\n").expect_err("refused");
        assert_eq!(
            latin[0].to_string(),
            "t:1:9: error[not-utf8]: this byte is not UTF-8 text: save the file as UTF-8"
        );
    }
}
