//! Inline mode as on kernels without tcx: filters of clsact qdiscs, which any administrator may remove. Needs root.

mod asked;
mod cluster_ips;
mod faults;
mod inline_kernel;
mod process;
mod scene;

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use asked::{number, port, status};
use cluster_ips::{PORT, cluster_ip};
use faults::{Denied, fault, went_on};
use inline_kernel::pins;
use lab::{Family, Masquerade, Outcome, RulesOf, StreamReport, Transport, probe};
use scene::{Scene, TIMEOUT, eventually, pod, text};

const PATIENCE: Duration = Duration::from_secs(15);
const CLSACT: &str = "mode: inline\ninline: {attach: clsact}\n";

/// The interface of a pod on the node.
fn interface(scene: &Scene, name: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    scene.lab.pod(namespace, name).expect("a pod").interface.clone()
}

/// `tc ARGS` in the node.
#[track_caller]
fn tc(scene: &Scene, arguments: &str) -> String {
    let output = scene.node(&format!("tc {arguments}"));
    assert!(output.status.success(), "tc {arguments}: {}", text(&output));
    text(&output)
}

/// Our filters at a pod's interface.
fn filters(scene: &Scene, name: &str) -> usize {
    let interface = interface(scene, name);
    let shown = ["ingress", "egress"]
        .map(|side| text(&scene.node(&format!("tc filter show dev {interface} {side}"))));
    shown.iter().map(|text| text.matches("name pod_in").count() + text.matches("name pod_out").count()).sum()
}

fn repaired(scene: &Scene) -> u64 {
    number(&status(scene)["repairs"]["programs"])
}

#[test]
fn f1_filters_outlive_the_agent_and_are_taken_over() {
    fault("F1", "killed and started again, inline with filters", || {
        let scene = Scene::new(CLSACT);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        assert_eq!(port(&status(&scene), "y/a")["attach"], "clsact");
        let stream = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
        eventually("allowed packets arrive", PATIENCE, || stream.report().delivered > 100);
        let mut agent = Some(agent);
        for _ in 0..3 {
            agent.take().expect("an agent").kill().expect("killed");
            assert_eq!(filters(&scene, "y/a"), 2, "they stay");
            denied.check();
            let again = scene.agent();
            assert!(again.log().contains("went on with the connections"), "{}", again.log());
            assert_eq!(filters(&scene, "y/a"), 2, "one each");
            denied.check();
            agent = Some(again);
        }
        assert_eq!(repaired(&scene), 0, "nothing was missing");
        let missing = went_on(stream, &StreamReport::default());
        format!("3 times, {missing} allowed packets missing, {}", denied.finish(2000))
    });
}

#[test]
fn f7_clsact_qdiscs_are_removed() {
    fault("F7", "clsact qdiscs removed, inline with filters", || {
        const TIMES: u64 = 20;
        let scene = Scene::new(CLSACT);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let (from, to) = (interface(&scene, "z/b"), interface(&scene, "y/a"));
        let (mut through, mut longest) = (0, Duration::ZERO);
        for round in 1..=TIMES {
            // All that knows of the denial.
            tc(&scene, &format!("qdisc del dev {from} clsact && tc qdisc del dev {to} clsact"));
            let start = Instant::now();
            eventually("they are back", PATIENCE, || filters(&scene, "z/b") + filters(&scene, "y/a") == 4);
            longest = longest.max(start.elapsed());
            through += denied.through();
            denied.count_from_now();
            eventually("it is counted", PATIENCE, || repaired(&scene) >= 2 * round);
        }
        assert!(agent.log().contains("does not run our programs any more"), "{}", agent.log());
        // 1,000 packets a second: the notice of the kernel brings them back, and not the next inspection.
        assert!(through < 1000 * TIMES, "{through} denied packets in {TIMES} times");
        format!(
            "{TIMES} times, back within {} ms, {through} denied packets delivered until then, {} after",
            longest.as_millis(),
            denied.finish(1000)
        )
    });
}

#[test]
fn f7_anothers_filter_in_the_place_of_ours() {
    fault("F7", "another's filter in the place of ours, inline with filters", || {
        let scene = Scene::new(CLSACT);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let (from, to) = (interface(&scene, "z/b"), interface(&scene, "y/a"));
        for dev in [from, to] {
            for side in ["ingress", "egress"] {
                // The agent may be faster.
                let replaced = format!(
                    "tc filter del dev {dev} {side} pref 1; tc filter add dev {dev} {side} pref 1 protocol all u32 match u32 0 0 flowid 1:1"
                );
                eventually("it is replaced", PATIENCE, || scene.node(&replaced).status.success());
            }
        }
        eventually("the ports are closed", PATIENCE, || {
            let status = status(&scene);
            ["z/b", "y/a"].iter().all(|name| port(&status, name)["state"] == "closed")
        });
        let why = port(&status(&scene), "y/a")["why"].to_string();
        denied.count_from_now();
        assert!(why.contains("pref 1"), "{why}");
        let to = interface(&scene, "y/a");
        assert!(tc(&scene, &format!("filter show dev {to} egress")).contains("u32"), "it stays");
        for name in ["z/b", "y/a"] {
            for side in ["ingress", "egress"] {
                tc(&scene, &format!("filter del dev {} {side} pref 1", interface(&scene, name)));
            }
        }
        eventually("the ports are open again", PATIENCE, || {
            let status = status(&scene);
            ["z/b", "y/a"].iter().all(|name| port(&status, name)["state"] == "attached")
        });
        assert_eq!(filters(&scene, "y/a"), 2);
        drop(agent);
        format!("the interlock stands for the filters, {}", denied.finish(2000))
    });
}

/// Where nobody sees what backend it is for, nothing leaves that is for a service.
#[test]
fn an_uplink_without_its_program_carries_nothing_for_services() {
    let scene = cluster_ips::scene_with("inline: {attach: clsact}\n");
    let services = cluster_ips::service(&scene, 1, &["z/c"], 80);
    scene.lab.serve(&services, RulesOf::Nftables, Masquerade::Hairpins).expect("rules");
    let _servers = scene.servers();
    let uplink = scene.lab.uplink();
    tc(&scene, &format!("qdisc add dev {uplink} clsact"));
    tc(&scene, &format!("filter add dev {uplink} egress pref 1 protocol all u32 match u32 0 0 flowid 1:1"));
    let agent = scene.agent();
    let answers = |port, address: IpAddr| {
        let outcome =
            probe(&scene.lab, &pod("x/a"), address, port, Transport::Tcp, TIMEOUT).expect("a probe");
        outcome == Outcome::Reached("z/c".to_owned())
    };
    for family in Family::ALL {
        assert!(!answers(PORT, cluster_ip(1, family)), "{family}: nobody sees it leave");
        // What was judged where it came from needs no program where it leaves.
        let itself = scene.address(&pod("z/c"), family);
        eventually("the backend itself is asked", PATIENCE, || answers(80, itself));
    }
    tc(&scene, &format!("filter del dev {uplink} egress pref 1"));
    for family in Family::ALL {
        eventually("services are asked for", PATIENCE, || answers(PORT, cluster_ip(1, family)));
    }
    drop(agent);
}

#[test]
fn a_cleanup_leaves_others_filters() {
    let scene = Scene::new(CLSACT);
    let agent = scene.agent();
    let dev = interface(&scene, "y/a");
    tc(&scene, &format!("filter add dev {dev} egress pref 7 protocol all u32 match u32 0 0 flowid 1:1"));
    let state = scene.home.state_dir();
    let cleanup = |args: &[&str]| {
        let output =
            scene.portcullis(&[&["cleanup", "--state-dir", state.to_str().expect("a path")], args].concat());
        assert!(output.status.success(), "{}", text(&output));
    };
    // Beside an agent it opens nothing.
    let folder = pins(&scene);
    let pinned = || {
        let pins = fs::read_dir(&folder).into_iter().flatten().flatten();
        pins.filter(|pin| pin.file_name().to_string_lossy().contains("_filter-")).count()
    };
    let before = pinned();
    assert!(before > 2 * scene.lab.pods().len(), "those of ports, and of the punt pair: {before}");
    cleanup(&["--force"]);
    assert_eq!(filters(&scene, "y/a"), 2);
    eventually("the pins are back", PATIENCE, || pinned() == before);
    agent.kill().expect("killed");
    assert_eq!(filters(&scene, "y/a"), 2);
    cleanup(&[]);
    assert_eq!(filters(&scene, "y/a"), 0);
    assert!(tc(&scene, &format!("filter show dev {dev} egress")).contains("pref 7"));
    // `lab down` finds nothing either, nor does a second cleanup.
    cleanup(&[]);
}

#[test]
fn detached_filters_are_gone() {
    let scene = Scene::new(&format!("{CLSACT}on_exit: detach\n"));
    let agent = scene.agent();
    assert_eq!(filters(&scene, "y/a"), 2);
    let (ended, _) = agent.terminate().expect("an end");
    assert!(ended.success(), "{ended}");
    assert_eq!(filters(&scene, "y/a"), 0);
}
