//! `docs/reference/config.md` says what the settings say of themselves. `UPDATE=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::path::Path;

use portcullis::config::settings;

#[test]
fn the_reference_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/config.md");
    let expected = reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{} differs from the settings; `UPDATE=1 cargo test -p portcullis --test config_reference` mends it",
        file.display()
    );
}

fn reference() -> String {
    let mut text = String::from(
        "# The configuration file\n\n\
         <!-- Made from crates/portcullis/src/config/raw.rs by its test; do not edit. -->\n\n\
         `portcullis run --config FILE` reads one YAML mapping. Unknown and repeated keys are errors. \
         The smallest file names the node, the manifests and one port:\n\n\
         ```yaml\nnode: node-1\nmanifests: manifests\nports:\n  - {interface: veth-web, pod: shop/web}\n```\n\n\
         | key | form | default | meaning |\n|---|---|---|---|\n",
    );
    for setting in settings() {
        let default = match setting.default.as_str() {
            "" | "required" => setting.default.clone(),
            value => format!("`{value}`"),
        };
        writeln!(text, "| `{}` | {} | {default} | {} |", setting.key, setting.form, setting.meaning).unwrap();
    }
    text
}
