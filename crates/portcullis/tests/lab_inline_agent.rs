//! The agent of inline mode seen from outside: `status`, `top`, figures, probes and `flows` say what happens, as in
//! router mode.

mod asked;
mod inline_kernel;
mod scene;

use std::time::Duration;

use asked::{ask, get, number, port, status};
use bpf::inline::{Hook, held_by};
use lab::{Family, Place, Transport};
use scene::*;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(15);
const INLINE: &str = "mode: inline\n";

/// Packets of a pod's port that its programs counted as this.
fn counted(status: &Value, pod: &str, what: &str) -> u64 {
    number(&port(status, pod)["tc"]["packets"][what])
}

#[test]
fn status_and_figures_count_what_the_kernel_carries() {
    let scene = Scene::new(INLINE);
    let mut agent = scene.agent();
    let before = status(&scene);
    assert_eq!((&before["schema"], &before["mode"]), (&json!("portcullis.status/v1"), &json!("inline")));
    assert_eq!((&before["fallback"], &before["on_exit"]), (&json!("closed"), &json!("keep")));
    assert_eq!(before["previous"]["ended"], "never");
    let ports = before["ports"].as_array().expect("ports");
    assert_eq!(ports.len(), scene.lab.pods().len() + 2, "pods, the uplink, and the punt pair");
    assert!(ports.iter().all(|port| port["state"] == "attached"), "{before:#}");
    assert!(ports.iter().filter(|port| port["role"] != "punt").all(|port| port["attach"] == "tcx"));
    let pair = ports.last().expect("a port");
    assert_eq!((&pair["role"], &pair["interface"]), (&json!("punt"), &json!("portcullis1")));
    assert_eq!(pair["queues"].as_array().map(Vec::len), Some(1), "the worker's socket: {pair}");

    let denied = scene.stream(&pod("z/b"), &pod("y/a"), 9000, Transport::Udp, 1000);
    let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
    eventually("both streams have sent", PATIENCE, || {
        denied.report().sent > 1000 && allowed.report().delivered > 500
    });
    let (denied, allowed) = (denied.stop(), allowed.stop());
    assert_eq!(denied.delivered, 0);
    // The kernel carried all but a few of them, which the worker judged.
    let more = |pod, what| counted(&status(&scene), pod, what) - counted(&before, pod, what);
    assert!(more("x/b", "hit") + more("x/b", "punted") >= allowed.delivered);
    assert!(more("x/b", "hit") > allowed.delivered / 2, "{:#}", status(&scene));
    assert!(more("x/b", "punted") >= 1 && more("z/b", "punted") >= 1);
    let dropped = number(&status(&scene)["drops"]["default_deny"]);
    let both = dropped + more("z/b", "denied") + more("y/a", "denied");
    assert!(both >= denied.sent, "{both} of {} denied packets are counted", denied.sent);
    assert!(number(&status(&scene)["drops"]["default_deny"]) >= 1, "the worker's own share");

    let after = status(&scene);
    assert!(number(&after["inline"]["verdicts"]) >= 2, "one for each pod: {}", after["inline"]);
    assert!(number(&port(&after, "x/b")["tc"]["verdicts"]) >= 1);
    assert_eq!(number(&after["inline"]["capacity"]), 2 * 262_144, "two for each connection of the default");
    assert!(number(&port(&after, "y/a")["tc"]["epoch"]) > 0);
    assert!(number(&after["connections"]["entries"]) >= 1);
    let worker = &after["workers"][0];
    assert_eq!(worker["answers"], true);
    assert!(number(&worker["judged"]) >= 2, "{worker}");
    let frames = &worker["frames"];
    let places = ["free", "fill", "tx", "held"].map(|place| number(&frames[place]));
    assert_eq!(places.iter().sum::<u64>(), number(&frames["total"]), "no frame is lost: {frames}");

    let page = text(&ask(&scene, &[]));
    assert!(
        page.contains("inline mode") && page.contains("verdicts ") && page.contains("portcullis1"),
        "{page}"
    );
    let inline = |figures: &std::collections::HashMap<String, u64>| {
        figures.get("portcullis_verdicts").is_some_and(|verdicts| *verdicts >= 2)
            && figures.get("portcullis_conntrack_entries").is_some_and(|entries| *entries >= 1)
    };
    agent.wait_until("does not count them", inline).expect("figures");
}

#[test]
fn figures_and_probes_are_answered_on_loopback() {
    let scene = Scene::new(INLINE);
    let _agent = scene.agent();
    let (code, _, page) = get(&scene, "/metrics");
    assert_eq!(code, 200);
    for series in [
        "portcullis_agent_info{mode=\"inline\"",
        "portcullis_worker_heartbeat_age_seconds{worker=\"0\"}",
        "portcullis_tc_packets_total{iface=",
        "portcullis_verdicts_capacity ",
        "portcullis_packets_total{iface=\"portcullis1\",queue=\"0\",direction=\"rx\"}",
    ] {
        assert!(page.contains(series), "{series}: {page}");
    }
    assert_eq!((get(&scene, "/livez").0, get(&scene, "/livez").2), (200, "ok".to_owned()));
    let (code, _, ready) = get(&scene, "/readyz?verbose");
    assert_eq!((code, &*ready), (200, "[+]table ok\n[+]ports ok\nreadyz check passed\n"));
}

#[test]
fn without_a_table_the_agent_is_not_ready_and_nothing_is_let_through() {
    let scene = Scene::new(INLINE);
    let _servers = scene.servers();
    assert!(
        scene.reaches(&pod("x/a"), &pod("y/b"), 80, Transport::Tcp),
        "without an agent the kernel forwards"
    );
    scene.home.apply("broken.yaml", "kind: NetworkPolicy\n").expect("a manifest");
    let _agent = scene.home.start(&scene.lab).expect("an agent");
    eventually("it answers", PATIENCE, || ask(&scene, &[]).status.success());
    eventually("the manifests are refused", PATIENCE, || status(&scene)["manifests"]["state"] == "refused");
    assert_eq!(get(&scene, "/livez").0, 200);
    let (code, _, said) = get(&scene, "/readyz");
    assert_eq!(code, 503);
    assert!(said.contains("[-]table failed") && said.contains("[-]ports failed"), "{said}");
    assert!(!scene.reaches(&pod("x/a"), &pod("y/b"), 80, Transport::Tcp), "nobody has judged it");
}

/// What the agent remembers under these conditions, once there is something.
fn remembered(scene: &Scene, args: &[&str]) -> Value {
    let state = scene.home.state_dir();
    let state = ["flows", "-o", "jsonl", "--state-dir", state.to_str().expect("a path")];
    let mut found = None;
    eventually(&format!("{args:?} finds something"), PATIENCE, || {
        let output = scene.portcullis(&[&state[..], args].concat());
        assert!(output.status.success(), "{}", text(&output));
        let first = String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned);
        found = first.map(|line| serde_json::from_str(&line).expect("JSON"));
        found.is_some()
    });
    found.expect("something")
}

#[test]
fn flows_tell_who_was_judged_and_by_which_rule() {
    let scene = Scene::new(INLINE);
    let _servers = scene.servers();
    let _agent = scene.agent();
    assert!(scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Tcp));
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Tcp));

    let allowed = remembered(&scene, &["--from", "x/b", "--to", "y/a", "--port", "80/TCP"]);
    assert_eq!((&allowed["occasion"], &allowed["verdict"]), (&json!("new_connection"), &json!("allow")));
    assert_eq!((&allowed["from"]["pod"], &allowed["to"]["pod"]), (&json!("x/b"), &json!("y/a")));
    assert_eq!(allowed["ingress"]["rule"]["name"], "y/a-from-x ingress[0]");
    assert!(
        allowed["ingress"]["rule"]["origin"].as_str().is_some_and(|origin| origin.contains("policy.yaml:"))
    );

    let denied = remembered(&scene, &["--pod", "z/b", "--verdict", "deny", "--port", "80"]);
    assert_eq!((&denied["reason"], &denied["to"]["pod"]), (&json!("default_deny"), &json!("y/a")));
    assert_eq!(denied["ingress"]["policies"][0]["name"], "y/a-from-x");
}

/// The configuration with its pod ports in reverse order, and without one of them.
fn turn_ports_around(scene: &Scene, without: &str) {
    let config = std::fs::read_to_string(scene.home.config()).expect("a configuration");
    let (before, rest) = config.split_once("ports:\n").expect("ports");
    let (ports, after) = rest.split_once("uplinks:").expect("uplinks");
    let ports: Vec<&str> = ports.split_inclusive("\"\n- ").collect();
    let left = ports.iter().rev().map(|port| port.trim_start_matches("- ").trim_end_matches("- "));
    let left: String =
        left.filter(|port| !port.contains(without)).map(|port| format!("- {}\n", port.trim_end())).collect();
    let text = format!("{before}ports:\n{left}uplinks:{after}");
    std::fs::write(scene.home.config(), text).expect("a configuration");
}

#[test]
fn verdicts_stay_those_of_their_pod_when_ports_are_listed_otherwise() {
    let scene = Scene::new("mode: inline\nflows: {capacity: 4096}\n");
    let agent = scene.agent();
    let kept = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
    let others = [("z/a", "y/b"), ("z/b", "x/c"), ("y/c", "z/c")]
        .map(|(from, to)| scene.stream(&pod(from), &pod(to), 80, Transport::Udp, 100));
    eventually("all arrive", PATIENCE, || {
        kept.report().delivered > 200 && others.iter().all(|stream| stream.report().delivered > 20)
    });
    // As the first configuration lists them.
    let of_their_pod = || {
        let verdicts = inline_kernel::Kernel::of(&scene, 4096).verdicts();
        for flow in &verdicts {
            let name = Place::Pod(scene.lab.pods()[usize::from(flow.port) - 1].name.clone());
            let addresses = Family::ALL.map(|family| scene.address(&name, family));
            assert!(addresses.contains(&flow.key.src.address.ip()), "of {name}, {flow:?}");
        }
        verdicts.len()
    };
    assert!(of_their_pod() >= 8, "one for each pod of a connection");
    let left_out = number(&port(&status(&scene), "z/c")["ifindex"]) as u32;
    let held = || {
        let pins = inline_kernel::pins(&scene);
        let hooks = [Hook::PodOut, Hook::PodIn];
        scene.lab.node().run(|| held_by(&pins, left_out, &hooks)).expect("a thread in the node")
    };
    assert!(held().is_some());
    agent.kill().expect("killed");
    turn_ports_around(&scene, "z/c");
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    let served = scene.lab.pods().len() as u64 - 1;
    agent
        .wait_until("is not ready", |figures| figures.get("portcullis_ready_pods") == Some(&served))
        .expect("ready");
    assert!(of_their_pod() > 0, "the kernel goes on\n{}", agent.log());
    let before = kept.report();
    eventually("what was allowed goes on", PATIENCE, || kept.report().delivered > before.delivered + 1000);
    assert!(of_their_pod() >= 2);
    let after = kept.stop();
    assert!(after.lost() < 100, "{after:?}");
    // z/c is no port any more: nothing of ours stands at its interface.
    assert!(held().is_none());
    let _servers = scene.servers_on(&[81]);
    let outside = Place::outside(&scene.lab.topology().outside[0].name);
    assert!(scene.reaches(&pod("z/c"), &outside, 81, Transport::Tcp), "{}", agent.log());
}
