//! Inline mode on this node: the kernel's programs, the worker that judges what they punt, and what keeps both in
//! step with policy and links.
//!
//! The order of a start: the punt pair stands, the programs' maps know the worker's socket, and the connections that
//! the kernel carries already are in the connection table, before the first pod's port gets its programs. A
//! predecessor's programs go on meanwhile.

mod numbers;
mod plane;
mod ports;
mod punt_pair;
mod repairs;
mod upkeep;
mod verdicts;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bpf::inline::{CachedFlow, Hook, Inline, MAX_PORTS, Settings, VerdictCache};
use engine::inline::Judge;
use engine::io::Slot;
use engine::shared::{Owner, Shared};
use engine::wiring::PortId;
use flow::Address;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use table::PolicyTable;
use tracing::info;
use xsk::XskIo;

use crate::admin::snapshot::Repairs;
use crate::config::{self, Config};
use crate::interface::InterfaceName;
use crate::links::{NodeLinks, NodeView};
use crate::plane::Beginning;
use crate::workers::{Workers, packet_memory, recovery_window};
use numbers::Numbers;
use ports::{Hooks, Port};
use upkeep::Round;
use verdicts::{Base, KernelSide, Quota};

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
    /// Where links and maps are pinned.
    pins: PathBuf,
    /// What the worker shares.
    shared: Arc<Shared>,
    workers: Workers,
    /// Whether `fallback: open`: what would be punted passes while nobody says that an agent runs.
    open: bool,
    settings: Settings,
    /// The index of the punt pair's far end, where the worker's socket is.
    far: u32,
    /// Whether something cannot be mended, and that has been said.
    ails: bool,
    cache: VerdictCache,
    quota: Arc<Quota>,
    numbers: Arc<Numbers>,
    base: Base,
    /// By [`PortId`].
    ports: Vec<Port>,
    /// The policy table in force.
    table: Option<Arc<PolicyTable>>,
    /// Whose addresses are behind which port, as verdicts were last looked through for.
    owned: BTreeSet<(Address, PortId)>,
    /// What became of verdicts since the start.
    rounds: Round,
    repairs: Repairs,
}

impl InlinePlane {
    /// Sets the punt pair up, starts the worker, and takes over what a predecessor left pinned.
    async fn open(mut programs: Inline, beginning: Beginning<'_>) -> Result<Self> {
        let Beginning { config, pins, view, links, claims, table, wiring } = beginning;
        punt_pair::set_up(links.handle()).await?;
        let interfaces: Vec<&InterfaceName> = config.interfaces().collect();
        let owners = (0..interfaces.len()).map(|slot| Owner { worker: 0, slot: Slot(slot) }).collect();
        let shared = Arc::new(Shared::new(owners, config.flows.capacity));
        let quota = Arc::new(Quota::new(interfaces.len(), capacity(config)));
        let mut workers = Workers::none();

        let numbers = Arc::new(take_over_numbers(&mut programs, &interfaces, view)?);
        let mut cache = programs.cache()?;
        let owner = |flow: &CachedFlow| {
            let kept = |number| numbers.port_of_before(number);
            kept(flow.port).filter(|_| flow.other.is_none_or(|(other, _)| kept(other).is_some()))
        };
        let rounds = upkeep::sweep(&mut cache, &shared.flows, &quota, owner, workers.now())?;
        let base = newest(&programs)?;
        if rounds.kept > 0 {
            info!(verdicts = rounds.kept, "the kernel went on with the connections that it knew");
        }

        let settings = Settings {
            key: [random()?, random()?],
            // Never 0, which every packet has.
            mark: random()? as u32 | 1 << 31,
            punt_ifindex: if_nametoindex(punt_pair::NEAR).context("the punt pair has gone")?,
            punt_rate: PUNT_RATE,
            punt_burst: PUNT_BURST,
            open_after: 0,
            longest: punt_pair::LONGEST,
        };
        let far = if_nametoindex(punt_pair::FAR).context("the punt pair has gone")?;
        let io = XskIo::new(packet_memory(config), &[punt_pair::FAR])?;
        // In this order: what was approved under the predecessor's key must not count from number 1 again.
        programs.set_settings(&settings)?;
        programs.begin_approvals()?;
        for (queue, socket) in (0..).zip(io.sockets(Slot(0))) {
            programs.insert_socket(queue, socket)?;
        }
        programs.attach_steer(punt_pair::FAR)?;
        programs.attach(punt_pair::NEAR, Hook::Reinject)?;

        let side =
            KernelSide::new(programs.cache()?, base, Arc::clone(&quota), Arc::clone(&numbers), settings.key);
        let window = recovery_window(config);
        let judge = Judge::new(io, side, Arc::clone(&shared), table.reader(), wiring.reader(), window);
        let told = (judge.counters(), judge.records());
        workers.spawn(judge, told, config.polling)?;
        let hooks = |n| if n < config.ports.len() { Hooks::Pod } else { Hooks::Uplink };
        let ports = interfaces.iter().enumerate().map(|(n, name)| Port::new((*name).clone(), hooks(n)));
        let mut plane = Self {
            programs,
            pins: pins.join(PINS),
            shared,
            workers,
            open: config.fallback == config::Fallback::Open,
            settings,
            far,
            ails: false,
            cache,
            quota,
            numbers,
            base,
            ports: ports.collect(),
            table: None,
            owned: BTreeSet::new(),
            rounds: Round { kept: rounds.kept, ..Round::default() },
            repairs: Repairs::default(),
        };
        plane.follow_links(view, claims);
        plane.take_over();
        Ok(plane)
    }

    /// Forgets idle verdicts and those of addresses that are no longer their port's, and keeps the connections that the
    /// kernel carries.
    fn sweep(&mut self) -> Result<()> {
        let owned = &self.owned;
        let owner = |flow: &CachedFlow| {
            let port = self.numbers.port(flow.port)?;
            owned.contains(&(flow.key.src.address, port)).then_some(port)
        };
        let round =
            upkeep::sweep(&mut self.cache, &self.shared.flows, &self.quota, owner, self.workers.now())?;
        self.rounds.kept = round.kept;
        self.rounds.expired += round.expired;
        Ok(())
    }

    /// Says that an agent runs, where it matters: with `fallback: open`.
    fn beat(&mut self, patience: Duration) -> Result<()> {
        if self.open {
            self.settings.open_after = coarse_now() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
            self.programs.set_settings(&self.settings)?;
        }
        Ok(())
    }
}

/// The numbers of the ports on these interfaces: a predecessor's, where it had one. What it served that is no port any
/// more is forgotten.
fn take_over_numbers(
    programs: &mut Inline,
    interfaces: &[&InterfaceName],
    view: &NodeView,
) -> Result<Numbers> {
    let mut before: HashMap<u32, u16> =
        programs.taps()?.into_iter().map(|(ifindex, tap)| (ifindex, tap.id)).collect();
    let indices = interfaces.iter().map(|interface| view.index(interface));
    let kept: Vec<_> = indices.map(|index| before.remove(&index?)).collect();
    for (ifindex, number) in before {
        programs.remove_tap(ifindex, number)?;
    }
    Ok(Numbers::new(&kept))
}

/// How many verdicts of each family the kernel has room for: one for each pod of a connection.
fn capacity(config: &Config) -> u32 {
    u32::try_from(config.flows.capacity).unwrap_or(u32::MAX).saturating_mul(2)
}

/// The base from which every epoch of this process is newer than those in the kernel, also than those that a
/// predecessor had entered ahead of an epoch which it did not come to raise.
fn newest(programs: &Inline) -> Result<Base> {
    let mut newest = programs.epoch(1)?;
    for number in 1..MAX_PORTS {
        let epoch = programs.epoch(number)?;
        if epoch.wrapping_sub(newest).cast_signed() > 0 {
            newest = epoch;
        }
    }
    Ok(Base(newest.wrapping_add(AHEAD)))
}

/// More than a port's epoch grows by at once: policy tables that came while one was being entered.
const AHEAD: u32 = 1 << 16;

/// The clock of the kernel's verdicts, in nanoseconds.
fn coarse_now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// From getrandom(2): the key of approvals must not be guessed.
fn random() -> Result<u64> {
    getrandom::u64().context("getrandom(2)")
}
