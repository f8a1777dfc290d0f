//! The table as it is being written: what the compiler drives.

use std::sync::Arc;

use flow::{Address, Direction, Epoch};

use crate::entry::Entry;
use crate::epochs::{self, Changes, Written};
use crate::ids::{ClassId, NodeId, PodId, RowId};
use crate::interned::Interned;
use crate::layout::{LocalPod, PolicyTable, Subject};
use crate::rows::{RowInfo, RowStore};
use crate::rules::{NamedPort, PolicyId, PolicyInfo, PortRange, Signature};
use crate::sets::{SetId, SetStore};
use crate::v6::Canvas;

/// A table that is being written. [`freeze`](Self::freeze) gives a table of what it says then; all tables of one
/// draft share the pages that were not written between them.
///
/// Ids stay what they are from one freeze to the next. The id of something removed is given again only after the
/// next freeze, so that what changed can be told by comparing two tables.
#[derive(Debug)]
pub struct Draft {
    table: PolicyTable,
    /// The last table that was frozen.
    last: Option<PolicyTable>,
    v6: Canvas,
    sets: SetStore,
    rows: RowStore,
    classes: Slots,
    pods: Slots,
    /// Sets of nodes that have an address together.
    shared_nodes: Interned<Box<[u16]>>,
    /// What was written since the last freeze.
    written: Written,
    /// What was removed since then: ids that nobody gets before the next one.
    removed: Removed,
    /// Pages and sets after the last sweep.
    swept: (usize, usize),
}

/// Ids to be free again.
#[derive(Debug, Default)]
struct Removed {
    classes: Vec<u32>,
    rows: Vec<u32>,
    pods: Vec<u32>,
}

/// Ids in use and free again.
#[derive(Debug)]
struct Slots {
    next: u32,
    free: Vec<u32>,
}

impl Slots {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl Draft {
    /// Most classes.
    pub const MAX_CLASSES: u32 = Entry::CLASSES;
    /// Most judged pods.
    pub const MAX_PODS: u32 = Entry::PODS - 1;
    /// Most nodes.
    pub const MAX_NODES: u16 = PolicyTable::SHARED_NODES - 1;
    /// Most different sets of nodes that share an address, over the life of a draft. An address of one set more is
    /// nobody's: it is judged like any other.
    pub const MAX_SHARED: usize = (u16::MAX - PolicyTable::SHARED_NODES) as usize + 1;

    /// No pod, no policy.
    #[must_use]
    pub fn new() -> Self {
        let (sets, rows) = (SetStore::new(), RowStore::new());
        let mut draft = Self {
            table: PolicyTable::empty(rows.shared(), sets.shared()),
            last: None,
            v6: Canvas::new(),
            sets,
            rows,
            classes: Slots { next: 0, free: Vec::new() },
            pods: Slots { next: 1, free: Vec::new() },
            shared_nodes: Interned::new(),
            written: Written::default(),
            removed: Removed::default(),
            swept: (0, 0),
        };
        let outside = draft.add_class(Signature::default());
        debug_assert_eq!(outside, ClassId::OUTSIDE);
        draft
    }

    /// A class that no address is in yet. Its cell in each row is the row's default.
    pub fn add_class(&mut self, signature: Signature) -> ClassId {
        let class = self.classes.take();
        assert!(class < Self::MAX_CLASSES, "fewer than 2^24 classes");
        self.rows.reserve_classes(class + 1);
        *self.table.classes.at_mut(class) = Some(Arc::new(signature));
        ClassId(class)
    }

    /// Removes a class that no address is in.
    pub fn remove_class(&mut self, class: ClassId) {
        *self.table.classes.at_mut(class.0) = None;
        self.removed.classes.push(class.0);
    }

    /// Puts all addresses from `first` to `last`, both included and of one family, into a class: all but hosts.
    pub fn paint(&mut self, first: Address, last: Address, class: ClassId) {
        let moves = &mut self.written.moves;
        let mut moved = |old| _ = old != class.0 && moves.insert((old, class.0));
        match (first.v4_bits(), last.v4_bits()) {
            (Some(first), Some(last)) => self.table.v4.paint(first, last, class.0, &mut moved),
            (None, None) => self.v6.paint(first.bits(), last.bits(), class.0, &mut moved),
            _ => unreachable!("{first} and {last} are of one family"),
        }
    }

    /// Makes an address a host: its class, the judged pod that owns it, and the nodes that have it.
    pub fn set_host(&mut self, address: Address, class: ClassId, pod: Option<PodId>, nodes: &[NodeId]) {
        let entry = Entry::host(class.0, pod.map_or(0, |pod| pod.0), self.node_number(nodes));
        match address.v4_bits() {
            Some(ip) => self.table.v4.set(ip, entry),
            None => self.table.hosts.set(address.bits(), entry),
        }
        self.written.hosts.push(address);
    }

    /// Makes a host an address like those around it, whose class is `painted`.
    pub fn remove_host(&mut self, address: Address, painted: ClassId) {
        match address.v4_bits() {
            Some(ip) => self.table.v4.set(ip, Entry::painted(painted.0)),
            None => self.table.hosts.remove(address.bits()),
        }
        self.written.hosts.push(address);
    }

    /// The set of the ports of some ranges, which may overlap and come in any order.
    pub fn ports(&mut self, ranges: &[PortRange]) -> SetId {
        self.sets.of(ranges)
    }

    /// A row that allows nothing yet, for the pods that `policies` isolate in one direction. `ports`: the named
    /// ports of those pods, where an ingress rule asks for them.
    pub fn add_row(
        &mut self,
        direction: Direction,
        policies: Arc<[PolicyId]>,
        ports: Arc<[NamedPort]>,
    ) -> RowId {
        let row = self.rows.add(RowInfo { direction, policies, ports });
        self.written.rows.mark(row.0);
        row
    }

    /// Removes a row that no pod has.
    pub fn remove_row(&mut self, row: RowId) {
        self.rows.remove(row);
        self.removed.rows.push(row.0);
    }

    /// Replaces all cells of a row: `cells`, sorted by class, and `default` for all other classes.
    pub fn fill_row(&mut self, row: RowId, default: SetId, cells: &[(ClassId, SetId)]) {
        debug_assert!(cells.is_sorted());
        self.rows.fill(row, default, cells);
        self.written.rows.mark(row.0);
    }

    /// Changes some cells of a row, sorted by class.
    pub fn set_cells(&mut self, row: RowId, cells: &[(ClassId, SetId)]) {
        debug_assert!(cells.is_sorted());
        self.rows.change(row, cells);
        self.written.rows.mark(row.0);
    }

    /// A judged pod. Its addresses still need to become [hosts](Self::set_host).
    pub fn add_pod(&mut self, pod: LocalPod, node: Option<NodeId>, egress: RowId, ingress: RowId) -> PodId {
        let id = PodId(self.pods.take());
        assert!(id.0 <= Self::MAX_PODS, "fewer than 2^22 judged pods");
        self.set_pod(id, pod, node, egress, ingress);
        id
    }

    /// Replaces all that is known of a judged pod.
    pub fn set_pod(&mut self, id: PodId, pod: LocalPod, node: Option<NodeId>, egress: RowId, ingress: RowId) {
        let old = self.table.pods.at_checked(id.0).and_then(Option::as_deref);
        if old != Some(&pod) {
            self.written.pods.mark(id.0);
        }
        *self.table.pods.at_mut(id.0) = Some(Arc::new(pod));
        let node = node.map_or(0, |node| u32::from(node.0) + 1);
        let epoch = self.table.subjects.at_checked(id.0).map_or(0, |subject| subject.epoch);
        *self.table.subjects.at_mut(id.0) = Subject { rows: [egress.0, ingress.0], node, epoch };
    }

    /// Gives a judged pod other rows.
    pub fn set_rows(&mut self, id: PodId, egress: RowId, ingress: RowId) {
        self.table.subjects.at_mut(id.0).rows = [egress.0, ingress.0];
    }

    /// Removes a judged pod that owns no address any more.
    pub fn remove_pod(&mut self, id: PodId) {
        *self.table.pods.at_mut(id.0) = None;
        *self.table.subjects.at_mut(id.0) = Subject::default();
        self.removed.pods.push(id.0);
    }

    /// Sets, replaces or with `None` removes a policy.
    pub fn set_policy(&mut self, id: PolicyId, info: Option<Arc<PolicyInfo>>) {
        let slot = self.table.policies.at_mut(id.0);
        for (info, sign) in [(slot.as_deref(), -1), (info.as_deref(), 1)] {
            if let Some(info) = info {
                let rules = info.ingress.len() + info.egress.len();
                self.table.sizes.policies = self.table.sizes.policies.wrapping_add_signed(sign);
                self.table.sizes.rules = self.table.sizes.rules.wrapping_add_signed(sign * rules as isize);
            }
        }
        *slot = info;
    }

    /// What the draft holds, in bytes: the table that it would give now, but for what is there for people, and what
    /// writing needs beside it. Costs little.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let addresses = self.table.v4.bytes() + self.table.hosts.bytes() + self.v6.bytes();
        let rows = self.rows.rows().bytes() + self.rows.bytes();
        let nodes = self.shared_nodes.bytes() + self.table.shared_nodes.bytes();
        addresses + rows + self.sets.bytes() + self.table.subjects.bytes() + nodes
    }

    /// A table of what the draft says.
    ///
    /// A pod keeps its epoch if it is the same pod (name, uid, addresses and addresses of its node) and both tables
    /// say the same about it; the names of the rules do not count. All others share one epoch that was not in use
    /// before.
    pub fn freeze(&mut self) -> PolicyTable {
        self.removed.classes.sort_unstable();
        self.rows.reset(&self.removed.classes);
        if self.v6.take_changed() {
            self.table.v6 = self.v6.intervals();
        }
        self.table.rows = self.rows.shared();
        self.table.sets = self.sets.shared();
        self.table.generation += 1;
        let written = std::mem::take(&mut self.written);
        self.give_epochs(&written);
        let removed = std::mem::take(&mut self.removed);
        self.classes.free.extend(removed.classes);
        self.rows.recycle(removed.rows);
        self.pods.free.extend(removed.pods);
        self.sweep();
        self.last = Some(self.table.clone());
        self.table.clone()
    }

    fn give_epochs(&mut self, written: &Written) {
        let fresh = self.last.as_ref().map_or(Epoch::FIRST, epochs::fresh);
        let mut changes = self.last.as_ref().map(|last| Changes::between(last, &self.table, written));
        let mut concerned: Vec<u32> =
            (1..self.pods.next).filter(|&id| self.table.pods.at(id).is_some()).collect();
        let pods = concerned.len();
        concerned.retain(|&id| changes.as_mut().is_none_or(|changes| changes.concern(id)));
        self.table.sizes.pods = pods;
        // An epoch that no pod of this table takes may be given by the next one.
        if !concerned.is_empty() {
            self.table.newest = fresh;
        }
        for id in concerned {
            self.table.subjects.at_mut(id).epoch = fresh.number();
        }
    }

    /// Forgets pages and sets that no row holds, when there may be more of them than of the others.
    fn sweep(&mut self) {
        let (pages, sets) = (self.rows.pages(), self.sets.len());
        if pages > 2 * self.swept.0 + 1024 || sets > 2 * self.swept.1 + 1024 {
            let used = self.rows.sweep();
            self.sets.sweep(used);
            self.swept = (self.rows.pages(), self.sets.len());
        }
    }

    fn node_number(&mut self, nodes: &[NodeId]) -> u16 {
        debug_assert!(nodes.iter().all(|node| node.0 < Self::MAX_NODES));
        match nodes {
            [] => 0,
            [node] => node.0 + 1,
            nodes => {
                let mut numbers: Box<[u16]> = nodes.iter().map(|node| node.0 + 1).collect();
                numbers.sort_unstable();
                if self.shared_nodes.len() == Self::MAX_SHARED && !self.shared_nodes.has(&numbers) {
                    // Out of numbers: the address counts as nobody's, and is judged.
                    return 0;
                }
                let known = &mut self.table.shared_nodes;
                let at = self.shared_nodes.id(numbers, |at, numbers| *known.at_mut(at) = numbers.clone());
                PolicyTable::SHARED_NODES + at as u16
            }
        }
    }
}

impl Default for Draft {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Name, PeerId, RuleInfo, RulePeers, RulePorts};
    use crate::why::Side;
    use flow::{FlowKey, Protocol, Verdict};
    use std::net::IpAddr;

    fn ip(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn key(src: &str, dst: &str, port: u16) -> FlowKey {
        FlowKey::new(Protocol::TCP, (ip(src), 4242), (ip(dst), port))
    }

    fn verdict(table: &PolicyTable, src: &str, dst: &str, port: u16) -> Verdict {
        let mut verdicts = [Verdict::Deny];
        table.classify(&[key(src, dst, port)], &mut verdicts);
        assert_eq!(table.why(&key(src, dst, port)).verdict(), verdicts[0]);
        verdicts[0]
    }

    const NODE: NodeId = NodeId(4);

    /// `shop/web` at 10.0.0.1 and fd00::1 takes TCP 80 from 10.0.1.0/24 and from the pod at 10.0.0.2 and fd00::2.
    fn shop() -> (Draft, PodId, ClassId) {
        let mut draft = Draft::new();
        let peers = [PeerId::new(0), PeerId::new(1)];
        let ports = [PortRange { protocol: Protocol::TCP, first: 80, last: 80 }];
        let rule = RuleInfo {
            origin: "shop.yaml:9".into(),
            peers: RulePeers::OneOf(peers.into()),
            ports: RulePorts::OneOf { ranges: ports.into(), names: Box::default() },
        };
        let policy = PolicyInfo {
            name: Name::new("shop", "web"),
            origin: "shop.yaml:1".into(),
            ingress: vec![rule],
            egress: Vec::new(),
        };
        let id = PolicyId::new(0);
        draft.set_policy(id, Some(Arc::new(policy)));
        let signature = |peer| Signature { peers: Arc::from([peer]), ports: Arc::default() };
        let [client, block] = peers.map(|peer| draft.add_class(signature(peer)));
        let row = draft.add_row(Direction::Ingress, Arc::from([id]), Arc::default());
        let set = draft.ports(&ports);
        draft.fill_row(row, SetId::NONE, &[(client, set), (block, set)]);
        let web = LocalPod::new(
            Name::new("shop", "web-1"),
            String::new(),
            vec![ip("10.0.0.1"), ip("fd00::1")],
            Arc::from([ip("192.168.0.1")]),
        );
        let web = draft.add_pod(web, Some(NODE), RowId::OPEN, row);
        draft.paint(ip("10.0.1.0"), ip("10.0.1.255"), block);
        for (address, class, pod) in [
            ("10.0.0.1", ClassId::OUTSIDE, Some(web)),
            ("fd00::1", ClassId::OUTSIDE, Some(web)),
            ("10.0.0.2", client, None),
            ("fd00::2", client, None),
        ] {
            draft.set_host(ip(address), class, pod, &[]);
        }
        draft.set_host(ip("192.168.0.1"), ClassId::OUTSIDE, None, &[NODE]);
        (draft, web, client)
    }

    #[test]
    fn a_row_is_asked_on_the_side_of_its_pod() {
        let table = shop().0.freeze();
        for (src, dst, port, expected) in [
            ("10.0.0.2", "10.0.0.1", 80, Verdict::Allow),
            ("10.0.0.2", "10.0.0.1", 81, Verdict::Deny),
            ("fd00::2", "fd00::1", 80, Verdict::Allow),
            ("fd00::3", "fd00::1", 80, Verdict::Deny),
            ("10.0.1.255", "10.0.0.1", 80, Verdict::Allow),
            ("10.0.2.0", "10.0.0.1", 80, Verdict::Deny),
            ("10.0.0.1", "10.0.2.0", 81, Verdict::Allow),
            ("10.0.2.0", "10.0.0.2", 81, Verdict::Allow),
            ("192.168.0.1", "10.0.0.1", 81, Verdict::Allow),
            ("10.0.0.1", "10.0.0.1", 81, Verdict::Allow),
        ] {
            assert_eq!(verdict(&table, src, dst, port), expected, "{src} -> {dst}:{port}");
        }
        assert!(table.between_pod_and_node(ip("192.168.0.1"), ip("fd00::1")));
        assert!(!table.between_pod_and_node(ip("192.168.0.1"), ip("fd00::2")));
    }

    #[test]
    fn an_explanation_has_names() {
        let table = shop().0.freeze();
        let why = table.why(&key("10.0.0.2", "10.0.0.1", 80));
        let Side::AllowedBy(rule) = why.ingress else { panic!("{why:?}") };
        assert_eq!(why.egress, Side::Open, "the client is not judged");
        assert_eq!(table.describe(rule).to_string(), "shop/web ingress[0] (shop.yaml:9)");
        let why = table.why(&key("10.0.0.2", "10.0.0.1", 81));
        assert_eq!(why.ingress, Side::Isolated(Arc::from([rule.policy()])));
        assert_eq!(table.why(&key("192.168.0.1", "10.0.0.1", 81)).ingress, Side::Exempt);
        assert_eq!(table.why(&key("fd00::1", "10.0.0.1", 81)).ingress, Side::Exempt);
        assert_eq!(table.sizes(), crate::Sizes { policies: 1, rules: 1, pods: 1 });
    }

    #[test]
    fn a_batch_gets_its_verdicts_in_order() {
        let table = shop().0.freeze();
        let keys: Vec<_> =
            (0..100).map(|at| key("10.0.0.2", "10.0.0.1", if at % 3 == 0 { 80 } else { at })).collect();
        let mut verdicts = vec![Verdict::Deny; keys.len()];
        table.classify(&keys, &mut verdicts);
        for (at, verdict) in verdicts.into_iter().enumerate() {
            assert_eq!(verdict == Verdict::Allow, at % 3 == 0 || at == 80, "{at}");
        }
    }

    #[test]
    #[should_panic(expected = "one verdict for each key")]
    fn lengths_that_differ_panic() {
        shop().0.freeze().classify(&[key("10.0.0.2", "10.0.0.1", 80)], &mut []);
    }

    #[test]
    fn what_says_the_same_keeps_its_epoch() {
        let (mut draft, web, client) = shop();
        let epoch = |table: &PolicyTable| table.epoch_of(ip("10.0.0.1")).map(Epoch::number);
        assert_eq!(epoch(&draft.freeze()), Some(1));
        // A bystander: its class has the same cell.
        draft.set_host(ip("10.0.0.9"), ClassId::OUTSIDE, None, &[]);
        assert_eq!(epoch(&draft.freeze()), Some(1));
        // A peer.
        draft.set_host(ip("10.0.0.9"), client, None, &[]);
        assert_eq!(epoch(&draft.freeze()), Some(2));
        // A range that goes to a class of which the row says something else.
        draft.paint(ip("10.0.1.0"), ip("10.0.1.127"), ClassId::OUTSIDE);
        assert_eq!(epoch(&draft.freeze()), Some(3));
        draft.paint(ip("10.0.3.0"), ip("10.0.3.0"), ClassId::OUTSIDE);
        assert_eq!(epoch(&draft.freeze()), Some(3));
        // Another row that says the same.
        let id = PolicyId::new(0);
        let row = draft.add_row(Direction::Egress, Arc::from([id]), Arc::default());
        draft.fill_row(row, SetId::EVERY, &[]);
        let ingress = RowId(draft.table.subjects.at(web.0).rows[1]);
        draft.set_rows(web, row, ingress);
        assert_eq!(epoch(&draft.freeze()), Some(3));
        draft.set_cells(row, &[(client, SetId::NONE)]);
        assert_eq!(epoch(&draft.freeze()), Some(4));
    }

    #[test]
    fn a_wrap_around_skips_the_epochs_in_use() {
        let (mut draft, web, client) = shop();
        let still =
            LocalPod::new(Name::new("shop", "still"), String::new(), vec![ip("10.0.0.7")], Arc::default());
        let still = draft.add_pod(still, None, RowId::OPEN, RowId::OPEN);
        draft.set_host(ip("10.0.0.7"), ClassId::OUTSIDE, Some(still), &[]);
        draft.freeze();
        draft.table.newest = Epoch::from_number(u32::MAX).unwrap();
        draft.table.subjects.at_mut(web.0).epoch = 2;
        draft.last = Some(draft.table.clone());
        draft.set_host(ip("10.0.0.9"), client, None, &[]);
        // 1 is held by `still`, 2 by `web` until now.
        let table = draft.freeze();
        assert_eq!(table.epoch_of(ip("10.0.0.7")), Some(Epoch::FIRST));
        assert_eq!(table.epoch_of(ip("10.0.0.1")), Epoch::from_number(3));
    }

    #[test]
    fn the_hash_is_of_what_is_said() {
        let one = shop().0.freeze();
        // The same by another way: other ids, another order, and something that came and went.
        let (mut draft, web, client) = shop();
        let gone = draft.add_class(Signature::default());
        draft.paint(ip("10.0.1.64"), ip("10.0.1.70"), gone);
        draft.set_host(ip("fd00::77"), gone, None, &[]);
        draft.set_host(ip("10.0.0.2"), gone, None, &[NodeId(1), NodeId(2)]);
        let other = draft.freeze();
        assert_ne!(other.canonical_hash(), one.canonical_hash());
        let block = ClassId(draft.table.locate(ip("10.0.1.0")).class());
        draft.paint(ip("10.0.1.64"), ip("10.0.1.70"), block);
        draft.remove_host(ip("fd00::77"), ClassId::OUTSIDE);
        draft.set_host(ip("10.0.0.2"), client, None, &[]);
        draft.remove_class(gone);
        assert_eq!(draft.freeze().canonical_hash(), one.canonical_hash());
        draft.set_rows(web, RowId::OPEN, RowId::OPEN);
        assert_ne!(draft.freeze().canonical_hash(), one.canonical_hash());
    }

    #[test]
    fn an_id_is_given_again_after_the_next_freeze() {
        let (mut draft, ..) = shop();
        let class = draft.add_class(Signature::default());
        draft.remove_class(class);
        assert_ne!(draft.add_class(Signature::default()), class);
        draft.freeze();
        assert_eq!(draft.add_class(Signature::default()), class);
    }
}
