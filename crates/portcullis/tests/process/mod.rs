//! The agent's process and its threads, looked at and laid hands on from outside.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK and CAP_BPF (include/uapi/linux/capability.h).
const KEPT: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 39;
pub(crate) const NET_ADMIN: u64 = 1 << 12;

/// Asserts that all threads of the process have given up what they do not need; tells how many there are.
pub(crate) fn confined(process: &Path) -> usize {
    let threads: Vec<_> = fs::read_dir(process.join("task")).expect("threads").flatten().collect();
    for thread in &threads {
        let thread = thread.path();
        assert_eq!(sets(&thread), [0, KEPT, KEPT, KEPT, 0], "{}", value(&thread, "Name"));
        assert_eq!(value(&thread, "NoNewPrivs"), "1");
        assert_eq!(value(&thread, "Seccomp"), "2", "a filter");
    }
    threads.len()
}

/// The inheritable, permitted, effective, bounding and ambient set.
pub(crate) fn sets(process: &Path) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|set| u64::from_str_radix(&value(process, set), 16).expect("a set"))
}

pub(crate) fn value(process: &Path, name: &str) -> String {
    let status = fs::read_to_string(process.join("status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in\n{status}")).trim().to_owned()
}

/// The one child of a process.
pub(crate) fn child(of: u32) -> PathBuf {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).expect("children");
    let children: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(children.len(), 1, "the broker: {children:?}");
    PathBuf::from(format!("/proc/{}", children[0]))
}

/// The thread of this name.
fn thread(process: u32, name: &str) -> Pid {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("threads").flatten();
    let is = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let thread = threads.map(|thread| thread.path()).find(|path| is(path)).expect("a thread of this name");
    let number = thread.file_name().and_then(|name| name.to_str()?.parse().ok());
    Pid::from_raw(number.expect("a thread's number"))
}

/// A thread that hangs from now on.
pub(crate) struct Hung(Pid);

impl Hung {
    /// Has the thread of this name hang.
    pub(crate) fn thread(process: u32, name: &str) -> Self {
        let thread = thread(process, name);
        ptrace::seize(thread, ptrace::Options::empty()).expect("seized");
        ptrace::interrupt(thread).expect("interrupted");
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).expect("a stop");
        assert!(matches!(stopped, WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)), "{stopped:?}");
        Self(thread)
    }

    /// Waits for its end, which has to be looked at before its process can be gone.
    pub(crate) fn end(self) -> WaitStatus {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).expect("an end")
    }
}
