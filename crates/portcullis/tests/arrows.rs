//! Who may import whom.
//!
//! The table below is the one of `docs/ARCHITECTURE.md`. It holds for normal and build dependencies; tests may look
//! anywhere. A new crate, or a new arrow, changes both in the same commit, with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// A workspace member and what it may import.
struct Member {
    name: &'static str,
    kind: Kind,
    /// Members that it may import.
    ours: &'static [&'static str],
    /// Crates of others that it may import; `None` where anything goes.
    theirs: Option<&'static [&'static str]>,
}

/// What a member may do besides importing.
#[derive(PartialEq)]
enum Kind {
    /// Neither I/O nor threads nor a clock.
    Pure,
    /// As it needs.
    Free,
}

const MEMBERS: &[Member] = &[
    Member { name: "portcullis-flow", kind: Kind::Pure, ours: &[], theirs: Some(&[]) },
    Member { name: "portcullis-cpu", kind: Kind::Pure, ours: &[], theirs: Some(&[]) },
    Member {
        name: "portcullis-packet",
        kind: Kind::Pure,
        ours: &["portcullis-flow"],
        theirs: Some(&["etherparse"]),
    },
    Member {
        name: "portcullis-policy",
        kind: Kind::Pure,
        ours: &["portcullis-flow"],
        theirs: Some(&["ipnet"]),
    },
    Member {
        name: "portcullis-manifest",
        kind: Kind::Pure,
        ours: &["portcullis-flow", "portcullis-policy"],
        theirs: Some(&["ipnet", "serde", "serde-saphyr", "serde_json", "thiserror"]),
    },
    Member {
        name: "portcullis-table",
        kind: Kind::Pure,
        ours: &["portcullis-cpu", "portcullis-flow"],
        theirs: Some(&["arc-swap"]),
    },
    Member {
        name: "portcullis-compiler",
        kind: Kind::Pure,
        ours: &["portcullis-flow", "portcullis-policy", "portcullis-table"],
        theirs: Some(&["hashbrown", "ipnet", "thiserror"]),
    },
    Member {
        name: "portcullis-engine",
        kind: Kind::Free,
        ours: &["portcullis-flow", "portcullis-packet", "portcullis-table"],
        theirs: Some(&["crossbeam"]),
    },
    Member {
        name: "portcullis-xsk",
        kind: Kind::Free,
        ours: &["portcullis-engine"],
        theirs: Some(&["nix", "thiserror", "xsk-rs"]),
    },
    Member {
        name: "portcullis-bpf",
        kind: Kind::Free,
        ours: &["portcullis-flow"],
        theirs: Some(&["aya", "libbpf-rs", "nix", "thiserror"]),
    },
    Member {
        name: "portcullis-control",
        kind: Kind::Free,
        ours: &[
            "portcullis-compiler",
            "portcullis-flow",
            "portcullis-manifest",
            "portcullis-policy",
            "portcullis-table",
        ],
        theirs: Some(&["nix", "notify", "thiserror", "tokio", "tracing"]),
    },
    Member {
        name: "portcullis",
        kind: Kind::Free,
        ours: &[
            "portcullis-bpf",
            "portcullis-compiler",
            "portcullis-control",
            "portcullis-engine",
            "portcullis-flow",
            "portcullis-lab",
            "portcullis-manifest",
            "portcullis-packet",
            "portcullis-policy",
            "portcullis-table",
            "portcullis-xsk",
        ],
        theirs: None,
    },
    Member {
        name: "portcullis-lab",
        kind: Kind::Free,
        ours: &["portcullis-flow", "portcullis-policy"],
        theirs: None,
    },
    // Nobody imports these two but tests, so no arrow above leads to them.
    Member {
        name: "portcullis-testkit",
        kind: Kind::Free,
        ours: &["portcullis-flow", "portcullis-policy"],
        theirs: None,
    },
    Member {
        name: "portcullis-bench",
        kind: Kind::Free,
        ours: &[
            "portcullis",
            "portcullis-compiler",
            "portcullis-engine",
            "portcullis-flow",
            "portcullis-lab",
            "portcullis-packet",
            "portcullis-policy",
            "portcullis-table",
            "portcullis-testkit",
        ],
        theirs: None,
    },
];

/// Where unsafe code has its written rule.
const UNSAFE_LIVES_IN: &[&str] = &["portcullis-cpu", "portcullis-xsk"];

/// What a pure crate would have to write to do I/O, start a thread or read a clock.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::process",
    "std::env",
    "std::thread",
    "thread::spawn",
    "thread::sleep",
    "Instant::now",
    "SystemTime::now",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "File::open",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn metadata() -> Value {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages.iter().map(|package| (package["name"].as_str().expect("a name"), package))
}

/// Every arrow that the table does not allow, as a sentence.
fn forbidden_arrows(metadata: &Value) -> Vec<String> {
    let names: BTreeSet<&str> = packages(metadata).map(|(name, _)| name).collect();
    let mut found = Vec::new();
    for (name, package) in packages(metadata) {
        let Some(member) = MEMBERS.iter().find(|member| member.name == name) else {
            found.push(format!(
                "{name} is a new member: say in crates/portcullis/tests/arrows.rs what it may import"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("a list of dependencies") {
            if dependency["kind"] == "dev" {
                continue;
            }
            let imported = dependency["name"].as_str().expect("a name");
            if names.contains(imported) {
                if !member.ours.contains(&imported) {
                    found.push(format!("{name} must not import {imported}: no arrow leads there"));
                }
            } else if member.theirs.is_some_and(|theirs| !theirs.contains(&imported)) {
                found.push(format!(
                    "{name} must not import {imported}: it is not among the crates it may use"
                ));
            }
        }
    }
    for member in MEMBERS.iter().filter(|member| !names.contains(member.name)) {
        found.push(format!("{} is in the table of arrows but not in the workspace", member.name));
    }
    found
}

/// Whether the `[lints]` table of a manifest says `workspace = true`.
fn inherits_lints(manifest: &str) -> bool {
    let table = manifest.split("\n[").find(|table| table.trim_start_matches('[').starts_with("lints]"));
    table.is_some_and(|table| table.lines().any(|line| line.replace(' ', "") == "workspace=true"))
}

/// The lines of a source file before its tests, without comments, numbered from one.
fn code(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_import_follows_an_arrow() {
    let found = forbidden_arrows(&metadata());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_forbidden_import_is_found_and_both_crates_are_named() {
    let mut metadata = metadata();
    let before = forbidden_arrows(&metadata);
    let dependency = |name: &str, kind: Value| json!({ "name": name, "kind": kind });
    for package in metadata["packages"].as_array_mut().unwrap() {
        let added = match package["name"].as_str().unwrap() {
            "portcullis-engine" => dependency("portcullis-policy", Value::Null),
            "portcullis-control" => dependency("portcullis-packet", json!("build")),
            "portcullis-bpf" => dependency("tokio", Value::Null),
            "portcullis-xsk" => dependency("portcullis-lab", json!("dev")),
            _ => continue,
        };
        package["dependencies"].as_array_mut().unwrap().push(added);
    }
    let newcomer = json!({ "name": "portcullis-utils", "dependencies": [] });
    metadata["packages"].as_array_mut().unwrap().push(newcomer);
    let mut found = forbidden_arrows(&metadata);
    found.retain(|sentence| !before.contains(sentence));
    found.sort();
    assert_eq!(
        found,
        [
            "portcullis-bpf must not import tokio: it is not among the crates it may use",
            "portcullis-control must not import portcullis-packet: no arrow leads there",
            "portcullis-engine must not import portcullis-policy: no arrow leads there",
            "portcullis-utils is a new member: say in crates/portcullis/tests/arrows.rs what it may import",
        ]
    );
}

#[test]
fn unsafe_code_is_forbidden_everywhere_but_at_home() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("\nunsafe_code = \"forbid\"\n"), "the workspace's lints forbid unsafe code");
    for (name, package) in packages(&metadata()) {
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        let at_home = UNSAFE_LIVES_IN.contains(&name);
        assert!(
            at_home || inherits_lints(&manifest),
            "{name} does not inherit the workspace's lints, so nothing forbids unsafe code in it"
        );
    }
    assert!(inherits_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
    assert!(!inherits_lints("[package]\nworkspace = true\n\n[lints.rust]\nunsafe_code = \"warn\"\n"));
}

#[test]
fn pure_crates_do_no_io_start_no_threads_and_read_no_clock() {
    for (name, package) in packages(&metadata()) {
        if !MEMBERS.iter().any(|member| member.name == name && member.kind == Kind::Pure) {
            continue;
        }
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let mut files = Vec::new();
        rust_files(&manifest.with_file_name("src"), &mut files);
        assert!(!files.is_empty(), "{name} has sources");
        for file in files {
            let source = fs::read_to_string(&file).unwrap();
            for (line, text) in code(&source) {
                let word = IMPURE.iter().find(|word| text.contains(**word));
                assert!(
                    word.is_none(),
                    "{name} is pure, but {}:{line} says {}",
                    file.display(),
                    word.unwrap()
                );
            }
        }
    }
}
