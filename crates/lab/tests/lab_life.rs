//! The lab comes up, goes down, cleans up after a crash, and leaves alone what is not its own. Needs root.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Error, Lab, Topology};

/// With a lab's name in this variable, [`helper`] brings that lab up and waits to be killed.
const HELPER: &str = "LAB_LIFE_HELPER";

/// Namespaces and state folders of one lab, and all links of the machine's own namespace.
fn traces(name: &str) -> (Vec<String>, Vec<String>) {
    let list = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let of_lab = |file: &String| *file == name || file.starts_with(&format!("pcl-{name}-"));
    let mut files: Vec<_> = list("/run/netns")
        .chain(list("/run/portcullis-lab"))
        .map(|entry| entry.file_name().into_string().expect("UTF-8"))
        .filter(of_lab)
        .collect();
    files.sort();
    let mut links: Vec<_> =
        list("/sys/class/net").map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    links.sort();
    (files, links)
}

fn mounts(name: &str) -> usize {
    let table = fs::read_to_string("/proc/self/mounts").expect("/proc");
    table
        .lines()
        .filter(|line| line.contains(&format!("/{name}/")) || line.contains(&format!("pcl-{name}-")))
        .count()
}

fn is_running(process: &mut Child) -> bool {
    process.try_wait().expect("a child").is_none()
}

#[test]
fn down_and_drop_leave_nothing_behind() {
    for drop_it in [false, true] {
        let name = Lab::unique();
        let before = traces(&name);
        assert_eq!(before.0, [""; 0]);
        let lab = Lab::up(&Topology::nine(&name)).unwrap();
        assert_eq!(traces(&name).0.len(), 9 + 2 + 1, "nine pods, node, outside, state");
        assert_eq!(traces(&name).1, before.1, "no link of the machine's own, not even for a moment");
        assert!(Lab::names().contains(&name));
        assert!(mounts(&name) >= 12, "namespaces and a bpffs are mounts");
        let mut inside = lab.node().command("sleep").arg("60").spawn().unwrap();
        wait_until_inside(&inside, &lab);
        fs::write(lab.bpffs().join("pin"), b"").unwrap_err();
        fs::create_dir(lab.bpffs().join("folder")).unwrap();
        if drop_it {
            drop(lab)
        } else {
            lab.down().unwrap()
        }
        assert_eq!(traces(&name), before);
        assert_eq!(mounts(&name), 0);
        assert!(!inside.wait().unwrap().success(), "killed with the lab");
    }
}

fn wait_until_inside(process: &Child, lab: &Lab) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let wanted = fs::metadata(lab.node().path())
        .map(|file| std::os::unix::fs::MetadataExt::ino(&file))
        .expect("/proc and /run/netns");
    loop {
        let found = fs::read_link(format!("/proc/{}/ns/net", process.id())).expect("/proc and /run/netns");
        if found.to_str() == Some(&format!("net:[{wanted}]")) {
            return;
        }
        assert!(Instant::now() < deadline, "nsenter has not entered");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Not a test of its own: the process that [`the_leftovers_of_a_killed_lab_are_cleaned`] kills.
#[test]
fn helper() {
    let Ok(name) = std::env::var(HELPER) else { return };
    let lab = Lab::up(&Topology::nine(name)).unwrap();
    let mut inside = lab.pod("x", "a").unwrap().namespace.command("sleep").arg("60").spawn().unwrap();
    inside.wait().unwrap();
}

fn start_helper(name: &str) -> Child {
    let mut helper = Command::new(std::env::current_exe().expect("this program again"))
        .args(["--exact", "helper"])
        .env(HELPER, name)
        .stdout(Stdio::null())
        .spawn()
        .expect("this program again");
    let deadline = Instant::now() + Duration::from_secs(10);
    while sleeping_in(name).is_empty() {
        assert!(is_running(&mut helper) && Instant::now() < deadline, "the helper's lab is not up");
        std::thread::sleep(Duration::from_millis(5));
    }
    helper
}

/// The helper's process in the namespace of x/a. While the lab comes up, ip runs there too.
fn sleeping_in(name: &str) -> Vec<String> {
    let output = Command::new("ip")
        .args(["netns", "pids", &format!("pcl-{name}-x.a")])
        .output()
        .expect("ip netns pids");
    let is_sleep =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
    String::from_utf8_lossy(&output.stdout).lines().filter(is_sleep).map(str::to_owned).collect()
}

fn kill(mut process: Child) {
    process.kill().expect("a child");
    process.wait().expect("a child");
}

#[test]
fn the_leftovers_of_a_killed_lab_are_cleaned() {
    // By the next lab of the same name, or before it by that of another test.
    let name = Lab::unique();
    let helper = start_helper(&name);
    assert_eq!(traces(&name).0.len(), 12);
    let orphan = sleeping_in(&name).remove(0);
    kill(helper);
    let lab = Lab::up(&Topology::nine(&name)).unwrap();
    // Nobody has to have reaped it yet.
    let stat = fs::read_to_string(format!("/proc/{orphan}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "its processes too are gone: {stat}");
    lab.down().unwrap();
    assert_eq!(traces(&name).0, [""; 0]);

    // And by the next of any other.
    let name = Lab::unique();
    let helper = start_helper(&name);
    assert_eq!(traces(&name).0.len(), 12);
    kill(helper);
    Lab::up(&Topology::nine(Lab::unique())).unwrap().down().unwrap();
    assert_eq!(traces(&name).0, [""; 0]);
}

#[test]
fn a_lab_that_somebody_is_using_stays() {
    let name = Lab::unique();
    let helper = start_helper(&name);
    let before = traces(&name).0;
    assert_eq!(before.len(), 12);
    match Lab::up(&Topology::nine(&name)).unwrap_err() {
        Error::InUse { name: found, pid } => assert_eq!((found, pid), (name.clone(), helper.id())),
        other => panic!("{other}"),
    }
    Lab::up(&Topology::nine(Lab::unique())).unwrap().down().unwrap();
    assert_eq!(traces(&name).0, before);
    kill(helper);
    Lab::remove(&name).unwrap();
    assert_eq!(traces(&name).0, [""; 0]);
}

#[test]
fn a_persistent_lab_stays_until_it_is_removed_or_replaced() {
    let topology = Topology::nine(Lab::unique());
    let absent = Lab::open(&topology).unwrap_err();
    assert!(matches!(absent, Error::Absent(_)), "{absent}");
    let mut lab = Lab::up(&topology).unwrap();
    lab.persist().unwrap();
    let config = lab.config(true);
    drop(lab);
    let found = Lab::open(&topology).unwrap();
    assert_eq!(found.config(true), config);
    let own = found.pod("z", "c").unwrap();
    let link = own.namespace.command("ip").args(["link", "show", "eth0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&link.stdout).contains(&own.pod_mac.to_string()));
    drop(found);
    assert_eq!(traces(&topology.name).0.len(), 12, "opening does not take over");
    let mut other = topology.clone();
    other.pods[0].name.name = "d".to_owned();
    let error = Lab::open(&other).unwrap_err();
    assert!(matches!(error, Error::Topology(_)), "{error}");

    let mut replaced = Lab::up(&other).unwrap();
    replaced.persist().unwrap();
    drop(replaced);
    assert!(Lab::remove(&topology.name).unwrap());
    assert!(!Lab::remove(&topology.name).unwrap());
    assert_eq!(traces(&topology.name).0, [""; 0]);
}

#[test]
fn what_no_lab_made_is_left_alone() {
    let name = Lab::unique();
    let foreign = format!("pcl-{name}-x.b");
    let neighbour = format!("pcl-{name}x-node");
    let ip = |words: &[&str]| assert!(Command::new("ip").args(words).status().unwrap().success());
    ip(&["netns", "add", &foreign]);
    ip(&["netns", "add", &neighbour]);
    ip(&["-n", &foreign, "link", "add", "name", &format!("{name}-p1"), "type", "veth"]);

    let error = Lab::up(&Topology::nine(&name)).unwrap_err();
    assert!(matches!(&error, Error::Foreign(path) if path.ends_with(&foreign)), "{error}");
    assert_eq!(
        traces(&name).0,
        [foreign.as_str()],
        "what was built until then is gone, the foreign one stays"
    );
    ip(&["-n", &foreign, "link", "show", &format!("{name}-p1")]);

    // A foreign namespace that took the name of one of ours stays too.
    ip(&["netns", "delete", &foreign]);
    let lab = Lab::up(&Topology::nine(&name)).unwrap();
    ip(&["netns", "delete", &foreign]);
    ip(&["netns", "add", &foreign]);
    lab.down().unwrap();
    assert_eq!(traces(&name).0, [foreign.as_str()]);
    ip(&["-n", &neighbour, "link", "show", "lo"]);
    ip(&["netns", "delete", &foreign]);
    ip(&["netns", "delete", &neighbour]);
}

#[test]
fn the_machines_own_sysctls_are_untouched_and_the_nodes_forward() {
    let keys = [
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "ipv4/conf/all/rp_filter",
        "ipv6/conf/all/accept_dad",
    ];
    let read =
        || keys.map(|key| fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_owned());
    let before = read();
    let lab = Lab::up(&Topology::nine(Lab::unique())).unwrap();
    assert_eq!(lab.node().run(read).unwrap(), ["1", "1", "0", "0"]);
    assert_eq!(lab.pod("y", "b").unwrap().namespace.run(read).unwrap()[..2], ["0", "0"]);
    assert_eq!(read(), before);
}
