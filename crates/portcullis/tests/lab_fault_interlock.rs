//! What holds pods before anybody judges them: programs that are there before the link is up, and the interlock.

mod faults;
mod scene;

use std::fs;

use faults::{Denied, INLINE, allowed, fault};
use lab::Transport;
use scene::*;

#[test]
fn k12_a_program_is_there_before_the_link_is_up() {
    fault("K12", "link set up after the program was attached", || program_before_link(""));
}

#[test]
fn k12_a_program_is_there_before_the_link_is_up_inline() {
    fault("K12", "link set up after the program was attached, inline", || program_before_link(INLINE));
}

fn program_before_link(settings: &str) -> String {
    let scene = Scene::new(settings);
    let mut denied = Denied::seen_to_arrive(&scene);
    let sender = &scene.link("z/b").interface;
    assert!(scene.node(&format!("ip link set {sender} down")).status.success());
    denied.count_from_now();
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    let in_force = |figures: &std::collections::HashMap<String, u64>| {
        figures.get("portcullis_table_generation").is_some_and(|generation| *generation > 0)
    };
    agent.wait_until("has no policy in force", in_force).expect("a table");
    assert!(scene.node(&format!("ip link set {sender} up")).status.success());
    agent.wait_until_ready().expect("ready");
    allowed(&scene, Transport::Udp, 1000);
    denied.finish(500)
}

#[test]
fn k13_an_interface_that_nobody_has_claimed_is_held() {
    fault("K13", "a pod's interface that no port claims yet, held by pattern", || held_by_pattern(""));
}

#[test]
fn k13_an_interface_that_nobody_has_claimed_is_held_inline() {
    let what = "a pod's interface that no port claims yet, held by pattern, inline";
    fault("K13", what, || held_by_pattern(INLINE));
}

fn held_by_pattern(settings: &str) -> String {
    let scene = Scene::new(settings);
    // y/a is not among the ports: its interface belongs to nobody, and the kernel would forward to it.
    let unclaimed = &scene.link("y/a").interface;
    let config = fs::read_to_string(scene.home.config()).expect("a configuration");
    let entry = format!("- interface: {unclaimed:?}\n  pod: \"y/a\"\n");
    assert!(config.contains(&entry), "{config}");
    let pattern = unclaimed.trim_end_matches(|c: char| c.is_ascii_digit());
    let held = format!("{}interlock: {{hold: [\"{pattern}*\"]}}\n", config.replace(&entry, ""));
    fs::write(scene.home.config(), held).expect("a configuration");

    let mut denied = Denied::seen_to_arrive(&scene);
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    let ready = scene.lab.pods().len() as u64 - 1;
    agent
        .wait_until("is not ready", |figures| figures.get("portcullis_ready_pods") == Some(&ready))
        .expect("ready");
    denied.count_from_now();
    let _servers = scene.servers();
    assert!(!scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Udp), "nor what policy would allow");
    assert!(scene.reaches(&pod("x/b"), &pod("y/b"), 80, Transport::Udp), "claimed pods reach each other");
    denied.finish(500)
}
