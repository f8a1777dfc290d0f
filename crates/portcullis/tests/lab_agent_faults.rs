//! The agent when it is killed, ended, started twice or wrongly. Every leak test first sees the denied packets
//! arrive without enforcement.

mod scene;

use std::fs;
use std::time::Duration;

use lab::{Connection, Family, Outcome, Place, Transport};
use nix::sys::signal::Signal;
use scene::*;

/// A denied stream that is seen to arrive while nobody enforces, and from now on counts.
fn denied_stream(scene: &Scene) -> lab::Stream {
    let stream = scene.stream(&pod("z/b"), &pod("y/a"), 80, Transport::Udp, 1000);
    eventually("denied packets arrive without enforcement", Duration::from_secs(5), || {
        stream.report().delivered > 100
    });
    drop(stream);
    scene.stream(&pod("z/b"), &pod("y/a"), 81, Transport::Udp, 1000)
}

/// How many XDP programs are attached in the node.
fn programs(scene: &Scene) -> usize {
    let output = scene.node("bpftool -j net list");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).matches("\"devname\"").count()
}

#[test]
fn tcp_connections_survive_a_restart() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let agent = scene.agent();
    let address = scene.address(&pod("y/a"), Family::V4);
    let mut connection =
        Connection::open(&scene.lab, &pod("x/b"), address, 80, TIMEOUT).expect("a connection");
    assert!(matches!(connection.exchange(TIMEOUT), Outcome::Reached(_)));
    agent.kill().expect("killed");
    let _agent = scene.agent();
    eventually("the connection goes on", Duration::from_secs(4), || {
        matches!(connection.exchange(Duration::from_millis(500)), Outcome::Reached(_))
    });
}

#[test]
fn sigterm_ends_it_and_keeps_enforcement() {
    let scene = Scene::new("");
    let denied = denied_stream(&scene);
    let agent = scene.agent();
    // It has started itself again, to have huge pages for its tables, and is the process that was started.
    let environment = fs::read_to_string(format!("/proc/{}/environ", agent.id())).expect("the agent runs");
    assert!(
        environment.split('\0').any(|set| set == "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"),
        "{environment}"
    );
    std::thread::sleep(Duration::from_millis(50));
    let before = denied.report().delivered;
    let (status, _) = agent.terminate().expect("an end");
    assert!(status.success(), "{status}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(denied.report().delivered, before, "the pinned programs drop");

    let agent = scene.agent();
    let log = agent.log();
    assert!(!log.contains("did not shut down cleanly"), "{log}");
    assert_eq!(denied.stop().delivered, before);
}

#[test]
fn on_exit_detach_gives_the_ports_back() {
    let scene = Scene::new("on_exit: detach\n");
    let _servers = scene.servers();
    let agent = scene.agent();
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Udp));
    let (status, _) = agent.terminate().expect("an end");
    assert!(status.success(), "{status}");
    assert!(scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Udp), "nobody enforces any more");
    assert_eq!(programs(&scene), 0);
}

#[test]
fn cleanup_gives_the_machine_back_after_a_kill() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let agent = scene.agent();
    let state = scene.home.state_dir();
    let refused = scene.portcullis(&["cleanup", "--state-dir", state.to_str().expect("a path")]);
    assert_eq!(refused.status.code(), Some(3), "not while an agent runs: {}", text(&refused));
    assert!(text(&refused).contains("--force"), "{}", text(&refused));
    agent.kill().expect("killed");
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Udp), "closed");

    let output = scene.portcullis(&["cleanup", "--state-dir", state.to_str().expect("a path")]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Udp), "open again");
    assert_eq!(programs(&scene), 0);
    assert!(!text(&scene.node("nft list tables")).contains("portcullis"));
    let mounted =
        lines("/proc/mounts").into_iter().any(|line| line.contains(state.to_str().expect("a path")));
    assert!(!mounted, "the bpffs is unmounted");
    let output = scene.portcullis(&["cleanup", "--state-dir", state.to_str().expect("a path")]);
    assert!(output.status.success() && text(&output).contains("nothing"), "{}", text(&output));
}

#[test]
fn a_forced_cleanup_opens_nothing_while_an_agent_runs() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let _agent = scene.agent();
    let state = scene.home.state_dir();
    let forced = scene.portcullis(&["cleanup", "--force", "--state-dir", state.to_str().expect("a path")]);
    assert!(forced.status.success(), "{}", text(&forced));
    assert!(text(&forced).contains("it opens nothing"), "{}", text(&forced));
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Udp), "the agent holds its programs");
    eventually("the interlock is back", Duration::from_secs(15), || {
        text(&scene.node("nft list tables")).contains("portcullis")
    });
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Udp), "nothing has been opened");
}

#[test]
fn starts_that_cannot_work_say_what_to_do() {
    let scene = Scene::new("");
    let config = fs::read_to_string(scene.home.config()).expect("a configuration");
    let attempt = |name: &str, text: String| {
        let path = scene.path(name);
        fs::write(&path, text).expect("a written file");
        let output = scene.portcullis(&["run", "--config", path.to_str().expect("a path")]);
        (output.status.code(), self::text(&output))
    };

    let (code, said) = attempt("typo.yaml", config.replace("uplinks", "uplink"));
    assert!(code == Some(2) && said.contains("typo.yaml:") && said.contains("uplink"), "{code:?} {said}");
    let (code, said) = attempt("empty.yaml", String::new());
    assert!(code == Some(2) && said.contains("ports"), "{code:?} {said}");
    let output = scene.portcullis(&["run", "--config", "/nonexistent/config.yaml"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let output = scene.portcullis(&["run"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));

    let bare = "setpriv --bounding-set -all --inh-caps -all --";
    let output = scene.node(&format!("{bare} {BINARY} run --config {}", scene.home.config().display()));
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("CAP_NET_ADMIN") && text(&output).contains("CAP_BPF"),
        "{}",
        text(&output)
    );

    // A driver without native XDP, and an interface that another program has.
    let uplink = scene.lab.uplink();
    assert!(scene.node("ip link set lo up").status.success());
    let (code, said) = attempt("lo.yaml", config.replace(uplink, "lo"));
    assert!(code == Some(3) && said.contains("lo"), "{code:?} {said}");
}

#[test]
fn an_interface_that_another_program_has_is_refused_and_left_alone() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let interface = &scene.lab.pods()[0].interface;
    // Any program of another tool: two instructions that pass everything.
    let object = scene.path("other.o");
    let source = "int f(void *c) { return 2; }";
    let compile = format!(
        "echo '{source}' | clang -O2 -target bpf -x c - -c -o {0} && \
         ip link set dev {interface} xdp obj {0} sec .text",
        object.display()
    );
    let output = scene.node(&compile);
    assert!(output.status.success(), "{}", text(&output));
    let config = scene.home.config();
    let output = scene.portcullis(&["run", "--config", config.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains(interface) && said.contains("another XDP program"), "{said}");
    assert!(said.contains(&format!("ip link set dev {interface} xdp off")), "{said}");
    assert!(text(&scene.node(&format!("ip link show {interface}"))).contains("xdp"), "it is still there");
}

#[test]
fn the_kernel_does_not_forward_around_the_agent() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let outside = Place::outside(&scene.lab.topology().outside[0].name);
    assert!(scene.reaches(&outside, &pod("y/a"), 80, Transport::Udp), "the kernel would forward");
    let mut agent = scene.agent();
    // The programs of the uplink gone, packets from outside reach the kernel's forwarding.
    agent.signal(Signal::SIGSTOP).expect("a signal");
    let pins = scene.node(&format!(
        "find {} /sys/fs/bpf -name '*{}*'",
        scene.home.state_dir().display(),
        scene.lab.uplink()
    ));
    let pin = text(&pins).lines().next().expect("a pin of the uplink").to_owned();
    fs::remove_file(pin).expect("an unpinned link");
    agent.signal(Signal::SIGKILL).expect("a signal");
    agent.wait().expect("an end");
    eventually("the uplink's program is gone", Duration::from_secs(2), || {
        programs(&scene) == scene.lab.pods().len()
    });
    assert!(!scene.reaches(&outside, &pod("x/a"), 80, Transport::Udp), "the interlock holds");
}

#[test]
fn an_interlock_that_somebody_flushed_is_put_in_force_again() {
    let scene = Scene::new("");
    let agent = scene.agent();
    let listing = || text(&scene.node("nft --stateless list ruleset"));
    let before = listing();
    assert!(before.contains("forwarded to a pod"), "{before}");
    for (what, damage) in [
        ("flushed", "nft flush ruleset"),
        ("weakened", "nft flush set inet $(nft list tables | cut -d' ' -f3) ports"),
    ] {
        assert!(scene.node(damage).status.success(), "{what}");
        assert_ne!(listing(), before, "{what}");
        eventually("the interlock is back", Duration::from_secs(15), || listing() == before);
    }
    let told = || agent.log().matches("put in force again").count();
    eventually("both are told", Duration::from_secs(15), || told() == 2);
}

#[test]
fn a_route_that_changes_is_followed() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let _agent = scene.agent();
    let outside = Place::outside(&scene.lab.topology().outside[0].name);
    let address = scene.address(&outside, Family::V4);
    for _ in 0..5 {
        assert!(scene.reaches(&pod("x/a"), &outside, 80, Transport::Udp));
        // A more specific route by a link that is no uplink leads nowhere for the engine.
        let link = &scene.lab.pods()[0].interface;
        assert!(scene.node(&format!("ip route add {address}/32 dev {link}")).status.success());
        eventually("the route is followed", Duration::from_secs(1), || {
            !scene.reaches(&pod("x/a"), &outside, 80, Transport::Udp)
        });
        assert!(scene.node(&format!("ip route del {address}/32 dev {link}")).status.success());
        eventually("and its end", Duration::from_secs(2), || {
            scene.reaches(&pod("x/a"), &outside, 80, Transport::Udp)
        });
    }
}
