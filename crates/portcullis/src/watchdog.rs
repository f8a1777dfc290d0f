//! Notices what hangs, and ends the agent when it is a worker: a worker that no longer turns is a black hole that no
//! fallback fills, since its sockets are still there. Once the process is gone, the XDP programs' fallback takes over.
//!
//! | silent for | a worker | the agent's own task |
//! |---|---|---|
//! | 1 s | unhealthy; the service manager hears no more | |
//! | 3 s | SIGABRT | |
//! | 5 s | | unhealthy; the service manager hears no more |
//!
//! The task never ends the agent by itself: without it policy stands still, and traffic goes on.
//!
//! Time is counted in the watchdog's own ticks. A process that was stopped as a whole, or a machine that was suspended,
//! misses ticks along with the heartbeats, and goes on.

use std::fs;
use std::io;
use std::panic;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::counters::Counters;
use nix::sys::resource::{Resource, getrlimit};
use sd_notify::NotifyState;
use tracing::{error, info};

use crate::service;

const TICK: Duration = Duration::from_millis(100);
/// Ticks in a row without a heartbeat.
const WORKER_AILS: u32 = 10;
const WORKER_HANGS: u32 = 30;
const TASK_AILS: u32 = 50;
/// Ticks between two signs of life to the service manager.
const SIGN: u32 = 5;

/// Who is alive, for whoever asks.
#[derive(Debug)]
pub struct Health {
    workers: Box<[AtomicBool]>,
    task: AtomicBool,
    /// Heartbeats of the agent's own task.
    beats: AtomicU64,
}

impl Health {
    fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| AtomicBool::new(true)).collect();
        Self { workers, task: AtomicBool::new(true), beats: AtomicU64::new(0) }
    }

    /// The agent's own task is alive.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this worker has not turned for a second.
    #[must_use]
    pub fn hangs(&self, worker: usize) -> bool {
        self.workers.get(worker).is_some_and(|alive| !alive.load(Ordering::Relaxed))
    }

    /// Whether all have shown signs of life.
    fn is_well(&self) -> bool {
        self.workers.iter().chain([&self.task]).all(|alive| alive.load(Ordering::Relaxed))
    }
}

/// The thread that watches. It ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    health: Arc<Health>,
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches workers by their counters, and the agent's own task by [`Health::beat`].
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(workers: Vec<Arc<Counters>>) -> io::Result<Self> {
        let health = Arc::new(Health::new(workers.len()));
        let mut watch = Watch::new(workers, &health);
        let (stop, stopped) = sync_channel(0);
        let thread = thread::Builder::new().name("watchdog".into()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                watch.tick();
            }
        })?;
        Ok(Self { health, stop: Some(stop), thread: Some(thread) })
    }

    /// Who is alive.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It has nothing left to say.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// For how many ticks a heartbeat has been the same.
#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    last: u64,
    still: u32,
}

impl Pulse {
    const fn tick(&mut self, beat: u64) -> u32 {
        self.still = if self.last == beat { self.still.saturating_add(1) } else { 0 };
        self.last = beat;
        self.still
    }
}

struct Watch {
    workers: Vec<Arc<Counters>>,
    health: Arc<Health>,
    pulses: Vec<Pulse>,
    task: Pulse,
    until_sign: u32,
}

impl Watch {
    fn new(workers: Vec<Arc<Counters>>, health: &Arc<Health>) -> Self {
        let pulses = vec![Pulse::default(); workers.len()];
        Self { workers, health: Arc::clone(health), pulses, task: Pulse::default(), until_sign: 0 }
    }

    fn tick(&mut self) {
        for (worker, (counters, pulse)) in self.workers.iter().zip(&mut self.pulses).enumerate() {
            let still = pulse.tick(counters.last_turn().0);
            let alive = &self.health.workers[worker];
            if still >= WORKER_HANGS {
                error!(
                    worker,
                    "a worker has not turned for 3 s: the agent aborts, so that its ports fall back; what it hung \
                     in is in the core (`thread apply all bt`) or in the kernel's log; {}",
                    core_file()
                );
                process::abort();
            } else if still == WORKER_AILS {
                alive.store(false, Ordering::Relaxed);
                error!(worker, "a worker has not turned for 1 s: its ports stand still");
            } else if still == 0 && !alive.swap(true, Ordering::Relaxed) {
                info!(worker, "the worker turns again");
            }
        }
        let still = self.task.tick(self.health.beats.load(Ordering::Relaxed));
        if still == TASK_AILS {
            self.health.task.store(false, Ordering::Relaxed);
            error!("the agent's own task has not moved for 5 s: neither policy nor links are followed");
        } else if still == 0 && !self.health.task.swap(true, Ordering::Relaxed) {
            info!("the agent's own task moves again");
        }
        self.until_sign = self.until_sign.saturating_sub(1);
        if self.until_sign == 0 && self.health.is_well() {
            self.until_sign = SIGN;
            service::tell(&[NotifyState::Watchdog]);
        }
    }
}

/// From now on a panic in a thread that the agent has started ends the process at once: half an agent is worse than
/// none, for which there is a fallback. The main thread ends the agent by returning; a request that panics there ends
/// alone.
pub fn abort_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        tell(panic);
        let thread = thread::current();
        if thread.name() != Some("main") {
            error!(
                thread = thread.name(),
                "a thread has panicked: the agent aborts, so that its ports fall back; {}",
                core_file()
            );
            process::abort();
        }
    }));
}

/// Where the core goes, or why there will be none.
fn core_file() -> String {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let limit = getrlimit(Resource::RLIMIT_CORE).map_or(0, |(soft, _)| soft);
    let folder = std::env::current_dir().unwrap_or_default();
    place_of_core(pattern.trim(), limit, &folder.join("").to_string_lossy())
}

/// `pattern` as in core(5); `folder` ends with a slash.
fn place_of_core(pattern: &str, limit: u64, folder: &str) -> String {
    if let Some(program) = pattern.strip_prefix('|') {
        return format!("the core goes to {} (coredumpctl?)", program.split(' ').next().unwrap_or(program));
    }
    if limit == 0 {
        return "no core is written: raise the limit (LimitCORE=infinity, `ulimit -c unlimited`) to have one"
            .to_owned();
    }
    let name = pattern.replace("%p", &process::id().to_string());
    let folder = if name.starts_with('/') { "" } else { folder };
    format!("the core is {folder}{name} (kernel.core_pattern is {pattern})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ticks_without_a_heartbeat_count() {
        let mut pulse = Pulse::default();
        assert_eq!([1, 1, 1, 2, 2].map(|beat| pulse.tick(beat)), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_worker_that_does_not_turn_hangs() {
        let health = Arc::new(Health::new(1));
        let mut watch = Watch::new(vec![Arc::default()], &health);
        (1..WORKER_AILS).for_each(|_| watch.tick());
        assert!(!health.hangs(0) && health.is_well());
        watch.tick();
        assert!(health.hangs(0) && !health.is_well());
    }

    #[test]
    fn a_silent_task_is_unhealthy_until_it_moves() {
        let health = Arc::new(Health::new(0));
        let mut watch = Watch::new(vec![], &health);
        (0..TASK_AILS).for_each(|_| watch.tick());
        assert!(!health.is_well());
        health.beat();
        watch.tick();
        assert!(health.is_well());
    }

    #[test]
    fn the_core_is_where_the_kernel_puts_it() {
        assert!(place_of_core("core", 0, "/x/").contains("LimitCORE"));
        let pid = process::id();
        assert!(place_of_core("core.%p", 1, "/x/").starts_with(&format!("the core is /x/core.{pid} ")));
        assert!(place_of_core("/var/core", 1, "/x/").starts_with("the core is /var/core "));
        assert!(
            place_of_core("|/usr/lib/systemd/systemd-coredump %P", 0, "/")
                .contains("goes to /usr/lib/systemd/")
        );
    }
}
