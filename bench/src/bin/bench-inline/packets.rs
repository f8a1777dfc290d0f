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

use crate::bed::{Bed, DENIED, ECHO, FAR, FLOWS, Forwarder, NEAR, NEW, Passage, nft, policy};

/// How long live frames are sent.
const LASTING: Duration = Duration::from_millis(400);
/// New flows of one repetition: so many source ports from here on, and a destination port of its own. Those of all
/// repetitions fit into the tables of connections, which forget none of them meanwhile.
const FIRST_NEW: u16 = 1024;
const NEW_FLOWS: u32 = 60_000;
/// First packets of one repetition.
const FIRST_PACKETS: usize = 300;
/// Packets a second while policy changes: a load that nobody drops of by itself.
pub(crate) const STEADY: u64 = 200_000;

/// Million packets a second of known flows that arrive.
pub(crate) fn established(bed: &Bed, live: &mut LiveFrames) -> Result<f64> {
    bed.establish()?;
    let load = Load { time: LASTING, ..bed.load(FLOWS, false)? };
    let passage = bed.send(live, &load)?;
    Ok(passage.delivered as f64 / passage.elapsed.as_secs_f64() / 1e6)
}

/// Thousand flows a second of which the first packet arrives, of as many as can be offered.
pub(crate) fn new_flows(bed: &Bed, live: &mut LiveFrames, repetition: usize) -> Result<f64> {
    ensure!(repetition < NEW.len(), "no port is left for new flows");
    let load = Load {
        source_ports: Span::of(FIRST_NEW, NEW_FLOWS),
        flows: u64::from(NEW_FLOWS),
        limit: u64::from(NEW_FLOWS),
        ..bed.load(NEW.start + repetition as u16, false)?
    };
    let passage = bed.send(live, &load)?;
    Ok(passage.delivered as f64 / passage.elapsed.as_secs_f64() / 1e3)
}

/// Million packets a second of known, denied flows that the node takes and drops.
pub(crate) fn denied(bed: &Bed, live: &mut LiveFrames) -> Result<f64> {
    let load = bed.load(DENIED, false)?;
    // Each is judged once before.
    bed.send(live, &Load { limit: load.flows, rate: Some(40_000), ..load.clone() })?;
    let Passage { arrived, delivered, elapsed, .. } = bed.send(live, &Load { time: LASTING, ..load })?;
    ensure!(delivered < 100, "{delivered} denied packets arrived");
    Ok(arrived as f64 / elapsed.as_secs_f64() / 1e6)
}

/// Microseconds from a new socket's first datagram to its answer, one after another.
pub(crate) fn first_packets(bed: &Bed) -> Result<Vec<f64>> {
    let address = bed.lab.address(&Place::pod("y", "b"), Family::V4)?;
    let echo = bed.receiver().namespace.run(|| UdpSocket::bind((address, ECHO)))??;
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

/// Packets of known flows that are lost while the rules of the receiver change. The port `also` must be another one
/// each time.
pub(crate) fn policy_change(bed: &Bed, live: &mut LiveFrames, also: u16) -> Result<f64> {
    bed.establish()?;
    let time = Duration::from_millis(1000);
    let load = Load { rate: Some(STEADY), time, ..bed.load(FLOWS, false)? };
    let generation =
        || bed.agent.as_ref().and_then(|agent| agent.figures().ok()?.remove("portcullis_table_generation"));
    let before = generation();
    let passage = thread::scope(|scope| {
        let change = scope.spawn(|| -> Result<()> {
            thread::sleep(time / 3);
            match bed.forwarder {
                Forwarder::Plain => Ok(()),
                Forwarder::Nft => {
                    let [a, b] = [Place::pod("x", "a"), Place::pod("y", "b")];
                    let [a, b] = [bed.lab.address(&a, Family::V4)?, bed.lab.address(&b, Family::V4)?];
                    nft(bed.lab.node(), &format!("add element inet bench s4 {{ {a} . {b} . tcp . {also} }}"))
                }
                Forwarder::Inline | Forwarder::Router => {
                    bed.home.apply("policy.yaml", &policy(also))?;
                    Ok(())
                }
            }
        });
        let passage = bed.send(live, &load);
        change.join().map_err(|_panic| anyhow::anyhow!("the change's thread panicked"))??;
        passage
    })?;
    ensure!(bed.agent.is_none() || generation() > before, "the new policy is not in force");
    Ok(passage.offered.saturating_sub(passage.delivered) as f64)
}
