//! Inline mode while policy changes: what stays allowed loses nothing, and what does not, stops. Needs root.

mod inline_kernel;
mod scene;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bench::generator::{Bulk, Load, PacketSocket, Sink, Span, Stop};
use inline_kernel::Kernel;
use lab::{Family, Transport};
use portcullis::lab_agent::LabAgent;
use scene::*;

const PATIENCE: Duration = Duration::from_secs(30);
/// Little more than what is needed, so that many verdicts have the same hash.
const CAPACITY: u32 = 8192;
/// Slow enough for a receiver that is not run for a second.
const RATE: u64 = 10_000;
/// The longest that something may go on that a new policy denies. It takes milliseconds; a machine may be busy.
const CUT: Duration = Duration::from_secs(2);

/// y/a accepts x on UDP port 80 and one port more.
fn policy(also: u16) -> String {
    Y_A_FROM_X.replace("UDP}]", &format!("UDP}}, {{port: {also}}}]"))
}

fn generation(agent: &LabAgent) -> u64 {
    agent.figures().ok().and_then(|mut figures| figures.remove("portcullis_table_generation")).unwrap_or(0)
}

/// Gives the agent another policy and waits until it is in force.
fn change(scene: &Scene, agent: &LabAgent, policy: &str) {
    let before = generation(agent);
    scene.home.apply("policy.yaml", policy).expect("a manifest");
    eventually("the new policy is in force", PATIENCE, || generation(agent) > before);
}

/// So many flows, of which everybody knows, while policy changes again and again.
fn none_of_these_is_lost(flows: u32) {
    let scene = Scene::new(&format!("mode: inline\nflows: {{capacity: {CAPACITY}}}\n"));
    scene.silence("y/a");
    let agent = scene.agent();
    let kernel = Kernel::of(&scene, CAPACITY);
    let load = Load::between(&scene.lab, &pod("x/b"), &pod("y/a"), Family::V4, 80).expect("a load");
    let source_ports = Span::of(20_000, flows);
    let load = Load { source_ports, flows: u64::from(flows), stride: 1, rate: Some(RATE), ..load };
    let socket = PacketSocket::open(&scene.link("x/b").namespace, "eth0").expect("a socket");
    let asked = || ["x/b", "y/a"].map(|name| kernel.of_pod(&scene, name)).map(|of| of.missed + of.stale);
    let once = Load { limit: load.flows, ..load.clone() };
    eventually("the kernel knows all of them", PATIENCE, || {
        let before = (asked(), kernel.of_pod(&scene, "y/a").hit);
        socket.send(&once, &Stop::default()).expect("sent");
        eventually("they have arrived", PATIENCE, || {
            kernel.of_pod(&scene, "y/a").hit >= before.1 + load.flows || asked() != before.0
        });
        asked() == before.0
    });

    let before = asked();
    let sink = Sink::open(&scene.link("y/a").namespace, "eth0", load.run).expect("a receiver");
    let load = Load { limit: u64::MAX, time: Duration::from_secs(60), ..load };
    let stop = Stop::default();
    let offered = thread::scope(|scope| {
        let sending = scope.spawn(|| socket.send(&load, &stop).expect("sent"));
        for also in 1000..1005 {
            let through = sink.receipt().received;
            change(&scene, &agent, &policy(also));
            eventually("they go on", PATIENCE, || sink.receipt().received >= through + u64::from(flows));
        }
        stop.now();
        sending.join().expect("the sender")
    });
    let receipt = sink.finish(offered.frames).expect("a receiver");
    assert_eq!((receipt.lost(offered.frames), receipt.duplicates), (0, 0), "{receipt:?}");
    assert_eq!(asked(), before, "a packet had to be asked about\n{}", agent.log());
}

#[test]
fn of_256_flows_that_stay_allowed_nothing_is_lost_or_asked_about() {
    none_of_these_is_lost(256);
}

#[test]
fn of_4096_flows_that_stay_allowed_nothing_is_lost_or_asked_about() {
    none_of_these_is_lost(4096);
}

#[test]
fn bulk_that_a_new_policy_denies_stops() {
    let scene = Scene::new("mode: inline\n");
    let agent = scene.agent();
    let [cut, kept] = ["y/a", "y/c"].map(|to| {
        let address = SocketAddr::new(scene.address(&pod(to), Family::V4), 80);
        Bulk::start(&scene.link("x/b").namespace, &scene.link(to).namespace, address, None).expect("a stream")
    });
    eventually("both run", PATIENCE, || [&cut, &kept].iter().all(|bulk| bulk.received() > 10_000_000));
    let applied = scene.home.apply("policy.yaml", Y_A_FROM_Z).expect("a manifest");
    thread::sleep(2 * CUT);
    let more = kept.received() + 10_000_000;
    eventually("the other goes on", PATIENCE, || kept.received() > more);
    let last = cut.finish().expect("a stream").expect("something was read");
    let last = last.saturating_duration_since(applied);
    println!("the last of it came {last:?} after the change");
    assert!(last < CUT, "the last of it came after {last:?}\n{}", agent.log());
    kept.finish().expect("the other is whole");
}

#[test]
fn a_stream_that_a_new_policy_denies_stops_and_another_loses_nothing() {
    let scene = Scene::new("mode: inline\n");
    let agent = scene.agent();
    let cut = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 1000);
    let kept = scene.stream(&pod("x/b"), &pod("y/c"), 80, Transport::Udp, 1000);
    eventually("both arrive", PATIENCE, || cut.report().delivered > 200 && kept.report().delivered > 200);
    let lost = kept.report().lost();
    let applied = scene.home.apply("policy.yaml", Y_A_FROM_Z).expect("a manifest");
    thread::sleep(2 * CUT);
    let report = cut.stop();
    let last = report.last_delivery.expect("a delivery").saturating_duration_since(applied);
    println!("the last one came {last:?} after the change");
    assert!(last < CUT, "the last one came after {last:?}\n{}", agent.log());
    assert!(report.sent > report.delivered + 500, "it was sent all the time");
    let kept = kept.stop();
    assert!(kept.lost() <= lost, "{kept:?}");
}
