//! The machine's own faults: too little of something, and clocks that are elsewhere.

mod faults;
mod scene;

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use faults::{Denied, fault};
use lab::Transport;
use portcullis::lab_agent::{AgentHome, LabAgent};
use scene::*;

const PATIENCE: Duration = Duration::from_secs(20);
const GENERATION: &str = "portcullis_table_generation";

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
fn serves(scene: &Scene, meanwhile: impl FnOnce(&LabAgent)) -> String {
    let mut denied = Denied::seen_to_arrive(scene);
    let agent = scene.agent();
    denied.count_from_now();
    let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 500);
    eventually("allowed packets arrive", PATIENCE, || allowed.report().delivered > 100);
    meanwhile(&agent);
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
        format!("24 are refused with what to raise; with a soft limit of 24, {}", serves(&scene, |_| {}))
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
        let said = serves(&scene, |_| {
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
        serves(&scene, |_| std::thread::sleep(Duration::from_secs(3)))
    });
}

/// A policy of y/b that allows it 50,000 blocks, none of which is a pod's.
fn wide_policy() -> String {
    let mut text =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: wide, namespace: \"y\"}\n\
        spec:\n  podSelector: {matchLabels: {pod: b}}\n  policyTypes: [Ingress]\n  ingress:\n"
            .to_owned();
    for rule in 0..50_000 {
        let block = Ipv4Addr::from_bits(0x1400_0000 + (rule << 8));
        writeln!(text, "  - from: [{{ipBlock: {{cidr: {block}/24}}}}]\n    ports: [{{port: {}}}]", 1 + rule)
            .expect("room");
    }
    text
}

#[test]
fn f29_little_memory() {
    fault("F29", "512 MiB of memory, and a policy of 50,000 rules", || {
        let group = Group::new("memory", "memory.limit_in_bytes", "512M");
        let mut scene = Scene::new("");
        started_by(&mut scene, &group.enter(), "", "");
        let said = serves(&scene, |agent| {
            scene.home.apply("wide.yaml", &wide_policy()).expect("a manifest");
            let in_force = || agent.figures().is_ok_and(|figures| figures.get(GENERATION) > Some(&1));
            eventually("the policy is in force", PATIENCE, in_force);
        });
        let peak = fs::read_to_string(group.0.join("memory.max_usage_in_bytes")).expect("a figure");
        let peak = peak.trim().parse::<u64>().expect("a number") >> 20;
        format!("in force with {peak} MiB at most, {said}")
    });
}

#[test]
fn f30_ten_years_later() {
    fault("F30", "a monotonic clock ten years ahead", || {
        let mut scene = Scene::new("");
        started_by(&mut scene, "", "unshare -T --monotonic 315360000 --boottime 315360000", "");
        serves(&scene, |_| std::thread::sleep(Duration::from_secs(2)))
    });
}
