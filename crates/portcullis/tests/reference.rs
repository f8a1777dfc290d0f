//! The pages of `docs/reference` say what the code says of itself, and the README's example works. `UPDATE=1`
//! writes the pages anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use flow::DropReason;
use portcullis::config::{Config, settings};

fn docs(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn is_up_to_date(page: &str, expected: &str) {
    let file = docs("docs/reference").join(page);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{} is out of date; `UPDATE=1 cargo test -p portcullis --test reference` mends it",
        file.display()
    );
}

#[test]
fn the_settings() {
    is_up_to_date("config.md", &settings_page());
}

#[test]
fn the_drop_reasons() {
    is_up_to_date("drop-reasons.md", &drop_reasons_page());
}

#[test]
fn the_readmes_configuration_is_sound() {
    let readme = std::fs::read_to_string(docs("README.md")).unwrap();
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let config = Config::parse(example, Path::new("/etc/portcullis.yaml"), None).unwrap();
    assert_eq!(config.ports.len(), 2);
    assert_eq!(config.uplinks.len(), 1);
}

fn drop_reasons_page() -> String {
    let mut text = String::from(
        "# Why frames are dropped\n\n\
         <!-- Made from crates/flow/src/drop_reason.rs by a test; do not edit. -->\n\n\
         Every dropped frame counts under exactly one of these, in `portcullis_drops_total{reason=\"...\"}`, in the \
         order of a packet's path.\n\n\
         | reason | what happened | what to do |\n|---|---|---|\n",
    );
    for reason in DropReason::ALL {
        writeln!(text, "| `{}` | {} | {} |", reason.name(), reason.sentence(), reason.hint()).unwrap();
    }
    text
}

fn settings_page() -> String {
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
