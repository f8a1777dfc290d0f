//! The packet's half on this node: XDP programs, AF_XDP sockets, and the workers that turn them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use bpf::{Fallback, Kind, PortEntry, Steering};
use engine::counters::Counters;
use engine::flows::Millis;
use engine::io::Slot;
use engine::polling::{self, Polling};
use engine::shared::{Owner, Shared};
use engine::wiring::{PortId, Wiring};
use engine::worker::Worker;
use flow::MacAddr;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use table::{PolicyTable, Publisher};
use tracing::{debug, info, warn};
use xsk::XskIo;

use crate::config::{self, Config};
use crate::interface::InterfaceName;

/// A port where the XDP programs know it.
#[derive(Clone, Copy, Debug)]
struct Placed {
    ifindex: u32,
    base: u32,
    queues: u32,
    fallback: Fallback,
}

/// The running half.
pub struct Dataplane {
    /// The XDP programs' maps.
    pub steering: Steering,
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// The workers' figures.
    pub counters: Vec<Arc<Counters>>,
    /// By [`PortId`].
    placed: Vec<Placed>,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    started: Instant,
}

impl Dataplane {
    /// Opens the sockets, starts the workers, and attaches the programs, or takes over those that a
    /// predecessor left pinned in `pins`. Ports are numbered as the configuration lists them: pods, then
    /// uplinks.
    ///
    /// # Errors
    ///
    /// A socket or a program that the system refuses, in words that say what to do.
    pub fn start(
        config: &Config,
        pins: &Path,
        table: &mut Publisher<PolicyTable>,
        wiring: &mut Publisher<Wiring>,
    ) -> Result<Self> {
        let mut steering = Steering::load()?;
        let interfaces: Vec<&InterfaceName> = config.interfaces().collect();
        let owners = owners(config.ports.len(), interfaces.len(), config.workers);
        let shared = Arc::new(Shared::new(owners.clone(), config.flows.capacity));
        let fallback = match config.fallback {
            config::Fallback::Closed => Fallback::Drop,
            config::Fallback::Open => Fallback::Pass,
        };

        let mut placed = vec![Placed { ifindex: 0, base: 0, queues: 0, fallback }; interfaces.len()];
        let mut ios = Vec::new();
        let mut base = 0;
        for worker in 0..config.workers {
            let ports = slots_of(&owners, worker);
            let names: Vec<&str> = ports.iter().map(|port| interfaces[*port].as_str()).collect();
            let settings = xsk::Config { frames: config.xsk.frames, ..xsk::Config::default() };
            let io = XskIo::new(settings, &names)?;
            for (slot, port) in ports.iter().enumerate() {
                let sockets = io.sockets(Slot(slot));
                let queues = u32::try_from(sockets.len()).context("too many receive queues")?;
                let ifindex = nix::net::if_::if_nametoindex(names[slot])
                    .with_context(|| format!("interface `{}` has gone", names[slot]))?;
                placed[*port] = Placed { ifindex, base, queues, fallback };
                steering.set_port(ifindex, PortEntry { base, queues, mac: None, fallback })?;
                for (queue, socket) in (0..).zip(sockets) {
                    steering.insert_socket(base + queue, socket)?;
                }
                base += queues;
            }
            ios.push(io);
        }

        let mut dataplane = Self {
            steering,
            shared,
            counters: Vec::new(),
            placed,
            workers: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            started: Instant::now(),
        };
        let isolated = isolated_cores();
        for (me, io) in ios.into_iter().enumerate() {
            let window = u64::try_from(config.recovery_window.as_millis()).unwrap_or(u64::MAX);
            let shared = Arc::clone(&dataplane.shared);
            let worker = Worker::new(me, io, shared, table.reader(), wiring.reader(), window);
            dataplane.counters.push(worker.counters());
            dataplane.spawn(me, worker, config.polling, isolated.get(me).copied())?;
        }

        for (port, interface) in interfaces.iter().enumerate() {
            let kind = if port < config.ports.len() { Kind::Pod } else { Kind::Uplink };
            let attached = dataplane.steering.attach(interface.as_str(), kind, pins)?;
            let how = if attached.taken_over { "taken over" } else { "attached" };
            debug!(%interface, program = kind.program(), "{how}");
        }
        info!(ports = interfaces.len(), workers = config.workers, "ports are attached");
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
        let thread = thread::Builder::new().name(format!("worker-{me}")).spawn(move || {
            if let Some(core) = isolated {
                pin(me, core);
            }
            polling::run(&mut worker, polling, || millis_since(started), &stop);
        });
        self.workers.push(thread.context("cannot start a worker thread")?);
        info!(worker = me, ?polling, core = ?isolated, "worker runs");
        Ok(())
    }

    /// The workers' clock.
    #[must_use]
    pub fn now(&self) -> Millis {
        millis_since(self.started)
    }

    /// The interface of a port.
    #[must_use]
    pub fn ifindex(&self, port: PortId) -> u32 {
        self.placed[usize::from(port.0)].ifindex
    }

    /// Tells a port's XDP program the MAC address of the pod behind it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_mac(&mut self, port: PortId, mac: Option<MacAddr>) -> Result<()> {
        let Placed { ifindex, base, queues, fallback } = self.placed[usize::from(port.0)];
        Ok(self.steering.set_port(ifindex, PortEntry { base, queues, mac, fallback })?)
    }

    /// Whether a worker has ended by itself: then its ports are dead, and so should be the process.
    #[must_use]
    pub fn has_lost_a_worker(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Stops the workers. The programs stay attached, and their fallback takes over.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
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
