//! What holds pods before anybody judges them: programs that are there before the link is up, and the interlock.

mod faults;
mod scene;

use std::fs;
use std::time::Duration;

use faults::{Denied, fault};
use lab::Transport;
use scene::*;

/// The node's end of a pod's link.
fn interface(scene: &Scene, name: &str) -> String {
    let found = scene.lab.pods().iter().find(|link| lab::Place::Pod(link.name.clone()) == pod(name));
    found.expect("a pod").interface.clone()
}

#[test]
fn k12_a_program_is_there_before_the_link_is_up() {
    fault("K12", "link set up after the program was attached", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let sender = interface(&scene, "z/b");
        assert!(scene.node(&format!("ip link set {sender} down")).status.success());
        denied.count_from_now();
        let mut agent = scene.home.start(&scene.lab).expect("an agent");
        let in_force = |figures: &std::collections::HashMap<String, u64>| {
            figures.get("portcullis_table_generation").is_some_and(|generation| *generation > 0)
        };
        agent.wait_until("has no policy in force", in_force).expect("a table");
        assert!(scene.node(&format!("ip link set {sender} up")).status.success());
        agent.wait_until_ready().expect("ready");
        let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
        eventually("allowed packets arrive", Duration::from_secs(10), || allowed.report().delivered > 500);
        denied.finish(500)
    });
}

#[test]
fn k13_an_interface_that_nobody_has_claimed_is_held() {
    fault("K13", "a pod's interface that no port claims yet, held by pattern", || {
        let scene = Scene::new("");
        // y/a is not among the ports: its interface belongs to nobody, and the kernel would forward to it.
        let unclaimed = interface(&scene, "y/a");
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
    });
}
