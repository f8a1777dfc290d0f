//! The agent's process killed, stopped, hung, panicking and ended, and its policy changed under traffic.

mod faults;
mod process;
mod scene;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use faults::{Denied, INLINE, PATIENCE, allowed, fault, thousands};
use lab::{Family, Outcome, Stream, Transport};
use nix::sys::signal::Signal;
use portcullis::lab_agent::LabAgent;
use process::Hung;
use scene::*;

/// An agent that is ready, with this in its environment.
fn agent_with(scene: &Scene, variable: (&str, &Path)) -> LabAgent {
    let mut agent = scene.home.start_with(&scene.lab, &[variable]).expect("an agent");
    agent.wait_until_ready().expect("ready");
    agent
}

/// Waits until nothing has arrived for a while, and tells how much has until then.
fn at_rest(stream: &Stream) -> u64 {
    let mut before = stream.report().delivered;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(300));
        let now = stream.report().delivered;
        if now == before {
            return now;
        }
        before = now;
    }
    panic!("the allowed stream does not stop");
}

/// The ids of the pinned links.
fn links(scene: &Scene) -> Vec<String> {
    let [own, systems] = bpf::pin_dirs(&scene.home.state_dir());
    let show = format!(
        "for pin in {}/link-* {}/link-*; do [ -e $pin ] && bpftool link show pinned $pin; done | grep -o '^[0-9]*:'",
        own.display(),
        systems.display()
    );
    text(&scene.node(&show)).lines().map(str::to_owned).collect()
}

#[test]
fn f1_killed_with_a_closed_fallback() {
    fault("F1", "killed under load, fallback: closed", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        let pinned = links(&scene);
        assert_eq!(pinned.len(), scene.lab.pods().len() + 1, "every port has its program");

        agent.kill().expect("killed");
        let rest = at_rest(&allowed);
        let start = Instant::now();
        let agent = scene.agent();
        eventually("allowed packets arrive again", Duration::from_secs(2), || {
            allowed.report().delivered > rest + 100
        });
        let back = start.elapsed();
        assert!(agent.log().contains("did not shut down cleanly"), "{}", agent.log());
        assert_eq!(links(&scene), pinned, "the same links");
        format!("{}, back in {:.1} s with the same links", denied.finish(500), back.as_secs_f64())
    });
}

#[test]
fn f2_killed_with_an_open_fallback() {
    fault("F2", "killed under load, fallback: open", || {
        let scene = Scene::new("fallback: open\n");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        denied.check();
        let before = allowed.report();
        agent.kill().expect("killed");
        std::thread::sleep(Duration::from_secs(2));
        let after = allowed.report();
        let gap = after.lost() - before.lost().min(after.lost());
        assert!(gap < 250, "the allowed stream goes on: {gap} of 2,000 packets are missing");

        // What is denied passes meanwhile, as the setting says, until somebody judges again.
        let agent = scene.agent();
        let said = agent.log();
        let told = said.lines().find(|line| line.contains("traffic was unfiltered")).expect("a warning");
        let seconds =
            told.split("for about ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        let seconds = seconds.expect("a number of seconds");
        assert!((2.0..60.0).contains(&seconds), "{told}");
        denied.count_from_now();
        std::thread::sleep(Duration::from_secs(1));
        format!("a gap of about {gap} ms; {seconds} s without judgement told; then {}", denied.finish(500))
    });
}

/// A service manager that listens.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        Self { socket }
    }

    /// How much has come since it was last asked.
    fn heard(&self) -> usize {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| self.socket.recv(&mut buffer).ok()).count()
    }
}

#[test]
fn f3_the_process_stopped_for_5_s() {
    fault("F3", "the process stopped for 5 s and continued", || {
        let scene = Scene::new("");
        let manager = Manager::listen(&scene.path("notify"));
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = agent_with(&scene, ("NOTIFY_SOCKET", &scene.path("notify")));
        denied.count_from_now();
        let allowed = allowed(&scene, Transport::Udp, 1000);

        agent.signal(Signal::SIGSTOP).expect("a signal");
        let rest = at_rest(&allowed);
        manager.heard();
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(manager.heard(), 0, "a stopped agent gives no sign of life");
        assert_eq!(allowed.report().delivered, rest);
        agent.signal(Signal::SIGCONT).expect("a signal");
        let sent = allowed.report().sent;
        eventually("allowed packets arrive again", PATIENCE, || allowed.report().delivered > rest + 3000);
        // What had waited in the ring comes late; the rest of those seconds was dropped before it.
        let burst = allowed.report().delivered - rest - (allowed.report().sent - sent).min(3000);
        assert!(burst <= 4096, "no more than a ring holds: {burst}");
        eventually("signs of life again", PATIENCE, || manager.heard() > 0);
        assert!(!agent.log().contains("has not turned"), "{}", agent.log());
        let missing = allowed.stop().lost();
        assert!(missing > 0, "five seconds do not fit the rings");
        let (status, _) = agent.terminate().expect("an end");
        assert!(status.success(), "it went on and ended well: {status}");
        format!("it goes on, {} allowed packets lost, {}", thousands(missing), denied.finish(4000))
    });
}

#[test]
fn f3_one_worker_hangs() {
    fault("F3", "one worker thread stopped", || {
        let scene = Scene::new("");
        let manager = Manager::listen(&scene.path("notify"));
        let mut denied = Denied::seen_to_arrive(&scene);
        let mut agent = agent_with(&scene, ("NOTIFY_SOCKET", &scene.path("notify")));
        denied.count_from_now();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        eventually("signs of life", PATIENCE, || manager.heard() > 0);

        let worker = Hung::thread(agent.id(), "worker-0");
        let start = Instant::now();
        eventually("it is noticed", PATIENCE, || agent.log().contains("has not turned for 1 s"));
        let noticed = start.elapsed();
        manager.heard();
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(manager.heard(), 0, "the service manager hears no more");

        let ended = worker.end();
        let aborted = start.elapsed();
        let status = agent.wait().expect("an end");
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status} {ended:?}");
        let log = agent.log();
        assert!(log.contains("has not turned for 3 s") && log.contains("core"), "{log}");
        at_rest(&allowed);
        let said = denied.finish(2000);
        drop(agent);
        let _agent = scene.agent();
        let rest = allowed.report().delivered;
        eventually("a new start serves again", PATIENCE, || allowed.report().delivered > rest + 100);
        format!(
            "noticed after {:.1} s, aborted after {:.1} s, {said}",
            noticed.as_secs_f64(),
            aborted.as_secs_f64()
        )
    });
}

#[test]
fn f4_a_worker_panics() {
    fault("F4", "a worker panics", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let when = ("PORTCULLIS_DEBUG_PANIC_AFTER", Path::new("3"));
        let mut agent = agent_with(&scene, when);
        denied.count_from_now();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        let status = agent.wait().expect("an end");
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
        let log = agent.log();
        assert!(log.contains("a thread has panicked") && log.contains("worker-0"), "{log}");
        assert!(
            log.contains("the core is ") || log.contains("no core is written") || log.contains("goes to"),
            "{log}"
        );
        at_rest(&allowed);
        format!("aborted, {}", denied.finish(1000))
    });
}

#[test]
fn f5_ended_50_times() {
    fault("F5", "SIGTERM under load, 50 times", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let mut agent = scene.agent();
        denied.count_from_now();
        let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 2000);
        let declared = scene.lab.pods().len() + 1;
        let (mut frames, mut slowest) = (0, Duration::ZERO);
        for round in 0..50 {
            agent
                .wait_until("moves nothing", |figures| {
                    figures.get("portcullis_transmitted_frames_total") > Some(&20)
                })
                .expect("frames");
            let (status, took) = agent.terminate().expect("an end");
            assert!(status.success(), "round {round}: {status}");
            slowest = slowest.max(took);
            assert_eq!(links(&scene).len(), declared, "the pins that stay are those of the ports");
            frames += accounted(&scene.home.state_dir());
            agent = scene.agent();
        }
        assert!(!agent.log().contains("did not shut down cleanly"), "{}", agent.log());
        drop(allowed);
        format!(
            "exit code 0 within {} ms, {} frames accounted for, {}",
            slowest.as_millis(),
            thousands(frames),
            denied.finish(5000)
        )
    });
}

/// Every frame of the agent that has ended went somewhere; tells how many it received.
fn accounted(state_dir: &Path) -> u64 {
    let text = fs::read_to_string(state_dir.join("metrics.prom")).expect("figures");
    let sum = |name: &str| -> u64 {
        let lines = text.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    };
    let received = sum("portcullis_received_frames_total") + sum("portcullis_icmp_errors_total");
    let gone = sum("portcullis_transmitted_frames_total") + sum("portcullis_drops_total");
    assert_eq!(received, gone, "{text}");
    received
}

#[test]
fn f17_what_policy_denies_is_cut() {
    fault("F17", "denied while under way, TCP and UDP, 20 times", || cut_20_times(""));
}

#[test]
fn f17_what_policy_denies_is_cut_inline() {
    fault("F17", "denied while under way, TCP and UDP, 20 times, inline", || cut_20_times(INLINE));
}

fn cut_20_times(settings: &str) -> String {
    let scene = Scene::new(settings);
    let _agent = scene.agent();
    let mut cuts = Vec::new();
    for round in 0..20 {
        let transport = [Transport::Tcp, Transport::Udp][round % 2];
        let stream = scene.stream(&pod("x/b"), &pod("y/a"), 80, transport, 2000);
        eventually("data flows", Duration::from_secs(5), || stream.report().delivered > 50);
        let renamed = scene.home.apply("policy.yaml", Y_A_FROM_Z).expect("a rename");
        let quiet = Duration::from_millis(250);
        eventually("the flow is cut", Duration::from_secs(5), || {
            stream.report().last_delivery.is_some_and(|last| last.elapsed() > quiet)
                && renamed.elapsed() > quiet
        });
        let report = stream.stop();
        let last = report.last_delivery.expect("data had flowed");
        assert!(report.lost() > 20, "the sender went on after the cut: {report:?}");
        cuts.push(last.saturating_duration_since(renamed));
        scene.home.apply("policy.yaml", Y_A_FROM_X).expect("a rename");
        eventually("the flow may come back", Duration::from_secs(2), || {
            let address = scene.address(&pod("y/a"), Family::V4);
            let _server = lab::Servers::start_at(&scene.lab, &[pod("y/a")], &[80]).expect("a server");
            let outcome = lab::probe(&scene.lab, &pod("x/b"), address, 80, Transport::Udp, TIMEOUT);
            matches!(outcome, Ok(Outcome::Reached(_)))
        });
    }
    cuts.sort_unstable();
    let (median, worst) = (cuts[cuts.len() / 2], cuts[cuts.len() - 1]);
    // The median: a busy machine may stop an agent for longer.
    assert!(median <= Duration::from_millis(100), "{cuts:?}");
    let [median, worst] = [median, worst].map(|cut| cut.as_millis());
    format!("from rename(2) to the last delivery {median} ms, at most {worst} ms")
}
