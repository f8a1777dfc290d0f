//! `portcullis doctor` on a node of the lab.

mod scene;

use scene::*;
use serde_json::Value;

#[test]
fn the_doctor_sees_what_is_here() {
    let scene = Scene::new("");
    let interface = scene.lab.pods()[0].interface.clone();
    let look = |arguments: &[&str]| {
        let output = scene.portcullis(&[&["doctor", "-o", "json"], arguments].concat());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["schema"], "portcullis.doctor/v1");
        (output.status.code(), report["findings"].as_array().expect("findings").clone())
    };
    let of = |findings: &[Value], subject: &str| {
        findings.iter().find(|finding| finding["subject"] == subject).expect("a finding").clone()
    };

    let (code, findings) = look(&[&interface, "nowhere0"]);
    assert_eq!(code, Some(1), "{findings:?}");
    for subject in ["kernel", "capabilities", "nftables", &interface] {
        assert_eq!(of(&findings, subject)["level"], "ok", "{findings:?}");
    }
    assert_eq!(of(&findings, "nowhere0")["level"], "warn");

    let _agent = scene.agent();
    let (code, findings) = look(&[&interface]);
    assert_eq!(code, Some(1), "{findings:?}");
    let found = of(&findings, &interface)["found"].to_string();
    assert!(found.contains("XDP program"), "{found}");

    let bare = "setpriv --bounding-set -all --inh-caps -all --";
    let output = scene.node(&format!("{bare} {BINARY} doctor"));
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("CAP_BPF"), "{}", text(&output));
    assert_eq!(scene.portcullis(&["doctor", "a/b"]).status.code(), Some(2));
}
