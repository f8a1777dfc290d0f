//! Network and mount namespaces of a test's own: a thread in each, and commands run in it. They need root, leave
//! no name behind, and end with the test.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A namespace. It lives as long as its thread, and its thread as long as this.
pub(crate) struct Space {
    jobs: Sender<Job>,
    thread: i32,
}

#[allow(dead_code, reason = "no test file uses all of it")]
impl Space {
    /// A new namespace with its loopback up. Mounts made in it stay in it.
    pub(crate) fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (started, start) = channel();
        std::thread::spawn(move || {
            let done = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).and_then(|()| {
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            });
            started.send(done.map(|()| nix::unistd::gettid().as_raw())).unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        let thread = start.recv().unwrap().expect("lab tests run as root");
        let space = Self { jobs, thread };
        // Without detection of duplicates, IPv6 addresses are usable at once.
        space.sh("ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        space
    }

    /// Runs `job` in the namespace; panics pass through.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, result) = channel();
        let job = move || answer.send(catch_unwind(AssertUnwindSafe(job))).unwrap();
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a shell script in the namespace, gives its output, and panics if it fails.
    pub(crate) fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{script}\n{errors}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// The thread that is in it: what `ip link set ... netns` takes for a pid.
    pub(crate) const fn thread(&self) -> i32 {
        self.thread
    }
}
