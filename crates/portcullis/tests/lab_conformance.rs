//! The conformance cases on real packets: one agent lives through all of them, and every step reaches it as a change of
//! the step before. Needs root.

mod cases;

use std::fs;
use std::path::Path;

use cases::on_real_packets;
use flow::Verdict;
use portcullis::config::Mode;
use portcullis::policy_test::on_lab::OnLab;
use portcullis::policy_test::{Outcome, Suite};

#[test]
fn packets_fare_as_every_case_expects() {
    on_real_packets(Mode::Router);
}

/// Runs one test, of which these are the steps, on the model cluster.
fn on_the_wire(steps: &str) -> Outcome {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("test.yaml");
    let head = "schema: portcullis.test/v1\nname: test\nmanifests: [DATA/cluster.yaml]\nsteps:\n";
    let text = format!("{head}{steps}").replace("DATA", &data.display().to_string());
    fs::write(&file, text).expect("a file");
    let suite = Suite::load(&[file]).unwrap_or_else(|refused| panic!("{}", refused.errors[0]));
    let mut on_lab = OnLab::new(Path::new(env!("CARGO_BIN_EXE_portcullis")), Mode::Router);
    let mut outcomes = suite.run(&mut on_lab, |_| Ok(())).expect("answers");
    on_lab.down().expect("nothing stays");
    assert_eq!(outcomes.len(), 1);
    outcomes.swap_remove(0)
}

#[test]
fn what_is_expected_wrongly_fails_on_the_wire() {
    let outcome = on_the_wire(
        "- expect:\n  - {from: x/a, to: x/b, ports: 80/SCTP, family: 4, verdict: deny}\n\
         - policies: [DATA/e2e/policies/e2e-02.step1.yaml]\n  expect:\n\
         \x20 - {from: y/a, to: x/b, ports: 80/SCTP, family: 6, verdict: allow}\n",
    );
    assert_eq!((outcome.failed, outcome.connections), (2, 2));
    let told = outcome.failures.iter().map(|unmet| (unmet.verdict, unmet.seen.as_str(), unmet.line));
    let expected = [(Verdict::Allow, "reached x/b", 6), (Verdict::Deny, "timed out", 9)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_node_is_tried_with_its_own_pods_only() {
    // x/a is of node-a, which is the lab's node; x/b is of node-b.
    let outcome = on_the_wire(
        "- policies: [DATA/e2e/policies/e2e-02.step1.yaml]\n  expect:\n\
         \x20 - {from: [x/a, 192.168.0.1], to: [192.168.0.1, x/a], ports: [80/TCP, 80/SCTP], verdict: allow}\n\
         \x20 - {from: 192.168.0.2, to: x/b, ports: 80/TCP, verdict: allow}\n\
         \x20 - {from: 192.168.0.1, to: x/b, ports: 80/TCP, verdict: deny}\n",
    );
    assert!(outcome.passed(), "{:?}", outcome.failures);
    let untried = outcome.untried.iter().map(|(question, _)| format!("{} -> {}", question.from, question.to));
    assert_eq!(untried.collect::<Vec<_>>(), ["192.168.0.2 -> x/b", "192.168.0.1 -> x/b"]);
}
