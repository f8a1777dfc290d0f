//! A load as the pod's own programs send it, through its TCP and UDP sockets: the lab's streams and floods.
//!
//! One flow, from a port that the kernel picks, and the payload that streams and floods have. UDP and SYN of a load
//! become a UDP stream and a TCP connection.

use anyhow::Result;
use lab::{Flood, FloodReport, Lab, Place, Stream, StreamPlan, StreamReport, Transport};

use super::load::{Kind, Load};

/// What sockets carried.
#[derive(Clone, Debug, PartialEq)]
pub enum Carried {
    /// Numbered records at the load's rate.
    Stream(StreamReport),
    /// As many datagrams as possible, counted at the receiver's interface.
    Flood(FloodReport),
}

/// Sends a load from one place of a lab to another and waits for its end.
///
/// # Errors
///
/// When a place is not in the lab, its port is taken, or TCP does not connect. There is no flood of TCP.
pub fn over_sockets(lab: &Lab, from: &Place, to: &Place, load: &Load) -> Result<Carried> {
    let family = lab::Family::of(&load.destinations.first);
    let port = load.destination_ports.first;
    let Some(rate) = load.rate else {
        anyhow::ensure!(load.kind == Kind::Udp, "there is no flood over TCP sockets: say at which rate");
        let headers = if load.is_v4() { 42 } else { 62 };
        let payload = load.frame.saturating_sub(headers);
        let flood = Flood::start(lab, (from, to), (family, port), payload, load.limit, load.time)?;
        return Ok(Carried::Flood(flood.finish()));
    };
    let transport = match load.kind {
        Kind::Udp => Transport::Udp,
        Kind::Syn => Transport::Tcp,
    };
    let (from, to) = (from.clone(), to.clone());
    let rate = u32::try_from(rate)?;
    let plan = StreamPlan { from, to, family, port, transport, rate, limit: load.limit };
    let stream = Stream::start(lab, &plan)?;
    let begin = std::time::Instant::now();
    while !stream.is_finished() && begin.elapsed() < load.time {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(Carried::Stream(stream.stop()))
}
