//! `docs/reference/flow.schema.json` says what a line of `portcullis flows -o jsonl` is. `UPDATE=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use portcullis::flows::record;

#[test]
fn the_schema_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/flow.schema.json");
    let expected = record::schema();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{} differs from the form; `UPDATE=1 cargo test -p portcullis --test flow_schema` mends it",
        file.display()
    );
}
