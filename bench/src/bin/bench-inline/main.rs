//! `make bench-inline`: inline mode beside plain forwarding, nftables, and our router mode.
//!
//! ```text
//! bed.rs       four nodes with two pods each, that differ in who forwards
//! streams.rs   TCP, and TCP over a kill and a new start
//! packets.rs   datagrams: known, new, denied, first, and under way while policy changes
//! ```
//!
//! Repetitions are interleaved: each goes through all nodes before the next begins. Each row is printed, and
//! appended to `inline.jsonl`, as soon as it is measured.

mod bed;
mod streams;
mod packets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bench::generator::LiveFrames;
use bench::machine;
use bench::output::Output;
use bench::record::{Figures, Row};
use bench::sections::{Section, Wanted};
use clap::Parser;
use lab::Family;
use serde_json::{Value, json};

use bed::{Bed, ESTABLISHED, Forwarder, NEAR, SENDERS};
use packets::PolicyChange;

/// Measures inline mode beside what else can forward between two pods. Needs root, iperf3 and nft. The sections are
/// tcp, kill, cut, packets, new, first, denied and change; `--quick` takes two repetitions of each.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    wanted: Wanted,
    /// The agent; the one beside this program without it.
    #[arg(long)]
    agent: Option<PathBuf>,
}

/// What sections work with.
struct Bench {
    beds: Vec<Bed>,
    /// A generator for each pod that sends.
    live: Vec<LiveFrames>,
    quick: bool,
}

/// Repetitions of what is short, and of what is long or fills tables.
const MANY: usize = 10;
const FEW: usize = 6;

/// In this order: live frames need GRO on the pods' ports, which changes how TCP comes by.
const SECTIONS: [(&str, Section<Bench>); 8] = [
    ("tcp", tcp),
    ("kill", kill),
    ("cut", cut),
    ("packets", packets),
    ("new", new),
    ("first", first),
    ("denied", denied),
    ("change", change),
];

fn main() -> Result<ExitCode> {
    let Arguments { wanted, agent } = Arguments::parse();
    ensure!(machine::cores() >= 2, "generator and agent need a core each");
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("portcullis"));
    let agent = agent.map_or_else(beside, Ok)?;
    wanted.run("inline", &SECTIONS, || {
        machine::pin(NEAR)?;
        let beds = Forwarder::ALL.into_iter().map(|forwarder| Bed::up(forwarder, &agent));
        let live = SENDERS.iter().map(|_| LiveFrames::load());
        Ok(Bench {
            beds: beds.collect::<Result<_>>()?,
            live: live.collect::<Result<_>>()?,
            quick: wanted.quick,
        })
    })
}

/// The figures of each bed, in the order of [`Forwarder::ALL`]; `None` where nothing was measured.
struct Measured(Vec<Option<Figures>>);

impl Bench {
    /// Measures on each of `on` in turn, again and again.
    fn interleaved(
        &mut self,
        repetitions: usize,
        on: &[Forwarder],
        mut measure: impl FnMut(&mut Bed, &mut [LiveFrames], usize) -> Result<f64>,
    ) -> Result<Measured> {
        let repetitions = if self.quick { 2 } else { repetitions };
        let mut samples = vec![Vec::new(); self.beds.len()];
        for repetition in 0..repetitions {
            for (bed, samples) in self.beds.iter_mut().zip(&mut samples) {
                if on.contains(&bed.forwarder) {
                    let sample = measure(bed, &mut self.live, repetition);
                    samples.push(sample.with_context(|| bed.forwarder.to_string())?);
                }
            }
        }
        let figures = samples.iter().map(|samples| (!samples.is_empty()).then(|| Figures::of(samples)));
        Ok(Measured(figures.collect()))
    }

    fn take_live_frames(&self) -> Result<()> {
        self.beds.iter().try_for_each(Bed::take_live_frames)
    }
}

impl Measured {
    fn of(&self, forwarder: Forwarder) -> Option<Figures> {
        let at = Forwarder::ALL.iter().position(|other| *other == forwarder)?;
        self.0[at]
    }

    /// A row for each of the others, ours being inline mode.
    fn rows(
        &self,
        output: &mut Output,
        row: &Row,
        beside: impl Fn(Row, Forwarder, &str, Figures) -> Row,
    ) -> Result<()> {
        let ours = self.of(Forwarder::Inline).context("inline mode was not measured")?;
        for forwarder in [Forwarder::Plain, Forwarder::Nft, Forwarder::Router] {
            if let Some(theirs) = self.of(forwarder) {
                let row = row.clone().ours(ours);
                output.row(beside(row, forwarder, &forwarder.to_string(), theirs))?;
            }
        }
        Ok(())
    }
}

fn tcp(bench: &mut Bench, output: &mut Output) -> Result<()> {
    for family in Family::ALL {
        let measured = bench.interleaved(MANY, &Forwarder::ALL, |bed, _, _| streams::bulk(bed, family))?;
        let params = json!({ "family": family.to_string(), "streams": 1, "by": "iperf3" });
        measured.rows(output, &Row::new("tcp_bulk", "Gbit/s", params), |row, other, name, theirs| {
            let row = row.beside(name, theirs);
            if other == Forwarder::Plain { row.times_better(0.95) } else { row }
        })?;
    }
    Ok(())
}

fn kill(bench: &mut Bench, output: &mut Output) -> Result<()> {
    let mut ready = Vec::new();
    let on = [Forwarder::Plain, Forwarder::Inline];
    let measured = bench.interleaved(FEW, &on, |bed, _, _| {
        let kept = streams::over_a_kill(bed)?;
        ready.extend(kept.ready.map(|ready| ready.as_secs_f64() * 1e3));
        Ok(kept.share)
    })?;
    let note = "from the kill to the end of the stream, new start included; plain: the same time without one";
    let row = Row::new("tcp_kept_over_kill_and_start", "of the rate before", json!({}));
    measured.rows(output, &row, |row, _, name, theirs| {
        let kept = row.ours.map(|ours| ours.median >= 0.95);
        row.beside(name, theirs).target(">= 0.95 of the rate before", kept).note(note)
    })?;
    let row = Row::new("start_to_ready", "ms", json!({ "during": "a TCP stream" }));
    output.row(row.ours(Figures::of(&ready)).at_most(200.0))
}

fn cut(bench: &mut Bench, output: &mut Output) -> Result<()> {
    let on = [Forwarder::Inline, Forwarder::Router];
    let measured = bench.interleaved(MANY, &on, |bed, _, _| streams::until_cut(bed))?;
    let ours = measured.of(Forwarder::Inline).context("inline mode was not measured")?;
    let theirs = measured.of(Forwarder::Router).context("router mode was not measured")?;
    let row = Row::new("denied_tcp_goes_on_for", "ms", json!({ "from": "the new policy's file" }));
    output.row(
        row.ours(ours)
            .against("router mode", theirs)
            .at_most(100.0)
            .note("plain: there is no policy; nft: what is established goes on, whatever becomes of the set"),
    )
}

fn packets(bench: &mut Bench, output: &mut Output) -> Result<()> {
    bench.take_live_frames()?;
    let measured =
        bench.interleaved(MANY, &Forwarder::ALL, |bed, live, _| packets::established(bed, live))?;
    let row = Row::new("small_packets", "Mpps", flows(json!({})));
    measured.rows(output, &row, |row, other, name, theirs| {
        let row = row.beside(name, theirs);
        match other {
            Forwarder::Plain => row.times_better(0.88),
            Forwarder::Nft => row.times_better(1.2),
            _ => row.note("router mode has a core of its own"),
        }
    })
}

fn new(bench: &mut Bench, output: &mut Output) -> Result<()> {
    bench.take_live_frames()?;
    let measured = bench.interleaved(FEW, &Forwarder::ALL, |bed, live, repetition| {
        packets::new_flows(bed, live, repetition)
    })?;
    let params = json!({ "senders": SENDERS.len(), "offered": packets::NEW_RATE * SENDERS.len() as u64 });
    let row = Row::new("new_flows", "thousand a second", params);
    measured.rows(output, &row, |row, other, name, theirs| {
        let row = row.beside(name, theirs);
        if other == Forwarder::Nft { row.times_better(0.9) } else { row }
    })
}

fn first(bench: &mut Bench, output: &mut Output) -> Result<()> {
    for (metric, rank, most) in [("first_packet_p50", 50, 1.3), ("first_packet_p99", 99, 1.5)] {
        let measured = bench.interleaved(MANY, &Forwarder::ALL, |bed, _, _| {
            let mut times = packets::first_packets(bed)?;
            times.sort_by(f64::total_cmp);
            Ok(times[(times.len() * rank).div_ceil(100) - 1])
        })?;
        let row = Row::new(metric, "us", json!({ "of": "one repetition's round trips" }));
        measured.rows(output, &row, |row, other, name, theirs| {
            let row = row.against(name, theirs);
            if other == Forwarder::Plain { row.at_most_times(most) } else { row }
        })?;
    }
    Ok(())
}

fn denied(bench: &mut Bench, output: &mut Output) -> Result<()> {
    bench.take_live_frames()?;
    let on = [Forwarder::Nft, Forwarder::Inline, Forwarder::Router];
    let nft = bench.beds.iter().find(|bed| bed.forwarder == Forwarder::Nft);
    nft.context("no node with nftables")?.drop_at_ingress()?;
    let measured = bench.interleaved(MANY, &on, |bed, live, _| packets::denied(bed, live))?;
    measured.rows(output, &Row::new("cached_deny", "Mpps", flows(json!({}))), |row, other, name, theirs| {
        match other {
            Forwarder::Nft => row.beside("nft ingress drop", theirs).times_better(1.0),
            _ => row.beside(name, theirs),
        }
    })
}

fn change(bench: &mut Bench, output: &mut Output) -> Result<()> {
    bench.take_live_frames()?;
    let mut port = 30_000..;
    for flows in [256, ESTABLISHED] {
        let mut rates = Vec::new();
        let measured = bench.interleaved(MANY, &Forwarder::ALL, |bed, live, _| {
            let also = port.next().context("no port is left")?;
            let PolicyChange { lost, rate } = packets::policy_change(bed, live, flows, also)?;
            rates.extend((bed.forwarder == Forwarder::Inline).then_some(rate));
            Ok(lost)
        })?;
        let params = json!({ "flows": flows, "most_a_second": packets::STEADY });
        let note = format!("inline: at {} Mpps", Figures::of(&rates));
        let row = Row::new("lost_while_policy_changes", "packets", params).note(note);
        measured.rows(output, &row, |row, other, name, theirs| {
            let none = row.ours.map(|ours| ours.max == 0.0);
            let row = Row { theirs: Some(theirs), peer: Some(name.into()), ..row };
            if other == Forwarder::Plain { row.target("0 lost", none) } else { row }
        })?;
    }
    Ok(())
}

/// With the number of flows.
fn flows(mut params: Value) -> Value {
    params["flows"] = ESTABLISHED.into();
    params
}
