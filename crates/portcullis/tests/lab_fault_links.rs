//! Interfaces that go, come back and change under a running agent, and others who lay hands on them.

mod faults;
mod scene;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use faults::{Denied, INLINE, PATIENCE, allowed, fault, goes_on};
use lab::{Servers, Transport};
use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;
use portcullis::lab_agent::LabAgent;
use scene::*;

/// The XDP program on an interface of the node.
fn program(scene: &Scene, interface: &str) -> Option<u32> {
    let ask = || bpf::attached_program(if_nametoindex(interface).ok()?).ok()?;
    scene.lab.node().run(ask).expect("a thread in the node")
}

/// The pins of the agent's programs whose names end like this.
fn pins(scene: &Scene, end: &str) -> Vec<PathBuf> {
    let pins = scene.node(&format!("find {} -name 'link-*{end}'", pin_dirs(scene)));
    String::from_utf8_lossy(&pins.stdout).lines().map(PathBuf::from).collect()
}

/// Of these, only one exists.
fn pin_dirs(scene: &Scene) -> String {
    bpf::pin_dirs(&scene.home.state_dir()).map(|dir| dir.display().to_string()).join(" ")
}

#[test]
fn f6_a_second_agent_is_refused_by_name() {
    fault("F6", "a second agent on the same interfaces", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        denied.count_from_now();
        let config = scene.home.config();
        let second = scene.portcullis(&["run", "--config", config.to_str().expect("a path")]);
        assert_eq!(second.status.code(), Some(3), "{}", text(&second));
        let owner = format!("pid {}", agent.id());
        assert!(text(&second).contains(&format!("another portcullis ({owner})")), "{}", text(&second));

        // Nor with a state directory of its own, on the same interfaces.
        let state = scene.path("other-state");
        let original = fs::read_to_string(&config).expect("a configuration");
        let [ours, other] = [scene.home.state_dir(), state].map(|path| path.display().to_string());
        let path = scene.path("other.yaml");
        fs::write(&path, original.replace(&ours, &other)).expect("a written file");
        let third = scene.portcullis(&["run", "--config", path.to_str().expect("a path")]);
        assert_eq!(third.status.code(), Some(3), "{}", text(&third));
        assert!(text(&third).contains(&format!("is owned by {owner}")), "{}", text(&third));

        goes_on(&allowed);
        std::thread::sleep(Duration::from_secs(1));
        format!("refused twice with the owner's pid, {}", denied.finish(500))
    });
}

#[test]
fn f7_what_an_administrator_changes_is_refused_or_mended() {
    fault("F7", "programs detached and replaced, pins and maps and nftables removed", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        denied.count_from_now();
        let interface = &scene.link("z/b").interface;
        let ours = program(&scene, interface).expect("a program");
        let do_it = |line: String| {
            let output = scene.node(&line);
            assert!(output.status.success(), "{line}: {}", text(&output));
        };
        let mended = |what: &str, said: &str| {
            eventually(what, PATIENCE, || {
                program(&scene, interface) == Some(ours)
                    && pins(&scene, interface).len() == 1
                    && agent.log().contains(said)
            });
            goes_on(&allowed);
            denied.check();
        };

        let off = scene.node(&format!("ip link set dev {interface} xdp off"));
        assert!(!off.status.success(), "the kernel protects a link");
        assert_eq!(program(&scene, interface), Some(ours));

        let pin = pins(&scene, interface).remove(0).display().to_string();
        do_it(format!("rm {pin}"));
        assert_eq!(program(&scene, interface), Some(ours), "the agent holds the program");
        mended("the pin is back", "the pin of the program has gone");

        do_it(format!("bpftool link detach pinned {pin}"));
        mended("the program is back", "does not run our program any more");

        let object = scene.path("other.o").display().to_string();
        do_it(format!("echo 'int f(void *c) {{ return 2; }}' | clang -O2 -target bpf -x c - -c -o {object}"));
        do_it(format!(
            "bpftool link detach pinned {pin} && ip link set dev {interface} xdp obj {object} sec .text"
        ));
        mended("the other program is gone", "does not run our program any more");

        for id in maps(&agent) {
            // Of other names it has none of our keys.
            let key = scene.node(&format!("bpftool map show id {id} | grep -q 'name ports '"));
            if key.status.success() {
                let index = program_index(&scene, interface).to_le_bytes().map(|byte| byte.to_string());
                do_it(format!("bpftool map delete id {id} key {}", index.join(" ")));
            }
        }
        mended("the map is mended", "changed the maps");

        do_it("nft flush ruleset".to_owned());
        mended("the interlock is back", "changed the interlock");
        format!("one thing refused, five mended, {}", denied.finish(500))
    });
}

fn program_index(scene: &Scene, interface: &str) -> u32 {
    scene.lab.node().run(|| if_nametoindex(interface)).expect("a thread in the node").expect("an index")
}

/// The ids of all maps that the agent has open.
fn maps(agent: &LabAgent) -> Vec<String> {
    let folder = fs::read_dir(format!("/proc/{}/fdinfo", agent.id())).expect("the agent runs");
    let of =
        |text: String| Some(text.lines().find_map(|line| line.strip_prefix("map_id:"))?.trim().to_owned());
    let mut ids: Vec<String> =
        folder.flatten().filter_map(|entry| of(fs::read_to_string(entry.path()).ok()?)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn f8_a_link_that_flaps_is_not_bound_again() {
    fault("F8", "veth down/up x100 at 10 Hz, both ends", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        denied.count_from_now();
        let before = Holdings::of(&scene, &agent);
        let attached = agent.log().matches("the port is attached").count();
        let receiver = scene.link("y/a");
        for round in 0..100 {
            let next = Instant::now() + Duration::from_millis(100);
            for up in [false, true] {
                scene.lab.set_link(receiver, round % 2 == 0, up).expect("a link");
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let back = goes_on(&allowed);
        assert!(back < Duration::from_secs(3), "{back:?}");
        assert_eq!(agent.log().matches("the port is attached").count(), attached, "nothing was bound again");
        before.hold(&scene, &agent);
        format!("back {:.1} s after the last, no rebind, {}", back.as_secs_f64(), denied.finish(500))
    });
}

/// What an agent holds, to find that it holds no more later.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    pins: usize,
    map_entries: usize,
    records: usize,
    resident_kib: u64,
}

impl Holdings {
    fn of(scene: &Scene, agent: &LabAgent) -> Self {
        let status = lines(&format!("/proc/{}/status", agent.id()));
        let resident = status.iter().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
        let entries = |id: &String| {
            // Arrays have all their entries always; the socket map shows none.
            let dump =
                scene.node(&format!("bpftool map show id {id} | grep -q hash && bpftool map dump id {id}"));
            text(&dump).matches("key").count()
        };
        let node =
            fs::metadata(scene.lab.node().path()).map(|file| std::os::unix::fs::MetadataExt::ino(&file));
        let ours = format!("{}-", node.expect("the node's namespace"));
        let claims = fs::read_dir(portcullis::instance::CLAIMS).expect("claims");
        Self {
            descriptors: fs::read_dir(format!("/proc/{}/fd", agent.id())).expect("the agent runs").count(),
            pins: pins(scene, "").len(),
            map_entries: maps(agent).iter().map(entries).sum(),
            records: claims
                .flatten()
                .filter(|claim| claim.file_name().to_string_lossy().starts_with(&ours))
                .count(),
            resident_kib: resident.expect("a resident size"),
        }
    }

    /// No more than before: as soon as what is under way is done.
    fn hold(&self, scene: &Scene, agent: &LabAgent) -> Self {
        let start = Instant::now();
        loop {
            let now = Self::of(scene, agent);
            let as_before = now.descriptors <= self.descriptors
                && (now.pins, now.map_entries, now.records) == (self.pins, self.map_entries, self.records)
                && now.resident_kib <= self.resident_kib + 8192;
            if as_before {
                return now;
            }
            assert!(start.elapsed() < PATIENCE, "it holds {now:?}, and held {self:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Deletes and makes anew, as often, the interface of the denied sender and now and then that of the receiver.
fn made_anew(rounds: u32) -> String {
    let scene = Scene::new("");
    let mut denied = Denied::seen_to_arrive(&scene);
    let mut agent = scene.agent();
    let allowed = allowed(&scene, Transport::Udp, 1000);
    denied.count_from_now();
    let mut before = None;
    for round in 0..rounds {
        let pod = scene.link(if round % 4 == 3 { "y/a" } else { "z/b" });
        scene.lab.unplug(pod).expect("an interface");
        scene.lab.plug(pod).expect("an interface");
        // Every fifth goes again before or while it is served.
        if round % 5 != 4 {
            eventually("it is attached", PATIENCE, || program(&scene, &pod.interface).is_some());
        }
        if round == rounds / 4 {
            agent.wait_until_ready().expect("ready");
            goes_on(&allowed);
            before = Some(Holdings::of(&scene, &agent));
        }
    }
    goes_on(&allowed);
    denied.check();
    let after = before.expect("rounds").hold(&scene, &agent);
    assert_eq!(after.pins, scene.lab.pods().len() + 1, "one for each port");
    let _servers = Servers::start(&scene.lab, &[81]).expect("servers");
    assert!(scene.reaches(&pod("z/b"), &pod("x/a"), 81, Transport::Udp), "what policy allows");
    format!(
        "{}; {} descriptors, {} pins, {} map entries as before",
        denied.finish(500),
        after.descriptors,
        after.pins,
        after.map_entries
    )
}

#[test]
fn f9_an_interface_made_anew_passes_nothing_unjudged() {
    fault("F9", "a pod's interface deleted and made anew x40 under load", || made_anew(40));
}

#[test]
#[ignore = "takes longer than a minute: make soak"]
fn f9_soak_an_interface_made_anew_200_times() {
    fault("F9", "a pod's interface deleted and made anew x200 under load", || made_anew(200));
}

#[test]
fn f10_new_queues_are_bound() {
    fault("F10", "one receive queue becomes two", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        let allowed = allowed(&scene, Transport::Udp, 1000);
        denied.count_from_now();
        let senders = ["z/b", "x/b"].map(|name| scene.link(name));
        for pod in senders {
            let more = scene.node(&format!("ethtool -L {} rx 2 tx 2", pod.interface));
            assert!(more.status.success(), "{}", text(&more));
        }
        eventually("the queues are bound", PATIENCE, || {
            agent.log().matches("the number of receive queues has changed").count() >= 2
        });
        goes_on(&allowed);
        for pod in senders {
            let more = pod.namespace.command("ethtool").args(["-L", "eth0", "rx", "2", "tx", "2"]).output();
            let more = more.expect("ethtool runs");
            assert!(more.status.success(), "{}", text(&more));
        }
        // Each connection takes the queue that its ports say; both are served.
        drop(allowed);
        let _servers = scene.servers();
        for probe in 0..12 {
            assert!(
                scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Udp),
                "allowed probe {probe} of 12"
            );
        }
        for _ in 0..12 {
            assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Udp), "by neither queue");
        }
        format!("12 of 12 allowed and 0 of 12 denied probes through, {}", denied.finish(500))
    });
}

#[test]
fn f16_a_pod_that_sends_from_its_first_instant_waits_for_the_agent() {
    let what = "a new pod sends at once, the agent learns of it 5 s later";
    fault("F16", what, || sends_from_its_first_instant(""));
}

#[test]
fn f16_a_pod_that_sends_from_its_first_instant_waits_for_the_agent_inline() {
    let what = "a new pod sends at once, the agent learns of it 5 s later, inline";
    fault("F16", what, || sends_from_its_first_instant(INLINE));
}

fn sends_from_its_first_instant(settings: &str) -> String {
    let scene = Scene::new(settings);
    let mut denied = Denied::seen_to_arrive(&scene);
    let newcomer = scene.link("z/b");
    scene.lab.unplug(newcomer).expect("an interface");
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    let others = scene.lab.pods().len() as u64 - 1;
    agent
        .wait_until("is not ready", |figures| figures.get("portcullis_ready_pods") == Some(&others))
        .expect("ready");
    denied.count_from_now();
    agent.signal(Signal::SIGSTOP).expect("a signal");
    scene.lab.plug(newcomer).expect("an interface");
    std::thread::sleep(Duration::from_secs(5));
    denied.check();
    assert_eq!(program(&scene, &newcomer.interface), None, "nobody has attached anything");
    agent.signal(Signal::SIGCONT).expect("a signal");
    agent.wait_until_ready().expect("ready");
    let _servers = scene.servers();
    assert!(scene.reaches(&pod("z/b"), &pod("x/a"), 80, Transport::Udp), "what policy allows");
    denied.finish(3000)
}

#[test]
fn f36_an_agent_starts_before_its_interfaces() {
    fault("F36", "the agent starts before its interfaces are there", || starts_first(""));
}

#[test]
fn f36_an_agent_starts_before_its_interfaces_inline() {
    fault("F36", "the agent starts before its interfaces are there, inline", || starts_first(INLINE));
}

fn starts_first(settings: &str) -> String {
    let scene = Scene::new(settings);
    let mut denied = Denied::seen_to_arrive(&scene);
    for pod in scene.lab.pods() {
        scene.lab.unplug(pod).expect("an interface");
    }
    let mut agent = scene.home.start(&scene.lab).expect("an agent");
    agent
        .wait_until("has no table", |figures| {
            figures.get("portcullis_table_generation").is_some_and(|g| *g > 0)
        })
        .expect("a table");
    let warnings = agent.log().matches("it is served as soon as it comes").count();
    assert_eq!(warnings, scene.lab.pods().len(), "{}", agent.log());
    denied.count_from_now();
    for pod in scene.lab.pods() {
        scene.lab.plug(pod).expect("an interface");
    }
    agent.wait_until_ready().expect("ready");
    let allowed = allowed(&scene, Transport::Udp, 1000);
    goes_on(&allowed);
    std::thread::sleep(Duration::from_secs(1));
    format!("{warnings} interfaces taken up as they came, {}", denied.finish(500))
}
