//! What a table says, whatever its ids: two tables with the same hash give the same answers.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use flow::Address;

use crate::entry::Entry;
use crate::layout::PolicyTable;

impl PolicyTable {
    /// A hash of all answers of the table: who is judged, what stands between each of them and every address, and
    /// who says so. Epochs, and how the table came about, do not count.
    ///
    /// Reads the whole table. Equal for equal tables of one build of this program; not to be stored.
    #[must_use]
    pub fn canonical_hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        // Pods and rows, in the order of the pods' names.
        let mut slots: Vec<u32> =
            (0..).zip(self.pods.iter()).filter_map(|(id, pod)| pod.as_ref().map(|_| id)).collect();
        slots.sort_unstable_by_key(|&id| self.pods.at(id).as_ref().map(|pod| (pod.name(), pod.uid())));
        let mut pods = HashMap::from([(0, 0)]);
        let (mut rows, mut order) = (HashMap::new(), Vec::new());
        // Nodes in the order of their pods: several nodes may have one address, so addresses cannot order them.
        let mut nodes = HashMap::new();
        for &id in &slots {
            pods.insert(id, pods.len());
            self.pods.at(id).hash(&mut hasher);
            let subject = self.subjects.at(id);
            let next = nodes.len();
            nodes.entry(subject.node).or_insert(next).hash(&mut hasher);
            for row in subject.rows {
                rows.entry(row).or_insert_with(|| {
                    order.push(row);
                    order.len()
                });
                rows[&row].hash(&mut hasher);
            }
        }
        for &row in &order {
            if let Some(info) = self.rows.info(row) {
                info.direction.hash(&mut hasher);
                info.ports.hash(&mut hasher);
                info.policies.iter().for_each(|&policy| self.policy(policy).name.hash(&mut hasher));
            }
        }
        let mut policies: Vec<_> = self.policies.iter().flatten().collect();
        policies.sort_unstable_by_key(|policy| (&policy.name, &policy.origin));
        for policy in policies {
            (&policy.name, &policy.origin).hash(&mut hasher);
            for rules in [&policy.ingress, &policy.egress] {
                // The numbers of peers are nobody's business but the compiler's.
                rules.iter().for_each(|rule| (&rule.origin, &rule.ports).hash(&mut hasher));
            }
        }
        // Addresses, in ranges about which the table says the same.
        let mut columns =
            Columns { table: self, order: &order, sets: HashMap::new(), classes: HashMap::new() };
        let mut last = None;
        for (start, entry) in self.ranges() {
            let mut numbers: Vec<_> = self.nodes(entry).iter().filter_map(|node| nodes.get(node)).collect();
            numbers.sort_unstable();
            let said = (columns.of(entry.class()), pods[&entry.pod()], numbers);
            if last.as_ref() != Some(&said) {
                (start, &said).hash(&mut hasher);
                last = Some(said);
            }
        }
        hasher.finish()
    }

    /// All ranges of addresses in order, IPv4 first.
    fn ranges(&self) -> impl Iterator<Item = (Address, Entry)> {
        let v4 = self.v4.ranges().into_iter().map(|(ip, entry)| (Address::v4(ip.to_be_bytes()), entry));
        let mut v6: Vec<_> = self.v6.iter().map(|(start, class)| (start, 1, Entry::painted(class))).collect();
        for (bits, entry) in self.hosts.iter() {
            v6.push((bits, 2, entry));
            // What follows a host is what stood there before.
            if let Some(next) = bits.checked_add(1) {
                v6.push((next, 0, Entry::painted(self.v6.find(next))));
            }
        }
        v6.sort_unstable_by_key(|&(start, rank, _)| (start, rank));
        // Of several that begin at one address, the host counts.
        let firsts: Vec<_> = v6.chunk_by(|a, b| a.0 == b.0).map(|same| same[same.len() - 1]).collect();
        v4.chain(firsts.into_iter().map(|(start, _, entry)| (Address::from_bits(start), entry)))
    }

    /// The numbers of the nodes that have an address.
    fn nodes(&self, entry: Entry) -> Vec<u32> {
        match entry.node() {
            0 => Vec::new(),
            node if node < Self::SHARED_NODES => vec![node.into()],
            shared => {
                let nodes = self.shared_nodes.at(u32::from(shared - Self::SHARED_NODES));
                nodes.iter().copied().map(u32::from).collect()
            }
        }
    }
}

/// What the rows say about each class.
struct Columns<'a> {
    table: &'a PolicyTable,
    order: &'a [u32],
    sets: HashMap<u32, u64>,
    classes: HashMap<u32, u64>,
}

impl Columns<'_> {
    fn of(&mut self, class: u32) -> u64 {
        let Self { table, order, sets, classes } = self;
        *classes.entry(class).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            for &row in *order {
                let set = table.rows.set(row, class);
                let bits = sets.entry(set).or_insert_with(|| {
                    let mut hasher = DefaultHasher::new();
                    table.sets.bits(set).for_each(|word| word.hash(&mut hasher));
                    hasher.finish()
                });
                bits.hash(&mut hasher);
            }
            hasher.finish()
        })
    }
}
