//! Clusters that nobody would run: what they cost, or that they are refused.

use std::time::Instant;

use bench::adversarial::ADVERSARIES;
use bench::measure::{self, BATCH, REPETITION};
use bench::output::Output;
use bench::record::{Figures, Row};
use bench::traffic::{Family, HOT, Trace};
use compiler::Scope;
use serde_json::json;

use crate::Plan;
use crate::lookup::of;

pub(crate) fn run(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    for adversary in &ADVERSARIES {
        output.progress(&format!("{}: {}", adversary.name, adversary.sentence));
        let (mut workload, scope) = (adversary.make)(&plan.shape);
        let params = |others| {
            let mut all = of(&workload, json!({ "which": adversary.name }));
            if let (Some(all), serde_json::Value::Object(others)) = (all.as_object_mut(), others) {
                all.extend(others);
            }
            all
        };
        let compile = Row::new("adversarial_compile", "ms", params(json!({})));
        let mut times = Vec::new();
        let mut result = None;
        for _ in 0..2 {
            // The table of the last round must not be in the way of this one's.
            drop(result.take());
            let started = Instant::now();
            result = Some(bench::compiled(&workload.cluster, &scope));
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let compile = compile.ours(Figures::of(&times));
        let Some(Ok(table)) = result else {
            let why = result.and_then(Result::err).map_or_else(String::new, |error| format!("{error:#}"));
            output.row(compile.note(format!("refused: {why}")))?;
            continue;
        };
        output.row(compile)?;
        let bytes = table.bytes().iter().map(|&(_, bytes)| bytes).sum::<usize>();
        let row = Row::new("adversarial_table_bytes", "B", params(json!({})));
        output.row(row.ours(Figures::exactly(bytes as f64)))?;
        if scope == Scope::AllPods {
            workload.local = workload.cluster.pods.iter().map(|pod| pod.name.clone()).collect();
        }
        let keys = Trace::of(&workload).hot(Family::V4, 1, HOT);
        let share = measure::allowed(&table, &keys);
        let times: Vec<f64> =
            (0..plan.repetitions.min(7)).map(|_| measure::hot(&table, &keys, BATCH, REPETITION)).collect();
        let row = Row::new(
            "adversarial_classify_ipv4_hot",
            "ns",
            of(&workload, json!({ "which": adversary.name, "batch": BATCH, "keys": HOT, "allowed": share })),
        );
        output.row(row.ours(Figures::of(&times)))?;
    }
    Ok(())
}
