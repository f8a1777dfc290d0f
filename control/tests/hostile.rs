//! Sets of manifests made to hurt: each is refused, or taken, in bounded time and memory.
//!
//! One test, one case after the other: the memory is that of the whole process. Times are generous, since tests run
//! without optimisation on machines that do other things; `--nocapture` prints what was measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests, and what they measured"
)]

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use control::{Diagnostic, Loaded, Source, assemble};

/// Nothing may take longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Nothing may need more memory beyond the text itself, in MiB.
const LARGEST: u64 = 3 << 10;

const MIB: usize = 1 << 20;
const HEAD: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\nspec:\n";

/// The peak of this process's memory since the last reset, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// Loads a set, within the bounds. What is too large is told at once and in few words.
fn load(name: &str, sources: Vec<Source>) -> Result<Loaded, Vec<Diagnostic>> {
    let bytes: usize = sources.iter().map(|source| source.bytes.len()).sum();
    // Resets the peak.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    let begin = Instant::now();
    let loaded = assemble(&sources);
    let (took, memory) = (begin.elapsed(), peak() - before);
    let said = match &loaded {
        Ok(loaded) => format!("taken, {} warnings", loaded.warnings.len()),
        Err(errors) => errors[0].code.to_owned(),
    };
    println!("{name}: {:.1} MiB of text, {took:.2?}, {memory} MiB: {said}", bytes as f64 / MIB as f64);
    assert!(took < LONGEST, "{name} took {took:?}");
    assert!(memory < LARGEST, "{name} took {memory} MiB");
    if let Err(errors) = &loaded {
        assert!(errors.len() <= 1001, "{name}: {} errors", errors.len());
        assert!(errors.iter().all(|error| error.to_string().len() < 1000), "{name}: {}", errors[0]);
    }
    loaded
}

fn one(text: impl Into<Vec<u8>>) -> Vec<Source> {
    vec![Source { name: "a.yaml".into(), bytes: text.into() }]
}

fn many(count: usize, text: impl Fn(usize) -> String) -> Vec<Source> {
    (0..count).map(|i| Source { name: format!("{i}.yaml"), bytes: text(i).into_bytes() }).collect()
}

/// The set is refused, the first error having this code.
#[track_caller]
fn refused(name: &str, sources: Vec<Source>, code: &str) {
    assert_eq!(load(name, sources).expect_err(name)[0].code, code, "{name}");
}

/// As many rules as a file may have nodes, a little below its bound.
fn rules(name: usize) -> String {
    let mut text = HEAD.replace("name: p", &format!("name: p{name}"));
    text.push_str("  ingress:\n");
    for _ in 0..2_090_000 {
        text.push_str("  - {}\n");
    }
    text
}

#[test]
fn hostile_sets_cost_a_bounded_amount() {
    // Aliases that would be nine to the eleventh nodes; and many files that stay below the bound of each.
    let bomb = (1..12).fold(String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n"), |bomb, i| {
        bomb + &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))
    });
    refused("alias bomb", one(bomb), "too-large");
    let peers = "{podSelector: {matchLabels: {a: b}}}";
    let line = [peers; 10].join(",");
    let small_bomb = |i: usize| {
        let rules = vec!["{from: *p}"; 900].join(",");
        format!(
            "{}  ingress: [{{from: &p [{line}]}},{rules}]\n",
            HEAD.replace("name: p", &format!("name: p{i}"))
        )
    };
    refused("400 small bombs", many(400, small_bomb), "too-large");

    refused("100,000 documents", one("---\na: 1\n".repeat(100_000)), "too-large");
    refused("100,000 empty documents", one("---\n".repeat(100_000)), "too-large");
    let namespaces = |i: usize| {
        let mut text = String::new();
        for n in 0..60_000 {
            writeln!(text, "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: n{i}-{n}}}}}").unwrap();
        }
        text
    };
    refused("180,000 objects", many(3, namespaces), "too-large");
    assert!(load("120,000 objects", many(2, namespaces)).is_ok());

    refused("not UTF-8", one(vec![0xff; 16 * MIB]), "not-utf8");
    refused("tabs", one("a:\n\tb: 1\n".repeat(MIB)), "yaml-syntax");
    refused("one file too long", one(vec![b'#'; 16 * MIB + 1]), "too-large");
    refused("17 full files", many(17, |_| " ".repeat(16 * MIB)), "too-large");
    refused("deep", one("[".repeat(16 * MIB)), "yaml-syntax");
    refused("wide", one(format!("[{}]", "x,".repeat(8 * MIB - 2))), "too-large");
    refused("one word", one("x".repeat(16 * MIB)), "wrong-type");
    refused("a wild name", one(format!("kind: {}", "x".repeat(16 * MIB - 100))), "missing-field");

    let unknown: String = (0..900_000).fold(String::from(HEAD), |mut text, i| {
        writeln!(text, "  f{i}: 1").unwrap();
        text
    });
    let told = load("900,000 unknown fields", one(unknown)).expect_err("unknown fields");
    assert_eq!(told.len(), 101);
    let wrong = |i: usize| {
        format!("{}{}", HEAD.replace("name: p", &format!("name: p{i}")), "  ingress: [5,5,5,5,5,5]\n")
    };
    assert_eq!(load("4,096 files with errors", many(4096, wrong)).expect_err("errors").len(), 601);

    let loaded = load("2 million rules", one(rules(0))).expect("a policy");
    assert_eq!(loaded.cluster.policies.len(), 1);
    drop(loaded);
}

/// A stream that never ends is read as far as a manifest may go.
#[test]
fn an_endless_stream_is_left() {
    let endless = Source::from_stream("-", std::io::repeat(b'#')).unwrap();
    assert_eq!(endless.bytes.len(), 16 * MIB + 1);
    assert_eq!(assemble(&[endless]).unwrap_err()[0].to_string().split(':').next(), Some("-"));
}
