//! Listeners of `portcullis flows` that fail.

mod faults;
mod scene;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use faults::{Denied, fault, thousands};
use lab::{RawPort, Transport};
use scene::*;
use serde_json::Value;
use testkit::frames::frame;

/// What a listener was told.
#[derive(Default)]
struct Heard {
    flows: u64,
    lost: u64,
}

/// A connection to the agent's socket that has asked for everything from now on.
fn listener(scene: &Scene) -> UnixStream {
    let mut stream =
        UnixStream::connect(scene.home.state_dir().join("admin.sock")).expect("the agent's socket");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    stream
        .write_all(b"GET /v1/flows?follow=true&packets=true HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("a question");
    stream
}

/// Reads what has come and what comes, until `enough`.
fn hear(stream: &UnixStream, mut enough: impl FnMut(&Heard) -> bool) -> Heard {
    let mut heard = Heard::default();
    // Lines of HTTP and sizes of chunks are no JSON. A chunk ends with a line.
    for line in BufReader::new(stream).lines() {
        let line = line.expect("the agent goes on");
        let Ok(Value::Object(line)) = serde_json::from_str::<Value>(&line) else { continue };
        match line.get("lost") {
            Some(lost) => heard.lost += lost.as_u64().expect("a number"),
            None => heard.flows += 1,
        }
        if enough(&heard) {
            return heard;
        }
    }
    panic!("the agent has ended the stream after {} flows and {} lost", heard.flows, heard.lost);
}

#[test]
fn f33_a_listener_that_stops_reading_loses_and_packets_do_not_notice() {
    fault("F33", "somebody who follows flows stops reading", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let _agent = scene.agent();
        denied.count_from_now();
        let allowed = scene.stream(&pod("x/b"), &pod("z/c"), 90, Transport::Udp, 1000);
        eventually("allowed packets arrive", Duration::from_secs(10), || allowed.report().delivered > 100);

        let (stuck, reading) = (listener(&scene), listener(&scene));
        let (flooding, before) = (AtomicBool::new(true), allowed.report());
        let told = std::thread::scope(|threads| {
            threads.spawn(|| flood(&scene, &flooding));
            // It reads on while the other one does not: for more records than anybody may lag behind.
            let others = hear(&reading, |heard| heard.flows > 12_000);
            // A busy machine may have lost some before they came to anybody; these are many more.
            let told = hear(&stuck, |heard| heard.lost > others.lost + 3000);
            flooding.store(false, Ordering::Relaxed);
            told
        });
        std::thread::sleep(Duration::from_millis(200));
        let after = allowed.stop();
        let sent = after.sent - before.sent;
        assert!(sent > 500, "{after:?}");
        assert_eq!(after.lost(), 0, "{after:?}");
        let denied = denied.finish(500);
        let lost = thousands(told.lost);
        format!("{lost} records lost and told, 0 of {} allowed packets lost, {denied}", thousands(sent))
    });
}

/// Frames of many reasons to be dropped, some 10,000 a second: within the rate of each, so that none is lost before
/// it comes to the listeners.
fn flood(scene: &Scene, flooding: &AtomicBool) {
    let from = scene.lab.pod("z", "a").expect("a pod");
    let port = RawPort::open(&from.namespace, "eth0").expect("a port");
    let (ours, theirs) =
        (from.addresses[0].to_string(), scene.lab.pod("y", "a").expect("a pod").addresses[0]);
    let theirs = theirs.to_string();
    let good = frame().from(from.pod_mac).to(from.host_mac);
    let frames = [
        good.clone().ip(&ours, &theirs).udp(1, 81).build(),
        good.clone().ip(&theirs, &ours).udp(1, 81).build(),
        good.clone().ip(&ours, "224.0.0.9").udp(1, 81).build(),
        good.clone().ip(&ours, &theirs).tcp(1, 80).ack().build(),
        good.ip(&ours, &theirs).udp(1, 81).build()[..30].to_vec(),
    ];
    let start = Instant::now();
    while flooding.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(30) {
        for frame in frames.iter().cycle().take(50) {
            port.send(frame).expect("a sent frame");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
