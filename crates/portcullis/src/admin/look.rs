//! How the agent looks at itself: what its task knows at once, and what workers say of their ports.
//!
//! A worker is asked by an errand, which it does between two turns. One that hangs does not answer, and is shown so.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use engine::flows::Millis;
use engine::io::{Census, PacketIo, Slot};
use engine::polling::Polling;
use engine::shared::Owner;
use flow::DropReason;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use xsk::{QueueReport, XskIo};

use super::snapshot::{
    Connections, Frames, Port, PortState, Previous, Queue, Rings, Role, SCHEMA, Statistics, Status, Worker,
    Xdp,
};
use crate::config::Config;
use crate::dataplane::{self, Dataplane};
use crate::in_force::InForce;
use crate::rewire::Rewire;

/// How long a worker may take to answer: twenty of an idle one's naps.
const PATIENCE: Duration = Duration::from_millis(200);
/// How many rounds of [`Observer::observe`] a busy ratio covers.
const ROUNDS: usize = 10;

/// What the agent is made of, to be looked at.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The ports and workers.
    pub dataplane: &'a Dataplane,
    /// What is known of the pods.
    pub rewire: &'a Rewire,
    /// The policy.
    pub in_force: &'a InForce,
}

/// What the agent remembers of itself between two looks.
#[derive(Debug)]
pub struct Observer {
    started: Instant,
    previous: Previous,
    /// What each worker said last.
    latest: Vec<Option<Report>>,
    asked: Vec<Option<oneshot::Receiver<Report>>>,
    /// The workers' times, and how many milliseconds of it they had been busy; the latest last.
    pulses: VecDeque<Vec<(Millis, u64)>>,
}

/// What a worker says of its ports.
#[derive(Debug)]
struct Report {
    /// By slot.
    ports: Vec<Vec<QueueReport>>,
    census: Census,
}

impl Report {
    fn of(io: &mut XskIo) -> Self {
        let ports = (0..io.ports()).map(|slot| io.report(Slot(slot))).collect();
        Self { ports, census: io.census() }
    }
}

/// A look at the agent, without what the workers have yet to say.
#[derive(Debug)]
pub struct Look {
    status: Status,
    owners: Vec<Owner>,
    /// By worker; `None` if it takes no more errands.
    asked: Vec<Option<oneshot::Receiver<Report>>>,
}

impl Look {
    /// Waits for the workers, though not for long.
    pub async fn settle(mut self) -> Status {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for (worker, asked) in std::mem::take(&mut self.asked).into_iter().enumerate() {
            let Some(asked) = asked else { continue };
            if let Ok(Ok(report)) = tokio::time::timeout_at(deadline, asked).await {
                fill(&mut self.status, &self.owners, worker, &report);
            }
        }
        doubt(&mut self.status);
        self.status
    }
}

impl Observer {
    /// Begins to observe an agent that has just started.
    #[must_use]
    pub fn new(dataplane: &Dataplane, previous: Previous) -> Self {
        let workers = dataplane.counters.len();
        Self {
            started: Instant::now(),
            previous,
            latest: (0..workers).map(|_| None).collect(),
            asked: (0..workers).map(|_| None).collect(),
            pulses: VecDeque::with_capacity(ROUNDS + 1),
        }
    }

    /// To be done twice a second: takes in what workers have said since, and asks them again.
    pub fn observe(&mut self, dataplane: &Dataplane) {
        for (worker, (asked, latest)) in self.asked.iter_mut().zip(&mut self.latest).enumerate() {
            match asked.as_mut().map(oneshot::Receiver::try_recv) {
                Some(Ok(report)) => *latest = Some(report),
                // One question at a time: who has not answered the last one is not asked again.
                Some(Err(TryRecvError::Empty)) => {
                    *latest = None;
                    continue;
                }
                Some(Err(TryRecvError::Closed)) | None => *latest = None,
            }
            *asked = ask(dataplane, worker);
        }
        if self.pulses.len() > ROUNDS {
            self.pulses.pop_front();
        }
        self.pulses.push_back(pulses(dataplane));
    }

    /// How everything is, by what workers said when they were asked last: it waits for nobody.
    #[must_use]
    pub fn status(&self, parts: Parts<'_>) -> Status {
        let owners = owners(&parts);
        let mut status = self.known(&parts);
        for (worker, report) in self.latest.iter().enumerate() {
            if let Some(report) = report {
                fill(&mut status, &owners, worker, report);
            }
        }
        doubt(&mut status);
        status
    }

    /// How everything is, for somebody who can wait for the workers.
    #[must_use]
    pub fn look(&self, parts: Parts<'_>) -> Look {
        let owners = owners(&parts);
        let status = self.known(&parts);
        let asked = (0..status.workers.len()).map(|worker| ask(parts.dataplane, worker)).collect();
        Look { status, owners, asked }
    }

    /// All but what workers say of their ports.
    fn known(&self, parts: &Parts<'_>) -> Status {
        let Parts { config, dataplane, in_force, .. } = *parts;
        let flows = &dataplane.shared.flows;
        let total = dataplane.total();
        Status {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.node.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            mode: config.mode.to_string(),
            fallback: config.fallback.to_string(),
            on_exit: config.on_exit.to_string(),
            previous: self.previous.clone(),
            recovery: in_force.recovery(config.recovery_window),
            table: in_force.table(),
            manifests: in_force.manifests(),
            ports: ports(parts),
            workers: (0..dataplane.counters.len()).map(|worker| self.worker(dataplane, worker)).collect(),
            drops: DropReason::ALL
                .iter()
                .map(|reason| (reason.name().to_owned(), total.dropped_for(*reason)))
                .collect(),
            connections: Connections {
                entries: flows.len(),
                capacity: flows.capacity(),
                given_up: flows.given_up(),
                bytes: flows.bytes(),
            },
            repairs: dataplane.repairs,
        }
    }

    fn worker(&self, dataplane: &Dataplane, worker: usize) -> Worker {
        let counters = &dataplane.counters[worker];
        let tally = counters.read();
        let (polling, core) = dataplane.post_of(worker);
        let since = self.pulses.front().map_or((Millis(0), 0), |first| first[worker]);
        let (now, busy) = (dataplane.now(), counters.busy_millis());
        Worker {
            worker,
            answers: false,
            heartbeat_age_seconds: now.since(counters.last_turn()) as f64 / 1000.0,
            polling: match polling {
                Polling::Busy => "busy",
                Polling::Adaptive => "adaptive",
            }
            .to_owned(),
            core,
            busy_ratio: ratio(busy.saturating_sub(since.1), now.since(since.0)),
            received: tally.rx,
            transmitted: tally.tx,
            handed_in: tally.handed_in,
            handed_out: tally.handed_out,
            dropped: tally.dropped_total(),
            bursts: tally.turns,
            judged: tally.judged,
            icmp_errors: tally.made,
            icmp_errors_withheld: tally.errors_withheld,
            fragments_displaced: counters.fragments_displaced(),
            records_lost: dataplane.records[worker].lost(),
            frames: None,
        }
    }
}

fn ask(dataplane: &Dataplane, worker: usize) -> Option<oneshot::Receiver<Report>> {
    let (answer, answered) = oneshot::channel();
    // Whoever asked may have gone before the answer.
    let posted = dataplane.post(worker, move |io| drop(answer.send(Report::of(io))));
    posted.ok().map(|()| answered)
}

fn pulses(dataplane: &Dataplane) -> Vec<(Millis, u64)> {
    let now = dataplane.now();
    dataplane.counters.iter().map(|counters| (now, counters.busy_millis())).collect()
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

fn owners(parts: &Parts<'_>) -> Vec<Owner> {
    parts.dataplane.ports().iter().map(|port| port.owner).collect()
}

fn ports(parts: &Parts<'_>) -> Vec<Port> {
    let Parts { config, dataplane, rewire, .. } = *parts;
    let ports = dataplane.ports().iter().enumerate().map(|(number, port)| {
        let dataplane::Port { id, ref interface, owner, ifindex, .. } = *port;
        let pod = config.ports.get(number);
        let known = rewire.pods().get(number);
        let (state, why) = match &port.state {
            dataplane::PortState::Absent => (PortState::Absent, None),
            dataplane::PortState::Attached => (PortState::Attached, None),
            dataplane::PortState::Paused => (PortState::Paused, None),
            dataplane::PortState::Closed { why, .. } => (PortState::Closed, Some(why.clone())),
        };
        Port {
            interface: interface.to_string(),
            ifindex: ifindex.unwrap_or(0),
            role: if pod.is_some() { Role::Pod } else { Role::Uplink },
            pod: pod.map(|port| port.pod.to_string()),
            mac: known.and_then(|pod| pod.mac).map(|mac| mac.to_string()),
            addresses: known
                .map(|pod| pod.addresses.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            state,
            why,
            attach: "native".to_owned(),
            worker: owner.worker,
            dropped: dataplane.counters[owner.worker].dropped_from(owner.slot),
            xdp: dataplane.steered(id).map(|counted| Xdp {
                passed: counted.passed,
                redirected: counted.redirected,
                dropped: counted.dropped,
            }),
            queues: Vec::new(),
        }
    });
    ports.collect()
}

/// Adds what a worker has said.
fn fill(status: &mut Status, owners: &[Owner], worker: usize, report: &Report) {
    let Census { free, fill, tx, held, total } = report.census;
    status.workers[worker].answers = true;
    status.workers[worker].frames = Some(Frames { free, fill, tx, held, total });
    for (port, owner) in status.ports.iter_mut().zip(owners).filter(|(_, owner)| owner.worker == worker) {
        port.queues = report.ports[owner.slot.0].iter().map(queue).collect();
    }
}

/// A worker that does not answer may serve nothing.
fn doubt(status: &mut Status) {
    let served = |port: &&mut Port| matches!(port.state, PortState::Attached | PortState::Paused);
    for port in status.ports.iter_mut().filter(served) {
        if !status.workers[port.worker].answers {
            port.state = PortState::Unknown;
        }
    }
}

fn queue(report: &QueueReport) -> Queue {
    let QueueReport { queue, zero_copy, received, sent, ring, fill, rx, tx, completion, statistics } =
        *report;
    Queue {
        queue,
        zero_copy,
        received,
        sent,
        rings: Rings { capacity: ring, fill, rx, tx, completion },
        statistics: statistics.map(|counted| Statistics {
            rx_dropped: counted.rx_dropped,
            rx_ring_full: counted.rx_ring_full,
            rx_fill_ring_empty: counted.rx_fill_ring_empty,
            rx_invalid_descs: counted.rx_invalid,
            tx_invalid_descs: counted.tx_invalid,
            tx_ring_empty: counted.tx_ring_empty,
        }),
    }
}
