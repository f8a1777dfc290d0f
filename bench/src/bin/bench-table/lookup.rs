//! What a lookup costs: hot and cold, in batches and one by one, at many policies and at one.

use std::time::Instant;

use bench::cluster::{Shape, Workload};
use bench::measure::{self, BATCH, REPETITION, Sweep};
use bench::output::Output;
use bench::record::{Figures, Row};
use bench::traffic::{Family, HOT, Trace};
use flow::FlowKey;
use serde_json::{Value, json};
use table::PolicyTable;

use crate::Plan;

/// Full compiles that are timed.
const COMPILES: usize = 10;
/// Keys that the oracle judges too: it takes its time.
const JUDGED: usize = 12;
/// Keys of a longer cold run, in which the table's upper levels have been seen before.
const LONG: usize = 8 * HOT;

pub(crate) fn run(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    output.progress("generating the large cluster");
    let workload = plan.shape.workload();
    let single = Shape { policies: 1, ..plan.shape }.workload();
    output.progress(&format!(
        "{} pods, {} local, {} policies, {} compiled rules; compiling",
        workload.cluster.pods.len(),
        workload.local.len(),
        workload.cluster.policies.len(),
        workload.compiled_rules()
    ));
    let times: Vec<f64> = (0..COMPILES).map(|_| compile_time(&workload)).collect();
    let row = Row::new("full_compile", "ms", of(&workload, json!({})));
    output.row(row.ours(Figures::of(&times)).at_most(300.0))?;

    let (table, one) = (workload.table()?, single.table()?);
    let trace = Trace::of(&workload);
    let [v4, v6] = [Family::V4, Family::V6].map(|family| trace.hot(family, 1, HOT));
    agree_with_oracle(&workload, &table, v4.iter().chain(&v6))?;
    output.progress(&format!("{} verdicts of the oracle agree", 2 * JUDGED));
    hot(plan, output, &workload, [&table, &one], [&v4, &v6])?;
    cold(plan, output, &workload, &table, &trace)
}

/// The milliseconds that a full compile takes.
pub(crate) fn compile_time(workload: &Workload) -> f64 {
    let scope = workload.scope();
    let started = Instant::now();
    let table = bench::compiled(&workload.cluster, &scope);
    let took = started.elapsed();
    drop(table);
    took.as_secs_f64() * 1e3
}

/// Parameters with the sizes of a workload.
pub(crate) fn of(workload: &Workload, others: Value) -> Value {
    let cluster = &workload.cluster;
    let mut params = json!({
        "policies": cluster.policies.len(),
        "compiled_rules": workload.compiled_rules(),
        "pods": cluster.pods.len(),
        "local": workload.local.len(),
    });
    if let (Value::Object(params), Value::Object(others)) = (&mut params, others) {
        params.extend(others);
    }
    params
}

fn agree_with_oracle<'a>(
    workload: &Workload,
    table: &PolicyTable,
    keys: impl Iterator<Item = &'a FlowKey>,
) -> anyhow::Result<()> {
    for key in keys.step_by(HOT / JUDGED) {
        let verdict = table.why(key).verdict();
        let mut classified = [verdict];
        table.classify(std::slice::from_ref(key), &mut classified);
        let expected = workload.judge(key);
        anyhow::ensure!(
            [verdict, classified[0]] == [expected; 2],
            "{key}: {verdict} and {}, but policy says {expected}",
            classified[0]
        );
    }
    Ok(())
}

fn hot(
    plan: &Plan,
    output: &mut Output,
    workload: &Workload,
    [table, one]: [&PolicyTable; 2],
    [v4, v6]: [&[FlowKey]; 2],
) -> anyhow::Result<()> {
    let mut figures: [Vec<f64>; 7] = Default::default();
    // Interleaved, so that whatever disturbs the machine disturbs all.
    for _ in 0..plan.repetitions {
        let [v4_many, v6_many, v4_one, v6_one, v4_single, v6_single, flat] = &mut figures;
        let time = |table, keys, batch| measure::hot(table, keys, batch, REPETITION);
        v4_many.push(time(table, v4, BATCH));
        v4_one.push(time(one, v4, BATCH));
        flat.push(v4_many[v4_many.len() - 1] / v4_one[v4_one.len() - 1]);
        v6_many.push(time(table, v6, BATCH));
        v6_one.push(time(one, v6, BATCH));
        v4_single.push(time(table, v4, 1));
        v6_single.push(time(table, v6, 1));
    }
    let [v4_many, v6_many, v4_one, v6_one, v4_single, v6_single, flat] = figures.map(|f| Figures::of(&f));
    let row = |metric, keys: &[FlowKey], batch: usize| {
        let share = measure::allowed(table, keys);
        let params = of(workload, json!({ "batch": batch, "keys": keys.len(), "allowed": share }));
        Row::new(metric, "ns", params)
    };
    output.row(row("classify_ipv4_hot", v4, BATCH).ours(v4_many).at_most(20.0))?;
    output.row(row("classify_ipv6_hot", v6, BATCH).ours(v6_many).at_most(45.0))?;
    output.row(row("classify_ipv4_hot_one_key_a_call", v4, 1).ours(v4_single).at_most(60.0))?;
    output.row(row("classify_ipv6_hot_one_key_a_call", v6, 1).ours(v6_single))?;
    for (metric, keys, one) in [("classify_ipv4_hot", v4, v4_one), ("classify_ipv6_hot", v6, v6_one)] {
        let mut row = row(metric, keys, BATCH).ours(one).note("the same pods and trace with one policy");
        row.params.insert("policies".into(), 1.into());
        row.params.remove("compiled_rules");
        row.params.remove("allowed");
        output.row(row)?;
    }
    let params = of(workload, json!({ "batch": BATCH, "keys": HOT }));
    let row = Row::new("flatness_ipv4_hot", "times the cost at 1 policy", params);
    output.row(row.ours(flat).target("<= 1.15", Some(flat.median <= 1.15)))
}

fn cold(
    plan: &Plan,
    output: &mut Output,
    workload: &Workload,
    table: &PolicyTable,
    trace: &Trace<'_>,
) -> anyhow::Result<()> {
    let mut sweep = Sweep::new();
    output.progress(&format!(
        "cold: {} sweeps of {} MB each",
        4 * plan.sweeps + 2 * plan.sweeps.div_ceil(3),
        sweep.bytes() >> 20
    ));
    let mut figures: [Vec<f64>; 6] = Default::default();
    let mut share = [0.0; 2];
    for run in 0..plan.sweeps {
        for (index, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            let keys = trace.cold(family, run as u64, HOT);
            share[index] += measure::allowed(table, &keys) / plan.sweeps as f64;
            figures[index].push(measure::cold(table, &keys, BATCH, &mut sweep));
            figures[2 + index].push(measure::cold(table, &keys, 1, &mut sweep));
            if run % 3 == 0 {
                let keys = trace.cold(family, run as u64, LONG);
                figures[4 + index].push(measure::cold(table, &keys, BATCH, &mut sweep));
            }
        }
    }
    let metrics = [
        ("classify_ipv4_cold", BATCH, HOT, Some(60.0)),
        ("classify_ipv6_cold", BATCH, HOT, Some(120.0)),
        ("classify_ipv4_cold_one_key_a_call", 1, HOT, None),
        ("classify_ipv6_cold_one_key_a_call", 1, HOT, None),
        ("classify_ipv4_cold", BATCH, LONG, None),
        ("classify_ipv6_cold", BATCH, LONG, None),
    ];
    for (index, (metric, batch, keys, target)) in metrics.into_iter().enumerate() {
        let share = (share[index % 2] * 100.0).round() / 100.0;
        let params = json!({ "batch": batch, "keys": keys, "sweep_bytes": sweep.bytes(), "allowed": share });
        let row = Row::new(metric, "ns", of(workload, params)).ours(Figures::of(&figures[index]));
        output.row(if let Some(most) = target { row.at_most(most) } else { row })?;
    }
    Ok(())
}
