//! `portcullis run`: the agent, from its configuration to its end. `duties` are what it does in between, unasked.

mod duties;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use compiler::Scope;
use control::{Control, Event};
use nix::sys::signal::Signal;
use policy::model::Cluster;
use sd_notify::NotifyState;
use table::{PolicyTable, Publisher, Reader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::admin::look::{Observer, Parts};
use crate::admin::server::{self, AdminSocket};
use crate::admin::{Desk, Question, snapshot};
use crate::broker::Broker;
use crate::cli::RunArgs;
use crate::config::{Config, Fallback, Mode, OnExit};
use crate::descriptors;
use crate::exit::{Failure, system, usage};
use crate::flows::stream::{self, Hub};
use crate::flows::witness::{Behind, Witness};
use crate::in_force::InForce;
use crate::inline::InlinePlane;
use crate::instance::{Instance, Previous};
use crate::links::{Changes, NodeLinks};
use crate::metrics;
use crate::plane::{Beginning, Plane};
use crate::preflight::{self, Machine};
use crate::privileges;
use crate::rewire::Rewire;
use crate::router::RouterPlane;
use crate::service;
use crate::watchdog::{self, Watchdog};
use crate::workers::Workers;

/// How often workers' events are looked for: a pod waits this long to be known by its first ARP.
const EVENTS: Duration = Duration::from_millis(20);
/// How often the figures are written, expired connections swept, and silent neighbours asked again.
const UPKEEP: Duration = Duration::from_millis(500);

/// Runs the agent until it is told to end.
///
/// # Errors
///
/// A configuration that cannot be used (exit code 2), or a system that refuses (3).
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config, args.manifests.as_deref()).map_err(usage)?;
    info!(mode = %config.mode, node = %config.node, "starting");
    watchdog::abort_on_panic();
    descriptors::allow_as_many_as_may_be();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    runtime.block_on(async {
        let served = match config.mode {
            Mode::Router => Agent::<RouterPlane>::run(config, args.debug_panic_after).await,
            Mode::Inline => Agent::<InlinePlane>::run(config, args.debug_panic_after).await,
        };
        served.map_err(descriptors::explain).map_err(system)
    })
}

/// A running agent, whatever carries the packets.
struct Agent<P> {
    config: Config,
    instance: Instance,
    plane: P,
    watchdog: Watchdog,
    rewire: Rewire,
    links: NodeLinks,
    changes: mpsc::Receiver<()>,
    broker: Broker,
    observer: Observer,
    in_force: InForce,
    figures_written: bool,
    policy: mpsc::Receiver<Event>,
    control: ControlThread,
    questions: mpsc::Receiver<Question>,
    /// The cluster in force, for who gives names to what the workers tell.
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    /// Dropping this removes the admin socket.
    _socket: AdminSocket,
    /// When a worker is to panic, for those who debug that.
    debug_panic: Option<Instant>,
}

/// The thread that keeps the policy table true to the manifests.
struct ControlThread {
    /// Dropped, it ends the thread.
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl ControlThread {
    /// Ends it.
    fn end(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            warn!("the control thread had panicked");
        }
    }
}

impl<P: Plane> Agent<P> {
    async fn run(config: Config, debug_panic_after: Option<u64>) -> Result<()> {
        Self::start(config, debug_panic_after).await?.serve().await
    }

    async fn start(config: Config, debug_panic_after: Option<u64>) -> Result<Self> {
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
            if let Some(index) = view.index(interface) {
                instance.claim(interface, index)?;
            }
        }

        let (desk, questions) = Desk::open();
        let hub = Arc::new(Hub::default());
        let socket = server::listen(&config, &desk, stream::router(Arc::clone(&hub))).await?;

        let pins = bpf::mount_if_missing(&config.state_dir)?;
        let broker = Broker::start(&config, P::already_ready(&config, &view, &pins)?)?;
        if config.fallback == Fallback::Open {
            warn!(
                "fallback is open: there is no interlock, so what the kernel forwards to a pod is never judged; while no agent runs, nothing is"
            );
        }
        let programs = P::load(&config, &pins)?;
        // Before there is a second thread, and before there is anything that a frame can reach.
        privileges::give_up()?;
        info!(system_calls = privileges::calls::allowed(), "privileges are given up");

        let (mut table, mut wiring) = (Publisher::new(), Publisher::new());
        let beginning = Beginning {
            config: &config,
            pins: &pins,
            view: &view,
            links: &links,
            claims: &mut instance,
            table: &mut table,
            wiring: &mut wiring,
        };
        let plane = P::start(programs, beginning).await?;
        let workers = plane.workers();
        let watchdog = Watchdog::start(workers.counters.clone()).context("cannot start the watchdog")?;
        let before = instance.handover();
        tell(&before);
        let observer = Observer::new(workers, watchdog.health(), before);
        let (cluster, named) = watch::channel(None);
        tokio::spawn(witness(&config, workers, table.reader(), named).testify(hub));
        let rewire = Rewire::new(&config, view, wiring);
        let (control, policy) = start_control(&config, table)?;
        let mut agent = Self {
            config,
            instance,
            plane,
            watchdog,
            rewire,
            links,
            changes,
            broker,
            observer,
            in_force: InForce::default(),
            figures_written: true,
            policy,
            control,
            questions,
            cluster,
            _socket: socket,
            debug_panic: debug_panic_after.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        };
        agent.broker.let_through(agent.plane.ready())?;
        Ok(agent)
    }

    async fn serve(mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (mut events, mut upkeep) = (every(EVENTS), every(UPKEEP));
        let mut round = 0;
        let health = self.watchdog.health();
        let signal = loop {
            health.beat();
            tokio::select! {
                biased;
                _ = terminate.recv() => break Signal::SIGTERM,
                _ = interrupt.recv() => break Signal::SIGINT,
                event = self.policy.recv() => {
                    self.policy_event(event.context("the control thread has ended")?).await?;
                }
                changed = self.changes.recv() => {
                    changed.context("the kernel sends no more link events")?;
                    self.follow().await?;
                }
                _ = events.tick() => self.events().await?,
                _ = upkeep.tick() => {
                    round += 1;
                    self.upkeep(round).await?;
                }
                // Last: no number of questions keeps the agent from its duties.
                Some(question) = self.questions.recv() => self.answer(question),
            }
        };
        info!(%signal, "ending");
        service::tell(&[NotifyState::Stopping]);
        self.end().await
    }

    async fn policy_event(&mut self, event: Event) -> Result<()> {
        if let Event::Published { table, cluster, .. } = &event {
            self.cluster.send_replace(Some(Arc::clone(cluster)));
            self.rewire.table(table, &mut self.plane)?;
            self.broker.let_through(self.plane.ready())?;
        }
        self.in_force.take(&event, &self.config);
        // Whoever waits for a change sees at once that it is in force.
        self.write_figures();
        if let Event::Published { table, generation, .. } = &event {
            let status = format!("generation {generation}, {} rules", table.sizes().rules);
            service::tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }
        self.solicit().await;
        Ok(())
    }

    /// Brings ports, maps and wiring in step with the node's links. A pod's interface is let through last.
    async fn follow(&mut self) -> Result<()> {
        self.plane.keep(&self.links).await;
        let view = self.links.snapshot().await?;
        self.plane.follow(&view, &mut self.instance);
        self.rewire.view(view, &mut self.plane)?;
        if self.broker.let_through(self.plane.ready())? {
            self.solicit().await;
        }
        Ok(())
    }

    fn answer(&self, question: Question) {
        // Whoever asked may have gone.
        match question {
            Question::Status(answer) => drop(answer.send(self.observer.look(&self.parts()))),
        }
    }

    const fn parts(&self) -> Parts<'_, P> {
        let Self { config, plane, rewire, in_force, .. } = self;
        Parts { config, plane, rewire, in_force }
    }

    async fn end(self) -> Result<()> {
        let Self {
            config,
            instance,
            mut plane,
            watchdog,
            rewire,
            observer,
            in_force,
            control,
            mut broker,
            links,
            ..
        } = self;
        plane.workers_mut().stop();
        // Whatever the workers did last is in the figures, too.
        let parts = Parts { config: &config, plane: &plane, rewire: &rewire, in_force: &in_force };
        if let Err(error) = metrics::write(observer.status(&parts), &config.state_dir) {
            warn!(%error, "the last figures cannot be written");
        }
        drop(watchdog);
        control.end();
        if config.on_exit == OnExit::Detach {
            // Its handles on the programs would keep them attached.
            plane.clear_away(&links).await?;
            detach(&mut broker)?;
        }
        Ok(instance.finish()?)
    }
}

/// Has programs, pins and interlock removed.
fn detach(broker: &mut Broker) -> Result<()> {
    let (removed, failed) = broker.detach()?;
    for what in removed {
        info!("removed {what}");
    }
    for what in failed {
        error!("{what}");
    }
    Ok(())
}

/// Ticks; one that was missed delays those after it.
fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Who gives names to what the workers tell.
fn witness(
    config: &Config,
    workers: &Workers,
    table: Reader<PolicyTable>,
    cluster: watch::Receiver<Option<Arc<Cluster>>>,
) -> Witness {
    let pods = config.ports.iter().map(|port| Some(&port.pod)).chain(std::iter::repeat(None));
    let behind = config
        .interfaces()
        .zip(pods)
        .map(|(interface, pod)| Behind { interface: interface.to_string(), pod: pod.cloned() });
    Witness::new(workers.records.clone(), table, cluster, behind.collect(), workers.started())
}

/// What the time without an agent has been like.
fn tell(before: &snapshot::Previous) {
    let Some(gap) = before.gap_seconds.map(|seconds| format!("{seconds:.1} s")) else { return };
    if before.unfiltered {
        warn!("for about {gap} before this start no agent ran, and pods' traffic was unfiltered");
    } else {
        info!("for about {gap} before this start no agent ran, and the ports let nothing pass");
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
