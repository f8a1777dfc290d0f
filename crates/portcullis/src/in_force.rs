//! Which policy is in force, and what the manifests have said since: told to the log when it changes, and to
//! whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use control::{Diagnostic, Event, Severity};
use policy::model::{Cluster, ObjectName};
use table::PolicyTable;
use tracing::{error, info, warn};

use crate::admin::snapshot::{ManifestState, Manifests, Recovery, Refusal, Table};
use crate::config::Config;

/// Which policy is in force.
#[derive(Debug, Default)]
pub struct InForce {
    table: Option<Published>,
    /// When the first table came into force.
    first: Option<Instant>,
    refused: Option<Refused>,
    refusals: u64,
    /// The pods of our ports that name another node, as last warned of.
    elsewhere: BTreeMap<ObjectName, String>,
}

#[derive(Debug)]
struct Published {
    /// Its age is left at zero.
    table: Table,
    at: Instant,
}

#[derive(Debug)]
struct Refused {
    since: Instant,
    errors: usize,
    report: String,
}

impl InForce {
    /// Takes in what the control thread tells, and tells the log.
    pub fn take(&mut self, event: &Event, config: &Config) {
        match event {
            Event::Published { table, cluster, generation, took, warnings } => {
                warn_of(warnings);
                self.warn_of_elsewhere(config, cluster);
                self.published(table, *took);
                let sizes = table.sizes();
                info!(
                    generation,
                    ?took,
                    pods = sizes.pods,
                    policies = sizes.policies,
                    rules = sizes.rules,
                    "policy is in force"
                );
            }
            Event::Mended { warnings } => {
                warn_of(warnings);
                self.refused = None;
                info!("the manifests are mended; the policy in force is theirs");
            }
            Event::Warned { warnings } => warn_of(warnings),
            Event::Refused { diagnostics, report } => {
                let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
                error!(errors, "the manifests are refused; the policy in force stays\n{report}");
                self.refusals += 1;
                let since = self.refused.take().map_or_else(Instant::now, |before| before.since);
                self.refused = Some(Refused { since, errors, report: report.clone() });
            }
        }
    }

    fn published(&mut self, table: &PolicyTable, took: Duration) {
        let sizes = table.sizes();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let table = Table {
            generation: table.generation(),
            age_seconds: 0.0,
            published_timestamp_seconds: now.as_secs_f64(),
            took_seconds: took.as_secs_f64(),
            pods: sizes.pods,
            policies: sizes.policies,
            rules: sizes.rules,
            bytes: table.bytes().iter().map(|(_, bytes)| bytes).sum(),
        };
        let at = Instant::now();
        self.first.get_or_insert(at);
        self.table = Some(Published { table, at });
        self.refused = None;
    }

    /// Says of each pod of the configured ports that names another node than the configured one, unless it has been
    /// said: such a pod's own node, with which it may always talk, is the one that it names.
    fn warn_of_elsewhere(&mut self, config: &Config, cluster: &Cluster) {
        let ours: BTreeSet<_> = config.ports.iter().map(|port| &port.pod).collect();
        let elsewhere: BTreeMap<_, _> = cluster
            .pods
            .iter()
            .filter(|pod| ours.contains(&pod.name) && !pod.node.is_empty() && pod.node != config.node)
            .map(|pod| (pod.name.clone(), pod.node.clone()))
            .collect();
        for (pod, node) in elsewhere.iter().filter(|(pod, node)| self.elsewhere.get(pod) != Some(node)) {
            warn!(%pod, %node, "the pod has a port here, but names another node as its own");
        }
        self.elsewhere = elsewhere;
    }

    /// The table in force.
    #[must_use]
    pub fn table(&self) -> Option<Table> {
        let Published { table, at } = self.table.as_ref()?;
        Some(Table { age_seconds: at.elapsed().as_secs_f64(), ..table.clone() })
    }

    /// What the manifests say.
    #[must_use]
    pub fn manifests(&self) -> Manifests {
        let state = match (&self.refused, &self.table) {
            (Some(_), _) => ManifestState::Refused,
            (None, Some(_)) => ManifestState::InForce,
            (None, None) => ManifestState::Unread,
        };
        let refusal = self.refused.as_ref().map(|refused| Refusal {
            since_seconds: refused.since.elapsed().as_secs_f64(),
            errors: refused.errors,
            report: refused.report.clone(),
        });
        Manifests { state, refusals: self.refusals, refusal }
    }

    /// What is left of a recovery window of this length, which begins with the first table.
    #[must_use]
    pub fn recovery(&self, window: Duration) -> Recovery {
        let left = self.first.map_or(window, |first| window.saturating_sub(first.elapsed()));
        Recovery { window_seconds: window.as_secs_f64(), left_seconds: left.as_secs_f64() }
    }
}

fn warn_of(warnings: &[Diagnostic]) {
    for warning in warnings {
        warn!("{warning}");
    }
}
