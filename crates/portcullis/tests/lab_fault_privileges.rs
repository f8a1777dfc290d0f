//! An agent that has given up what it does not need goes on doing what it must.

mod faults;
mod process;
mod scene;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use faults::{Denied, fault, thousands};
use lab::Transport;
use process::{NET_ADMIN, child, confined, sets, value};
use scene::*;

#[test]
fn f28_ten_seconds_without_privileges() {
    fault("F28", "privileges given up", || without_privileges("", Duration::from_secs(10)));
}

#[test]
fn f28_ten_seconds_without_privileges_in_inline_mode() {
    let settings = "mode: inline\n";
    fault("F28", "privileges given up, inline", || without_privileges(settings, Duration::from_secs(10)));
}

#[test]
#[ignore = "a minute: make soak"]
fn f28_a_minute_without_privileges() {
    fault("F28", "privileges given up", || without_privileges("", Duration::from_secs(60)));
}

/// Reloads under traffic, and looks at every thread before and after.
fn without_privileges(settings: &str, length: Duration) -> String {
    let scene = Scene::new(settings);
    let mut denied = Denied::seen_to_arrive(&scene);
    let agent = scene.agent();
    let process = PathBuf::from(format!("/proc/{}", agent.id()));
    let threads = confined(&process);
    assert!(threads >= 3, "main thread, worker and control: {threads}");
    let broker = child(agent.id());
    assert_eq!(sets(&broker), [0, NET_ADMIN, NET_ADMIN, NET_ADMIN, 0], "the broker's capabilities");
    assert_eq!(value(&broker, "NoNewPrivs"), "1");

    denied.count_from_now();
    let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
    let start = Instant::now();
    let (mut reloads, mut flushes, mut renewals, mut pairs) = (0, 0, 0, 0);
    while start.elapsed() < length {
        reloads += 1;
        scene.home.apply("policy.yaml", &format!("{Y_A_FROM_X}# {reloads}\n")).expect("a manifest");
        let other = Y_A_FROM_X.replace("a-from-x", &format!("again-{reloads}"));
        scene.home.apply("other.yaml", &other).expect("a manifest");
        // The broker's work: somebody flushes the interlock.
        if reloads % 10 == 1 {
            flushes += 1;
            assert!(scene.node("nft flush ruleset").status.success());
        }
        if scene.has_punt_pair() && reloads % 10 == 8 {
            pairs += 1;
            assert!(scene.node("ip link del portcullis0").status.success());
        }
        // New sockets, and a program attached anew.
        if reloads % 10 == 5 {
            renewals += 1;
            let link = scene.lab.pod("z", "c").expect("a pod");
            scene.lab.unplug(link).expect("an interface less");
            scene.lab.plug(link).expect("the interface anew");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let generation = || agent.figures().expect("figures")["portcullis_table_generation"];
    eventually("the reloads are in force", Duration::from_secs(15), || generation() > reloads);
    let told = || agent.log().matches("put in force again").count();
    eventually("the interlock is back", Duration::from_secs(15), || told() == flushes);
    let server = lab::Servers::start_at(&scene.lab, &[pod("z/c")], &[90]).expect("a server");
    eventually("the renewed pod is reached", Duration::from_secs(15), || {
        scene.reaches(&pod("x/a"), &pod("z/c"), 90, Transport::Udp)
    });
    drop(server);
    let made = || agent.log().matches("it is made again").count();
    eventually("the punt pair is there again", Duration::from_secs(15), || made() == pairs);
    confined(&process);

    let log = agent.log();
    assert!(!log.contains("not permitted") && !log.contains("os error 1)"), "{log}");
    let allowed = allowed.stop();
    let loss = allowed.lost() * 100 / allowed.sent.max(1);
    assert!(allowed.delivered > 1000 && loss < 10, "{allowed:?}");
    format!(
        "{reloads} reloads, {flushes} flushes of nftables and {renewals} new interfaces, {pairs} new punt pairs in {} s, {threads} threads with 4 capabilities, {} system calls allowed, {} of {} allowed \
         packets lost, {}",
        length.as_secs(),
        portcullis::privileges::calls::allowed(),
        thousands(allowed.lost()),
        thousands(allowed.sent),
        denied.finish(length.as_secs() * 300)
    )
}
