//! TCP: one stream by iperf3, at rest and over the kill and the new start of an agent.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::generator::Bulk;
use bench::machine;
use lab::Family;
use serde_json::Value;

use crate::bed::{Bed, FAR, NEAR, TCP, policy};

/// When the agent is killed, and when it is started again.
const KILL: Duration = Duration::from_millis(1200);
const START: Duration = Duration::from_millis(1900);
/// How long that stream lasts.
const STREAM: u32 = 4;

/// How long a stream goes on before it is denied, and how long it is watched from then on.
const BEFORE_CUT: Duration = Duration::from_millis(300);
const AFTER_CUT: Duration = Duration::from_millis(700);

/// Seconds after which a stream that stands still is given up.
const PATIENCE: &str = "12";

/// Gbit/s of one stream.
pub(crate) fn bulk(bed: &Bed, family: Family) -> Result<f64> {
    let report = report(client(bed, family)?.args(["-t", "1"]))?;
    rate(&report["end"]["sum_received"])
}

/// What a kill and a new start left of a stream.
pub(crate) struct Kept {
    /// Rate from the kill on, new start and what comes after it included, as a share of the rate before.
    pub(crate) share: f64,
    /// From the start of the process until it is ready.
    pub(crate) ready: Option<Duration>,
}

/// A stream during which the agent is killed and started again. A node without one goes through the same time.
pub(crate) fn over_a_kill(bed: &mut Bed) -> Result<Kept> {
    let mut client = client(bed, Family::V4)?;
    client.args(["-t", &STREAM.to_string(), "-i", "0.1"]);
    let stream = thread::spawn(move || report(&mut client));
    thread::sleep(KILL);
    let had_one = bed.agent.take().map(|agent| agent.kill()).transpose()?.is_some();
    thread::sleep(START - KILL);
    machine::pin(FAR)?;
    let ready = had_one.then(|| bed.start()).transpose();
    machine::pin(NEAR)?;
    let report = stream.join().map_err(|_panic| anyhow::anyhow!("the stream's thread panicked"))??;
    let intervals = report["intervals"].as_array().context("no intervals")?;
    // The first of them are the stream's own start.
    let mean = |from: f64, to: f64| -> Result<f64> {
        let within = intervals.iter().map(|interval| &interval["sum"]).filter(|sum| {
            let at = |name: &str| sum[name].as_f64().unwrap_or(-1.0);
            at("start") >= from && at("end") <= to
        });
        let rates = within.map(rate).collect::<Result<Vec<_>>>()?;
        ensure!(!rates.is_empty(), "no interval from {from} to {to}");
        Ok(rates.iter().sum::<f64>() / rates.len() as f64)
    };
    let kill = KILL.as_secs_f64();
    let share = mean(kill - 0.05, f64::from(STREAM) + 0.05)? / mean(0.25, kill - 0.05)?;
    Ok(Kept { share, ready: ready? })
}

/// Milliseconds for which a bulk stream goes on, from when the agent is given a policy that denies it.
pub(crate) fn until_cut(bed: &Bed) -> Result<f64> {
    let port = TCP + 1;
    bed.change(&policy(&[TCP, port]))?;
    let (from, to) = (&bed.sender().namespace, &bed.receiver()?.namespace);
    let bulk = Bulk::start(from, to, (bed.address(Family::V4)?, port).into(), Some((NEAR, FAR)))?;
    thread::sleep(BEFORE_CUT);
    let given = bed.change(&policy(&[TCP]))?;
    thread::sleep(AFTER_CUT);
    let last = bulk.finish()?.filter(|last| *last > given);
    let lasted = last.context("the stream stood still before it was denied")? - given;
    Ok(lasted.as_secs_f64() * 1e3)
}

fn client(bed: &Bed, family: Family) -> Result<Command> {
    let address = bed.address(family)?.to_string();
    let mut command = bed.sender().namespace.command("timeout");
    command.args([PATIENCE, "iperf3", "-J", "-c", &address, "-p", &TCP.to_string()]);
    Ok(command)
}

/// Runs a client, and reads what it reports.
fn report(client: &mut Command) -> Result<Value> {
    let output = client.stdin(Stdio::null()).output().context("cannot start iperf3")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 reported nothing")?;
    ensure!(report["error"].is_null(), "iperf3: {}", report["error"]);
    Ok(report)
}

/// Gbit/s.
fn rate(sum: &Value) -> Result<f64> {
    Ok(sum["bits_per_second"].as_f64().context("iperf3 reported no rate")? / 1e9)
}
