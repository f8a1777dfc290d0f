//! The packet's half on this node: XDP programs, AF_XDP sockets, and the workers that turn them.

mod ports;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bpf::{Fallback, Kind, PortEntry, Steering};
use engine::counters::{Counters, Tally};
use engine::errands::{Mailbox, NoAnswer, errands};
use engine::flows::Millis;
use engine::io::Slot;
use engine::polling::{self, Polling};
use engine::records::Records;
use engine::shared::{Owner, Shared};
use engine::wiring::{PortId, Wiring};
use engine::worker::Worker;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use table::{PolicyTable, Publisher};
use tracing::{info, warn};
use xsk::XskIo;

use crate::admin::snapshot::Repairs;
use crate::config::{self, Config};
use crate::instance::Instance;
use crate::interface::InterfaceName;
use crate::links::NodeView;

pub use ports::{Port, PortState};

/// The running half.
pub struct Dataplane {
    /// The XDP programs' maps.
    pub steering: Steering,
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The workers' figures.
    pub counters: Vec<Arc<Counters>>,
    /// What the workers tell of verdicts and drops.
    pub records: Vec<Arc<Records>>,
    /// By [`PortId`].
    ports: Vec<Port>,
    /// What all ports' programs are told alike.
    entry: PortEntry,
    /// Where links are pinned.
    pins: PathBuf,
    /// What was mended since the start.
    pub repairs: Repairs,
    workers: Vec<JoinHandle<()>>,
    /// How each waits, and the core that it is pinned to.
    posts: Vec<(Polling, Option<usize>)>,
    /// By worker.
    mailboxes: Vec<Mailbox<XskIo>>,
    stop: Arc<AtomicBool>,
    started: Instant,
}

impl Dataplane {
    /// Opens the sockets, starts the workers, and attaches the programs of `steering`, or takes over those that a
    /// predecessor left pinned in `pins`. Ports are numbered as the configuration lists them: pods, then
    /// uplinks. One whose interface is not there is served when [`follow`](Self::follow) sees it come.
    ///
    /// # Errors
    ///
    /// A socket or a program that the system refuses, in words that say what to do.
    pub fn start(
        config: &Config,
        (steering, pins): (Steering, &Path),
        view: &NodeView,
        claims: &mut Instance,
        (table, wiring): (&mut Publisher<PolicyTable>, &mut Publisher<Wiring>),
    ) -> Result<Self> {
        let interfaces: Vec<&InterfaceName> = config.interfaces().collect();
        let owners = owners(config.ports.len(), interfaces.len(), config.workers);
        let shared = Arc::new(Shared::new(owners.clone(), config.flows.capacity));
        let room = steering.socket_capacity() / u32::try_from(interfaces.len().max(1))?;
        let port = |(n, interface): (usize, &&InterfaceName)| {
            let kind = if n < config.ports.len() { Kind::Pod } else { Kind::Uplink };
            Port::new(PortId(n as u16), (*interface).clone(), kind, owners[n], (n as u32 * room, room))
        };
        let mut dataplane = Self {
            steering,
            shared,
            counters: Vec::new(),
            records: Vec::new(),
            ports: interfaces.iter().enumerate().map(port).collect(),
            entry: PortEntry {
                base: 0,
                queues: 0,
                mac: None,
                fallback: match config.fallback {
                    config::Fallback::Closed => Fallback::Drop,
                    config::Fallback::Open => Fallback::Pass,
                },
                strips_priority_tags: config.vlan == config::Vlan::Strip0,
            },
            pins: pins.to_owned(),
            repairs: Repairs::default(),
            workers: Vec::new(),
            posts: Vec::new(),
            mailboxes: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            started: Instant::now(),
        };
        let mut ios = Vec::new();
        for worker in 0..config.workers {
            let names: Vec<&str> =
                slots_of(&owners, worker).iter().map(|port| interfaces[*port].as_str()).collect();
            let settings = xsk::Config { frames: config.xsk.frames, ..xsk::Config::default() };
            ios.push(XskIo::new(settings, &names)?);
        }
        let isolated = isolated_cores();
        for (me, io) in ios.into_iter().enumerate() {
            let window = u64::try_from(config.recovery_window.as_millis()).unwrap_or(u64::MAX);
            let shared = Arc::clone(&dataplane.shared);
            let worker = Worker::new(me, io, shared, table.reader(), wiring.reader(), window);
            dataplane.counters.push(worker.counters());
            dataplane.records.push(worker.records());
            dataplane.spawn(me, worker, config.polling, isolated.get(me).copied())?;
        }
        dataplane.open_ports(view, claims)?;
        let attached = dataplane.ports.iter().filter(|port| port.ifindex.is_some()).count();
        info!(ports = attached, workers = config.workers, "ports are attached");
        Ok(dataplane)
    }

    fn spawn(
        &mut self,
        me: usize,
        mut worker: Worker<XskIo>,
        setting: config::Polling,
        isolated: Option<usize>,
    ) -> Result<()> {
        let polling = match (setting, isolated) {
            (config::Polling::Busy, _) | (config::Polling::Auto, Some(_)) => Polling::Busy,
            (config::Polling::Adaptive, _) | (config::Polling::Auto, None) => Polling::Adaptive,
        };
        let (stop, started) = (Arc::clone(&self.stop), self.started);
        let (mailbox, errands) = errands();
        self.mailboxes.push(mailbox);
        self.posts.push((polling, isolated));
        let thread = thread::Builder::new().name(format!("worker-{me}")).spawn(move || {
            if let Some(core) = isolated {
                pin(me, core);
            }
            polling::run(&mut worker, polling, || millis_since(started), &stop, &errands);
        });
        self.workers.push(thread.context("cannot start a worker thread")?);
        info!(worker = me, ?polling, core = ?isolated, "worker runs");
        Ok(())
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

    /// The figures of all workers together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for counters in &self.counters {
            total.add(&counters.read());
        }
        total
    }

    /// What a port's XDP program has counted; `None` if the kernel does not say.
    #[must_use]
    pub fn steered(&self, port: PortId) -> Option<bpf::Counters> {
        self.steering.counters(self.ports[usize::from(port.0)].base).ok()
    }

    /// When the workers' clock stood at zero.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// The workers' clock.
    #[must_use]
    pub fn now(&self) -> Millis {
        millis_since(self.started)
    }

    /// Stops the workers. The programs stay attached, and their fallback takes over.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                warn!("a worker had panicked");
            }
        }
    }
}

/// Who owns which port: uplinks go to the first worker, ahead of its pods (the first interface of a worker
/// should be one that stays), and pods to all in turn.
fn owners(pods: usize, ports: usize, workers: usize) -> Vec<Owner> {
    let uplinks = ports - pods;
    let mut next: Vec<usize> = (0..workers).map(|worker| if worker == 0 { uplinks } else { 0 }).collect();
    (0..ports)
        .map(|port| {
            if port >= pods {
                return Owner { worker: 0, slot: Slot(port - pods) };
            }
            let worker = port % workers;
            let slot = Slot(next[worker]);
            next[worker] += 1;
            Owner { worker, slot }
        })
        .collect()
}

/// The ports of one worker, by slot.
fn slots_of(owners: &[Owner], worker: usize) -> Vec<usize> {
    let mut ports: Vec<usize> = (0..owners.len()).filter(|port| owners[*port].worker == worker).collect();
    ports.sort_unstable_by_key(|port| owners[*port].slot.0);
    ports
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_one_slot_of_one_worker() {
        for (pods, ports, workers) in [(1, 1, 1), (3, 4, 1), (5, 7, 2), (2, 3, 4)] {
            let owners = owners(pods, ports, workers);
            let mut seen: Vec<(usize, usize)> = owners.iter().map(|o| (o.worker, o.slot.0)).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), ports);
            for worker in 0..workers {
                let slots = slots_of(&owners, worker);
                for (slot, port) in slots.iter().enumerate() {
                    assert_eq!(owners[*port], Owner { worker, slot: Slot(slot) });
                }
            }
        }
    }

    #[test]
    fn core_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(cores("\n"), Vec::<usize>::new());
        assert_eq!(cores("3\n"), [3]);
        assert_eq!(cores("0,2-4,7\n"), [0, 2, 3, 4, 7]);
    }
}
