//! The machine's own faults: too little of something, and clocks that are elsewhere.

mod faults;
mod scene;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use faults::{Denied, fault};
use lab::Transport;
use portcullis::lab_agent::AgentHome;
use scene::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Has the agent of a scene started by a script: `before`, then `exec`, with words before the command.
fn started_by(scene: &mut Scene, before: &str, words: &str, settings: &str) {
    let script = scene.path("start");
    let text = format!("#!/bin/sh\n{before}\nexec {words} {BINARY} \"$@\"\n");
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script that can be run");
    scene.home = AgentHome::new(&scene.path(""), &script, &scene.lab, false, settings).expect("a home");
}

/// An agent that cannot start: what it says.
fn refused(scene: &Scene) -> String {
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    let status = agent.wait().expect("an end");
    let log = agent.log();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    log
}

/// Traffic that policy allows, and that it denies, while `meanwhile` lasts.
fn serves(scene: &Scene, meanwhile: impl FnOnce()) -> String {
    let mut denied = Denied::seen_to_arrive(scene);
    let agent = scene.agent();
    denied.count_from_now();
    let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 500);
    eventually("allowed packets arrive", PATIENCE, || allowed.report().delivered > 100);
    meanwhile();
    let before = allowed.report().delivered;
    eventually("allowed packets still arrive", PATIENCE, || allowed.report().delivered > before + 200);
    let log = agent.log();
    assert!(!log.contains("panicked") && !log.contains("has not turned"), "{log}");
    let (status, _) = agent.terminate().expect("an end");
    assert!(status.success(), "{status}");
    denied.finish(300)
}

#[test]
fn f29_memory_that_may_not_be_locked() {
    fault("F29", "RLIMIT_MEMLOCK of 64 KiB without CAP_IPC_LOCK", || {
        let mut scene = Scene::new("");
        started_by(&mut scene, "ulimit -l 64", "setpriv --bounding-set -ipc_lock --", "");
        let said = refused(&scene);
        assert!(said.contains("CAP_IPC_LOCK") && said.contains("LimitMEMLOCK"), "{said}");
        "refused with what to raise".to_owned()
    });
}

#[test]
fn f29_few_descriptors() {
    fault("F29", "few file descriptors", || {
        let mut scene = Scene::new("");
        started_by(&mut scene, "ulimit -n 24", "", "");
        let said = refused(&scene);
        assert!(said.contains("LimitNOFILE"), "{said}");
        // The soft limit alone is raised by the agent itself.
        started_by(&mut scene, "ulimit -Sn 24; ulimit -Hn 256", "", "");
        format!("24 are refused with what to raise; with a soft limit of 24, {}", serves(&scene, || {}))
    });
}

/// A file system on the state directory.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        sh(&format!("umount -l {0}/bpf; umount -l {0}", self.0.display()));
    }
}

#[test]
fn f29_a_full_disk() {
    fault("F29", "a full disk under the state directory", || {
        let scene = Scene::new("");
        let state = scene.home.state_dir();
        fs::create_dir_all(&state).expect("a folder");
        assert!(sh(&format!("mount -t tmpfs -o size=256k none {}", state.display())).status.success());
        let disk = Disk(state.clone());
        let log = scene.path("agent.log");
        let told = |what: &str| fs::read_to_string(&log).is_ok_and(|log| log.contains(what));
        let fill = state.join("fill");
        let said = serves(&scene, || {
            sh(&format!("dd if=/dev/zero of={} bs=4k", fill.display()));
            eventually("it is told", PATIENCE, || told("the figures cannot be written"));
            fs::remove_file(&fill).expect("room again");
            eventually("that it is over, too", PATIENCE, || told("the figures can be written again"));
        });
        drop(disk);
        format!("told once, served on, {said}")
    });
}

/// A control group of this test's own.
struct Group(PathBuf);

impl Group {
    fn new(controller: &str, setting: &str, value: &str) -> Self {
        let group = PathBuf::from(format!("/sys/fs/cgroup/{controller}/portcullis-{}", std::process::id()));
        fs::create_dir_all(&group).expect("a control group (cgroup v1)");
        fs::write(group.join(setting), value).expect("a limit");
        Self(group)
    }

    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty once the agent and its broker are gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn f29_a_tenth_of_a_processor() {
    fault("F29", "10 % of a processor", || {
        let group = Group::new("cpu", "cpu.cfs_quota_us", "10000");
        let mut scene = Scene::new("");
        started_by(&mut scene, &group.enter(), "", "");
        serves(&scene, || std::thread::sleep(Duration::from_secs(3)))
    });
}

#[test]
fn f30_ten_years_later() {
    fault("F30", "a monotonic clock ten years ahead", || {
        let mut scene = Scene::new("");
        started_by(&mut scene, "", "unshare -T --monotonic 315360000 --boottime 315360000", "");
        serves(&scene, || std::thread::sleep(Duration::from_secs(2)))
    });
}
