//! The table and what it answers.

use std::fmt;
use std::sync::Arc;

use flow::{Address, Epoch, FlowKey, Verdict};

use crate::{Name, PolicyId, PolicyInfo, Row, RuleId, RuleInfo};

/// The compiled answer to every connection from or to a local pod. It never changes.
#[derive(Debug)]
pub struct PolicyTable {
    pub(crate) generation: u64,
    /// The newest epoch ever given out, by this table or one before it.
    pub(crate) newest: Epoch,
    /// By name.
    pub(crate) pods: Vec<LocalPod>,
    /// Every address of every local pod, sorted, with the pod's index.
    pub(crate) addresses: Vec<(Address, usize)>,
    pub(crate) policies: Vec<PolicyInfo>,
    pub(crate) rules: Vec<RuleInfo>,
}

/// A pod whose connections the table judges.
#[derive(Debug)]
pub struct LocalPod {
    pub(crate) name: Name,
    pub(crate) uid: String,
    pub(crate) addresses: Vec<Address>,
    /// The addresses of its node, sorted.
    pub(crate) node: Arc<[Address]>,
    pub(crate) egress: Arc<Row>,
    pub(crate) ingress: Arc<Row>,
    pub(crate) epoch: Epoch,
}

/// Why a connection is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the source's side says.
    pub egress: Side,
    /// What the destination's side says.
    pub ingress: Side,
}

/// What one side of a connection says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// No local pod, or one that nothing isolates in this direction.
    Open,
    /// The other side is the pod's own node, or the pod itself.
    Exempt,
    /// This rule allows it; of several, the first by namespace, name and index.
    AllowedBy(RuleId),
    /// These policies isolate the pod, and none of their rules allows it.
    Isolated(Vec<PolicyId>),
}

/// How large a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Policies of the cluster, whether they select a local pod or not.
    pub policies: usize,
    /// Their rules, of both directions.
    pub rules: usize,
    /// Local pods.
    pub pods: usize,
}

impl PolicyTable {
    /// Judges a burst: `verdicts[i]` becomes the verdict for `keys[i]`, taken as the first packet of a
    /// connection from `src` to `dst`.
    ///
    /// # Panics
    ///
    /// When the lengths differ.
    pub fn classify(&self, keys: &[FlowKey], verdicts: &mut [Verdict]) {
        assert_eq!(keys.len(), verdicts.len(), "one verdict for each key");
        for (key, verdict) in keys.iter().zip(verdicts) {
            *verdict = self.judge(key);
        }
    }

    fn judge(&self, key: &FlowKey) -> Verdict {
        let (src, dst) = (key.src.address, key.dst.address);
        let passes = |pod: &LocalPod, row: &Row, peer| {
            pod.exempts(peer) || row.allows(peer, key.protocol, key.dst.port)
        };
        if self.pod_of(src).is_none_or(|pod| passes(pod, &pod.egress, dst))
            && self.pod_of(dst).is_none_or(|pod| passes(pod, &pod.ingress, src))
        {
            Verdict::Allow
        } else {
            Verdict::Deny
        }
    }

    /// What decides a connection, by name. For people: slower than [`classify`](Self::classify), and it
    /// allocates.
    #[must_use]
    pub fn why(&self, key: &FlowKey) -> Explanation {
        let (src, dst) = (key.src.address, key.dst.address);
        let side = |pod: &LocalPod, row: &Row, peer| match row {
            _ if pod.exempts(peer) => Side::Exempt,
            Row::Open => Side::Open,
            Row::Isolated { policies, rules } => {
                match rules.iter().find(|rule| rule.allows(peer, key.protocol, key.dst.port)) {
                    Some(rule) => Side::AllowedBy(rule.id),
                    None => Side::Isolated(policies.clone()),
                }
            }
        };
        Explanation {
            egress: self.pod_of(src).map_or(Side::Open, |pod| side(pod, &pod.egress, dst)),
            ingress: self.pod_of(dst).map_or(Side::Open, |pod| side(pod, &pod.ingress, src)),
        }
    }

    /// The version of what the table says about the local pod that owns `address`; `None` where none does.
    #[must_use]
    pub fn epoch_of(&self, address: Address) -> Option<Epoch> {
        self.pod_of(address).map(|pod| pod.epoch)
    }

    /// Whether one of these is a local pod and the other its own node. Policy always allows that, so whoever
    /// forwards must know by other means that the packet truly comes from, and goes to, the node.
    #[must_use]
    pub fn between_pod_and_node(&self, one: Address, other: Address) -> bool {
        let is_on = |pod, node| self.pod_of(pod).is_some_and(|pod| pod.is_on(node));
        is_on(one, other) || is_on(other, one)
    }

    /// The local pod that owns `address`.
    #[must_use]
    pub fn pod_of(&self, address: Address) -> Option<&LocalPod> {
        let at = self.addresses.binary_search_by_key(&address, |&(address, _)| address).ok()?;
        Some(&self.pods[self.addresses[at].1])
    }

    /// The local pods, by namespace and name. Each owns an address at least.
    pub fn local_pods(&self) -> impl ExactSizeIterator<Item = &LocalPod> {
        self.pods.iter()
    }

    /// How many tables came before this one and itself.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How large it is.
    #[must_use]
    pub const fn sizes(&self) -> Sizes {
        Sizes { policies: self.policies.len(), rules: self.rules.len(), pods: self.pods.len() }
    }

    /// The policy with this id.
    ///
    /// # Panics
    ///
    /// May panic when the id comes from another table.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> &PolicyInfo {
        &self.policies[id.0 as usize]
    }

    /// The rule with this id.
    ///
    /// # Panics
    ///
    /// May panic when the id comes from another table.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &RuleInfo {
        &self.rules[id.0 as usize]
    }

    /// A rule for people: `shop/web ingress[0] (shop.yaml:12)`.
    ///
    /// # Panics
    ///
    /// May panic when the id comes from another table.
    pub fn describe(&self, id: RuleId) -> impl fmt::Display {
        let rule = self.rule(id);
        let policy = &self.policy(rule.policy).name;
        fmt::from_fn(move |f| write!(f, "{policy} {}[{}] ({})", rule.direction, rule.index, rule.origin))
    }
}

impl LocalPod {
    /// Namespace and name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The addresses that it owns, sorted; at least one.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The version of what the table says about it.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether `peer` is the pod's own node.
    fn is_on(&self, peer: Address) -> bool {
        self.node.contains(&peer)
    }

    /// Whether `peer` is the pod's own node or the pod itself.
    fn exempts(&self, peer: Address) -> bool {
        self.is_on(peer) || self.addresses.contains(&peer)
    }
}

impl Explanation {
    /// The verdict that this explains: both sides must allow.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self { egress: Side::Isolated(_), .. } | Self { ingress: Side::Isolated(_), .. } => Verdict::Deny,
            _ => Verdict::Allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Peers, Piece, PortRange, Ports, RowRule, TableBuilder};
    use flow::{Direction, Protocol};

    const CLIENT: Address = Address::v4([10, 0, 0, 1]);
    const WEB: Address = Address::v4([10, 0, 0, 2]);
    const NODE: Address = Address::v4([192, 168, 0, 1]);

    /// `web` takes TCP 80 from `client`, which is on another node.
    fn table() -> PolicyTable {
        let mut builder = TableBuilder::new();
        let policy = builder.policy(Name::new("shop", "web"), "shop.yaml:1");
        let id = builder.rule(policy, Direction::Ingress, 0, "shop.yaml:9");
        let ports = Ports::OneOf(vec![PortRange { protocol: Protocol::TCP, first: 80, last: 80 }]);
        let peers = Peers::OneOf { addresses: vec![CLIENT], blocks: Vec::new() };
        let rules = vec![RowRule { id, pieces: Arc::from([Piece { peers, ports }]) }];
        let ingress = Row::Isolated { policies: vec![policy], rules };
        let name = Name::new("shop", "web-1");
        builder.pod(name, "", vec![WEB], Arc::from([NODE]), Arc::new(Row::Open), Arc::new(ingress));
        builder.build(None)
    }

    fn key(src: Address, dst: Address, port: u16) -> FlowKey {
        FlowKey::new(Protocol::TCP, (src, 4242), (dst, port))
    }

    #[test]
    fn a_burst_gets_its_verdicts_in_order() {
        let keys = [key(CLIENT, WEB, 80), key(CLIENT, WEB, 81), key(WEB, CLIENT, 80), key(NODE, WEB, 81)];
        let mut verdicts = [Verdict::Deny; 4];
        table().classify(&keys, &mut verdicts);
        assert_eq!(verdicts, [Verdict::Allow, Verdict::Deny, Verdict::Allow, Verdict::Allow]);
    }

    #[test]
    #[should_panic(expected = "one verdict for each key")]
    fn lengths_that_differ_panic() {
        table().classify(&[key(CLIENT, WEB, 80)], &mut []);
    }

    #[test]
    fn an_explanation_has_names() {
        let table = table();
        let why = table.why(&key(CLIENT, WEB, 80));
        let Side::AllowedBy(rule) = why.ingress else { panic!("{why:?}") };
        assert_eq!(why.egress, Side::Open, "the client is not of this table");
        assert_eq!(table.describe(rule).to_string(), "shop/web ingress[0] (shop.yaml:9)");
        let why = table.why(&key(CLIENT, WEB, 81));
        assert_eq!(why.ingress, Side::Isolated(vec![table.rule(rule).policy]));
        assert_eq!(why.verdict(), Verdict::Deny);
        assert_eq!(table.why(&key(NODE, WEB, 81)).ingress, Side::Exempt);
        assert_eq!(table.why(&key(WEB, WEB, 81)).ingress, Side::Exempt);
    }

    #[test]
    fn only_local_pods_have_epochs() {
        let table = table();
        assert_eq!(table.epoch_of(WEB), Some(Epoch::FIRST));
        assert_eq!(table.epoch_of(CLIENT), None);
        assert_eq!(table.local_pods().map(|pod| pod.addresses()).collect::<Vec<_>>(), [[WEB]]);
        assert_eq!(table.sizes(), Sizes { policies: 1, rules: 1, pods: 1 });
    }
}
