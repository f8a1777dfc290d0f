//! Inline mode when somebody lays hands on what is its own: pins, the punt pair, the figures. Needs root.

mod faults;
mod inline_kernel;
mod scene;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use faults::Denied;
use inline_kernel::pins;
use lab::Transport;
use scene::*;

const PATIENCE: Duration = Duration::from_secs(15);

/// The pinned links, without the maps.
fn links(pins: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(pins).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    entries
        .filter(|pin| {
            pin.to_string_lossy().rsplit_once('-').is_some_and(|(_, index)| index.parse::<u32>().is_ok())
        })
        .collect()
}

#[test]
fn pins_and_punt_pair_are_mended_and_go_with_a_cleanup() {
    let scene = Scene::new("mode: inline\n");
    let mut denied = Denied::seen_to_arrive(&scene);
    let agent = scene.agent();
    denied.count_from_now();
    let pins = pins(&scene);
    let before = links(&pins);
    assert_eq!(before.len(), 2 * scene.lab.pods().len() + 3, "pods, uplink and the pair: {before:?}");
    before.iter().for_each(|pin| fs::remove_file(pin).expect("a pin"));
    eventually("pins are put back", PATIENCE, || links(&pins) == before);
    denied.check();
    assert!(agent.log().contains("somebody has removed pins"), "{}", agent.log());

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
    assert!(!pins.exists(), "{:?}", links(&pins));
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
