//! Answers from the compiled table: the same that judges packets.

use anyhow::anyhow;
use compiler::{Budget, Compiler, Scope, compile};
use flow::{FlowKey, Verdict};
use policy::model::Cluster;
use table::PolicyTable;

use super::executor::{Answer, Executor, Question};
use crate::exit::{Failure, system, usage};
use crate::offline::{PortSpec, key};

/// The executor that asks the compiled table.
///
/// Each step of a test is compiled as the successor of the step before, as an agent would, and from nothing;
/// both must say the same.
#[derive(Default)]
pub struct Paper {
    compiler: Option<Compiler>,
    tables: Option<Tables>,
}

#[derive(Debug)]
struct Tables {
    successor: PolicyTable,
    fresh: PolicyTable,
}

impl Executor for Paper {
    fn begin(&mut self, _: &str) -> Result<(), Failure> {
        (self.compiler, self.tables) = (None, None);
        Ok(())
    }

    fn step(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        let compiler = self.compiler.get_or_insert_with(|| Compiler::new(Scope::AllPods, Budget::default()));
        self.tables = Some(Tables {
            successor: compiler.update(cluster).map_err(usage)?,
            fresh: compile(cluster, &Scope::AllPods).map_err(usage)?,
        });
        Ok(())
    }

    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, Failure> {
        let Some(tables) = &self.tables else { return Err(system(anyhow!("asked before the first step"))) };
        let keys: Vec<FlowKey> = questions
            .iter()
            .map(|Question { connection: asked, .. }| {
                key((asked.src, asked.dst), PortSpec { protocol: asked.protocol, port: asked.port })
            })
            .collect();
        let mut verdicts = vec![Verdict::Deny; keys.len()];
        let mut again = verdicts.clone();
        tables.successor.classify(&keys, &mut verdicts);
        tables.fresh.classify(&keys, &mut again);
        if let Some(at) = (0..keys.len()).find(|&at| verdicts[at] != again[at]) {
            let Question { from, to, connection } = &questions[at];
            return Err(system(anyhow!(
                "a fault of Portcullis, please report it: {from} -> {to}, {connection:?}: {} by a table made from \
                 the one before, {} by one made from nothing",
                verdicts[at],
                again[at]
            )));
        }
        Ok(verdicts.into_iter().map(|verdict| Answer::Verdict { verdict, seen: String::new() }).collect())
    }
}
