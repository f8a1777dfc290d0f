//! `docs/semantics.md` cites tests as `file::name`: each of them exists, and every line of its tables has one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The citations of a line, as file and name.
fn citations(line: &str) -> Vec<(&str, &str)> {
    line.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::")).collect()
}

/// Whether a source has a test of this name: the attribute stands a few lines above it.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let signature = format!("fn {name}(");
    lines.iter().enumerate().filter(|(_, line)| line.contains(&signature)).any(|(at, _)| {
        let above = lines[at.saturating_sub(3)..at].iter();
        above
            .rev()
            .take_while(|line| !line.is_empty())
            .any(|line| *line == "#[test]" || *line == "#[tokio::test]")
    })
}

#[test]
fn every_test_that_the_semantics_cite_exists() {
    let text = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut cited = 0;
    for (number, line) in text.lines().enumerate() {
        for (file, name) in citations(line) {
            let path = format!("{file}.rs");
            let source = sources.entry(path.clone()).or_insert_with(|| {
                fs::read_to_string(root().join(&path))
                    .unwrap_or_else(|e| panic!("line {}: {path}: {e}", number + 1))
            });
            assert!(has_test(source, name), "line {}: {path} has no test {name}", number + 1);
            cited += 1;
        }
    }
    assert!(cited > 60, "{cited} citations");
}

#[test]
fn every_line_of_a_table_has_its_proof() {
    let text = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    let heads =
        rows.iter().filter(|row| row.ends_with("| proved by |") || row.ends_with("| then | proved by |"));
    assert_eq!(heads.count(), 4);
    for row in rows.iter().filter(|row| !row.ends_with("proved by |")) {
        assert!(!citations(row).is_empty(), "{row}");
    }
}

#[test]
fn a_citation_of_nothing_is_found() {
    assert_eq!(citations("| x | `a/b.rs::c`, `d` and `e.rs::f` |"), [("a/b", "c"), ("e", "f")]);
    let source =
        "#[test]\nfn real() {}\n\nfn helper() {}\n\n    #[test]\n    #[should_panic]\n    fn inner() {}\n";
    assert!(has_test(source, "real") && has_test(source, "inner"));
    assert!(!has_test(source, "helper") && !has_test(source, "rea"));
}
