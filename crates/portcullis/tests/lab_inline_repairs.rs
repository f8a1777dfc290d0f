//! Inline mode when somebody lays hands on what is its own: the punt pair, the figures. Needs root. Pins are
//! F7 of `lab_inline_faults.rs`.

mod faults;
mod inline_kernel;
mod scene;

use std::fs;

use faults::{Denied, PATIENCE};
use inline_kernel::pins;
use lab::Transport;
use scene::*;

#[test]
fn the_punt_pair_is_mended_and_goes_with_a_cleanup() {
    let scene = Scene::new("mode: inline\n");
    let mut denied = Denied::seen_to_arrive(&scene);
    let agent = scene.agent();
    denied.count_from_now();
    let pins = pins(&scene);
    let shown = |end: &str| text(&scene.node(&format!("ip -o link show {end}")));
    let made = shown("portcullis0").contains("mtu 3506");
    assert!(made, "{}", shown("portcullis0"));
    assert!(scene.node("ip link set portcullis0 mtu 1300 && ip link set portcullis1 down").status.success());
    eventually("the pair is as it was", PATIENCE, || {
        shown("portcullis0").contains("mtu 3506") && shown("portcullis1").contains("state UP")
    });
    let _servers = scene.servers();
    assert!(scene.reaches(&pod("x/a"), &pod("y/a"), 80, Transport::Tcp), "{}", agent.log());
    assert!(!scene.reaches(&pod("z/a"), &pod("y/a"), 80, Transport::Tcp));
    denied.check();

    agent.terminate().expect("it ends");
    denied.check();
    let state = scene.home.state_dir();
    let cleaned = scene.portcullis(&["cleanup", "--state-dir", state.to_str().expect("a plain path")]);
    assert!(text(&cleaned).contains("the punt pair"), "{}", text(&cleaned));
    assert!(!scene.node("ip link show portcullis0").status.success());
    assert!(!pins.exists(), "all pins are gone");
    assert!(scene.reaches(&pod("z/a"), &pod("y/a"), 80, Transport::Tcp), "the kernel forwards all again");
}

#[test]
fn figures_that_cannot_be_written_harm_nothing_else() {
    let scene = Scene::new("mode: inline\n");
    let mut agent = scene.agent();
    let obstacle = scene.home.state_dir().join(".metrics.prom.new");
    eventually("there is an obstacle", PATIENCE, || fs::create_dir(&obstacle).is_ok());
    eventually("it is told", PATIENCE, || agent.log().contains("the figures cannot be written"));
    let _servers = scene.servers();
    assert!(scene.reaches(&pod("x/a"), &pod("y/a"), 80, Transport::Tcp));
    assert!(!scene.reaches(&pod("z/a"), &pod("y/a"), 80, Transport::Tcp));
    fs::remove_dir(&obstacle).expect("removed");
    eventually("and when it is over", PATIENCE, || agent.log().contains("can be written again"));
    agent.wait_until_ready().expect("it goes on");
}
