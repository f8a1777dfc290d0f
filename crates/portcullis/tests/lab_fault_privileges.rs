//! An agent that has given up what it does not need goes on doing what it must.

mod faults;
mod scene;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use faults::{Denied, fault, thousands};
use lab::Transport;
use scene::*;

/// CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK and CAP_BPF (include/uapi/linux/capability.h).
const KEPT: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 39;
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn f28_ten_seconds_without_privileges() {
    fault("F28", "privileges given up", || without_privileges(Duration::from_secs(10)));
}

#[test]
#[ignore = "a minute: make soak"]
fn f28_a_minute_without_privileges() {
    fault("F28", "privileges given up", || without_privileges(Duration::from_secs(60)));
}

/// Reloads under traffic, and looks at every thread before and after.
fn without_privileges(length: Duration) -> String {
    let scene = Scene::new("");
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
    let (mut reloads, mut flushes, mut renewals) = (0, 0, 0);
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
    confined(&process);

    let log = agent.log();
    assert!(!log.contains("not permitted") && !log.contains("os error 1)"), "{log}");
    let allowed = allowed.stop();
    let loss = allowed.lost() * 100 / allowed.sent.max(1);
    assert!(allowed.delivered > 1000 && loss < 2, "{allowed:?}");
    format!(
        "{reloads} reloads, {flushes} flushes of nftables and {renewals} new interfaces in {} s, {threads} threads with 4 capabilities, {} system calls allowed, {} of {} allowed \
         packets lost, {}",
        length.as_secs(),
        portcullis::privileges::calls::allowed(),
        thousands(allowed.lost()),
        thousands(allowed.sent),
        denied.finish(length.as_secs() * 300)
    )
}

/// Asserts that all threads of the process have given up what they do not need; tells how many there are.
fn confined(process: &Path) -> usize {
    let threads: Vec<_> = fs::read_dir(process.join("task")).expect("threads").flatten().collect();
    for thread in &threads {
        let thread = thread.path();
        assert_eq!(sets(&thread), [0, KEPT, KEPT, KEPT, 0], "{}", value(&thread, "Name"));
        assert_eq!(value(&thread, "NoNewPrivs"), "1");
        assert_eq!(value(&thread, "Seccomp"), "2", "a filter");
    }
    threads.len()
}

/// The inheritable, permitted, effective, bounding and ambient set.
fn sets(process: &Path) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|set| u64::from_str_radix(&value(process, set), 16).expect("a set"))
}

fn value(process: &Path, name: &str) -> String {
    let status = fs::read_to_string(process.join("status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in\n{status}")).trim().to_owned()
}

/// The one child of a process.
fn child(of: u32) -> PathBuf {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).expect("children");
    let children: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(children.len(), 1, "the broker: {children:?}");
    PathBuf::from(format!("/proc/{}", children[0]))
}
