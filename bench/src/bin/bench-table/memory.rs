//! Heap of the table and of a compile, as `bench-table-memory` counts it.

use std::process::Command;

use anyhow::{Context, ensure};
use bench::cluster::Shape;
use bench::output::Output;
use bench::record::{Figures, Row};
use serde_json::{Map, Value, json};

use crate::Plan;

const MB: f64 = 1e6;

/// What the counting program says.
struct Facts(Map<String, Value>);

pub(crate) fn run(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    output.progress("counting the heap, in a process of its own");
    let shape = plan.shape;
    let large = Facts::of(&shape)?;
    let few_pods = Facts::of(&Shape { pods: shape.local, ..shape })?;
    let row = |metric: &str, unit: &str, others: Value| {
        let mut params = json!({ "policies": shape.policies, "pods": shape.pods, "local": shape.local });
        if let (Value::Object(params), Value::Object(others)) = (&mut params, others) {
            params.extend(others);
        }
        Row::new(metric, unit, params)
    };

    let above = (large.bytes("compile_peak") - large.bytes("table")) / MB;
    let what = json!({ "what": "highest heap during a full compile, less what the table holds" });
    output
        .row(row("full_compile_heap_above_table", "MB", what).ours(Figures::exactly(above)).at_most(64.0))?;

    let rules = large.bytes("compiled_rules");
    let per_rule = large.bytes("table") / rules;
    let what = json!({ "what": "whole heap of the table / compiled rules", "compiled_rules": rules });
    output.row(row("heap_per_compiled_rule", "B", what).ours(Figures::exactly(per_rule)).at_most(200.0))?;

    let addresses = large.bytes("pod_addresses") - few_pods.bytes("pod_addresses");
    let per_address = (large.bytes("table") - few_pods.bytes("table")) / addresses;
    let what =
        "what the pods of other nodes add to the table's heap, classes and cells included / their addresses";
    let row_of_addresses = row("heap_per_pod_address", "B", json!({ "what": what, "addresses": addresses }));
    output.row(row_of_addresses.ours(Figures::exactly(per_address)).at_most(64.0))?;

    for (metric, fact) in [
        ("heap_of_table", "table"),
        ("heap_of_table_and_compiler", "compiler_and_table"),
        ("heap_of_compile_at_its_peak", "compile_peak"),
    ] {
        output.row(row(metric, "MB", json!({})).ours(Figures::exactly(large.bytes(fact) / MB)))?;
    }
    for (metric, group) in [("bytes_of_table", "structures"), ("bytes_of_compiler", "footprint")] {
        for (structure, bytes) in large.group(group) {
            let row = row(metric, "B", json!({ "structure": structure }));
            output.row(row.ours(Figures::exactly(bytes)))?;
        }
    }
    let said: f64 = large.group("structures").iter().map(|(_, bytes)| bytes).sum();
    let what = json!({ "what": "what the table says of itself / its heap" });
    output.row(
        row("bytes_of_table_beside_its_heap", "ratio", what)
            .ours(Figures::exactly(said / large.bytes("table"))),
    )
}

impl Facts {
    fn of(shape: &Shape) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("bench-table-memory");
        let result = Command::new(&program)
            .arg(format!("--namespaces={}", shape.namespaces))
            .arg(format!("--pods={}", shape.pods))
            .arg(format!("--policies={}", shape.policies))
            .arg(format!("--local={}", shape.local))
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let said = String::from_utf8_lossy(&result.stderr);
        ensure!(result.status.success(), "{}: {}", program.display(), said.trim());
        Ok(Self(serde_json::from_slice(&result.stdout)?))
    }

    fn bytes(&self, fact: &str) -> f64 {
        self.0.get(fact).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    fn group(&self, group: &str) -> Vec<(String, f64)> {
        let parts = self.0.get(group).and_then(Value::as_object).into_iter().flatten();
        parts.map(|(name, bytes)| (name.clone(), bytes.as_f64().unwrap_or(f64::NAN))).collect()
    }
}
