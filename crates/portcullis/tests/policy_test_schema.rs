//! `docs/reference/policy-test.schema.json` says what the form of test files is. `UPDATE=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use portcullis::policy_test::format;
use serde_json::Value;

#[test]
fn the_schema_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/policy-test.schema.json");
    let expected = format::schema();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{} differs from the form; `UPDATE=1 cargo test -p portcullis --test policy_test_schema` mends it",
        file.display()
    );
}

/// Strict as the reader is: no mapping of the form takes a field that it does not know.
#[test]
fn the_schema_is_strict() {
    let schema: Value = serde_json::from_str(&format::schema()).unwrap();
    let mut strict = Vec::new();
    let definitions = schema["definitions"].as_object().unwrap();
    for (name, definition) in definitions.iter().chain([(&"Document".to_owned(), &schema)]) {
        if definition["type"] == "object" {
            assert_eq!(definition["additionalProperties"], Value::Bool(false), "{name}");
            strict.push(name.clone());
        }
    }
    for name in ["Document", "Step", "Expectation", "Matrix", "LabelChange", "PodSelector", "LabelSelector"] {
        assert!(strict.iter().any(|known| known == name), "{name} is missing: {strict:?}");
    }
    assert_eq!(schema["required"], serde_json::json!(["schema", "name", "manifests"]));
    assert_eq!(schema["definitions"]["Schema"]["oneOf"][0]["const"], "portcullis.test/v1");
}
