//! The agent of inline mode, from its configuration to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::Event;
use engine::events::Event as Notice;
use engine::wiring::Wiring;
use flow::DropReason;
use nix::sys::signal::Signal;
use table::{Name, PolicyTable, Publisher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::{InlinePlane, pin_mac, punt_pair};
use crate::admin::snapshot::{Connections, Port, PortState, Role, Status};
use crate::broker::Broker;
use crate::config::{Config, OnExit};
use crate::in_force::InForce;
use crate::instance::{Instance, Previous};
use crate::links::{NodeLinks, NodeView, PodLink, wire};
use crate::metrics;
use crate::run::{self, ControlThread};

/// How often the worker's notices are looked for.
const NOTICES: Duration = Duration::from_millis(20);
/// How often figures are written, and silent neighbours asked again.
const UPKEEP: Duration = Duration::from_millis(500);
/// How often the kernel's verdicts are looked through, in rounds of upkeep: a connection that nobody has answered is
/// forgotten after 30 s, and must have been seen before.
const SWEEP: u32 = 10;
/// How often somebody looks whether everything is as it was left, in rounds of upkeep.
const INSPECT: u32 = 4;

/// Runs until it is told to end.
///
/// # Errors
///
/// What the system refuses.
pub async fn run(config: Config) -> Result<()> {
    Agent::start(config).await?.serve().await
}

struct Agent {
    config: Config,
    instance: Instance,
    plane: InlinePlane,
    links: NodeLinks,
    changes: mpsc::Receiver<()>,
    view: NodeView,
    pods: Vec<PodLink>,
    wiring: Publisher<Wiring>,
    /// The policy table in force.
    table: Option<Arc<PolicyTable>>,
    broker: Broker,
    in_force: InForce,
    figures_written: bool,
    policy: mpsc::Receiver<Event>,
    control: ControlThread,
}

impl Agent {
    async fn start(config: Config) -> Result<Self> {
        let changes = run::follow(NodeLinks::watch()?);
        let links = NodeLinks::open()?;
        let view = links.snapshot().await?;
        let mut instance = Instance::start(&config.state_dir)?;
        if let Previous::Unclean { pid } = instance.previous() {
            warn!(?pid, "the previous instance did not shut down cleanly");
        }
        for interface in config.interfaces() {
            if let Some(index) = view.index(interface) {
                instance.claim(interface, index)?;
            }
        }
        let pins = bpf::mount_if_missing(&config.state_dir)?.join(super::PINS);
        std::fs::create_dir_all(&pins).with_context(|| format!("cannot make {}", pins.display()))?;
        let ready = config.ports.iter().filter_map(|port| view.index(&port.interface)).collect();
        let broker = Broker::start(&config, ready)?;

        let (mut table, mut wiring) = (Publisher::new(), Publisher::new());
        let plane = InlinePlane::start(&config, &pins, links.handle(), &mut table, &mut wiring).await?;
        let pods = config.ports.iter().map(|port| PodLink {
            interface: port.interface.clone(),
            mac: port.mac,
            addresses: Vec::new(),
        });
        let pods = pods.collect();
        let (control, policy) = run::start_control(&config, table)?;
        let in_force = InForce::default();
        let table = None;
        Ok(Self {
            config,
            instance,
            plane,
            links,
            changes,
            view,
            pods,
            wiring,
            table,
            broker,
            in_force,
            figures_written: true,
            policy,
            control,
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
                    self.view = self.links.snapshot().await?;
                    self.rewire()?;
                }
                _ = notices.tick() => self.notices().await?,
                _ = upkeep.tick() => {
                    round += 1;
                    self.upkeep(round).await?;
                }
            }
        };
        info!(%signal, "ending");
        self.end().await
    }

    async fn policy_event(&mut self, event: Event) -> Result<()> {
        if let Event::Published { table, .. } = &event {
            let names: BTreeMap<_, _> = table.local_pods().map(|pod| (pod.name().clone(), pod)).collect();
            for (pod, port) in self.pods.iter_mut().zip(&self.config.ports) {
                let known = names.get(&Name::new(&port.pod.namespace, &port.pod.name));
                pod.addresses = known.map(|known| known.addresses().to_vec()).unwrap_or_default();
            }
            self.table = Some(Arc::clone(table));
            self.rewire()?;
        }
        self.in_force.take(&event, &self.config);
        self.write_figures();
        self.solicit().await;
        Ok(())
    }

    /// Brings programs, maps, wiring and the kernel's verdicts in step with what is known. Without a policy table,
    /// what a predecessor left in the maps stays.
    fn rewire(&mut self) -> Result<()> {
        let Some(table) = self.table.clone() else { return Ok(()) };
        for pod in self.pods.iter_mut().filter(|pod| pod.mac.is_none()) {
            if let Some(mac) = self.view.mac_of(pod) {
                pin_mac(pod, mac);
            }
        }
        let wiring = wire(&self.view, &self.pods, &self.config.uplinks)
            .with_services(self.config.services.iter().copied());
        let wiring = match self.wiring.current() {
            Some(current) if *current == wiring => current,
            _ => self.wiring.publish(wiring),
        };
        self.plane.table(&table, &wiring)?;
        self.plane.follow(&self.view, &self.pods)?;
        let ready = self.config.ports.iter().filter_map(|port| self.view.index(&port.interface)).collect();
        self.broker.let_through(ready)?;
        Ok(())
    }

    async fn notices(&mut self) -> Result<()> {
        while let Some(notice) = self.plane.shared.events.take() {
            let Notice::MacSeen(port, mac) = notice else { continue };
            if let Some(pod) = self.pods.get_mut(usize::from(port.0)) {
                pin_mac(pod, mac);
            }
            self.rewire()?;
        }
        Ok(())
    }

    async fn upkeep(&mut self, round: u32) -> Result<()> {
        if self.plane.has_lost_its_worker() {
            bail!("the worker thread has died");
        }
        self.plane.beat(4 * UPKEEP)?;
        if round.is_multiple_of(SWEEP) {
            self.plane.sweep()?;
        }
        if round.is_multiple_of(INSPECT) {
            if self.broker.inspect()? {
                error!("somebody has changed the interlock (nftables); it is put in force again");
            }
            if !self.plane.has_its_punt_pair() {
                // The worker's socket and the programs of the pair have gone with it.
                bail!("the punt pair has gone: a new start makes it again");
            }
            // Whatever an administrator has set there: packets that are punted need it as it was.
            punt_pair::set_up(self.links.handle()).await?;
            let mended = self.plane.mend_pins()?;
            if mended > 0 {
                error!(links = mended, "somebody has removed pins; they are put back");
            }
            self.view = self.links.snapshot().await?;
            self.rewire()?;
        }
        self.wiring.collect();
        self.write_figures();
        self.solicit().await;
        Ok(())
    }

    async fn solicit(&self) {
        for (index, address) in self.view.missing(&self.pods, &[]) {
            if let Err(error) = self.links.solicit(index, address).await {
                warn!(%address, %error, "cannot ask for a neighbour");
            }
        }
    }

    /// Writes the figures. Where they cannot be written, a full disk for one, nothing else suffers.
    fn write_figures(&mut self) {
        let written = metrics::write(self.status(), &self.config.state_dir);
        metrics::tell(&written, &mut self.figures_written);
    }

    fn status(&self) -> Status {
        let tally = self.plane.counters.read();
        let drops =
            DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), tally.dropped_for(*reason)));
        let flows = &self.plane.shared.flows;
        let pods = self.config.ports.iter().zip(&self.pods).map(|(port, pod)| Port {
            interface: port.interface.to_string(),
            ifindex: self.view.index(&port.interface).unwrap_or_default(),
            role: Role::Pod,
            pod: Some(port.pod.to_string()),
            mac: pod.mac.map(|mac| mac.to_string()),
            addresses: pod.addresses.iter().map(ToString::to_string).collect(),
            state: PortState::Attached,
            attach: "tc".to_owned(),
            ..Port::default()
        });
        Status {
            mode: "inline".to_owned(),
            node: self.config.node.clone(),
            pid: std::process::id(),
            table: self.in_force.table(),
            manifests: self.in_force.manifests(),
            ports: pods.collect(),
            drops: drops.collect(),
            connections: Connections {
                entries: flows.len(),
                capacity: flows.capacity(),
                given_up: flows.given_up(),
                bytes: flows.bytes(),
            },
            ..Status::default()
        }
    }

    async fn end(self) -> Result<()> {
        let Self { config, instance, plane, control, mut broker, links, .. } = self;
        plane.stop();
        control.end();
        if config.on_exit == OnExit::Detach {
            let (removed, failed) = broker.detach()?;
            for what in removed {
                info!("removed {what}");
            }
            for what in failed {
                error!("{what}");
            }
            punt_pair::remove(links.handle()).await?;
        }
        Ok(instance.finish()?)
    }
}
