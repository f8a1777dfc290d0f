//! One row for each direction of each local pod.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use flow::{Address, Direction};
use policy::model::{Cluster, Isolation, NamedPort, NetworkPolicy, ObjectName, Rule};
use table::{Name, Piece, PolicyId, PolicyTable, Row, RowRule, RuleId, TableBuilder};

use crate::population::{Population, Resident};
use crate::resolve::Resolved;

/// Whose connections the table judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of these pods. Other pods are peers only.
    Pods(BTreeSet<ObjectName>),
    /// Those of all pods.
    AllPods,
}

/// Compiles a cluster, as the successor of `previous`: a pod about which nothing changes keeps its epoch.
///
/// Deterministic: the order of the cluster's objects changes nothing.
#[must_use]
pub fn compile(cluster: &Cluster, scope: &Scope, previous: Option<&PolicyTable>) -> PolicyTable {
    let population = Population::of(cluster);
    let mut builder = TableBuilder::new();
    let policies = name_policies(cluster, &mut builder);

    let mut egress = Rows::new(Direction::Egress, &policies, &population);
    let mut ingress = Rows::new(Direction::Ingress, &policies, &population);
    let nodes = node_addresses(cluster);
    for resident in &population.residents {
        let pod = resident.pod;
        if matches!(scope, Scope::Pods(judged) if !judged.contains(&pod.name)) {
            continue;
        }
        let node = nodes.get(pod.node.as_str()).map_or_else(|| Arc::from([]), Arc::clone);
        builder.pod(
            name(&pod.name),
            pod.uid.clone(),
            resident.addresses.clone(),
            node,
            egress.of(resident),
            ingress.of(resident),
        );
    }
    builder.build(previous)
}

/// A policy and the ids under which the table knows it.
struct Named<'a> {
    policy: &'a NetworkPolicy,
    id: PolicyId,
    ingress: Vec<RuleId>,
    egress: Vec<RuleId>,
}

/// The rows of one direction, each resolved once.
struct Rows<'a> {
    direction: Direction,
    policies: &'a [Named<'a>],
    population: &'a Population<'a>,
    /// Resolved rules of the policies that select a local pod, by the policy's index.
    rules: HashMap<usize, Vec<SharedRule<'a>>>,
    /// Rows by the indices of the policies, and by the subject's named ports where they matter.
    rows: HashMap<(Vec<usize>, Vec<NamedPort>), Arc<Row>>,
}

/// One rule, with its pieces where they are the same for every subject.
struct SharedRule<'a> {
    id: RuleId,
    resolved: Resolved<'a>,
    pieces: Option<Arc<[Piece]>>,
}

impl<'a> Named<'a> {
    /// Its rules for one direction with their ids; `None` if it does not isolate in this direction.
    fn rules(&self, direction: Direction) -> Option<impl Iterator<Item = (RuleId, &'a Rule)>> {
        let (isolation, ids) = match direction {
            Direction::Ingress => (&self.policy.ingress, &self.ingress),
            Direction::Egress => (&self.policy.egress, &self.egress),
        };
        match isolation {
            Isolation::Open => None,
            Isolation::Isolated { rules } => Some(ids.iter().copied().zip(rules)),
        }
    }
}

impl<'a> Rows<'a> {
    fn new(direction: Direction, policies: &'a [Named<'a>], population: &'a Population<'a>) -> Self {
        Self { direction, policies, population, rules: HashMap::new(), rows: HashMap::new() }
    }

    /// The row of one pod.
    fn of(&mut self, subject: &Resident<'_>) -> Arc<Row> {
        let isolating = self.isolating(subject);
        for &policy in &isolating {
            self.resolve(policy);
        }
        let rules: Vec<_> = isolating.iter().flat_map(|policy| &self.rules[policy]).collect();
        let ports = if rules.iter().any(|rule| rule.pieces.is_none()) {
            let mut ports = subject.pod.ports.clone();
            ports.sort_unstable();
            ports
        } else {
            Vec::new()
        };
        let row = self.rows.entry((isolating, ports)).or_insert_with_key(|(isolating, _)| {
            if isolating.is_empty() {
                return Arc::new(Row::Open);
            }
            let policies = isolating.iter().map(|&policy| self.policies[policy].id).collect();
            let rules = rules.iter().map(|rule| RowRule { id: rule.id, pieces: rule.pieces_for(subject) });
            let rules = rules.filter(|rule| !rule.pieces.is_empty()).collect();
            Arc::new(Row::Isolated { policies, rules })
        });
        Arc::clone(row)
    }

    /// The policies that isolate a pod, by index.
    fn isolating(&self, subject: &Resident<'_>) -> Vec<usize> {
        let pod = subject.pod;
        let selects = |named: &Named<'_>| {
            named.policy.subjects.matches(&pod.labels) && named.rules(self.direction).is_some()
        };
        // By name: those of a namespace stand together.
        let namespace = pod.name.namespace.as_str();
        let of_namespace = |named: &Named<'_>| named.policy.name.namespace.as_str().cmp(namespace);
        let first = self.policies.partition_point(|named| of_namespace(named).is_lt());
        let end = self.policies.partition_point(|named| of_namespace(named).is_le());
        (first..end).filter(|&index| selects(&self.policies[index])).collect()
    }

    /// Resolves the rules of a policy, unless that has been done.
    fn resolve(&mut self, index: usize) {
        let (direction, population) = (self.direction, self.population);
        let named = &self.policies[index];
        self.rules.entry(index).or_insert_with(|| {
            let rules = named.rules(direction).into_iter().flatten();
            rules.map(|(id, rule)| SharedRule::of(id, named.policy, rule, direction, population)).collect()
        });
    }
}

impl<'a> SharedRule<'a> {
    fn of(
        id: RuleId,
        policy: &NetworkPolicy,
        rule: &'a Rule,
        direction: Direction,
        population: &Population<'_>,
    ) -> Self {
        let resolved = Resolved::of(policy, rule, population);
        let pieces = match direction {
            Direction::Egress => Some(resolved.egress(population)),
            Direction::Ingress => resolved.ingress_of_all(),
        };
        Self { id, resolved, pieces }
    }

    fn pieces_for(&self, subject: &Resident<'_>) -> Arc<[Piece]> {
        self.pieces.as_ref().map_or_else(|| self.resolved.ingress(subject), Arc::clone)
    }
}

/// Names all policies and rules to the builder, in the order in which `why` prefers them.
fn name_policies<'a>(cluster: &'a Cluster, builder: &mut TableBuilder) -> Vec<Named<'a>> {
    let mut policies: Vec<_> = cluster.policies.iter().collect();
    policies.sort_by_key(|policy| (&policy.name, &policy.origin));
    policies
        .into_iter()
        .map(|policy| {
            let id = builder.policy(name(&policy.name), policy.origin.to_string());
            let ingress = name_rules(builder, id, Direction::Ingress, &policy.ingress);
            let egress = name_rules(builder, id, Direction::Egress, &policy.egress);
            Named { policy, id, ingress, egress }
        })
        .collect()
}

fn name_rules(
    builder: &mut TableBuilder,
    id: PolicyId,
    direction: Direction,
    isolation: &Isolation,
) -> Vec<RuleId> {
    let Isolation::Isolated { rules } = isolation else { return Vec::new() };
    let numbered = rules.iter().enumerate();
    numbered.map(|(index, rule)| builder.rule(id, direction, index, rule.origin.to_string())).collect()
}

/// The addresses of each node that has a name, sorted.
fn node_addresses(cluster: &Cluster) -> HashMap<&str, Arc<[Address]>> {
    let mut nodes: HashMap<&str, BTreeSet<Address>> = HashMap::new();
    for node in cluster.nodes.iter().filter(|node| !node.name.is_empty()) {
        nodes.entry(&node.name).or_default().extend(&node.addresses);
    }
    nodes.into_iter().map(|(name, addresses)| (name, addresses.into_iter().collect())).collect()
}

fn name(name: &ObjectName) -> Name {
    Name::new(&name.namespace, &name.name)
}
