//! What is offered: by whom, to whom, how fast, and for how long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flow::MacAddr;
use lab::{Family, Lab, Place};

use super::frame;

/// What kind of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UDP datagrams.
    Udp,
    /// TCP segments with SYN alone: each opens, or tries to open, a connection.
    Syn,
}

/// A run of neighbouring values: `first`, and the `count - 1` after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span<T> {
    /// The lowest.
    pub first: T,
    /// How many, at least one.
    pub count: u32,
}

impl<T> Span<T> {
    /// Just one value.
    pub const fn one(first: T) -> Self {
        Self { first, count: 1 }
    }

    /// That many values from `first` on.
    pub const fn of(first: T, count: u32) -> Self {
        Self { first, count }
    }
}

/// The two ends of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where it comes from.
    pub source: (IpAddr, u16),
    /// Where it goes.
    pub destination: (IpAddr, u16),
}

/// What is offered. Frame number `n` belongs to flow `n * stride % flows`, and flow number `f` has the source port
/// number `f % count` of its span, then, with what is left of `f`, a destination port, a source address and a
/// destination address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which tells the frames of one load from those of any other.
    pub run: u32,
    /// Source and destination on the link.
    pub macs: (MacAddr, MacAddr),
    /// Source addresses. Of IPv6 the last 32 bits count up.
    pub sources: Span<IpAddr>,
    /// Destination addresses, of the same family.
    pub destinations: Span<IpAddr>,
    /// Source ports.
    pub source_ports: Span<u16>,
    /// Destination ports.
    pub destination_ports: Span<u16>,
    /// UDP or TCP.
    pub kind: Kind,
    /// How many flows, at most what the spans give; at least one.
    pub flows: u64,
    /// From one frame's flow to the next one's. A number that has no divisor in common with `flows` visits all of
    /// them; a large one looks random.
    pub stride: u64,
    /// Bytes of a frame, from the destination MAC address to the last of the payload.
    pub frame: usize,
    /// Frames a second; `None` is as fast as possible.
    pub rate: Option<u64>,
    /// With a rate: so many go at once, and what is late by more than as many again is left out, so that it never comes
    /// in a flood. `None`: each goes when it is due, and what is late is made up for.
    pub burst: Option<u64>,
    /// Not before this moment: loads that are to begin together have the same.
    pub begin: Option<Instant>,
    /// It ends after this many frames,
    pub limit: u64,
    /// and after this time, whichever comes first.
    pub time: Duration,
}

impl Load {
    /// One flow of UDP from a pod to somebody, on the pod's `eth0`, with the smallest frames: a thousand of them, as
    /// fast as possible.
    ///
    /// # Errors
    ///
    /// When `from` is no pod of the lab's node, or somebody has no address of that family.
    pub fn between(lab: &Lab, from: &Place, to: &Place, family: Family, port: u16) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let Place::Pod(name) = from else { anyhow::bail!("{from} has no port of its own") };
        let pod = lab.pods().iter().find(|pod| pod.name == *name);
        let pod = pod.with_context(|| format!("{from} is not on the lab's node"))?;
        let kind = Kind::Udp;
        Ok(Self {
            run: NEXT.fetch_add(1, Ordering::Relaxed) ^ std::process::id() << 12,
            macs: (pod.pod_mac, pod.host_mac),
            sources: Span::one(lab.address(from, family)?),
            destinations: Span::one(lab.address(to, family)?),
            source_ports: Span::one(40_000),
            destination_ports: Span::one(port),
            kind,
            flows: 1,
            stride: 1,
            frame: frame::smallest(family == Family::V4, kind),
            rate: None,
            burst: None,
            begin: None,
            limit: 1000,
            time: Duration::from_secs(10),
        })
    }

    /// The ends of the flow to which frame `number` belongs.
    #[must_use]
    pub fn tuple(&self, number: u64) -> Tuple {
        let mut left = number.wrapping_mul(self.stride) % self.flows;
        let mut pick = |count: u32| {
            let picked = left % u64::from(count);
            left /= u64::from(count);
            picked as u32
        };
        let source_port = self.source_ports.first.wrapping_add(pick(self.source_ports.count) as u16);
        let destination_port =
            self.destination_ports.first.wrapping_add(pick(self.destination_ports.count) as u16);
        let source = plus(self.sources.first, pick(self.sources.count));
        let destination = plus(self.destinations.first, pick(self.destinations.count));
        Tuple { source: (source, source_port), destination: (destination, destination_port) }
    }

    pub(super) const fn is_v4(&self) -> bool {
        self.sources.first.is_ipv4()
    }

    /// Refuses what no frame can be.
    pub(super) fn check(&self) -> Result<()> {
        let spans = [
            self.source_ports.count,
            self.destination_ports.count,
            self.sources.count,
            self.destinations.count,
        ];
        ensure!(spans.iter().all(|count| *count > 0), "a span is empty");
        ensure!(self.is_v4() == self.destinations.first.is_ipv4(), "addresses of two families");
        ensure!(self.flows > 0 && self.stride > 0, "no flows");
        let most = spans.iter().fold(1_u64, |product, count| product.saturating_mul(u64::from(*count)));
        ensure!(self.flows <= most, "{} flows are more than the {most} that the spans give", self.flows);
        let smallest = frame::smallest(self.is_v4(), self.kind);
        ensure!(self.frame >= smallest, "a frame of {} bytes, and it takes {smallest}", self.frame);
        ensure!(self.frame <= frame::LARGEST, "a frame of {} bytes, and {} fit", self.frame, frame::LARGEST);
        ensure!(self.rate != Some(0), "a rate of none");
        Ok(())
    }
}

/// The address that many after `first`, in its last 32 bits.
fn plus(first: IpAddr, offset: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into(),
        IpAddr::V6(first) => {
            let bits = u128::from(first);
            let low = (bits as u32).wrapping_add(offset);
            Ipv6Addr::from(bits >> 32 << 32 | u128::from(low)).into()
        }
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// Frames that the kernel took: they have the numbers below this one.
    pub frames: u64,
    /// For how long.
    pub elapsed: Duration,
}

impl Offered {
    /// Frames a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Tells a load that runs on another thread to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// It ends soon.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Asks for frames when they are due, a chunk at a time, until the load's bounds or a stop.
///
/// `send` is told how many frames are wanted, and says how many the kernel has taken. It is not asked again before a
/// `pause` is over when nothing is due.
pub(super) fn pace(
    load: &Load,
    chunk: u64,
    pause: Duration,
    stop: &Stop,
    mut send: impl FnMut(u64) -> Result<u64>,
) -> Result<Offered> {
    if let Some(wait) = load.begin.map(|begin| begin.saturating_duration_since(Instant::now())) {
        thread::sleep(wait);
    }
    let begin = Instant::now();
    let chunk = load.burst.unwrap_or(chunk);
    // `left_out` would have been due by now.
    let (mut sent, mut left_out) = (0, 0);
    while sent < load.limit && begin.elapsed() < load.time && !stop.is_due() {
        let due = load.rate.map_or(u64::MAX, |rate| {
            let due = begin.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000;
            u64::try_from(due).unwrap_or(u64::MAX) - left_out
        });
        if load.rate.is_some() {
            left_out += load.burst.map_or(0, |burst| due.saturating_sub(sent + 2 * burst));
        }
        let wanted = due.min(load.limit).saturating_sub(sent).min(chunk);
        if wanted < load.burst.unwrap_or(1).min(load.limit - sent) {
            thread::sleep(pause);
            continue;
        }
        sent += send(wanted)?;
    }
    Ok(Offered { frames: sent, elapsed: begin.elapsed() })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use super::*;

    pub(in crate::generator) fn load(family: Family, kind: Kind) -> Load {
        let [source, destination] = match family {
            Family::V4 => ["10.1.1.1", "10.1.2.1"],
            Family::V6 => ["fd10:1::1", "fd10:2::ffff:ffff"],
        };
        Load {
            run: 7,
            macs: (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])),
            sources: Span::one(source.parse().unwrap()),
            destinations: Span::of(destination.parse().unwrap(), 3),
            source_ports: Span::of(65_000, 50),
            destination_ports: Span::of(80, 20),
            kind,
            flows: 3000,
            stride: 7919,
            frame: 128,
            rate: None,
            burst: None,
            begin: None,
            limit: 10,
            time: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_stride_without_a_common_divisor_visits_every_flow() {
        for family in Family::ALL {
            let load = load(family, Kind::Udp);
            let tuples: HashSet<Tuple> = (0..3000).map(|number| load.tuple(number)).collect();
            assert_eq!(tuples.len(), 3000);
            assert_eq!(load.tuple(3000), load.tuple(0));
            let ports: HashSet<u16> = tuples.iter().map(|tuple| tuple.source.1).collect();
            assert_eq!(ports, (65_000..65_050).collect());
        }
        // The last 32 bits wrap without touching the rest.
        let last = load(Family::V6, Kind::Udp).tuple(0).destination.0;
        assert_eq!(plus(last, 1), "fd10:2::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn what_no_frame_can_be_is_refused() {
        type Spoil = fn(&mut Load);
        let spoilt: [(&str, Spoil); 6] = [
            ("more than", |load| load.flows = 3001),
            ("two families", |load| load.destinations.first = "::1".parse().unwrap()),
            ("takes 66", |load| load.frame = 65),
            ("fit", |load| load.frame = 4000),
            ("empty", |load| load.source_ports.count = 0),
            ("rate", |load| load.rate = Some(0)),
        ];
        for (word, spoil) in spoilt {
            let mut load = load(Family::V4, Kind::Udp);
            load.check().unwrap();
            spoil(&mut load);
            let error = load.check().unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn pacing_keeps_to_rate_limit_time_and_stop() {
        let mut load = load(Family::V4, Kind::Udp);
        (load.rate, load.limit) = (Some(10_000), 300);
        let offered = pace(&load, 64, Duration::from_micros(50), &Stop::default(), Ok).unwrap();
        assert_eq!(offered.frames, 300);
        assert!(offered.elapsed >= Duration::from_millis(29), "{offered:?}");
        (load.rate, load.limit, load.time) = (None, u64::MAX, Duration::from_millis(20));
        let offered =
            pace(&load, 64, Duration::from_micros(50), &Stop::default(), |wanted| Ok(wanted / 2)).unwrap();
        assert!(offered.elapsed >= load.time && offered.frames % 32 == 0, "{offered:?}");
        // What the slow call makes late, comes in bursts of five, or not at all.
        (load.rate, load.burst, load.time) = (Some(10_000), Some(5), Duration::from_millis(50));
        let slowly = |wanted| {
            thread::sleep(Duration::from_millis(5));
            Ok(wanted)
        };
        let offered = pace(&load, 64, Duration::from_micros(50), &Stop::default(), slowly).unwrap();
        assert!(offered.frames <= 50 && offered.frames % 5 == 0, "{offered:?}");
        let stop = Stop::default();
        stop.now();
        assert_eq!(pace(&load, 64, Duration::from_micros(50), &stop, Ok).unwrap().frames, 0);
    }
}
