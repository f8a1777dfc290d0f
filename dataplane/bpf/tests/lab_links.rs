//! Links on a veth pair: they outlive the process, are taken over, and never lie about whose they are.
//! Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod veth;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bpf::{Attached, BpfError, Fallback, Kind, PortEntry, Steering, attached_program, pins};
use flow::MacAddr;
use nix::net::if_::if_nametoindex;
use veth::frames::{IPV4, ethernet, ipv4, udp};
use veth::{FAR, NEAR, Pins, Tap, in_netns, ip};

const POD: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
const QUIET: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

fn frame() -> Vec<u8> {
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    ethernet(POD, HOST, IPV4, &ipv4(src, dst, 17, &udp(1)))
}

/// A steering whose only port lets everything fall through to `fallback`.
fn steering(fallback: Fallback) -> Steering {
    let mut steering = Steering::load().unwrap();
    let entry =
        PortEntry { base: 0, queues: 1, mac: Some(MacAddr(POD)), fallback, strips_priority_tags: false };
    steering.set_port(if_nametoindex(NEAR).unwrap(), entry).unwrap();
    steering
}

fn attach(steering: &mut Steering, pins: &Pins) -> Attached {
    steering.attach(NEAR, Kind::Pod, pins.dir()).unwrap()
}

fn delivered(patience: Duration) -> bool {
    let (far, near) = (Tap::open(FAR), Tap::open(NEAR));
    far.send(&frame());
    near.sees(&frame(), patience)
}

#[test]
fn a_pinned_link_outlives_its_process_and_is_taken_over() {
    in_netns(|| {
        veth::veth();
        let pins = Pins::new();
        assert!(delivered(PATIENCE), "without a program everything arrives");

        let mut first = steering(Fallback::Drop);
        let attached = attach(&mut first, &pins);
        assert!(!attached.taken_over);
        let program = attached_program(attached.ifindex).unwrap().unwrap();
        assert!(pins::is_ours(pins.dir(), attached.ifindex).unwrap());
        assert!(!delivered(QUIET));
        drop(first);
        assert_eq!(attached_program(attached.ifindex).unwrap(), Some(program));
        assert!(!delivered(QUIET), "fail closed: the program stays, without a socket");

        let mut second = steering(Fallback::Pass);
        let again = attach(&mut second, &pins);
        assert_eq!(again, Attached { taken_over: true, ..attached });
        assert_ne!(attached_program(attached.ifindex).unwrap(), Some(program));
        assert!(delivered(PATIENCE), "the new program and its maps are in force");
        drop(second);
        assert!(attached_program(attached.ifindex).unwrap().is_some());

        // The same process may attach twice: a second look at a port changes nothing.
        let mut third = steering(Fallback::Drop);
        assert!(attach(&mut third, &pins).taken_over && attach(&mut third, &pins).taken_over);
        assert_eq!(pins::list(pins.dir()).unwrap().len(), 1);
    });
}

#[test]
fn no_frame_passes_while_a_link_is_taken_over() {
    in_netns(|| {
        veth::veth();
        let pins = Pins::new();
        attach(&mut steering(Fallback::Drop), &pins);
        let (far, near) = (Tap::open(FAR), Tap::open(NEAR));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    sent += u32::from(far.try_send(&frame()).is_ok());
                }
                sent
            });
            for _ in 0..10 {
                assert!(attach(&mut steering(Fallback::Drop), &pins).taken_over);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            sender.join().unwrap()
        });
        assert!(sent > 100, "only {sent} frames were sent");
        assert!(!near.sees(&frame(), QUIET), "a frame passed");
    });
}

#[test]
fn the_pin_of_a_deleted_interface_is_replaced() {
    in_netns(|| {
        veth::veth();
        let pins = Pins::new();
        let first = attach(&mut steering(Fallback::Drop), &pins);

        // The same index again: the link is found severed (ENOLINK).
        ip(&format!("link del {NEAR}"));
        ip(&format!("link add {NEAR} index {} type veth peer name {FAR}", first.ifindex));
        ip(&format!("link set {FAR} arp off up"));
        ip(&format!("link set {NEAR} arp off up"));
        assert!(delivered(PATIENCE), "a new interface has no program");
        let mut steered = steering(Fallback::Drop);
        let second = attach(&mut steered, &pins);
        assert_eq!(second, first);
        assert!(!delivered(QUIET));

        // Another index: the old pin goes when the name is attached again.
        ip(&format!("link del {NEAR}"));
        veth::veth();
        let mut steered = steering(Fallback::Drop);
        let third = attach(&mut steered, &pins);
        assert!(!third.taken_over && third.ifindex != second.ifindex);
        let left = pins::list(pins.dir()).unwrap();
        assert_eq!(left.iter().map(|pin| pin.ifindex).collect::<Vec<_>>(), [third.ifindex]);

        // And one that nobody attaches again goes with the next sweep.
        assert_eq!(pins::sweep(pins.dir()).unwrap(), []);
        ip(&format!("link del {NEAR}"));
        assert!(!pins::is_ours(pins.dir(), third.ifindex).unwrap());
        assert_eq!(pins::sweep(pins.dir()).unwrap(), left);
    });
}

#[test]
fn removing_a_pin_detaches_without_the_process_that_made_it() {
    in_netns(|| {
        veth::veth();
        let pins = Pins::new();
        let attached = attach(&mut steering(Fallback::Drop), &pins);
        assert!(!delivered(QUIET));
        assert_eq!(pins::remove(pins.dir(), &["another"]).unwrap(), []);
        let removed = pins::remove(pins.dir(), &[NEAR]).unwrap();
        assert_eq!((removed.len(), removed[0].ifindex, &*removed[0].interface), (1, attached.ifindex, NEAR));
        assert!(!pins::is_ours(pins.dir(), attached.ifindex).unwrap());
        // The kernel detaches when the last reference goes, a moment later.
        for _ in 0..200 {
            if attached_program(attached.ifindex).unwrap().is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(delivered(PATIENCE));
    });
}

#[test]
fn an_interface_that_is_taken_says_by_whom_and_what_to_do() {
    in_netns(|| {
        veth::veth();
        let (ours, other) = (Pins::new(), Pins::new());
        let index = attach(&mut steering(Fallback::Drop), &other).ifindex;
        let id = attached_program(index).unwrap().unwrap();
        let error = steering(Fallback::Drop).attach(NEAR, Kind::Pod, ours.dir()).unwrap_err();
        let BpfError::Taken { interface, program, remedy } = &error else { panic!("{error}") };
        assert_eq!(interface, NEAR);
        assert_eq!(*program, format!("id {id}, pod_port"));
        assert!(remedy.contains("`portcullis cleanup near`"), "{remedy}");
        assert_eq!(attached_program(index).unwrap(), Some(id), "the first one is undisturbed");
        assert_eq!(pins::list(ours.dir()).unwrap(), []);
    });
    in_netns(|| {
        veth::veth();
        let pins = Pins::new();
        // Somebody else's program, attached as `ip link` does it.
        let object = pins.state().join("pass.o");
        compile(&object, "int another(void *ctx) { return 2; }");
        ip(&format!("link set dev {NEAR} xdp obj {} sec xdp", object.display()));
        let error = steering(Fallback::Drop).attach(NEAR, Kind::Pod, pins.dir()).unwrap_err().to_string();
        assert!(error.contains("another") && error.contains("`ip link set dev near xdp off`"), "{error}");
        assert!(delivered(PATIENCE));
    });
}

fn compile(object: &std::path::Path, function: &str) {
    let source = object.with_extension("c");
    let section = r#"__attribute__((section("xdp"), used))"#;
    let licence = r#"char L[] __attribute__((section("license"), used)) = "GPL";"#;
    fs::write(&source, format!("{section} {function}\n{licence}\n")).unwrap();
    let mut clang = std::process::Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-c"]).arg(&source).arg("-o").arg(object);
    let done = clang.status().unwrap();
    assert!(done.success());
}

#[test]
fn interfaces_that_cannot_be_attached_say_why() {
    in_netns(|| {
        let pins = Pins::new();
        let mut steering = Steering::load().unwrap();
        let mut refused =
            |interface: &str, dir: PathBuf| steering.attach(interface, Kind::Uplink, &dir).unwrap_err();
        let error = refused("missing", pins.dir().into());
        assert!(matches!(error, BpfError::NoSuchInterface { .. }), "{error}");
        // Loopback runs XDP in generic mode only.
        let error = refused("lo", pins.dir().into());
        assert!(matches!(error, BpfError::NoNativeXdp { .. }), "{error}");
        assert_eq!(attached_program(1).unwrap(), None);
        veth::veth();
        ip(&format!("link set {FAR} mtu 9000"));
        let error = refused(NEAR, pins.dir().into());
        assert!(matches!(error, BpfError::MtuTooLarge { limit: 3506, .. }), "{error}");
        ip(&format!("link set {FAR} mtu 1500"));
        let error = refused(NEAR, pins.state().into());
        assert!(matches!(error, BpfError::Pin { .. }), "{error}");
        // Nothing is left attached where nothing could be pinned.
        let index = if_nametoindex(NEAR).unwrap();
        assert_eq!(attached_program(index).unwrap(), None);
    });
}

#[test]
fn a_renamed_interface_keeps_its_link() {
    in_netns(|| {
        veth::veth();
        let pins = Pins::new();
        let first = attach(&mut steering(Fallback::Drop), &pins);
        ip(&format!("link set {NEAR} down"));
        ip(&format!("link set {NEAR} name moved"));
        // Somebody else takes the name: that is another interface, without our link.
        veth::veth_named(NEAR, "other");
        let mut steered = Steering::load().unwrap();
        let second = steered.attach(NEAR, Kind::Pod, pins.dir()).unwrap();
        assert!(!second.taken_over && second.ifindex != first.ifindex);
        let moved = steered.attach("moved", Kind::Pod, pins.dir()).unwrap();
        assert_eq!(moved, Attached { ifindex: first.ifindex, taken_over: true });
    });
}

#[test]
fn the_bpffs_is_mounted_once() {
    in_netns(|| {
        let pins = Pins::new();
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
        let count =
            |text: &str| text.lines().filter(|line| line.contains(&*pins.dir().to_string_lossy())).count();
        let before = count(&mounts());
        assert_eq!(bpf::mount_if_missing(pins.state()).unwrap(), pins.dir());
        assert_eq!(count(&mounts()), before);
    });
}
