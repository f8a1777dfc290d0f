//! `portcullis run`: the agent, from its configuration to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use compiler::Scope;
use control::{Control, Event, Severity};
use engine::events::Event as Notice;
use nix::sys::signal::Signal;
use policy::model::{Cluster, ObjectName};
use table::{PolicyTable, Publisher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::cleanup::Cleanup;
use crate::cli::RunArgs;
use crate::config::{Config, Fallback, OnExit};
use crate::dataplane::Dataplane;
use crate::exit::{Failure, system, usage};
use crate::instance::{self, Instance, Previous};
use crate::interface::{InterfaceName, InterfacePattern};
use crate::interlock::Interlock;
use crate::links::{Changes, NodeLinks};
use crate::metrics::Figures;
use crate::preflight::{self, Machine};
use crate::rewire::Rewire;

/// How often workers' notices are looked for: a pod waits this long to be known by its first ARP.
const NOTICES: Duration = Duration::from_millis(20);
/// How often the figures are written, expired connections swept, and silent neighbours asked again.
const UPKEEP: Duration = Duration::from_millis(500);
/// How often somebody looks whether the interlock is still what it was, in rounds of upkeep.
const INSPECT: u32 = 4;
/// How often the kernel is reminded of the neighbours that it does not use itself, in rounds of upkeep.
const REMIND: u32 = 60;

/// Runs the agent until it is told to end.
///
/// # Errors
///
/// A configuration that cannot be used (exit code 2), or a system that refuses (3).
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config, args.manifests.as_deref()).map_err(usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    runtime.block_on(async {
        let agent = Agent::start(config).await.map_err(system)?;
        agent.serve().await.map_err(system)
    })
}

/// A running agent.
struct Agent {
    config: Config,
    instance: Instance,
    dataplane: Dataplane,
    rewire: Rewire,
    links: NodeLinks,
    changes: mpsc::Receiver<()>,
    interlock: Guarded,
    figures: Figures,
    policy: mpsc::Receiver<Event>,
    control: ControlThread,
    /// The pods of our ports that name another node, as last warned of.
    elsewhere: BTreeMap<ObjectName, String>,
}

/// The thread that keeps the policy table true to the manifests.
struct ControlThread {
    /// Dropped, it ends the thread.
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Agent {
    async fn start(config: Config) -> Result<Self> {
        // Watched before it is looked at, so that nothing that happens in between is missed.
        let changes = follow(NodeLinks::watch()?);
        let links = NodeLinks::open()?;
        let view = links.snapshot().await?;
        let machine = Machine::look(view.clone(), &config.state_dir);
        let hints = preflight::check(&config, &machine).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(lines.join("\n"))
        })?;
        for hint in hints {
            warn!("{hint}");
        }

        let mut instance = Instance::start(&config.state_dir)?;
        if let Previous::Unclean { pid } = instance.previous() {
            warn!(?pid, "the previous instance did not shut down cleanly");
        }
        for interface in config.interfaces() {
            let index = view.index(interface).context("an interface has gone")?;
            instance.claim(interface, index)?;
        }

        let pods: Vec<_> = config.ports.iter().map(|port| port.interface.clone()).collect();
        let interlock = Guarded::new(&config, &pods)?;
        let pins = bpf::mount_if_missing(&config.state_dir)?;

        let mut table = Publisher::new();
        let mut wiring = Publisher::new();
        let dataplane = Dataplane::start(&config, &pins, &mut table, &mut wiring)?;
        let figures = Figures::new(dataplane.counters.clone(), Arc::clone(&dataplane.shared), table.reader());
        let rewire = Rewire::new(&config, view, wiring);
        let (control, policy) = start_control(&config, table)?;
        Ok(Self {
            config,
            instance,
            dataplane,
            rewire,
            links,
            changes,
            interlock,
            figures,
            policy,
            control,
            elsewhere: BTreeMap::new(),
        })
    }

    async fn serve(mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut notices = interval(NOTICES);
        let mut upkeep = interval(UPKEEP);
        notices.set_missed_tick_behavior(MissedTickBehavior::Delay);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0;
        let signal = loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break Signal::SIGTERM,
                _ = interrupt.recv() => break Signal::SIGINT,
                event = self.policy.recv() => {
                    self.policy_event(event.context("the control thread has ended")?).await?;
                }
                changed = self.changes.recv() => {
                    changed.context("the kernel sends no more link events")?;
                    let view = self.links.snapshot().await?;
                    self.rewire.view(view, &mut self.dataplane)?;
                }
                _ = notices.tick() => self.notices().await?,
                _ = upkeep.tick() => {
                    round += 1;
                    self.upkeep(round).await?;
                }
            }
        };
        info!(%signal, "ending");
        self.end()
    }

    async fn policy_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Published { table, cluster, generation, took, warnings } => {
                for warning in warnings {
                    warn!("{warning}");
                }
                self.elsewhere = elsewhere(&self.config, &cluster, &self.elsewhere);
                let sizes = table.sizes();
                self.rewire.table(&table, &mut self.dataplane)?;
                // Whoever waits for a change sees at once that it is in force.
                self.write_figures()?;
                info!(
                    generation,
                    ?took,
                    pods = sizes.pods,
                    policies = sizes.policies,
                    rules = sizes.rules,
                    "policy is in force"
                );
                self.solicit().await;
            }
            Event::Mended { warnings } => {
                for warning in warnings {
                    warn!("{warning}");
                }
                info!("the manifests are mended; the policy in force is theirs");
            }
            Event::Refused { diagnostics, report } => {
                let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
                error!(errors, "the manifests are refused; the policy in force stays\n{report}");
            }
        }
        Ok(())
    }

    /// What the workers have to say.
    async fn notices(&mut self) -> Result<()> {
        let mut unresolved = Vec::new();
        while let Some(notice) = self.dataplane.shared.events.take() {
            match notice {
                Notice::MacSeen(port, mac) => self.rewire.mac_seen(port, mac, &mut self.dataplane)?,
                Notice::Unresolved(port, address) => unresolved.push((self.dataplane.ifindex(port), address)),
            }
        }
        unresolved.sort_unstable();
        unresolved.dedup();
        for (index, address) in unresolved {
            self.ask(index, address).await;
        }
        Ok(())
    }

    async fn upkeep(&mut self, round: u32) -> Result<()> {
        if self.dataplane.has_lost_a_worker() {
            // The pinned programs drop from here on; a supervisor starts the agent again.
            anyhow::bail!("a worker thread has died");
        }
        if round.is_multiple_of(INSPECT) {
            self.interlock.inspect()?;
        }
        self.dataplane.shared.flows.sweep(self.dataplane.now());
        self.rewire.collect();
        self.write_figures()?;
        self.solicit().await;
        if round.is_multiple_of(REMIND) {
            // In case an event was lost after all.
            let view = self.links.snapshot().await?;
            self.rewire.view(view, &mut self.dataplane)?;
            for (index, address) in self.rewire.gateways() {
                self.ask(index, address).await;
            }
        }
        Ok(())
    }

    fn write_figures(&mut self) -> Result<()> {
        self.figures.ready = self.rewire.ready();
        self.figures.write(&self.config.state_dir).context("cannot write the figures")
    }

    async fn solicit(&self) {
        for (index, address) in self.rewire.missing() {
            self.ask(index, address).await;
        }
    }

    async fn ask(&self, index: u32, address: flow::Address) {
        if let Err(error) = self.links.solicit(index, address).await {
            warn!(%address, %error, "cannot ask for a neighbour");
        }
    }

    fn end(mut self) -> Result<()> {
        let ControlThread { stop, thread } = self.control;
        drop(stop);
        self.dataplane.stop();
        // Whatever the workers did last is in the figures, too.
        self.figures.write(&self.config.state_dir).context("cannot write the figures")?;
        if thread.join().is_err() {
            warn!("the control thread had panicked");
        }
        if self.config.on_exit == OnExit::Detach {
            let detach = Cleanup {
                state_dir: self.config.state_dir.clone(),
                claims_dir: instance::CLAIMS.into(),
                interfaces: self.config.interfaces().cloned().collect(),
                force: true,
            };
            let outcome = detach.run()?;
            for what in outcome.removed {
                info!("removed {what}");
            }
            for what in outcome.failed {
                error!("{what}");
            }
            Interlock::of(&self.config.state_dir).remove()?;
        }
        Ok(self.instance.finish()?)
    }
}

/// The pods of the configured ports that name another node than the configured one, with that node. Says so of
/// each that is not in `warned`: such a pod's own node, with which it may always talk, is the one that it names.
fn elsewhere(
    config: &Config,
    cluster: &Cluster,
    warned: &BTreeMap<ObjectName, String>,
) -> BTreeMap<ObjectName, String> {
    let ours: BTreeSet<_> = config.ports.iter().map(|port| &port.pod).collect();
    let elsewhere: BTreeMap<_, _> = cluster
        .pods
        .iter()
        .filter(|pod| ours.contains(&pod.name) && !pod.node.is_empty() && pod.node != config.node)
        .map(|pod| (pod.name.clone(), pod.node.clone()))
        .collect();
    for (pod, node) in elsewhere.iter().filter(|(pod, node)| warned.get(pod) != Some(node)) {
        warn!(%pod, %node, "the pod has a port here, but names another node as its own");
    }
    elsewhere
}

/// The interlock, and what it looked like when it was put in force.
struct Guarded {
    interlock: Interlock,
    ports: Vec<InterfaceName>,
    hold: Vec<InterfacePattern>,
    /// `None` with an open fallback: then there is none.
    listing: Option<String>,
}

impl Guarded {
    fn new(config: &Config, ports: &[InterfaceName]) -> Result<Self> {
        let interlock = Interlock::of(&config.state_dir);
        let mut guarded = Self { interlock, ports: ports.to_vec(), hold: config.hold.clone(), listing: None };
        match config.fallback {
            Fallback::Closed => guarded.apply()?,
            Fallback::Open => {
                guarded.interlock.remove()?;
                warn!(
                    "fallback is open: there is no interlock, so what the kernel forwards to a pod is never judged; while no agent runs, nothing is"
                );
            }
        }
        Ok(guarded)
    }

    fn apply(&mut self) -> Result<()> {
        self.interlock.apply(&self.ports, &self.hold)?;
        self.listing = self.interlock.listing()?;
        Ok(())
    }

    /// Puts it back in force if somebody has changed or flushed it.
    fn inspect(&mut self) -> Result<()> {
        if self.listing.is_some() && self.interlock.listing()? != self.listing {
            error!("somebody has changed the interlock (nftables); it is put in force again");
            self.apply()?;
        }
        Ok(())
    }
}

/// Follows the kernel's changes in a task of its own: waiting for one can be given up without losing it.
fn follow(mut changes: Changes) -> mpsc::Receiver<()> {
    let (tell, told) = mpsc::channel(1);
    tokio::spawn(async move {
        while changes.next().await.is_some() {
            // A change that nobody has looked at yet stands for this one, too.
            if let Err(mpsc::error::TrySendError::Closed(())) = tell.try_send(()) {
                return;
            }
        }
    });
    told
}

fn start_control(
    config: &Config,
    table: Publisher<PolicyTable>,
) -> Result<(ControlThread, mpsc::Receiver<Event>)> {
    // The ports decide whose connections are judged here, whatever the pods' nodeName says.
    let judged = config.ports.iter().map(|port| port.pod.clone()).collect();
    let (control, events) = Control::new(&config.manifests, Scope::Pods(judged), table);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(control.run(async {
            // An error is the sender's end, which is what is waited for.
            let _ended = stopped.await;
        }));
    })?;
    Ok((ControlThread { stop, thread }, events))
}
