//! Speeds, from two looks at the agent. Their time between is the agent's own, so that a look that came late does not
//! show as a burst.

use std::cmp::Reverse;

use crate::admin::snapshot::{Port, Role, Status};

/// The last look, and how fast things went between it and the one before.
#[derive(Debug)]
pub(super) struct Rates {
    pub(super) status: Status,
    /// In the order of the status; all zero after the first look.
    pub(super) ports: Vec<PortRates>,
    pub(super) workers: Vec<WorkerRates>,
    /// Reasons for which anything was dropped since the agent started.
    pub(super) drops: Vec<DropRate>,
}

/// Frames a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PortRates {
    pub(super) received: f64,
    pub(super) sent: f64,
    pub(super) dropped: f64,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WorkerRates {
    /// Frames a second, from ports and other workers.
    pub(super) frames: f64,
    /// Turns with frames, a second.
    pub(super) bursts: f64,
}

/// How much is dropped for one reason.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DropRate {
    pub(super) reason: String,
    pub(super) frames: u64,
    pub(super) rate: f64,
}

/// What ports are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// As they are configured.
    #[default]
    Configured,
    Received,
    Sent,
    Dropped,
}

impl Order {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Configured => Self::Received,
            Self::Received => Self::Sent,
            Self::Sent => Self::Dropped,
            Self::Dropped => Self::Configured,
        }
    }

    pub(super) const fn previous(self) -> Self {
        self.next().next().next()
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Configured => "the configuration",
            Self::Received => "RX/s",
            Self::Sent => "TX/s",
            Self::Dropped => "DROPS/s",
        }
    }
}

/// What a port's sockets received and sent. In inline mode the kernel carries a pod's packets: those that its programs
/// passed or asked about, and those that the worker gave back.
fn carried(port: &Port) -> (u64, u64) {
    match port.tc.as_ref().filter(|_| port.role != Role::Punt) {
        Some(tc) => {
            let sum = |names: &[&str]| names.iter().filter_map(|name| tc.packets.get(*name)).sum();
            (sum(&["hit", "own", "punted"]), sum(&["reinjected"]))
        }
        None => {
            let queues = &port.queues;
            (queues.iter().map(|queue| queue.received).sum(), queues.iter().map(|queue| queue.sent).sum())
        }
    }
}

impl Rates {
    /// Of a first look: nothing is known of speeds yet.
    pub(super) fn first(status: Status) -> Self {
        let before = status.clone();
        Self::between(&before, status)
    }

    /// Of the next look.
    pub(super) fn then(self, status: Status) -> Self {
        // Another agent counts from zero.
        if status.pid != self.status.pid { Self::first(status) } else { Self::between(&self.status, status) }
    }

    fn between(before: &Status, status: Status) -> Self {
        let seconds = status.uptime_seconds - before.uptime_seconds;
        let rate = |now: u64, then: u64| {
            // What has begun anew, as the counters of a socket do, has come this far since.
            let more = now.checked_sub(then).unwrap_or(now);
            if seconds > 0.0 { more as f64 / seconds } else { 0.0 }
        };
        let old = |port: &Port| before.ports.iter().find(|old| old.interface == port.interface);
        let ports = status.ports.iter().map(|port| {
            let old = old(port).unwrap_or(port);
            let ((received, sent), before) = (carried(port), carried(old));
            PortRates {
                received: rate(received, before.0),
                sent: rate(sent, before.1),
                dropped: rate(port.dropped, old.dropped),
            }
        });
        let workers = status.workers.iter().zip(&before.workers).map(|(now, then)| WorkerRates {
            frames: rate(now.received + now.handed_in, then.received + then.handed_in),
            bursts: rate(now.bursts, then.bursts),
        });
        let drops = status.drops.iter().filter(|(_, frames)| **frames > 0).map(|(reason, frames)| DropRate {
            reason: reason.clone(),
            frames: *frames,
            rate: rate(*frames, before.drops.get(reason).copied().unwrap_or_default()),
        });
        let (ports, workers) = (ports.collect(), workers.collect());
        let mut drops: Vec<DropRate> = drops.collect();
        drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.frames.cmp(&a.frames)));
        Self { ports, workers, drops, status }
    }

    /// The ports in this order.
    pub(super) fn sorted(&self, order: Order) -> Vec<(&Port, PortRates)> {
        let mut ports: Vec<_> = self.status.ports.iter().zip(self.ports.iter().copied()).collect();
        let key: fn(&PortRates) -> f64 = match order {
            Order::Configured => return ports,
            Order::Received => |rates| rates.received,
            Order::Sent => |rates| rates.sent,
            Order::Dropped => |rates| rates.dropped,
        };
        // No speed is negative, and then the bits are in the order of the numbers.
        ports.sort_by_key(|(_, rates)| Reverse(key(rates).to_bits()));
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::snapshot::Queue;

    fn status(uptime: f64, received: [u64; 2], denied: u64) -> Status {
        let port = |interface: &str, received| Port {
            interface: interface.to_owned(),
            queues: vec![Queue { received, ..Queue::default() }],
            ..Port::default()
        };
        Status {
            pid: 7,
            uptime_seconds: uptime,
            ports: vec![port("a", received[0]), port("b", received[1])],
            drops: [("default_deny".to_owned(), denied), ("no_flow".to_owned(), 0)].into(),
            ..Status::default()
        }
    }

    #[test]
    fn speeds_are_by_the_agents_own_time() {
        let first = Rates::first(status(10.0, [100, 5], 3));
        assert_eq!(first.ports[0], PortRates::default());
        let next = first.then(status(12.0, [300, 1005], 43));
        assert_eq!([next.ports[0].received, next.ports[1].received], [100.0, 500.0]);
        assert_eq!(next.drops, [DropRate { reason: "default_deny".to_owned(), frames: 43, rate: 20.0 }]);
        let names =
            |order| next.sorted(order).iter().map(|(port, _)| port.interface.clone()).collect::<String>();
        assert_eq!([names(Order::Configured), names(Order::Received)], ["ab", "ba"]);
    }

    #[test]
    fn what_begins_anew_is_no_burst() {
        let first = Rates::first(status(10.0, [1000, 0], 0));
        let reopened = first.then(status(11.0, [40, 0], 0));
        assert_eq!(reopened.ports[0].received, 40.0, "a socket that was opened again");
        let restarted = reopened.then(Status { pid: 8, ..status(1.0, [90, 0], 0) });
        assert_eq!(restarted.ports[0].received, 0.0, "another agent");
    }
}
