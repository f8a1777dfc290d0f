//! Who owns which address, which pods are judged, and by which rows.

use hashbrown::HashMap;
use std::sync::Arc;

use flow::{Address, Direction, Protocol};
use table::{LocalPod, Name, PolicyId};

use crate::policies::{DIRECTIONS, PolicyAt, index};
use crate::population::{IdentityAt, PodAt, Subject};
use crate::rows::{OPEN, RowAt, RowKey};
use crate::state::{Spent, State};
use crate::words::Symbol;

/// What the policies of an identity mean for each of its pods, by direction.
type Isolation = [Isolating; 2];

/// The policies that isolate in one direction.
struct Isolating {
    /// By name.
    policies: Box<[PolicyAt]>,
    /// The port names that their rules look up at the subject.
    names: Vec<(Symbol, Protocol)>,
}

impl State {
    /// Gives each claimed address to the pod with the best claim.
    pub(crate) fn derive_owners(&mut self) {
        let Self { dirty, hosts, population, .. } = self;
        dirty.claims.sort_unstable_by(|a, b| b.cmp(a));
        dirty.claims.dedup();
        while let Some(address) = dirty.claims.pop() {
            let heir = hosts.heir(address, population);
            if let Some(host) = hosts.all.get_mut(&address)
                && host.owner != heir
            {
                let before = std::mem::replace(&mut host.owner, heir);
                before.into_iter().chain(heir).for_each(|pod| dirty.residents.mark(pod));
            }
            dirty.hosts.push(address);
        }
    }

    /// Brings the judged pods up to date: who they are, where, and which rows they have.
    pub(crate) fn derive_subjects(&mut self) -> Result<(), Spent> {
        self.mark_pods_of_nodes();
        let mut isolations = HashMap::new();
        self.dirty.residents.order();
        while let Some(pod) = self.dirty.residents.pop() {
            let owned = self.owned(pod);
            if owned.is_empty() {
                self.remove_subject(pod);
            } else {
                self.set_subject(pod, owned, &mut isolations);
                self.check()?;
            }
        }
        self.dirty.subjects.order();
        while let Some(pod) = self.dirty.subjects.pop() {
            if self.population.pods.value(pod).subject.is_some() {
                self.set_rows(pod, &mut isolations);
                self.check()?;
            }
        }
        self.drop_rows();
        Ok(())
    }

    fn mark_pods_of_nodes(&mut self) {
        let Self { dirty, population, .. } = self;
        if dirty.nodes.len() > 0 {
            for (pod, _, slot) in population.pods.iter() {
                if slot.subject.as_ref().is_some_and(|subject| dirty.nodes.has(subject.node)) {
                    dirty.residents.mark(pod);
                }
            }
            while dirty.nodes.pop().is_some() {}
        }
    }

    /// The addresses that a pod owns, if it is judged.
    fn owned(&self, pod: PodAt) -> Vec<Address> {
        let slot = self.population.pods.value(pod);
        let Some(record) = slot.record.as_ref().filter(|_| slot.judged) else { return Vec::new() };
        let claims = record.claims().iter().copied();
        claims.filter(|&address| self.hosts.owner(address) == Some(pod)).collect()
    }

    fn remove_subject(&mut self, pod: PodAt) {
        if let Some(subject) = self.population.pods.value_mut(pod).subject.take() {
            self.leave_node(&subject);
            self.rows.all.release(subject.egress);
            self.rows.all.release(subject.ingress);
            self.leaving.insert(pod, subject.id);
        }
    }

    fn set_subject(
        &mut self,
        pod: PodAt,
        owned: Vec<Address>,
        isolations: &mut HashMap<IdentityAt, Isolation>,
    ) {
        let Some(record) = self.population.record(pod) else { return };
        let node = record.node;
        let [egress, ingress] = self.rows_of(pod, isolations);
        let before = self.population.pods.value_mut(pod).subject.take();
        // First to the new node, so that a pod that stays is no news to it.
        self.population.nodes.retain(node);
        self.population.nodes.value_mut(node).subjects += 1;
        if self.population.nodes.value(node).subjects == 1 {
            self.nodes.add(node);
            self.dirty.hosts.extend_from_slice(self.population.node_addresses(node));
        }
        let key = self.population.pods.key(pod);
        let local = LocalPod::new(
            Name::new(&**self.population.namespaces.key(key.namespace), key.name()),
            key.uid().to_owned(),
            owned,
            self.population.nodes.value(node).addresses.clone().unwrap_or_default(),
        );
        let (number, rows) = (self.nodes.get(node), [egress, ingress].map(|row| self.rows.id(row)));
        let known = before.as_ref().map(|before| before.id).or_else(|| self.leaving.remove(&pod));
        let id = match known {
            Some(id) => {
                self.draft.set_pod(id, local, number, rows[0], rows[1]);
                id
            }
            None => self.draft.add_pod(local, number, rows[0], rows[1]),
        };
        self.population.pods.value_mut(pod).subject = Some(Subject { id, node, egress, ingress });
        if let Some(before) = before {
            self.leave_node(&before);
            self.rows.all.release(before.egress);
            self.rows.all.release(before.ingress);
        }
    }

    fn leave_node(&mut self, subject: &Subject) {
        let slot = self.population.nodes.value_mut(subject.node);
        slot.subjects -= 1;
        if slot.subjects == 0 {
            self.nodes.remove(subject.node);
            self.dirty.hosts.extend_from_slice(self.population.node_addresses(subject.node));
        }
        self.population.nodes.release(subject.node);
    }

    /// Gives a judged pod the rows that it ought to have.
    fn set_rows(&mut self, pod: PodAt, isolations: &mut HashMap<IdentityAt, Isolation>) {
        let [egress, ingress] = self.rows_of(pod, isolations);
        let Some(subject) = &mut self.population.pods.value_mut(pod).subject else { return };
        let before = [(&mut subject.egress, egress), (&mut subject.ingress, ingress)]
            .map(|(row, new)| std::mem::replace(row, new));
        if before != [egress, ingress] {
            self.draft.set_rows(subject.id, self.rows.id(egress), self.rows.id(ingress));
        }
        before.into_iter().for_each(|row| self.rows.all.release(row));
    }

    /// Refers to the rows that a pod ought to have.
    fn rows_of(&mut self, pod: PodAt, isolations: &mut HashMap<IdentityAt, Isolation>) -> [RowAt; 2] {
        let Some(record) = self.population.record(pod) else { return [self.open(), self.open()] };
        let (identity, own) = (record.identity, record.ports);
        let isolation = isolations.entry(identity).or_insert_with(|| self.isolation(identity));
        DIRECTIONS.map(|direction| {
            let Isolating { policies, names } = &isolation[index(direction)];
            if policies.is_empty() {
                return self.open();
            }
            let ports = self.ports.narrowed(&mut self.words, own, |name| names.binary_search(&name).is_ok());
            let (row, back) = self.rows.all.acquire(RowKey { direction, policies: policies.clone(), ports });
            if back.is_some() {
                self.ports.named.release(ports);
            } else {
                self.add_row(row);
            }
            row
        })
    }

    fn open(&mut self) -> RowAt {
        self.rows.all.retain(OPEN);
        OPEN
    }

    /// The policies that isolate the pods of an identity.
    fn isolation(&self, identity: IdentityAt) -> Isolation {
        let key = self.population.identities.key(identity);
        let records = self.population.namespaces.value(key.namespace).policies.iter();
        let records = records.filter_map(|&at| Some((at, self.policies.get(at)?)));
        let selects = |subjects| self.words.selectors.key(subjects).matches(&key.labels);
        let selecting: Vec<_> = records.filter(|(_, record)| selects(record.subjects)).collect();
        DIRECTIONS.map(|direction| {
            let isolating = selecting.iter().filter_map(|&(at, record)| Some((at, record.rules(direction)?)));
            let (mut policies, mut names) = (Vec::new(), Vec::new());
            for (at, rules) in isolating {
                policies.push(at);
                if direction == Direction::Ingress {
                    rules.iter().for_each(|rule| names.extend_from_slice(self.ports.names_of(rule.ports)));
                }
            }
            policies.sort_unstable_by(|&a, &b| {
                let name = |at| &self.policies.all.key(at).name;
                name(a).cmp(name(b))
            });
            names.sort_unstable();
            Isolating { policies: policies.into(), names }
        })
    }

    /// Makes a row known to the table, without cells.
    fn add_row(&mut self, row: RowAt) {
        let (key, slot) = self.rows.all.entry_mut(row);
        let policies: Arc<[PolicyId]> =
            key.policies.iter().map(|policy| PolicyId::new(policy.number())).collect();
        let ports = self.ports.named_for_table(&self.words, key.ports);
        slot.id = Some(self.draft.add_row(key.direction, policies, ports));
        for &policy in &key.policies {
            self.policies.all.value_mut(policy).rows[index(key.direction)].insert(row);
            self.dirty.liveness.mark(policy);
        }
        self.dirty.rows.mark(row);
    }

    /// Drops the rows that no pod has any more.
    fn drop_rows(&mut self) {
        while let Some((row, key, slot)) = self.rows.all.sweep() {
            for &policy in &key.policies {
                self.policies.all.value_mut(policy).rows[index(key.direction)].remove(&row);
                self.dirty.liveness.mark(policy);
            }
            self.rows.naming.remove(&row);
            self.ports.named.release(key.ports);
            if let Some(id) = slot.id {
                self.draft.remove_row(id);
            }
        }
    }
}
