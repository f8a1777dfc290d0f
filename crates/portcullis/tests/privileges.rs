//! What the filter of system calls leaves, and what it forbids. Needs no root: the test runs itself again in a process
//! of its own, which forbids itself the rest.

use std::io::ErrorKind::PermissionDenied;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::{env, fs, thread};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Pid, chroot, getppid};
use portcullis::privileges::calls;

const ALONE: &str = "PORTCULLIS_TEST_FORBIDDEN";

#[test]
fn what_the_agent_does_not_do_it_cannot_do() {
    if env::var_os(ALONE).is_some() {
        return forbidden();
    }
    let output = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "what_the_agent_does_not_do_it_cannot_do", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("a second run");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

fn forbidden() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = thread::spawn(|| thread::park_timeout(std::time::Duration::from_millis(200)));
    calls::forbid_others().expect("a filter");

    let program = Command::new("/bin/true").spawn().map(drop);
    assert_eq!(program.expect_err("no program").kind(), PermissionDenied);
    let here: Option<&str> = None;
    assert_eq!(mount(Some("none"), folder.path(), Some("tmpfs"), MsFlags::empty(), here), Err(Errno::EPERM));
    assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
    let namespace = fs::File::open("/proc/self/ns/user").expect("a namespace");
    assert_eq!(setns(namespace, CloneFlags::empty()), Err(Errno::EPERM));
    assert_eq!(chroot(folder.path()), Err(Errno::EPERM));
    assert_eq!(kill(getppid(), None), Err(Errno::EPERM));
    assert_eq!(nix::sys::ptrace::attach(Pid::from_raw(1)), Err(Errno::EPERM));
    let packets = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None);
    assert_eq!(packets.map(drop), Err(Errno::EPERM));
    assert_eq!(nix::sys::prctl::set_dumpable(false), Err(Errno::EPERM));
    assert_eq!(
        nix::sys::memfd::memfd_create("x", nix::sys::memfd::MFdFlags::empty()).map(drop),
        Err(Errno::EPERM)
    );

    // What it does do. That a thread of before is bound, too, shows in the kernel's own words.
    let filtered = |task: &str| {
        let status = fs::read_to_string(format!("{task}/status")).expect("a status");
        status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1")
    };
    let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten();
    for task in tasks {
        assert!(filtered(task.path().to_str().expect("a path")), "{task:?}");
    }
    before.join().expect("a thread of before");
    assert_eq!(thread::spawn(|| 7).join().expect("a new thread"), 7);
    UnixStream::pair().expect("a pair of sockets");
    UnixListener::bind(folder.path().join("s")).expect("a unix socket");
    TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).expect("a UDP socket");
    fs::write(folder.path().join("a"), "figures").expect("a written file");
    fs::rename(folder.path().join("a"), folder.path().join("b")).expect("a renamed file");
    assert_eq!(fs::read_to_string(folder.path().join("b")).expect("a file"), "figures");
    fs::remove_file(folder.path().join("b")).expect("a removed file");
    fs::remove_file(folder.path().join("s")).expect("a removed socket");
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    assert!(limit.is_ok() && libc::AF_XDP == 44);
}
