//! The threads that turn workers: started, asked, watched by their figures, and stopped.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use engine::counters::{Counters, Tally};
use engine::errands::{Mailbox, NoAnswer, errands};
use engine::flows::Millis;
use engine::polling::{self, Polling, Turns};
use engine::records::Records;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{info, warn};
use xsk::XskIo;

use crate::config::{self, Config};

/// The workers of an agent, by number.
pub struct Workers {
    /// Their figures.
    pub counters: Vec<Arc<Counters>>,
    /// What they tell of verdicts and drops.
    pub records: Vec<Arc<Records>>,
    threads: Vec<JoinHandle<()>>,
    /// How each waits, and the core that it is pinned to.
    posts: Vec<(Polling, Option<usize>)>,
    mailboxes: Vec<Mailbox<XskIo>>,
    /// The cores that the kernel leaves to whoever asks for them.
    isolated: Vec<usize>,
    stop: Arc<AtomicBool>,
    started: Instant,
}

impl Workers {
    /// None yet. Their clock stands at zero now.
    #[must_use]
    pub fn none() -> Self {
        Self {
            counters: Vec::new(),
            records: Vec::new(),
            threads: Vec::new(),
            posts: Vec::new(),
            mailboxes: Vec::new(),
            isolated: isolated_cores(),
            stop: Arc::new(AtomicBool::new(false)),
            started: Instant::now(),
        }
    }

    /// Starts the next worker, with its figures and where it tells.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub fn spawn<W: Turns<Io = XskIo> + Send + 'static>(
        &mut self,
        mut worker: W,
        (counters, records): (Arc<Counters>, Arc<Records>),
        setting: config::Polling,
    ) -> Result<()> {
        let me = self.counters.len();
        let core = self.isolated.get(me).copied();
        let polling = match (setting, core) {
            (config::Polling::Busy, _) | (config::Polling::Auto, Some(_)) => Polling::Busy,
            (config::Polling::Adaptive, _) | (config::Polling::Auto, None) => Polling::Adaptive,
        };
        let (stop, started) = (Arc::clone(&self.stop), self.started);
        let (mailbox, errands) = errands();
        let thread = thread::Builder::new().name(format!("worker-{me}")).spawn(move || {
            if let Some(core) = core {
                pin(me, core);
            }
            polling::run(&mut worker, polling, || millis_since(started), &stop, &errands);
        });
        self.threads.push(thread.context("cannot start a worker thread")?);
        self.mailboxes.push(mailbox);
        self.posts.push((polling, core));
        self.counters.push(counters);
        self.records.push(records);
        info!(worker = me, ?polling, ?core, "worker runs");
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.counters.len()
    }

    /// Has a worker do something with its ports between two turns, and waits for what it says.
    ///
    /// # Errors
    ///
    /// No answer within `patience`: the worker hangs or has ended.
    ///
    /// # Panics
    ///
    /// When there is no such worker.
    pub fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        patience: Duration,
        errand: impl FnOnce(&mut XskIo) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        self.mailboxes[worker].ask(patience, errand)
    }

    /// Has a worker do something with its ports between two turns, whenever that is.
    ///
    /// # Errors
    ///
    /// The worker hangs or has ended.
    ///
    /// # Panics
    ///
    /// When there is no such worker.
    pub fn post(
        &self,
        worker: usize,
        errand: impl FnOnce(&mut XskIo) + Send + 'static,
    ) -> Result<(), NoAnswer> {
        self.mailboxes[worker].post(errand)
    }

    /// How a worker waits, and the core that it is pinned to.
    ///
    /// # Panics
    ///
    /// When there is no such worker.
    #[must_use]
    pub fn post_of(&self, worker: usize) -> (Polling, Option<usize>) {
        self.posts[worker]
    }

    /// The figures of all together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for counters in &self.counters {
            total.add(&counters.read());
        }
        total
    }

    /// When their clock stood at zero.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Their clock.
    #[must_use]
    pub fn now(&self) -> Millis {
        millis_since(self.started)
    }

    /// Ends them, and waits until they have.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a worker had panicked");
            }
        }
    }
}

fn millis_since(started: Instant) -> Millis {
    Millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// The cores that the kernel leaves to whoever asks for them (`isolcpus=`).
fn isolated_cores() -> Vec<usize> {
    fs::read_to_string("/sys/devices/system/cpu/isolated").map(|list| cores(&list)).unwrap_or_default()
}

/// A list of cores as the kernel writes it: `2,4-6`.
fn cores(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

fn pin(worker: usize, core: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        warn!(worker, core, %error, "cannot pin the worker to its core");
    }
}

/// The packet memory of a worker.
pub(crate) fn packet_memory(config: &Config) -> xsk::Config {
    xsk::Config { frames: config.xsk.frames, ..xsk::Config::default() }
}

/// How long connections may be taken up in mid-stream, in milliseconds.
pub(crate) fn recovery_window(config: &Config) -> u64 {
    u64::try_from(config.recovery_window.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(cores("\n"), Vec::<usize>::new());
        assert_eq!(cores("3\n"), [3]);
        assert_eq!(cores("0,2-4,7\n"), [0, 2, 3, 4, 7]);
    }
}
