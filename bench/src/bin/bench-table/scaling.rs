//! How cost grows from 1 to 10,000 policies and from 100 to 100,000 pods: what the plot in `docs/` shows.

use bench::cluster::Shape;
use bench::measure::{self, BATCH, REPETITION, Sweep};
use bench::output::Output;
use bench::record::{Figures, Row};
use bench::traffic::{Family, HOT, Trace};
use serde_json::json;

use crate::Plan;
use crate::lookup::{compile_time, of};
use crate::updates::{Bed, newcomers, pods, pods_come_and_go, relabelled};

pub(crate) fn run(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    let large = plan.shape;
    let mut policies = vec![1, 10, 100, 1000, 10_000];
    policies.retain(|&policies| policies <= large.policies);
    let mut count = vec![100, 1000, 10_000, 100_000];
    count.retain(|&pods| pods <= large.pods);
    let by_policies = policies.into_iter().map(|policies| ("policies", Shape { policies, ..large }));
    let by_pods =
        count.into_iter().map(|pods| ("pods", Shape { pods, local: large.local.min(pods), ..large }));
    let mut sweep = Sweep::new();
    for (which, shape) in by_policies.chain(by_pods) {
        point(plan, output, which, &shape, &mut sweep)?;
    }
    Ok(())
}

fn point(
    plan: &Plan,
    output: &mut Output,
    which: &str,
    shape: &Shape,
    sweep: &mut Sweep,
) -> anyhow::Result<()> {
    let (times, sweeps, events) = if plan.quick { (2, 3, 20) } else { (3, 15, 100) };
    let workload = shape.workload();
    let mut row = |metric: &str, unit: &str, figures: Figures| {
        let params = of(&workload, json!({ "by": which }));
        output.row(Row::new(&format!("scaling_{metric}"), unit, params).ours(figures))
    };
    let compiles: Vec<f64> = (0..times).map(|_| compile_time(&workload)).collect();
    row("full_compile", "ms", Figures::of(&compiles))?;

    let newcomers = newcomers(shape, false, events);
    let mut bed = Bed::of(&workload, &[])?;
    let (added, _) = pods_come_and_go(&mut bed, newcomers)?;
    row("pod_added_to_published", "ms", Figures::of_events(&added))?;
    // Pods of other nodes, where there are any.
    let all_local = workload.local.len() == workload.cluster.pods.len();
    let events = relabelled(&mut bed, &mut pods(&workload, all_local, events))?;
    row("pod_relabelled_to_published", "ms", Figures::of_events(&events))?;
    drop(bed);

    let table = workload.table()?;
    let trace = Trace::of(&workload);
    for (name, family) in [("ipv4", Family::V4), ("ipv6", Family::V6)] {
        let keys = trace.hot(family, 1, HOT);
        let hot: Vec<f64> = (0..5).map(|_| measure::hot(&table, &keys, BATCH, REPETITION)).collect();
        row(&format!("classify_{name}_hot"), "ns", Figures::of(&hot))?;
        let cold = (0..sweeps).map(|run| {
            let keys = trace.cold(family, run, HOT);
            measure::cold(&table, &keys, BATCH, sweep)
        });
        row(&format!("classify_{name}_cold"), "ns", Figures::of(&cold.collect::<Vec<_>>()))?;
    }
    let bytes = table.bytes().iter().map(|&(_, bytes)| bytes).sum::<usize>();
    row("table_bytes", "B", Figures::exactly(bytes as f64))
}
