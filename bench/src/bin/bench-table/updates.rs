//! From one change to the published table: what a source of single events costs between an event and the workers' next
//! burst. An agent that reads files takes the longer way: it parses what changed and hands the whole cluster to
//! `Compiler::update`, which compares it with what it knows.
//!
//! Each event is timed from the call of `apply` to the return of `publish`, which also frees the version that the
//! reader has left. The reader looks before each event, as a worker does all the time.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::ensure;
use bench::cluster::{Shape, Workload};
use bench::output::Output;
use bench::random::Random;
use bench::record::{Figures, Row};
use compiler::{Budget, Change, Compiler, Scope};
use policy::model::{NetworkPolicy, Pod};
use serde_json::json;
use table::{PolicyTable, Publisher, Reader};

use crate::Plan;
use crate::lookup::of;

/// A control thread and a worker, less the worker's work.
pub(crate) struct Bed {
    compiler: Compiler,
    publisher: Publisher<PolicyTable>,
    reader: Reader<PolicyTable>,
}

/// Times of single events, in milliseconds.
type Events = Vec<f64>;

impl Bed {
    /// With the table of a workload published. Pods of these names will be local when they come.
    pub(crate) fn of(workload: &Workload, coming: &[Pod]) -> anyhow::Result<Self> {
        let coming = coming.iter().map(|pod| pod.name.clone());
        let scope = Scope::Pods(workload.local.iter().cloned().chain(coming).collect());
        let mut compiler = Compiler::new(scope, Budget::default());
        let table = compiler.update(&workload.cluster)?;
        let mut publisher = Publisher::new();
        let reader = publisher.reader();
        drop(publisher.publish(table));
        Ok(Self { compiler, publisher, reader })
    }

    /// Applies one change and publishes. The milliseconds that it took.
    pub(crate) fn change(&mut self, change: Change) -> anyhow::Result<f64> {
        let _ = self.reader.get();
        let started = Instant::now();
        let table = self.compiler.apply([change])?;
        drop(self.publisher.publish(table));
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }

    /// What the current table says.
    fn hash(&self) -> Option<u64> {
        self.publisher.current().map(|table| table.canonical_hash())
    }
}

pub(crate) fn run(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    let workload = plan.shape.workload();
    let local = newcomers(&plan.shape, true, plan.events);
    let mut bed = Bed::of(&workload, &local)?;
    let before = bed.hash();

    output.progress(&format!("{} events of each kind", plan.events));
    let homes: BTreeSet<_> = workload.local.iter().map(|name| &name.namespace).collect();
    let first: Vec<bool> = local.iter().map(|pod| !homes.contains(&pod.name.namespace)).collect();
    let (added, gone) = pods_come_and_go(&mut bed, local)?;
    let (far_added, far_gone) = pods_come_and_go(&mut bed, newcomers(&plan.shape, false, plan.events))?;
    let near = relabelled(&mut bed, &mut pods(&workload, true, plan.events))?;
    let far = relabelled(&mut bed, &mut pods(&workload, false, plan.events))?;
    let added_local = added.clone();
    let pods = [("pod_added", true, added), ("pod_added", false, far_added)].into_iter();
    let pods = pods.chain([("pod_relabelled", true, near), ("pod_relabelled", false, far)]);
    for (kind, is_local, events) in pods {
        let params = of(&workload, json!({ "which": if is_local { "local" } else { "remote" } }));
        let row = Row::new(&format!("{kind}_to_published"), "ms", params);
        output.row(row.ours(Figures::of_events(&events)).percentiles(Some(1.0), 5.0))?;
    }
    // A node that gets its first pod of a namespace must learn that namespace's policies.
    for (which, is_first) in
        [("local, first of its namespace", true), ("local, one more of its namespace", false)]
    {
        let events = added_local.iter().zip(&first).filter(|(_, first)| **first == is_first);
        let events: Events = events.map(|(&took, _)| took).collect();
        if !events.is_empty() {
            let row = Row::new("pod_added_to_published", "ms", of(&workload, json!({ "which": which })));
            output.row(row.ours(Figures::of_events(&events)))?;
        }
    }
    for (which, events) in [("local", gone), ("remote", far_gone)] {
        let row = Row::new("pod_deleted_to_published", "ms", of(&workload, json!({ "which": which })));
        output.row(row.ours(Figures::of_events(&events)))?;
    }

    for (which, live) in [("of namespaces with local pods", true), ("any", false)] {
        let events = policies_changed(&mut bed, plan, &workload, live)?;
        let row = Row::new("policy_changed_to_published", "ms", of(&workload, json!({ "which": which })));
        output.row(row.ours(Figures::of_events(&events)).percentiles(None, 20.0))?;
    }
    let events = namespaces_relabelled(&mut bed, plan, &workload)?;
    let row = Row::new("namespace_relabelled_to_published", "ms", of(&workload, json!({})));
    output.row(row.ours(Figures::of_events(&events)))?;

    // Everything has been taken back, so the table must say what it said at first.
    ensure!(bed.hash() == before, "the changes, taken back, have left something behind");
    output.progress("all changes taken back: the table says what it said at first");
    Ok(())
}

/// Pods that the cluster does not have yet, of all namespaces and apps. Those of other nodes have other names.
pub(crate) fn newcomers(shape: &Shape, local: bool, count: usize) -> Vec<Pod> {
    let others = shape.nodes() - 1;
    let pod = |number: usize| {
        let node = if local || others == 0 { 0 } else { 1 + number % others };
        // Places beyond the shape's own, which hold one newcomer at a time.
        let index = if local { shape.pods } else { 2 * shape.pods } + 37 * number;
        shape.pod(index, node, shape.local + number % 3)
    };
    (0..count).map(pod).collect()
}

/// Each pod is added, and deleted again.
pub(crate) fn pods_come_and_go(bed: &mut Bed, pods: Vec<Pod>) -> anyhow::Result<(Events, Events)> {
    let (mut added, mut gone) = (Events::new(), Events::new());
    for pod in pods {
        let (name, uid) = (pod.name.clone(), pod.uid.clone());
        added.push(bed.change(Change::Pod(pod))?);
        gone.push(bed.change(Change::PodGone { name, uid })?);
    }
    Ok((added, gone))
}

/// Random pods, each once.
pub(crate) fn pods(workload: &Workload, local: bool, count: usize) -> Vec<Pod> {
    let of_kind = |pod: &&Pod| workload.local.contains(&pod.name) == local;
    let mut pods: Vec<&Pod> = workload.cluster.pods.iter().filter(of_kind).collect();
    Random::new(40).shuffle(&mut pods);
    pods.into_iter().take(count.div_ceil(2)).cloned().collect()
}

/// Each pod becomes a replica of another app, and is what it was again.
pub(crate) fn relabelled(bed: &mut Bed, pods: &mut [Pod]) -> anyhow::Result<Events> {
    let mut events = Events::new();
    let donors: Vec<_> = pods.iter().map(|pod| pod.labels.clone()).collect();
    for (index, pod) in pods.iter_mut().enumerate() {
        let mut labels = pod.labels.clone();
        for key in ["app", "tier", "num"] {
            labels.insert(key.into(), donors[(index + 1) % donors.len()][key].clone());
        }
        events.push(bed.change(Change::Pod(Pod { labels, ..pod.clone() }))?);
        events.push(bed.change(Change::Pod(pod.clone()))?);
    }
    Ok(events)
}

/// Random policies get the rules of others, and their own back.
fn policies_changed(bed: &mut Bed, plan: &Plan, workload: &Workload, live: bool) -> anyhow::Result<Events> {
    let homes: BTreeSet<_> = workload.local.iter().map(|name| &name.namespace).collect();
    let of_kind = |policy: &&NetworkPolicy| !live || homes.contains(&policy.name.namespace);
    let mut policies: Vec<_> = workload.cluster.policies.iter().filter(of_kind).collect();
    let mut random = Random::new(41);
    random.shuffle(&mut policies);
    let mut events = Events::new();
    for policy in policies.into_iter().take(plan.events.div_ceil(2)) {
        let donor = random.pick(&workload.cluster.policies);
        let (ingress, egress) = (donor.ingress.clone(), donor.egress.clone());
        events.push(bed.change(Change::Policy(NetworkPolicy { ingress, egress, ..policy.clone() }))?);
        events.push(bed.change(Change::Policy(policy.clone()))?);
    }
    Ok(events)
}

/// Random namespaces go to another team, and back.
fn namespaces_relabelled(bed: &mut Bed, plan: &Plan, workload: &Workload) -> anyhow::Result<Events> {
    let mut random = Random::new(42);
    let mut events = Events::new();
    for _ in 0..plan.events.div_ceil(8) {
        let namespace = random.pick(&workload.cluster.namespaces);
        let mut other = namespace.clone();
        other.labels.insert("team".into(), "team-0".into());
        events.push(bed.change(Change::Namespace(other))?);
        events.push(bed.change(Change::Namespace(namespace.clone()))?);
    }
    Ok(events)
}
