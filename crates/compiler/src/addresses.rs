//! Which address is in which class, and what the table has to know of it.

use flow::Address;
use table::NodeId;

use crate::classes::{ClassAt, ClassKey, OUTSIDE};
use crate::hosts::{Host, Hosts};
use crate::peers::NOBODY;
use crate::ports::NO_NAMES;
use crate::ranges::{self, Range};
use crate::state::{Spent, State};

/// After how many addresses the budget is looked at.
const BATCH: usize = 64;

impl State {
    /// Finds the classes of the addresses that may have another one.
    pub(crate) fn derive_classes(&mut self) -> Result<(), Spent> {
        self.mark_hosts_of_ranges();
        let mut hosts = std::mem::take(&mut self.dirty.hosts);
        hosts.sort_unstable_by(|a, b| b.cmp(a));
        hosts.dedup();
        let placed = hosts.chunks(BATCH).try_for_each(|batch| {
            batch.iter().for_each(|&address| self.place(address));
            self.check()
        });
        // They are written later.
        self.dirty.hosts = hosts;
        placed?;
        self.dirty.classes.order();
        let Self { dirty, classes, peers, ports, words, draft, .. } = self;
        for class in dirty.classes.iter() {
            if classes.all.is_alive(class) && classes.all.value(class).id.is_none() {
                classes.show(class, peers, ports, words, draft);
            }
        }
        self.check()
    }

    /// What blocks cover is part of the class of a host.
    fn mark_hosts_of_ranges(&mut self) {
        let Self { dirty, hosts, .. } = self;
        dirty.ranges = ranges::united(std::mem::take(&mut dirty.ranges));
        for range in &dirty.ranges {
            let [first, last] = [range.first, range.last].map(ranges::address);
            dirty.hosts.extend(hosts.all.range(first..=last).map(|(&address, _)| address));
        }
    }

    /// Puts a host into its class.
    fn place(&mut self, address: Address) {
        let Self { hosts, cover, classes, population, ports, words, peers, dirty, .. } = self;
        let Some(host) = hosts.all.get_mut(&address) else { return };
        let painted = cover.at(ranges::number(address));
        let record = host.owner.and_then(|owner| population.record(owner));
        let (matches, named) = record.map_or((NOBODY, NO_NAMES), |record| {
            (population.identities.value(record.identity).matches.unwrap_or(NOBODY), record.ports)
        });
        let named = ports.asked_for(words, named);
        let key = ClassKey { matches, cover: classes.all.key(painted).cover, ports: named };
        let (class, is_new) = classes.class(key, peers, ports);
        ports.named.release(named);
        if is_new {
            dirty.classes.mark(class);
        }
        if let Some(before) = host.class.replace(class) {
            classes.all.release(before);
        }
    }

    /// Writes intervals and hosts, each once and as they are in the end: epochs are kept by comparing what is written
    /// with what was there. Only where the budget ends in the middle of this is an address written back, and pods
    /// whose rows tell the two classes apart get new epochs although nothing changes for them.
    pub(crate) fn write_addresses(&mut self) -> Result<(), Spent> {
        while let Some(range) = self.dirty.ranges.pop() {
            self.paint(range);
            self.check_written()?;
        }
        let mut written = 0_usize;
        while let Some(address) = self.dirty.hosts.pop() {
            self.write_host(address);
            written += 1;
            if written.is_multiple_of(BATCH) {
                self.check_written()?;
            }
        }
        self.check_written()
    }

    fn paint(&mut self, range: Range) {
        for part in ranges::by_family(range) {
            for (interval, class) in self.cover.within(part) {
                let [first, last] = [interval.first, interval.last].map(ranges::address);
                self.draft.paint(first, last, self.classes.id(class));
            }
        }
    }

    fn write_host(&mut self, address: Address) {
        let Self { hosts: Hosts { all, nodes, .. }, nodes: numbers, classes, population, draft, .. } = self;
        let Some(host) = all.get_mut(&address) else { return };
        let class = host.class.unwrap_or(OUTSIDE);
        let subject = host.owner.and_then(|owner| population.pods.value(owner).subject.as_ref());
        let pod = subject.map(|subject| subject.id);
        let on = nodes.get(&address).map_or(&[][..], Vec::as_slice).iter();
        let mut on: Vec<NodeId> = on.filter_map(|&node| numbers.get(node)).collect();
        on.sort_unstable();
        // Who is like everybody around needs no entry. Whom only blocks speak of is in the class of the interval.
        let key = classes.all.key(class);
        let painted = key.matches == NOBODY && key.ports == NO_NAMES;
        let stands_out = !painted || pod.is_some() || !on.is_empty();
        if stands_out {
            draft.set_host(address, classes.id(class), pod, &on);
        } else if host.written {
            draft.remove_host(address, classes.id(class));
        }
        host.written = stands_out;
        if host.owner.is_none() && self.hosts.is_deserted(address) {
            self.desert(address);
        }
    }

    fn desert(&mut self, address: Address) {
        if let Some(Host { class: Some(class), .. }) = self.hosts.all.remove(&address) {
            self.release_class(class);
        }
    }

    fn release_class(&mut self, class: ClassAt) {
        self.classes.all.release(class);
    }
}
