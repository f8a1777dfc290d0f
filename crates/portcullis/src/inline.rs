//! Inline mode on this node: the kernel's programs, the worker that judges what they punt, and what keeps both in
//! step with policy and links.
//!
//! The order of a start: the punt pair stands, the programs' maps know the worker's socket, and the connections that
//! the kernel carries already are in the connection table, before the first pod's port gets its programs. A
//! predecessor's programs go on meanwhile.

pub mod agent;
mod punt_pair;
mod upkeep;
mod verdicts;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bpf::inline::{Counted, Hook, Inline, Settings, Tap, VerdictCache};
use engine::counters::Counters;
use engine::errands::{Mailbox, errands};
use engine::flows::Millis;
use engine::inline::Judge;
use engine::io::Slot;
use engine::polling::{self, Polling};
use engine::records::Records;
use engine::shared::{Owner, Shared};
use engine::wiring::{PortId, Wiring};
use flow::MacAddr;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use rtnetlink::Handle;
use table::{PolicyTable, Publisher};
use tracing::{debug, info, warn};
use xsk::XskIo;

use crate::config::{self, Config};
use crate::interface::InterfaceName;
use crate::links::{NodeLinks, NodeView, PodLink};
use upkeep::Round;
use verdicts::{Base, KernelSide, Quota, number};

/// Punts in a second, and at once, of what a pod sends, of what goes to it, and of what it sends out of the node: below
/// what one worker judges, and what its ring holds.
const PUNT_RATE: u32 = 100_000;
const PUNT_BURST: u32 = 1024;

/// Where maps and links are pinned, in the agent's directory of pins.
pub const PINS: &str = "inline";

/// Removes the punt pair of this thread's network namespace; tells whether it was there. For who runs no tokio.
///
/// # Errors
///
/// The kernel refuses.
pub fn remove_punt_pair() -> Result<bool> {
    if if_nametoindex(punt_pair::NEAR).is_err() {
        return Ok(false);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { punt_pair::remove(NodeLinks::open()?.handle()).await })
}

/// The running half of inline mode.
pub struct InlinePlane {
    programs: Inline,
    /// What the worker shares.
    pub shared: Arc<Shared>,
    /// The worker's figures.
    pub counters: Arc<Counters>,
    /// What the worker tells of verdicts and drops.
    pub records: Arc<Records>,
    /// Whether `fallback: open`: what would be punted passes while nobody says that an agent runs.
    open: bool,
    settings: Settings,
    cache: VerdictCache,
    quota: Arc<Quota>,
    base: Base,
    /// By [`PortId`]: the interface, and its index while it is there.
    ports: Vec<(InterfaceName, Hooks, Option<u32>)>,
    mailbox: Mailbox<XskIo>,
    worker: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    started: Instant,
}

/// The programs of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    Pod,
    Uplink,
}

impl Hooks {
    const fn all(self) -> &'static [Hook] {
        match self {
            // What goes to the pod first: nothing that it opens is answered before it is judged.
            Self::Pod => &[Hook::PodOut, Hook::PodIn],
            Self::Uplink => &[Hook::UplinkOut],
        }
    }
}

impl InlinePlane {
    /// Sets the punt pair up, starts the worker, and takes over what a predecessor left in `pins`.
    ///
    /// # Errors
    ///
    /// What the system refuses, in words that say what to do.
    pub async fn start(
        config: &Config,
        pins: &Path,
        links: &Handle,
        table: &mut Publisher<PolicyTable>,
        wiring: &mut Publisher<Wiring>,
    ) -> Result<Self> {
        punt_pair::set_up(links).await?;
        let interfaces: Vec<&InterfaceName> = config.interfaces().collect();
        let capacity = u32::try_from(config.flows.capacity).unwrap_or(u32::MAX).saturating_mul(2);
        let mut programs = Inline::load(pins, capacity)?;
        let owners = (0..interfaces.len()).map(|slot| Owner { worker: 0, slot: Slot(slot) }).collect();
        let shared = Arc::new(Shared::new(owners, config.flows.capacity));
        let quota = Arc::new(Quota::new(interfaces.len(), capacity));
        let started = Instant::now();

        let mut cache = programs.cache()?;
        let now = millis_since(started);
        let round = upkeep::sweep(&mut cache, &shared.flows, &quota, interfaces.len(), now)?;
        let base = newest(&programs, interfaces.len())?;
        if round.kept > 0 {
            info!(verdicts = round.kept, "the kernel went on with the connections that it knew");
        }

        let settings = Settings {
            key: [random(), random()],
            // Never 0, which every packet has.
            mark: random() as u32 | 1 << 31,
            punt_ifindex: if_nametoindex(punt_pair::NEAR).context("the punt pair has gone")?,
            punt_rate: PUNT_RATE,
            punt_burst: PUNT_BURST,
            open_after: 0,
            longest: punt_pair::LONGEST,
        };
        let frames = xsk::Config { frames: config.xsk.frames, ..xsk::Config::default() };
        let io = XskIo::new(frames, &[punt_pair::FAR])?;
        programs.begin_approvals()?;
        programs.set_settings(&settings)?;
        for (queue, socket) in (0..).zip(io.sockets(Slot(0))) {
            programs.insert_socket(queue, socket)?;
        }
        programs.attach_steer(punt_pair::FAR)?;
        programs.attach(punt_pair::NEAR, Hook::Reinject)?;

        let side = KernelSide::new(programs.cache()?, base, Arc::clone(&quota), settings.key);
        let window = u64::try_from(config.recovery_window.as_millis()).unwrap_or(u64::MAX);
        let mut judge = Judge::new(io, side, Arc::clone(&shared), table.reader(), wiring.reader(), window);
        let (counters, records) = (judge.counters(), judge.records());
        let (mailbox, errands) = errands();
        let stop = Arc::new(AtomicBool::new(false));
        let polling = if config.polling == config::Polling::Busy { Polling::Busy } else { Polling::Adaptive };
        let stopped = Arc::clone(&stop);
        let worker = thread::Builder::new().name("worker-0".into()).spawn(move || {
            polling::run(&mut judge, polling, || millis_since(started), &stopped, &errands);
        });
        let hooks = |n| if n < config.ports.len() { Hooks::Pod } else { Hooks::Uplink };
        let ports =
            interfaces.iter().enumerate().map(|(n, name)| ((*name).clone(), hooks(n), None)).collect();
        Ok(Self {
            programs,
            shared,
            counters,
            records,
            open: config.fallback == config::Fallback::Open,
            settings,
            cache,
            quota,
            base,
            ports,
            mailbox,
            worker: Some(worker.context("cannot start the worker thread")?),
            stop,
            started,
        })
    }

    /// Puts the programs on ports whose interface has come, and forgets those whose interface has gone.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn follow(&mut self, view: &NodeView, pods: &[PodLink]) -> Result<()> {
        for (n, (name, hooks, placed)) in self.ports.iter_mut().enumerate() {
            let found = view.interfaces.get(name.as_str());
            let id = number(PortId(n as u16));
            if let Some(index) = placed.filter(|index| found.is_none_or(|found| found.index != *index)) {
                self.programs.remove_tap(index, id)?;
                *placed = None;
                warn!(interface = %name, "the interface has gone");
            }
            let Some(found) = found else { continue };
            let tap = Tap {
                id,
                mac: pods.get(n).and_then(|pod| pod.mac),
                gateway: found.mac,
                uplink: *hooks == Hooks::Uplink,
            };
            self.programs.set_tap(found.index, &tap)?;
            let addresses = pods.get(n).map(|pod| &*pod.addresses).unwrap_or_default();
            self.programs.set_pod_addresses(found.index, addresses)?;
            if placed.is_none() {
                for hook in hooks.all() {
                    let how = self.programs.attach(name.as_str(), *hook)?;
                    debug!(interface = %name, program = hook.program(), ?how, "attached");
                }
                *placed = Some(found.index);
            }
        }
        let node: Vec<_> = view.node_addresses(pods).into_iter().collect();
        Ok(self.programs.set_node_addresses(&node)?)
    }

    /// A new policy table is in force: renews what it still allows, and has the kernel ask about the rest.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn table(&mut self, table: &PolicyTable, wiring: &Wiring) -> Result<()> {
        let mut changed: HashMap<PortId, u32> = upkeep::epochs(table, wiring, self.base);
        for (port, epoch) in std::mem::take(&mut changed) {
            if self.programs.epoch(number(port))? != epoch {
                changed.insert(port, epoch);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let renewed = upkeep::renew(&mut self.cache, table, wiring, &changed)?;
        for (port, epoch) in &changed {
            self.programs.set_epoch(number(*port), *epoch)?;
        }
        debug!(ports = changed.len(), renewed, "epochs are raised");
        Ok(())
    }

    /// Pins anew what somebody has unpinned; tells how many links those were.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn mend_pins(&mut self) -> Result<usize> {
        Ok(self.programs.mend_pins()?)
    }

    /// Forgets idle connections, keeps those that the kernel carries, and says that an agent runs.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn sweep(&mut self) -> Result<Round> {
        let (now, ports) = (self.now(), self.ports.len());
        upkeep::sweep(&mut self.cache, &self.shared.flows, &self.quota, ports, now)
    }

    /// Says that an agent runs, where it matters: with `fallback: open`.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn beat(&mut self, patience: Duration) -> Result<()> {
        if self.open {
            self.settings.open_after = coarse_now() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
            self.programs.set_settings(&self.settings)?;
        }
        Ok(())
    }

    /// What the programs have counted, by port.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn counted(&self) -> Result<Vec<(String, Counted)>> {
        let each =
            self.ports.iter().enumerate().map(|(n, (name, ..))| {
                Ok((name.to_string(), self.programs.counted(number(PortId(n as u16)))?))
            });
        let nobody = std::iter::once_with(|| Ok((String::new(), self.programs.counted(0)?)));
        each.chain(nobody).collect()
    }

    /// The interface of a port, while it is there.
    #[must_use]
    pub fn ifindex(&self, port: PortId) -> Option<u32> {
        self.ports.get(usize::from(port.0)).and_then(|(.., index)| *index)
    }

    /// The worker's clock.
    #[must_use]
    pub fn now(&self) -> Millis {
        millis_since(self.started)
    }

    /// Where errands for the worker are posted.
    #[must_use]
    pub const fn mailbox(&self) -> &Mailbox<XskIo> {
        &self.mailbox
    }

    /// Whether the worker has ended by itself.
    #[must_use]
    pub fn has_lost_its_worker(&self) -> bool {
        self.worker.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Whether both ends of the punt pair are the ones that were there at the start.
    #[must_use]
    pub fn has_its_punt_pair(&self) -> bool {
        let near = if_nametoindex(punt_pair::NEAR).unwrap_or_default();
        near == self.settings.punt_ifindex && if_nametoindex(punt_pair::FAR).is_ok()
    }

    /// Stops the worker. The programs go on with what they know.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.worker.take().is_some_and(|worker| worker.join().is_err()) {
            warn!("the worker had panicked");
        }
    }
}

/// The base from which every epoch of this process is newer than those in the kernel.
fn newest(programs: &Inline, ports: usize) -> Result<Base> {
    let mut newest = programs.epoch(1)?;
    for n in 0..ports {
        let epoch = programs.epoch(number(PortId(n as u16)))?;
        if epoch.wrapping_sub(newest).cast_signed() > 0 {
            newest = epoch;
        }
    }
    Ok(Base(newest))
}

/// The clock of the kernel's verdicts, in nanoseconds.
fn coarse_now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// From the randomness of the system, which seeds the hash.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn millis_since(started: Instant) -> Millis {
    Millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// How a pod's MAC address came to be known.
fn pin_mac(pod: &mut PodLink, mac: MacAddr) {
    if pod.mac.is_none() {
        info!(interface = %pod.interface, %mac, "pinned the pod's MAC address");
        pod.mac = Some(mac);
    }
}
