//! How the agent looks at itself: what its task knows at once, and what workers say of their ports.
//!
//! A worker is asked by an errand, which it does between two turns. One that hangs does not answer, and is shown so.

use std::collections::VecDeque;
use std::sync::Arc;
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
    Connections, Frames, Port, PortState, Previous, Queue, Rings, SCHEMA, Statistics, Status, Worker,
};
use crate::config::Config;
use crate::in_force::InForce;
use crate::plane::Plane;
use crate::rewire::Rewire;
use crate::watchdog::Health;
use crate::workers::Workers;

/// How long a worker may take to answer: twenty of an idle one's naps.
const PATIENCE: Duration = Duration::from_millis(200);
/// How many rounds of [`Observer::observe`] a busy ratio covers.
const ROUNDS: usize = 10;

/// What the agent is made of, to be looked at.
pub struct Parts<'a, P> {
    /// The configuration.
    pub config: &'a Config,
    /// The ports and workers.
    pub plane: &'a P,
    /// What is known of the pods.
    pub rewire: &'a Rewire,
    /// The policy.
    pub in_force: &'a InForce,
}

/// What the agent remembers of itself between two looks.
#[derive(Debug)]
pub struct Observer {
    started: Instant,
    health: Arc<Health>,
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
    sockets: Vec<Option<Owner>>,
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
                fill(&mut self.status, &self.sockets, worker, &report);
            }
        }
        doubt(&mut self.status);
        self.status
    }
}

impl Observer {
    /// Begins to observe an agent that has just started.
    #[must_use]
    pub fn new(workers: &Workers, health: Arc<Health>, previous: Previous) -> Self {
        let workers = workers.count();
        Self {
            started: Instant::now(),
            health,
            previous,
            latest: (0..workers).map(|_| None).collect(),
            asked: (0..workers).map(|_| None).collect(),
            pulses: VecDeque::with_capacity(ROUNDS + 1),
        }
    }

    /// To be done twice a second: takes in what workers have said since, and asks them again.
    pub fn observe(&mut self, workers: &Workers) {
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
            *asked = ask(workers, worker);
        }
        if self.pulses.len() > ROUNDS {
            self.pulses.pop_front();
        }
        self.pulses.push_back(pulses(workers));
    }

    /// How everything is, by what workers said when they were asked last: it waits for nobody.
    #[must_use]
    pub fn status(&self, parts: &Parts<'_, impl Plane>) -> Status {
        let sockets = parts.plane.sockets();
        let mut status = self.known(parts);
        for (worker, report) in self.latest.iter().enumerate() {
            if let Some(report) = report {
                fill(&mut status, &sockets, worker, report);
            }
        }
        doubt(&mut status);
        status
    }

    /// How everything is, for somebody who can wait for the workers.
    #[must_use]
    pub fn look(&self, parts: &Parts<'_, impl Plane>) -> Look {
        let sockets = parts.plane.sockets();
        let status = self.known(parts);
        let asked = (0..status.workers.len()).map(|worker| ask(parts.plane.workers(), worker)).collect();
        Look { status, sockets, asked }
    }

    /// All but what workers say of their ports.
    fn known(&self, parts: &Parts<'_, impl Plane>) -> Status {
        let Parts { config, plane, rewire, in_force } = *parts;
        let (flows, workers) = (&plane.shared().flows, plane.workers());
        let total = workers.total();
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
            ports: plane.ports(config, rewire.pods()),
            workers: (0..workers.count()).map(|worker| self.worker(workers, worker)).collect(),
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
            inline: plane.inline(),
            repairs: plane.repairs(),
        }
    }

    fn worker(&self, workers: &Workers, worker: usize) -> Worker {
        let counters = &workers.counters[worker];
        let tally = counters.read();
        let (polling, core) = workers.post_of(worker);
        let since = self.pulses.front().map_or((Millis(0), 0), |first| first[worker]);
        let (now, busy) = (workers.now(), counters.busy_millis());
        Worker {
            worker,
            answers: false,
            hangs: self.health.hangs(worker),
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
            records_lost: workers.records[worker].lost(),
            frames: None,
        }
    }
}

fn ask(workers: &Workers, worker: usize) -> Option<oneshot::Receiver<Report>> {
    let (answer, answered) = oneshot::channel();
    // Whoever asked may have gone before the answer.
    let posted = workers.post(worker, move |io| drop(answer.send(Report::of(io))));
    posted.ok().map(|()| answered)
}

fn pulses(workers: &Workers) -> Vec<(Millis, u64)> {
    let now = workers.now();
    workers.counters.iter().map(|counters| (now, counters.busy_millis())).collect()
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

/// Adds what a worker has said.
fn fill(status: &mut Status, sockets: &[Option<Owner>], worker: usize, report: &Report) {
    let Census { free, fill, tx, held, total } = report.census;
    status.workers[worker].answers = true;
    status.workers[worker].frames = Some(Frames { free, fill, tx, held, total });
    for (port, owner) in status.ports.iter_mut().zip(sockets) {
        if let Some(Owner { slot, .. }) = owner.filter(|owner| owner.worker == worker) {
            port.queues = report.ports[slot.0].iter().map(queue).collect();
        }
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
