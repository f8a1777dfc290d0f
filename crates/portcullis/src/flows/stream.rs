//! From the agent's task to its listeners: a short memory, and a channel that never waits for the slowest.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query as Asked, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::filter::{Filter, Query};
use super::record::{Flow, Line, Passed, Schema};
use crate::admin::refusal;

/// How many records the agent remembers.
pub const HISTORY: usize = 4096;
/// How many records a listener may lag behind before it loses some.
const LAG: usize = 4096;
/// How often a listener hears what went by, also when nothing was for it.
const BEAT: Duration = Duration::from_secs(1);
/// About how many bytes go out at once.
const CHUNK: usize = 32 * 1024;

/// What the agent has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A flow, and the first bytes of its frame.
    Flow(Box<Flow>, Vec<u8>),
    /// So many records have been lost here.
    Lost(u64),
}

/// Where records go that have their names, and where listeners come for them.
#[derive(Debug)]
pub struct Hub {
    history: Mutex<VecDeque<Arc<Told>>>,
    live: broadcast::Sender<Arc<Told>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { history: Mutex::default(), live: broadcast::Sender::new(LAG) }
    }
}

impl Hub {
    /// Tells everybody, now and later.
    pub fn tell(&self, told: Told) {
        let told = Arc::new(told);
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Arc::clone(&told));
        // That nobody listens is no error.
        drop(self.live.send(told));
    }

    /// How many listen to what is to come.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// Begins to listen. Between what is remembered and what is to come nothing is missing and nothing twice.
    fn listen(&self, query: &Query, filter: Filter) -> Listener {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match (query.last, query.follow) {
            (None, false) => 0,
            (None, true) => history.len(),
            (Some(most), _) => {
                let wanted = |told: &Told| matches!(told, Told::Flow(flow, _) if filter.takes(flow));
                let last = history.iter().enumerate().rev().filter(|(_, told)| wanted(told)).take(most);
                last.last().map_or(history.len(), |(first, _)| first)
            }
        };
        let past = history.iter().skip(from).cloned().collect();
        let live = query.follow.then(|| self.live.subscribe());
        drop(history);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Listener { past, live, filter, packets: query.packets, seen: 0, lost: 0, beat }
    }
}

/// Somebody who listens.
struct Listener {
    past: VecDeque<Arc<Told>>,
    live: Option<broadcast::Receiver<Arc<Told>>>,
    filter: Filter,
    packets: bool,
    /// Since it was last told.
    seen: u64,
    lost: u64,
    beat: Interval,
}

impl Listener {
    /// The next lines; `None` after the last.
    async fn lines(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        while let Some(told) = self.past.pop_front() {
            self.note(&told, &mut out);
            if out.len() >= CHUNK {
                return Some(out);
            }
        }
        if !out.is_empty() || self.live.is_none() {
            self.passed(&mut out);
            return (!out.is_empty()).then_some(out);
        }
        loop {
            let live = self.live.as_mut()?;
            let told = tokio::select! {
                biased;
                told = live.recv() => told,
                _ = self.beat.tick() => {
                    self.passed(&mut out);
                    return Some(out);
                }
            };
            match told {
                Ok(told) => self.note(&told, &mut out),
                Err(RecvError::Lagged(lost)) => self.lost += lost,
                Err(RecvError::Closed) => self.live = None,
            }
            self.take_what_waits(&mut out);
            if self.lost > 0 {
                self.passed(&mut out);
            }
            if !out.is_empty() {
                return Some(out);
            }
        }
    }

    fn take_what_waits(&mut self, out: &mut Vec<u8>) {
        while out.len() < CHUNK
            && let Some(live) = &mut self.live
        {
            match live.try_recv() {
                Ok(told) => self.note(&told, out),
                Err(TryRecvError::Lagged(lost)) => self.lost += lost,
                Err(TryRecvError::Closed) => self.live = None,
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn note(&mut self, told: &Told, out: &mut Vec<u8>) {
        match told {
            Told::Lost(lost) => self.lost += lost,
            Told::Flow(flow, head) => {
                self.seen += 1;
                if self.filter.takes(flow) {
                    let packet = self.packets.then(|| hexadecimal(head));
                    write(&Line::Flow(Box::new(Flow { packet, ..(**flow).clone() })), out);
                }
            }
        }
    }

    /// What went by since this was last said, if anything did or if somebody waits to hear that we live.
    fn passed(&mut self, out: &mut Vec<u8>) {
        let (seen, lost) = (std::mem::take(&mut self.seen), std::mem::take(&mut self.lost));
        if self.live.is_some() || seen + lost > 0 {
            write(&Line::Passed(Passed { schema: Schema::V1, seen, lost }), out);
        }
    }
}

fn write(line: &Line, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, line).expect("a line is JSON");
    out.push(b'\n');
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// What the agent's socket answers about flows.
pub fn router(hub: Arc<Hub>) -> Router {
    Router::new().route("/v1/flows", get(flows)).with_state(hub)
}

async fn flows(State(hub): State<Arc<Hub>>, Asked(query): Asked<Query>) -> Response {
    let filter = match Filter::try_from(&query) {
        Ok(filter) => filter,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let lines = stream::unfold(hub.listen(&query, filter), async |mut listener| {
        let lines = listener.lines().await?;
        Some((Ok::<_, Infallible>(lines), listener))
    });
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::record::tests::flow;

    /// A flow that its generation tells from others; every third is y/c's.
    fn told(generation: u64) -> Told {
        let mut flow = Flow { generation, ..flow() };
        if generation.is_multiple_of(3) {
            flow.to.pod = Some("y/c".to_owned());
        }
        Told::Flow(Box::new(flow), vec![0xab; 2])
    }

    fn hub(flows: std::ops::Range<u64>) -> Hub {
        let hub = Hub::default();
        flows.for_each(|generation| hub.tell(told(generation)));
        hub
    }

    fn listen(hub: &Hub, query: &Query) -> Listener {
        hub.listen(query, Filter::try_from(query).unwrap())
    }

    /// Of the next lines, the flows' generations, and what passed.
    async fn hear(listener: &mut Listener) -> Option<(Vec<u64>, u64, u64)> {
        let (mut generations, mut seen, mut lost) = (Vec::new(), 0, 0);
        for line in listener.lines().await?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line).unwrap() {
                Line::Flow(flow) => generations.push(flow.generation),
                Line::Passed(passed) => (seen, lost) = (seen + passed.seen, lost + passed.lost),
            }
        }
        Some((generations, seen, lost))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_told_once_and_then_it_ends() {
        let hub = hub(0..10);
        hub.tell(Told::Lost(4));
        let mut all = listen(&hub, &Query::default());
        assert_eq!(hear(&mut all).await, Some(((0..10).collect(), 10, 4)));
        assert_eq!(hear(&mut all).await, None);
        let mut last =
            listen(&hub, &Query { last: Some(2), pod: Some("y/c".to_owned()), ..Query::default() });
        assert_eq!(hear(&mut last).await, Some((vec![6, 9], 4, 4)));
        assert_eq!(hear(&mut last).await, None);
        let mut nothing = listen(&hub, &Query { pod: Some("y/d".to_owned()), ..Query::default() });
        assert_eq!(hear(&mut nothing).await, Some((vec![], 10, 4)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_follows_what_is_remembered() {
        let hub = hub(0..5);
        let mut live = listen(&hub, &Query { follow: true, ..Query::default() });
        let mut both = listen(&hub, &Query { follow: true, last: Some(2), ..Query::default() });
        assert_eq!(hub.listeners(), 2);
        (5..8).for_each(|generation| hub.tell(told(generation)));
        assert_eq!(hear(&mut both).await, Some((vec![3, 4], 2, 0)));
        assert_eq!(hear(&mut both).await, Some((vec![5, 6, 7], 0, 0)));
        assert_eq!(hear(&mut live).await, Some((vec![5, 6, 7], 0, 0)));
        // Time passes as fast as nothing happens: a beat says what was seen, and that we live.
        let mut beats = Vec::new();
        for _ in 0..3 {
            beats.push(hear(&mut live).await.unwrap());
        }
        assert_eq!(beats.iter().map(|(_, seen, _)| seen).sum::<u64>(), 3, "{beats:?}");
        drop((live, both));
        assert_eq!(hub.listeners(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_slow_hears_how_much_is_lost() {
        let hub = Hub::default();
        let (mut slow, mut quick) = (
            listen(&hub, &Query { follow: true, ..Query::default() }),
            listen(&hub, &Query { follow: true, ..Query::default() }),
        );
        let (all, lag) = (3 * LAG as u64, LAG as u64);
        let mut quickly = 0;
        for generation in 0..all {
            hub.tell(told(generation));
            if generation % 64 == 63 {
                quickly += hear(&mut quick).await.unwrap().0.len();
            }
        }
        assert_eq!(quickly as u64, all, "nobody waits for the slow one");
        let (mut slowly, mut lost) = (Vec::new(), 0);
        while slowly.last() != Some(&(all - 1)) {
            let heard = hear(&mut slow).await.unwrap();
            slowly.extend(heard.0);
            lost += heard.2;
        }
        assert_eq!((slowly.len() as u64, lost), (lag, all - lag));
        assert_eq!(slowly[0], all - lag, "the latest are those that are left");
    }

    #[tokio::test(start_paused = true)]
    async fn packets_come_when_they_are_asked_for() {
        let hub = hub(0..1);
        for (packets, shown) in [(false, None), (true, Some("abab".to_owned()))] {
            let mut listener = listen(&hub, &Query { packets, ..Query::default() });
            let lines = listener.lines().await.unwrap();
            let first = lines.split(|byte| *byte == b'\n').next().unwrap();
            let Line::Flow(flow) = serde_json::from_slice(first).unwrap() else { panic!("a flow") };
            assert_eq!(flow.packet, shown);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let hub = hub(0..HISTORY as u64 + 10);
        let history = hub.history.lock().unwrap();
        assert_eq!(history.len(), HISTORY);
        assert_eq!(*history[0], told(10));
    }
}
