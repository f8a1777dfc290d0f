//! The agent seen from outside, on real packets: what `status`, `/metrics` and the probes say is true.

mod asked;
mod scene;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use asked::{ask, get, number, port, status};
use lab::Transport;
use scene::*;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn status_counts_what_happens() {
    let scene = Scene::new("");
    let _agent = scene.agent();
    let before = status(&scene);
    assert_eq!(before["schema"], "portcullis.status/v1");
    assert_eq!(before["manifests"]["state"], "in_force");
    assert_eq!(before["table"]["policies"], 1);
    assert_eq!(before["previous"]["ended"], "never");
    for port in before["ports"].as_array().expect("ports") {
        assert_eq!(port["state"], "attached", "{port}");
        assert_eq!(port["queues"][0]["zero_copy"], false, "veth copies: {port}");
    }

    let denied = scene.stream(&pod("z/b"), &pod("y/a"), 9000, Transport::Udp, 2000);
    let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
    eventually("both streams have sent", PATIENCE, || {
        denied.report().sent > 1000 && allowed.report().delivered > 500
    });
    // A ratio of the last second, in whole milliseconds: seen while the frames come.
    let busy = || status(&scene)["workers"][0]["busy_ratio"].as_f64().expect("a ratio");
    eventually("the worker is busy", PATIENCE, || busy() > 0.0);
    let (denied, allowed) = (denied.stop(), allowed.stop());
    assert_eq!(denied.delivered, 0);

    // The figures of a worker are at most a turn behind.
    let counts = |name: &str| number(&status(&scene)["drops"][name]) - number(&before["drops"][name]);
    eventually("every denied frame is counted", PATIENCE, || counts("default_deny") == denied.sent);
    let after = status(&scene);
    // Now and then a pod says something else that goes nowhere.
    let dropped = |pod: &str| number(&port(&after, pod)["dropped"]) - number(&port(&before, pod)["dropped"]);
    assert!((denied.sent..denied.sent + 50).contains(&dropped("z/b")), "{}", port(&after, "z/b"));
    assert!(dropped("x/b") < 50, "{}", port(&after, "x/b"));
    let received = |status: &Value, pod: &str| number(&port(status, pod)["queues"][0]["received"]);
    assert!(received(&after, "z/b") - received(&before, "z/b") >= denied.sent);
    let sent = |status: &Value| number(&port(status, "y/a")["queues"][0]["sent"]);
    assert!(sent(&after) - sent(&before) >= allowed.delivered, "{}", port(&after, "y/a"));
    assert!(number(&after["connections"]["entries"]) >= 1);

    let worker = &after["workers"][0];
    assert_eq!(worker["answers"], true);
    assert!(worker["heartbeat_age_seconds"].as_f64().expect("an age") < 1.0, "{worker}");
    let frames = &worker["frames"];
    let places = ["free", "fill", "tx", "held"].map(|place| number(&frames[place]));
    assert_eq!(places.iter().sum::<u64>(), number(&frames["total"]), "no frame is lost: {frames}");
    let rings = &port(&after, "y/a")["queues"][0]["rings"];
    assert!(number(&rings["fill"]) > 0 && number(&rings["fill"]) <= number(&rings["capacity"]), "{rings}");

    // The same for people, a line each, also in a pipe.
    let page = text(&ask(&scene, &[]));
    assert!(page.contains("policy       generation 1 in force"), "{page}");
    let line = page.lines().find(|line| line.starts_with("default_deny")).expect("the drops");
    assert_eq!(line.split_whitespace().nth(1), Some(&*denied.sent.to_string()), "{page}");
}

#[test]
fn a_receiver_that_is_stopped_shows() {
    let scene = Scene::new("");
    let mut agent = scene.agent();
    let stream = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
    eventually("it arrives", PATIENCE, || stream.report().delivered > 100);
    let before = status(&scene);
    // The kernel asks the neighbour no more, and the link of y/a takes nothing.
    let link = port(&before, "y/a")["interface"].as_str().expect("a name").to_owned();
    assert!(scene.node(&format!("ip link set {link} down")).status.success());
    let drops = |name: &str| number(&status(&scene)["drops"][name]);
    eventually("frames for it have nowhere to go", PATIENCE, || {
        drops("tx_ring_full") > 0 && number(&port(&status(&scene), "x/b")["dropped"]) > 0
    });
    assert_ne!(port(&status(&scene), "y/a")["state"], "attached");
    let counted = |figures: &std::collections::HashMap<String, u64>| {
        figures.get("portcullis_drops_total{reason=\"tx_ring_full\"}").is_some_and(|frames| *frames > 0)
    };
    agent.wait_until("does not count them", counted).expect("the figures");
}

#[test]
fn only_root_and_the_agent_itself_may_ask() {
    let scene = Scene::new("");
    let _agent = scene.agent();
    let socket = scene.home.state_dir().join("admin.sock");
    assert_eq!(fs::metadata(&socket).expect("the socket").mode() & 0o777, 0o600);

    // Somebody else, who can reach the folder: first by the mode of the socket, then by who they are.
    fs::set_permissions(scene.path("."), fs::Permissions::from_mode(0o755)).expect("a mode");
    let state = scene.home.state_dir();
    let binary = scene.path("portcullis");
    fs::copy(BINARY, &binary).expect("a copy that others can run");
    let stranger = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
        let output = command.args(["status", "--state-dir"]).arg(&state).output().expect("setpriv runs");
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        text(&output)
    };
    let said = stranger();
    assert!(said.contains("only root and the agent's own user may ask it: Permission denied"), "{said}");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("a mode");
    let said = stranger();
    assert!(said.contains("you are uid 65534: the agent answers root and uid 0, its own"), "{said}");
}

#[test]
fn figures_and_probes_are_answered_on_loopback() {
    let scene = Scene::new("");
    let _agent = scene.agent();
    let (code, kind, page) = get(&scene, "/metrics");
    assert_eq!((code, &*kind), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(page.ends_with("# EOF\n"), "{page}");
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        assert!(name.starts_with("portcullis_") && value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(page.contains("portcullis_worker_busy_ratio{worker=\"0\"}"), "{page}");
    assert!(page.contains("portcullis_xsk_rx_fill_ring_empty_total{iface="), "{page}");

    assert_eq!((get(&scene, "/livez").0, get(&scene, "/livez").2), (200, "ok".to_owned()));
    let (code, _, ready) = get(&scene, "/readyz?verbose");
    assert_eq!((code, &*ready), (200, "[+]table ok\n[+]ports ok\nreadyz check passed\n"));
    // Nobody is let in by TCP who could not be asked who they are.
    assert_eq!(get(&scene, "/v1/status").0, 404);

    // The sources go: the table stays, and so does readiness.
    fs::remove_dir_all(scene.home.manifests()).expect("the manifests");
    eventually("the refusal shows", PATIENCE, || status(&scene)["manifests"]["state"] == "refused");
    assert_eq!(get(&scene, "/readyz").0, 200);
    assert_eq!(status(&scene)["table"]["generation"], 1);
    assert!(get(&scene, "/metrics").2.contains("portcullis_reload_failures_total 1"));
}

#[test]
fn without_a_table_the_agent_is_alive_and_not_ready() {
    let scene = Scene::new("");
    scene.home.apply("broken.yaml", "kind: NetworkPolicy\n").expect("a manifest");
    let agent = scene.home.start(&scene.lab).expect("an agent");
    eventually("it answers", PATIENCE, || ask(&scene, &[]).status.success());
    eventually("the manifests are refused", PATIENCE, || agent.log().contains("the manifests are refused"));
    assert_eq!(get(&scene, "/livez").0, 200);
    let (code, _, said) = get(&scene, "/readyz");
    assert_eq!(code, 503);
    assert!(said.starts_with("[-]table failed: no policy table has been published yet\n"), "{said}");
    assert_eq!(status(&scene)["table"], Value::Null);
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_that_names_its_setting() {
    let scene = Scene::new("metrics: {listen: \"192.0.2.1:9471\"}\n");
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    assert_eq!(agent.wait().expect("it ends").code(), Some(3));
    let log = agent.log();
    assert!(
        log.contains("cannot listen on 192.0.2.1:9471: choose another `metrics.listen`, or `none`"),
        "{log}"
    );
}

#[test]
fn an_address_that_somebody_else_has_keeps_no_agent_from_its_work() {
    let scene = Scene::new("");
    let taken = scene.lab.node().run(|| TcpListener::bind("127.0.0.1:9471")).expect("the node's namespace");
    let agent = scene.agent();
    assert!(agent.log().contains("127.0.0.1:9471 is taken"), "{}", agent.log());
    drop(taken.expect("the address"));
    eventually("it has the address after all", PATIENCE, || {
        agent.log().contains("are on 127.0.0.1:9471 now")
    });
    assert_eq!(get(&scene, "/livez").0, 200);
}

#[test]
fn an_agent_that_was_killed_is_spoken_of_by_the_next() {
    let scene = Scene::new("fallback: open\n");
    let none = ask(&scene, &[]);
    assert_eq!(none.status.code(), Some(3));
    assert!(text(&none).contains("no agent runs with the state directory"), "{}", text(&none));

    let agent = scene.agent();
    let pid = agent.id();
    agent.kill().expect("killed");
    let dead = ask(&scene, &[]);
    assert_eq!(dead.status.code(), Some(3));
    assert!(text(&dead).contains("has ended without cleaning up: start it again"), "{}", text(&dead));
    std::thread::sleep(Duration::from_secs(1));

    let agent = scene.agent();
    let previous = status(&scene)["previous"].clone();
    assert_eq!(previous["ended"], "unclean");
    assert_eq!(number(&previous["pid"]), u64::from(pid));
    assert_eq!(previous["unfiltered"], true);
    let gap = previous["gap_seconds"].as_f64().expect("a gap");
    assert!((1.0..60.0).contains(&gap), "{gap}");
    assert!(agent.log().contains("before this start no agent ran, and pods' traffic was unfiltered"));
    let page = text(&ask(&scene, &[]));
    assert!(
        page.contains(&format!("the last agent (pid {pid}) was killed or crashed; then no agent ran")),
        "{page}"
    );

    agent.terminate().expect("it ends");
    assert!(!scene.home.state_dir().join("admin.sock").exists());
}
