//! The same rules and the same trace through rte_acl and through the table, in turn.

use std::time::Duration;

use anyhow::ensure;
use bench::exact::{RULES, exact};
use bench::expansion::expand;
use bench::measure;
use bench::output::Output;
use bench::record::{Figures, Row};
use bench::rte_acl::{RteAcl, STEP, widest};
use bench::traffic::{Family, HOT, Trace};
use flow::{FlowKey, Verdict};
use serde_json::json;
use table::PolicyTable;

use crate::Plan;

const PEER: &str = "rte_acl";
/// How many times rte_acl's lookups per second are asked for, at each of [`RULES`].
const WANTED: [f64; 3] = [1.2, 1.5, 2.0];
/// Keys of the longer trace: more than the first-level cache holds.
const LONG: usize = 65_536;
/// Lookups of one run of the peer.
const LOOKUPS: usize = 16 << 20;
/// How long one of our repetitions takes, about as long as one of the peer's.
const LASTING: Duration = Duration::from_millis(200);

pub(crate) fn run(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    output.progress(&format!("{PEER} with {}, {STEP} keys a call, on core {}", widest(), plan.core));
    for (rules, wanted) in RULES.into_iter().zip(WANTED) {
        let workload = exact(rules);
        let list = expand(&workload);
        ensure!(list.len() == rules, "{} rules instead of {rules}", list.len());
        let table = workload.table()?;
        let trace = Trace::of(&workload);
        for (count, wanted) in [(HOT, Some(wanted)), (LONG, None)] {
            // What has no target is measured less often.
            let repetitions = if wanted.is_some() { plan.repetitions } else { plan.repetitions.div_ceil(3) };
            let keys = trace.hot(Family::V4, 1, count);
            let judged = keys.iter().take(HOT).all(|key| workload.judge(key) == verdict(&table, key));
            ensure!(judged, "the table and the oracle differ");
            let params = json!({
                "rules": rules, "keys": count, "batch": STEP, "algorithm": widest(),
                "local": workload.local.len(), "allowed": measure::allowed(&table, &keys),
            });
            let row = Row::new("classify_ipv4_beside_rte_acl", "ns", params);
            let peer = RteAcl::prepare(&list, &keys, plan.core)?;
            let row = match peer.verdicts() {
                Ok(theirs) => {
                    let differing =
                        keys.iter().zip(theirs).find(|(key, theirs)| verdict(&table, key) != *theirs);
                    ensure!(differing.is_none(), "{PEER} and the table differ: {differing:?}");
                    let (ours, theirs) = beside(plan, repetitions, &table, &keys, &peer)?;
                    row.ours(ours).against(PEER, theirs)
                }
                Err(error) => {
                    let times = (0..repetitions).map(|_| measure::hot(&table, &keys, STEP, LASTING));
                    let ours = Figures::of(&times.collect::<Vec<_>>());
                    row.ours(ours).without(PEER, &format!("{error:#}"))
                }
            };
            output.row(if let Some(times) = wanted { row.times_better(times) } else { row })?;
            if let Ok(bytes) = peer.bytes()
                && wanted.is_some()
            {
                let ours = table.bytes().iter().map(|&(_, bytes)| bytes).sum::<usize>();
                let per_rule = |bytes: usize| Figures::exactly(bytes as f64 / rules as f64);
                let row = Row::new("bytes_per_5tuple_rule", "B", json!({ "rules": rules }));
                output.row(row.ours(per_rule(ours)).against(PEER, per_rule(bytes)))?;
            }
        }
    }
    Ok(())
}

/// Our figures and theirs, measured in turn.
fn beside(
    plan: &Plan,
    repetitions: usize,
    table: &PolicyTable,
    keys: &[FlowKey],
    peer: &RteAcl,
) -> anyhow::Result<(Figures, Figures)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let lookups = if plan.quick { LOOKUPS / 8 } else { LOOKUPS };
    for _ in 0..repetitions {
        theirs.push(peer.nanoseconds(lookups / keys.len())?);
        ours.push(measure::hot(table, keys, STEP, LASTING));
    }
    Ok((Figures::of(&ours), Figures::of(&theirs)))
}

fn verdict(table: &PolicyTable, key: &FlowKey) -> Verdict {
    let mut verdicts = [Verdict::Deny];
    table.classify(std::slice::from_ref(key), &mut verdicts);
    verdicts[0]
}
