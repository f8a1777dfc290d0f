//! What a scene's agent says when it is asked: by its socket, and on loopback.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use serde_json::Value;

use crate::scene::{Scene, text};

/// What the running agent says of itself.
pub(crate) fn status(scene: &Scene) -> Value {
    let output = ask(scene, &["-o", "json"]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// `portcullis status ARGS` with the scene's agent.
pub(crate) fn ask(scene: &Scene, args: &[&str]) -> std::process::Output {
    let state = scene.home.state_dir();
    scene.portcullis(&[&["status", "--state-dir", state.to_str().expect("a plain path")], args].concat())
}

/// GET by the node's own loopback: the code, the type and the body.
pub(crate) fn get(scene: &Scene, path: &str) -> (u16, String, String) {
    let line = format!(
        "exec 3<>/dev/tcp/127.0.0.1/9471 && printf 'GET {path} HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let output = scene.lab.node().command("bash").args(["-c", &line]).output().expect("bash runs");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {}", text(&output)));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (code, kind.to_owned(), body.to_owned())
}

/// The port of a pod.
pub(crate) fn port<'v>(status: &'v Value, pod: &str) -> &'v Value {
    let ports = status["ports"].as_array().expect("ports");
    ports.iter().find(|port| port["pod"] == pod).expect("the pod's port")
}

/// A number of it.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}
