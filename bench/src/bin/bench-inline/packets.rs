//! Datagrams: known flows, new ones, denied ones, the first of each, and those under way while policy changes.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::generator::{LiveFrames, Load, Span};
use bench::machine;
use lab::{Family, Place};

use crate::bed::{
    Bed, DENIED, ECHO, ESTABLISHED, FAR, FLOWS, Forwarder, NEAR, NEW, Passage, TCP, nft, policy,
};

/// How long live frames are sent.
const LASTING: Duration = Duration::from_millis(400);
/// New flows of one repetition and sender: so many source ports from here on, and a destination port of its own. Those
/// of all repetitions fit into the tables of connections, which forget none of them meanwhile.
const FIRST_NEW: u16 = 1024;
const NEW_FLOWS: u32 = 5000;
/// New flows a second of a sender: fewer than a pod may have judged, and of all senders more than anybody but plain
/// forwarding can do.
pub(crate) const NEW_RATE: u64 = 85_000;
/// Of one sender: half of what a pod may have judged at once.
const NEW_BURST: u64 = 512;
/// Until every sender is ready.
const READY: Duration = Duration::from_millis(60);
/// First packets of one repetition.
const FIRST_PACKETS: usize = 300;
/// Packets a second while policy changes, or as many as the machine carries.
pub(crate) const STEADY: u64 = 700_000;

/// Million packets a second of known flows that arrive.
pub(crate) fn established(bed: &Bed, live: &mut [LiveFrames]) -> Result<f64> {
    bed.establish(ESTABLISHED)?;
    let load = Load { time: LASTING, ..bed.load(bed.sender(), FLOWS)? };
    let passage = bed.send(live, &[load])?;
    Ok(passage.delivered as f64 / passage.elapsed.as_secs_f64() / 1e6)
}

/// Thousand flows a second of which the first packet arrives.
pub(crate) fn new_flows(bed: &Bed, live: &mut [LiveFrames], repetition: usize) -> Result<f64> {
    ensure!(repetition < NEW.len(), "no port is left for new flows");
    let mut loads = bed.loads(NEW.start + repetition as u16)?;
    let begin = Instant::now() + READY;
    for load in &mut loads {
        (load.rate, load.burst, load.begin) = (Some(NEW_RATE), Some(NEW_BURST), Some(begin));
        load.source_ports = Span::of(FIRST_NEW, NEW_FLOWS);
        (load.flows, load.limit) = (u64::from(NEW_FLOWS), u64::from(NEW_FLOWS));
    }
    let passage = bed.send(live, &loads)?;
    Ok(passage.delivered as f64 / passage.elapsed.as_secs_f64() / 1e3)
}

/// Million packets a second of known, denied flows that the node takes and drops.
pub(crate) fn denied(bed: &Bed, live: &mut [LiveFrames]) -> Result<f64> {
    let load = bed.load(bed.sender(), DENIED)?;
    // Each is judged once before.
    bed.send(live, &[Load { limit: load.flows, rate: Some(40_000), ..load.clone() }])?;
    let Passage { arrived, delivered, elapsed, .. } = bed.send(live, &[Load { time: LASTING, ..load }])?;
    ensure!(delivered < 100, "{delivered} denied packets arrived");
    Ok(arrived as f64 / elapsed.as_secs_f64() / 1e6)
}

/// Microseconds from a new socket's first datagram to its answer, one after another.
pub(crate) fn first_packets(bed: &Bed) -> Result<Vec<f64>> {
    let address = bed.address(Family::V4)?;
    let echo = bed.receiver()?.namespace.run(|| UdpSocket::bind((address, ECHO)))??;
    echo.set_read_timeout(Some(Duration::from_millis(20)))?;
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let server = thread::spawn(move || -> Result<()> {
        machine::pin(FAR)?;
        let mut datagram = [0; 64];
        while !until.load(Ordering::Relaxed) {
            if let Ok((length, from)) = echo.recv_from(&mut datagram) {
                echo.send_to(&datagram[..length], from)?;
            }
        }
        Ok(())
    });
    let times = bed.sender().namespace.run(|| -> Result<Vec<f64>> {
        machine::pin(NEAR)?;
        let once = |_| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect((address, ECHO))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            let begin = Instant::now();
            socket.send(&[0; 18])?;
            socket.recv(&mut [0; 64]).context("the first packet of a flow was not answered")?;
            Ok(begin.elapsed().as_nanos() as f64 / 1e3)
        };
        (0..FIRST_PACKETS).map(once).collect()
    });
    stop.store(true, Ordering::Relaxed);
    server.join().map_err(|_panic| anyhow::anyhow!("the server's thread panicked"))??;
    times?
}

/// What became of known flows while policy changed.
pub(crate) struct PolicyChange {
    /// Packets that came to the node, and not to the receiver.
    pub(crate) lost: f64,
    /// Million packets a second that came to the node.
    pub(crate) rate: f64,
}

/// Packets of known flows that are lost while the rules of the receiver change. The port `also` must be another one
/// each time.
pub(crate) fn policy_change(
    bed: &Bed,
    live: &mut [LiveFrames],
    flows: u32,
    also: u16,
) -> Result<PolicyChange> {
    bed.establish(flows)?;
    let time = Duration::from_millis(1000);
    let load = bed.load(bed.sender(), FLOWS)?;
    let load = Load { flows: u64::from(flows), rate: Some(STEADY), time, ..load };
    let before = bed.generation();
    let passage = thread::scope(|scope| {
        let change = scope.spawn(|| -> Result<()> {
            thread::sleep(time / 3);
            match bed.forwarder {
                Forwarder::Plain => Ok(()),
                Forwarder::Nft => {
                    let from = bed.lab.address(&Place::Pod(bed.sender().name.clone()), Family::V4)?;
                    let tuple = format!("{from} . {} . tcp . {also}", bed.address(Family::V4)?);
                    nft(bed.lab.node(), &format!("add element inet bench s4 {{ {tuple} }}"))
                }
                Forwarder::Inline | Forwarder::Router => {
                    bed.home.apply("policy.yaml", &policy(&[TCP, also]))?;
                    Ok(())
                }
            }
        });
        let passage = bed.send(live, &[load]);
        change.join().map_err(|_panic| anyhow::anyhow!("the change's thread panicked"))??;
        passage
    })?;
    ensure!(bed.agent.is_none() || bed.generation() > before, "the new policy is not in force");
    let Passage { offered, arrived, delivered, elapsed } = passage;
    // What the node takes of a sender, may be more than its load.
    let lost = arrived.min(offered).saturating_sub(delivered) as f64;
    Ok(PolicyChange { lost, rate: arrived as f64 / elapsed.as_secs_f64() / 1e6 })
}
