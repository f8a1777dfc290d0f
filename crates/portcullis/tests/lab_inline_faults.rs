//! Inline mode when things break: what was allowed goes on, what is new waits for somebody to judge it, and what is
//! denied never arrives.

mod asked;
mod faults;
mod inline_kernel;
mod process;
mod scene;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use asked::{number, status};
use faults::{Denied, INLINE, PATIENCE, allowed, fault, goes_on, went_on};
use inline_kernel::{Kernel, pins};
use lab::{Family, Place, Stream, StreamReport, Transport};
use nix::sys::signal::Signal;
use process::Hung;
use scene::*;

/// Records that arrive in a second, over this time.
fn rate(stream: &Stream, time: Duration) -> f64 {
    let (before, start) = (stream.report().delivered, Instant::now());
    std::thread::sleep(time);
    (stream.report().delivered - before) as f64 / start.elapsed().as_secs_f64()
}

/// A connection that nobody has judged yet: to y/b, which every pod may reach, on a port of its own.
fn new_connection(scene: &Scene, port: u16) -> bool {
    let _server = lab::Servers::start_at(&scene.lab, &[pod("y/b")], &[port]).expect("a server");
    scene.reaches(&pod("x/a"), &pod("y/b"), port, Transport::Tcp)
}

#[test]
fn f1_killed_and_restarted_beside_tcp() {
    fault("F1", "killed under load, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Tcp, 5000);
        let time = Duration::from_secs(2);
        let before = rate(&stream, time);
        agent.kill().expect("killed");
        let gap = rate(&stream, time);
        assert!(!new_connection(&scene, 91), "nobody judges what is new");
        let start = Instant::now();
        let agent = scene.agent();
        let back = start.elapsed();
        let after = rate(&stream, time);
        assert!(agent.log().contains("did not shut down cleanly"), "{}", agent.log());
        assert!(agent.log().contains("went on with the connections"), "{}", agent.log());
        assert!(new_connection(&scene, 91));
        let report = stream.stop();
        assert!(!report.broken && report.longest_gap < PATIENCE, "{report:?}");
        // The sender paces itself: what it could not send is missing from the rate, which `make bench-inline` measures.
        assert!(gap > 0.0 && after > 0.0, "{before:.0}, {gap:.0}, {after:.0} records a second");
        format!(
            "TCP {:.0} % of its rate without an agent and {:.0} % after, no reset, at most {} ms without a record, \
             ready in {} ms, {}",
            gap / before * 100.0,
            after / before * 100.0,
            report.longest_gap.as_millis(),
            back.as_millis(),
            denied.finish(3000)
        )
    });
}

#[test]
fn f3_the_process_stopped() {
    fault("F3", "the process stopped for 5 s and continued, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Udp, 1000);
        agent.signal(Signal::SIGSTOP).expect("a signal");
        let before = stream.report();
        std::thread::sleep(Duration::from_secs(5));
        assert!(!new_connection(&scene, 91), "nobody judges what is new");
        let missing = went_on(stream, &before);
        agent.signal(Signal::SIGCONT).expect("a signal");
        eventually("new connections again", PATIENCE, || new_connection(&scene, 91));
        let (status, _) = agent.terminate().expect("an end");
        assert!(status.success(), "it went on and ended well: {status}");
        format!("{missing} allowed packets missing, {}", denied.finish(3000))
    });
}

#[test]
fn f3_the_worker_hangs() {
    fault("F3", "the worker thread stopped, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let mut agent = scene.agent();
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Udp, 1000);
        let worker = Hung::thread(agent.id(), "worker-0");
        let start = Instant::now();
        eventually("it is noticed", PATIENCE, || agent.log().contains("has not turned for 1 s"));
        let noticed = start.elapsed();
        let before = stream.report();
        let ended = worker.end();
        let aborted = start.elapsed();
        let status = agent.wait().expect("an end");
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status} {ended:?}");
        assert!(agent.log().contains("has not turned for 3 s"), "{}", agent.log());
        assert!(!new_connection(&scene, 91), "nobody judges what is new");
        let missing = went_on(stream, &before);
        drop(agent);
        let _agent = scene.agent();
        assert!(new_connection(&scene, 91));
        format!(
            "noticed after {:.1} s, aborted after {:.1} s, {missing} allowed packets missing, {}",
            noticed.as_secs_f64(),
            aborted.as_secs_f64(),
            denied.finish(2000)
        )
    });
}

#[test]
fn f4_the_worker_panics() {
    fault("F4", "the worker panics, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let when = [("PORTCULLIS_DEBUG_PANIC_AFTER", Path::new("3"))];
        let mut agent = scene.home.start_with(&scene.lab, &when).expect("an agent");
        agent.wait_until_ready().expect("ready");
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Tcp, 1000);
        let status = agent.wait().expect("an end");
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
        let log = agent.log();
        assert!(log.contains("a thread has panicked") && log.contains("worker-0"), "{log}");
        goes_on(&stream);
        assert!(!new_connection(&scene, 91), "nobody judges what is new");
        assert!(!stream.stop().broken);
        format!("aborted, TCP goes on, {}", denied.finish(1000))
    });
}

#[test]
fn f5_ended_and_started_again() {
    fault("F5", "SIGTERM under load, 10 times, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let mut agent = scene.agent();
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Tcp, 5000);
        let pinned = || fs::read_dir(pins(&scene)).expect("pins").count();
        let before = pinned();
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            let (status, _) = agent.terminate().expect("an end");
            assert!(status.success(), "round {round}: {status}");
            assert_eq!(pinned(), before, "what stays is what was declared");
            goes_on(&stream);
            let start = Instant::now();
            agent = scene.agent();
            slowest = slowest.max(start.elapsed());
            assert!(new_connection(&scene, 91), "round {round}");
            goes_on(&stream);
        }
        assert!(!agent.log().contains("did not shut down cleanly"), "{}", agent.log());
        let report = stream.stop();
        assert!(!report.broken, "{report:?}");
        format!(
            "exit code 0, ready again in at most {} ms, TCP at most {} ms without a record, {}",
            slowest.as_millis(),
            report.longest_gap.as_millis(),
            denied.finish(3000)
        )
    });
}

#[test]
fn f7_pins_of_links_and_maps_are_put_back() {
    fault("F7", "pins of links and maps removed, a link detached, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Udp, 1000);
        let folder = pins(&scene);
        let all = || -> Vec<_> {
            let entries = fs::read_dir(&folder).into_iter().flatten();
            entries.map(|entry| entry.expect("an entry").file_name()).collect()
        };
        let mut before = all();
        before.sort();
        assert!(before.len() > 2 * scene.lab.pods().len() + 12, "links and maps: {before:?}");
        fs::remove_dir_all(&folder).expect("the pins");
        eventually("all is pinned again", PATIENCE, || {
            let mut now = all();
            now.sort();
            now == before
        });
        let repaired = || number(&status(&scene)["repairs"]["pins"]);
        eventually("it is counted", PATIENCE, || repaired() == before.len() as u64);
        assert!(agent.log().contains("somebody has removed pins"), "{}", agent.log());
        denied.check();

        // A new start finds them, and what they hold.
        agent.kill().expect("killed");
        let agent = scene.agent();
        assert!(agent.log().contains("went on with the connections"), "{}", agent.log());
        let missing = went_on(stream, &StreamReport::default());
        let denied = denied.finish(2000);
        format!("{} pins put back, {missing} allowed packets missing, {denied}", before.len())
    });
}

#[test]
fn f7_a_forced_cleanup_beside_the_agent() {
    fault("F7", "a forced cleanup beside the agent, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let state = scene.home.state_dir();
        let start = Instant::now();
        let forced =
            scene.portcullis(&["cleanup", "--force", "--state-dir", state.to_str().expect("a path")]);
        assert!(forced.status.success() && text(&forced).contains("it opens nothing"), "{}", text(&forced));
        eventually("the interlock is back", PATIENCE, || {
            text(&scene.node("nft list tables")).contains("portcullis")
        });
        eventually("the punt pair is back", PATIENCE, || scene.has_punt_pair());
        eventually("the pins are back", PATIENCE, || {
            let places = bpf::pin_dirs(&state).map(|place| place.join("inline"));
            places.iter().any(|place| fs::read_dir(place).is_ok_and(|entries| entries.count() > 20))
        });
        eventually("new connections are judged", PATIENCE, || new_connection(&scene, 91));
        let back = start.elapsed();
        let repairs = status(&scene)["repairs"].clone();
        assert!(number(&repairs["pins"]) > 20 && number(&repairs["pair"]) == 1, "{repairs}");
        assert!(number(&repairs["interlock"]) >= 1, "{repairs}");
        denied.check();
        // Nothing is open either once it has ended.
        agent.kill().expect("killed");
        denied.check();
        let _agent = scene.agent();
        format!("all is back within {:.1} s, {}", back.as_secs_f64(), denied.finish(2000))
    });
}

#[test]
fn f7_a_bpffs_that_is_gone_opens_nothing() {
    fault("F7", "pins removed and their bpffs covered by another file system, inline", || {
        let scene = Scene::new(INLINE);
        // From outside, only the program towards the pod stands in its way.
        let outside = Place::outside(&scene.lab.topology().outside[0].name);
        let mut denied = Denied::between(&scene, &outside, &pod("y/a"));
        let agent = scene.agent();
        denied.count_from_now();
        let folder = pins(&scene);
        let root = folder.parent().expect("a folder").to_owned();
        // Both before the agent looks again: only what it holds keeps its programs where they are.
        agent.signal(Signal::SIGSTOP).expect("a signal");
        fs::remove_dir_all(&folder).expect("the pins");
        let covered = Covered::with(&root);
        agent.signal(Signal::SIGCONT).expect("a signal");
        eventually("it is told", PATIENCE, || agent.log().contains("cannot be put back"));
        denied.check();
        assert!(new_connection(&scene, 91), "the agent goes on");
        drop(covered);
        eventually("and when it is over", PATIENCE, || agent.log().contains("is mended"));
        denied.check();
        format!("held without pins, {}", denied.finish(2000))
    });
}

/// A folder on which another file system is mounted.
struct Covered(std::path::PathBuf);

impl Covered {
    fn with(folder: &Path) -> Self {
        let mounted = sh(&format!("mount -t tmpfs none {}", folder.display()));
        assert!(mounted.status.success(), "{}", text(&mounted));
        Self(folder.to_owned())
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        sh(&format!("umount {}", self.0.display()));
    }
}

#[test]
fn f9_a_pods_interface_made_anew() {
    fault("F9", "a pod's interface made anew under load, inline", || {
        let scene = Scene::new(INLINE);
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Udp, 1000);
        let link = scene.lab.pod("y", "a").expect("a pod");
        let mut longest = Duration::ZERO;
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.id())).expect("it runs").count();
        let before = descriptors();
        for _ in 0..5 {
            scene.lab.unplug(link).expect("an interface less");
            scene.lab.plug(link).expect("the interface anew");
            let (start, before) = (Instant::now(), stream.report().delivered);
            eventually("allowed packets arrive again", PATIENCE, || stream.report().delivered > before + 100);
            longest = longest.max(start.elapsed());
            denied.check();
        }
        let folder = pins(&scene);
        let links = fs::read_dir(&folder).expect("pins").flatten().filter(|pin| {
            pin.file_name().to_string_lossy().starts_with("pod_")
                && pin.file_name().to_string_lossy().contains('-')
        });
        assert_eq!(links.count(), 2 * scene.lab.pods().len(), "no pin of an interface that is gone");
        eventually("no descriptor of one either", PATIENCE, || descriptors() <= before);
        drop(agent);
        format!("5 times, back within {:.1} s, {}", longest.as_secs_f64(), denied.finish(2000))
    });
}

#[test]
fn f26_a_full_map_of_verdicts() {
    fault("F26", "no room for verdicts, inline", || {
        let scene = Scene::new("mode: inline\nflows: {capacity: 1024}\n");
        let mut denied = Denied::seen_to_arrive(&scene);
        let _agent = scene.agent();
        denied.count_from_now();
        let stream = allowed(&scene, Transport::Udp, 1000);
        let before = stream.report();
        // More than a pod could ever do: every place is taken by verdicts of z/a.
        let ports = status(&scene)["ports"].clone();
        let port = ports.as_array().expect("ports").iter().position(|port| port["pod"] == "z/a");
        let id = port.expect("its port") as u16 + 1;
        Kernel::of(&scene, 1024).fill(id, scene.address(&pod("z/a"), Family::V4));
        let refused = || number(&status(&scene)["inline"]["refused"]);
        eventually("connections without a verdict are served", PATIENCE, || {
            new_connection(&scene, 91) && refused() > 0
        });
        denied.check();
        let missing = went_on(stream, &before);
        format!("{} verdicts refused, {missing} allowed packets missing, {}", refused(), denied.finish(1000))
    });
}
