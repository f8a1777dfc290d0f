//! `portcullis test` as a person runs it: what it prints, and with which code it ends.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const CLUSTER: &str = "\
{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {team: red}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: 'y'}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: web}}, status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, status: {podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, namespace: 'y'}, status: {podIPs: [{ip: 10.0.0.3}]}}
";
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: x
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {}
    ports: [{port: 80}]
";
const HEAD: &str = "schema: portcullis.test/v1\nname: t\nmanifests: [cluster.yaml, policy.yaml]\n";

/// What a run printed, and how it ended.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(folder: &Path, args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("test")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder with the cluster, its policy, and a test file `t.yaml`.
fn folder(test: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("cluster.yaml", CLUSTER), ("policy.yaml", POLICY), ("t.yaml", test)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Runs one test that begins with [`HEAD`].
fn try_out(rest: &str) -> Run {
    run(folder(&format!("{HEAD}{rest}")).path(), &["t.yaml"])
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Without the times.
fn timeless(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(" connections, ") {
        Some((front, _)) if line.ends_with("ms)") => format!("{front} connections)\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_tests_of_the_demo_hold() {
    let run = run(&root(), &["docs/examples/tests"]);
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    assert!(run.out.ends_with("4 tests: 4 ok, 0 failed; 77 expectations, 450 connections\n"), "{}", run.out);
}

/// Every example of the reference is read: with its own manifests, the first one also holds.
#[test]
fn the_examples_of_the_reference_are_in_form() {
    let text = fs::read_to_string(root().join("docs/reference/policy-tests.md")).unwrap();
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [one, matrices, steps] = blocks[..] else { panic!("{} examples", blocks.len()) };
    let examples = root().join("docs/examples").canonicalize().unwrap();
    let one = one.replace("- ../", &format!("- {}/", examples.display()));
    let run = run(folder(&one).path(), &["t.yaml"]);
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);

    // The others name objects that are not there, and nothing else is wrong with them.
    let matrices = format!("{HEAD}{matrices}");
    for (text, fault) in
        [(matrices.as_str(), "no pod x/c"), (steps, "policies/only-team-blue.yaml cannot be read")]
    {
        let run = self::run(folder(text).path(), &["t.yaml"]);
        assert_eq!(run.code, Some(2), "{}{}", run.out, run.err);
        assert!(run.err.contains(fault), "{}", run.err);
    }
}

#[test]
fn a_wrong_expectation_fails_with_what_decides() {
    let test = format!(
        "{HEAD}steps:\n- expect:\n  - {{from: x/b, to: x/a, ports: 80, verdict: allow}}\n\
         - name: closed\n  expect:\n  - {{from: x/b, to: x/a, ports: [80, 81], family: 4, verdict: deny}}\n\
         \x20 - {{from: 'y/c', to: x/a, ports: 80, verdict: allow}}\n"
    );
    let folder = folder(&test);
    let failed = run(folder.path(), &["t.yaml"]);
    assert_eq!(failed.code, Some(1), "{}", failed.err);
    assert_eq!(
        timeless(&failed.out),
        "FAIL t (3 expectations, 5 connections)
       t.yaml:9:5: step 2 (closed): x/b -> x/a 80/TCP IPv4: expected deny, is allow
         egress of x/b: open
         ingress of x/a: allowed by x/web ingress[0] (policy.yaml:9)
       t.yaml:10:5: step 2 (closed): y/c -> x/a 80/TCP IPv4: expected allow, is deny
         egress of y/c: open
         ingress of x/a: isolated by x/web (policy.yaml:4), and no rule allows it
1 tests: 0 ok, 1 failed; 3 expectations, 5 connections\n"
    );

    let report = run(folder.path(), &["t.yaml", "-o", "json"]);
    assert_eq!(report.code, Some(1));
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["schema"], "portcullis.test-report/v1");
    assert_eq!((&report["passed"], &report["failed"]), (&json!(0), &json!(1)));
    let failures = &report["tests"][0]["failures"];
    assert_eq!(
        failures[0],
        json!({
            "file": "t.yaml", "line": 9, "column": 5, "step": 2, "step_name": "closed",
            "from": "x/b", "to": "x/a", "family": 4, "protocol": "TCP", "port": 80,
            "source": "10.0.0.2", "destination": "10.0.0.1", "expected": "deny", "verdict": "allow",
            "egress": {"reason": "open"},
            "ingress": {"reason": "allowed", "rule": "x/web ingress[0] (policy.yaml:9)"},
        })
    );
    assert_eq!(failures[1]["ingress"], json!({"reason": "isolated", "policies": ["x/web (policy.yaml:4)"]}));

    let report = run(folder.path(), &["t.yaml", "-o", "junit"]);
    assert_eq!(report.code, Some(1));
    for part in [
        "<testsuites name=\"portcullis test\" tests=\"1\" failures=\"1\" errors=\"0\"",
        "<testcase name=\"t\" classname=\"t.yaml\" file=\"t.yaml\" line=\"2\"",
        "<failure message=\"2 connections are not as expected\">t.yaml:9:5: step 2 (closed): x/b -&gt; x/a 80/TCP",
    ] {
        assert!(report.out.contains(part), "{}", report.out);
    }
}

#[test]
fn every_kind_of_change_counts_from_its_step_on() {
    let run = try_out(
        "steps:
- expect: [{from: x/b, to: x/a, ports: 80, verdict: allow}, {from: y/c, to: x/a, ports: 80, verdict: deny}]
- label: [{pod: x/a, remove: [app]}]
  expect: [{from: y/c, to: x/a, ports: 80, verdict: allow}]
- label: [{pod: x/a, set: {app: web}}]
  apply:
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: team, namespace: x}
    spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}
  expect:
  - {from: {namespaceSelector: {matchLabels: {team: red}}}, to: {namespace: x}, ports: [80, 9000/SCTP], family: both, verdict: allow}
  - {from: [y/c, 192.0.2.1], to: {podSelector: {matchExpressions: [{key: app, operator: Exists}]}}, ports: 80, verdict: deny}
- label: [{namespace: 'y', set: {team: red}}]
  matrices:
  - ports: [80/TCP, 53/UDP]
    columns:      [x/a, x/b, 192.0.2.1]
    rows: {y/c:   '. . .', 192.0.2.1: 'X X ?', '2001:db8::1': 'XX?'}
- delete: [NetworkPolicy/x/web, NetworkPolicy/x/team]
  expect: [{from: 192.0.2.1, to: {namespace: x}, ports: 80, verdict: allow}]
- policies: [policy.yaml]
  apply:
  - {apiVersion: v1, kind: Pod, metadata: {name: d, namespace: 'y'}, status: {podIPs: [{ip: 10.0.0.4}]}}
  expect: [{from: y/d, to: x/a, ports: 80, verdict: deny}, {from: x/b, to: x/a, ports: 81, verdict: deny}]
- policies: []
  delete: [Pod/y/d]
  expect: [{from: {}, to: {}, ports: 80, verdict: allow}]
",
    );
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    assert!(run.out.contains("1 tests: 1 ok, 0 failed; 16 expectations"), "{}", run.out);
}

#[test]
fn what_does_not_fit_is_told_at_its_place_before_anything_runs() {
    for (rest, place, message) in [
        (
            "expect: [{from: x/q, to: x/a, ports: 80, verdict: deny}]\n",
            "t.yaml:4:10",
            "there is no pod x/q: did you mean",
        ),
        (
            "expect: [{from: web, to: x/a, ports: 80, verdict: deny}]\n",
            "t.yaml:4:17",
            "neither namespace/pod nor an address",
        ),
        (
            "expect: [{from: x/a, to: x/b, ports: 80/ICMP, verdict: deny}]\n",
            "t.yaml:4:38",
            "no protocol with ports",
        ),
        ("expect: [{from: x/a, to: x/b, ports: [], verdict: deny}]\n", "t.yaml:4:38", "no port is given"),
        (
            "expect: [{from: x/a, to: y/c, ports: 80, family: 6, verdict: deny}]\n",
            "t.yaml:4:10",
            "no IPv6 address each",
        ),
        (
            "expect: [{from: x/a, to: y/c, ports: 80, family: both, verdict: deny}]\n",
            "t.yaml:4:10",
            "both families",
        ),
        (
            "expect: [{from: {podSelector: {matchLabels: {app: db}}}, to: x/b, ports: 80, verdict: deny}]\n",
            "t.yaml:4:10",
            "matches no pod",
        ),
        (
            "expect: [{from: {namespace: 'y'}, to: {namespace: 'y'}, ports: 80, verdict: deny}]\n",
            "t.yaml:4:10",
            "no pair of different pods",
        ),
        ("", "t.yaml:2:7", "expects nothing"),
        ("steps: [{delete: [Pod/x/b]}]\n", "t.yaml:2:7", "no step expects anything"),
        (
            "expect: [{from: x/a, to: x/b, ports: 80, verdict: deny}]\nsteps: [{}]\n",
            "t.yaml:2:7",
            "either `steps`, or",
        ),
        (
            "steps:\n- delete: [Pod/x/q]\n  expect: [{from: x/a, to: x/b, ports: 80, verdict: deny}]\n",
            "t.yaml:5:12",
            "there is no Pod x/q in this step",
        ),
        ("steps:\n- delete: [Pod/b]\n", "t.yaml:5:12", "is none of NetworkPolicy/namespace/name"),
        (
            "steps:\n- label: [{pod: x/a, remove: [tier]}]\n  expect: [{from: x/a, to: x/b, ports: 80, verdict: deny}]\n",
            "t.yaml:5:11",
            "has no label `tier`",
        ),
        ("steps:\n- label: [{set: {a: b}}]\n", "t.yaml:5:11", "whose labels change"),
        ("steps:\n- apply: [gone.yaml]\n", "t.yaml:5:11", "gone.yaml cannot be read"),
        (
            "steps:\n- policies: [cluster.yaml]\n",
            "cluster.yaml:1:52",
            "Namespace x is no NetworkPolicy: use `apply`",
        ),
        (
            "steps:\n- apply:\n  - apiVersion: networking.k8s.io/v1\n    kind: NetworkPolicy\n    metadata: {name: p, namespace: x}\n    spec: {podSelector: {}, types: [Ingress]}\n",
            "t.yaml:9:29",
            "unknown field `types`",
        ),
        (
            "matrices: [{ports: 80, columns: [x/a, x/b], rows: {x/a: '.'}}]\n",
            "t.yaml:4:57",
            "1 cells for 2 columns",
        ),
        ("matrices: [{ports: 80, columns: [x/b], rows: {x/a: '#'}}]\n", "t.yaml:4:52", "and not `#`"),
    ] {
        let run = try_out(rest);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{rest}{}", run.err);
        assert!(
            run.err.contains(&format!("--> {place}\n")) && run.err.contains(message),
            "{rest}{}",
            run.err
        );
    }
}

#[test]
fn what_no_lab_can_do_is_refused_before_one_is_built() {
    let folder = folder(&format!("{HEAD}expect: [{{from: x/a, to: x/b, ports: 80, verdict: allow}}]\n"));
    for (options, told) in [
        (&["--by", "cluster-ip"][..], "--lab"),
        (&["--mode", "inline"], "--lab"),
        (&["--lab", "--by", "cluster-ip"], "no cluster IP is translated in mode router: add `--mode inline`"),
    ] {
        let run = run(folder.path(), &[options, &["t.yaml"]].concat());
        assert_eq!(run.code, Some(2), "{options:?}: {}", run.err);
        assert!(run.err.contains(told) && run.out.is_empty(), "{options:?}: {}{}", run.err, run.out);
    }
}

/// Bounded in time, a clear error, exit code 2.
#[test]
fn hostile_files_are_refused() {
    let folder = folder("");
    let at = |name: &str| folder.path().join(name);
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    }
    let expect = "expect: [{from: x/a, to: x/b, ports: 80, verdict: deny}]\n";
    for (name, bytes) in [
        ("bomb.yaml", bomb.into_bytes()),
        ("many.yaml", format!("---\n{HEAD}{expect}").repeat(100_000).into_bytes()),
        ("latin.yaml", b"schema: \xe9\n".to_vec()),
        ("tabs.yaml", b"schema:\n\tportcullis.test/v1\n".to_vec()),
        ("huge.yaml", vec![b'#'; (16 << 20) + 1]),
        ("deep.yaml", "[".repeat(1 << 20).into_bytes()),
        ("nothing.yaml", Vec::new()),
        ("other.yaml", CLUSTER.as_bytes().to_vec()),
        ("typed.yaml", format!("{HEAD}steps: [{{label: [{{pod: x/a, set: {{app: on}}}}]}}]\n").into_bytes()),
        (
            "number.yaml",
            format!("{HEAD}steps: [{{label: [{{pod: x/a, set: {{app: 0x10}}}}]}}]\n").into_bytes(),
        ),
        (
            "pipe-inside.yaml",
            format!("schema: portcullis.test/v1\nname: t\nmanifests: [pipe]\n{expect}").into_bytes(),
        ),
        (
            "loop-inside.yaml",
            format!("schema: portcullis.test/v1\nname: t\nmanifests: [loop.yaml]\n{expect}").into_bytes(),
        ),
    ] {
        fs::write(at(name), bytes).unwrap();
    }
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("loop.yaml", at("loop.yaml")).unwrap();
    let names = [
        "bomb.yaml",
        "many.yaml",
        "latin.yaml",
        "tabs.yaml",
        "huge.yaml",
        "deep.yaml",
        "nothing.yaml",
        "other.yaml",
        "typed.yaml",
        "number.yaml",
        "pipe-inside.yaml",
        "loop-inside.yaml",
        "pipe",
        "loop.yaml",
        "gone.yaml",
        "/dev/zero",
    ];
    for name in names {
        let start = Instant::now();
        let run = run(folder.path(), &[name]);
        let took = start.elapsed();
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{name}: {}", run.err);
        assert!(run.err.contains("error[") && run.err.len() < 4000, "{name}: {}", run.err);
        assert!(took < Duration::from_secs(10), "{name} took {took:?}");
    }
}
