//! What decides a connection, by name, and whose an address is. For people and for who routes: one at a time.

use std::fmt;
use std::sync::Arc;

use flow::{Address, Direction, Epoch, FlowKey, Verdict};

use crate::entry::Entry;
use crate::layout::{LocalPod, PolicyTable};
use crate::lookup::side;
use crate::rules::{PolicyId, PolicyInfo, RuleId, RuleInfo};

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
    /// No judged pod, or one that nothing isolates in this direction.
    Open,
    /// The other side is the pod's own node, or the pod itself.
    Exempt,
    /// This rule allows it; of several, the first by namespace, name and index.
    AllowedBy(RuleId),
    /// These policies isolate the pod, and none of their rules allows it.
    Isolated(Arc<[PolicyId]>),
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

impl PolicyTable {
    /// What decides a connection, by name: the rules are asked one after the other, as
    /// [`classify`](Self::classify) never does.
    #[must_use]
    pub fn why(&self, key: &FlowKey) -> Explanation {
        let (src, dst) = (self.locate(key.src.address), self.locate(key.dst.address));
        Explanation {
            egress: self.side(src, dst, Direction::Egress, key),
            ingress: self.side(dst, src, Direction::Ingress, key),
        }
    }

    fn side(&self, own: Entry, peer: Entry, direction: Direction, key: &FlowKey) -> Side {
        if own.pod() == 0 {
            return Side::Open;
        }
        let subject = self.subjects.at(own.pod());
        if self.exempts(own.pod(), subject, peer) {
            return Side::Exempt;
        }
        let Some(row) = self.rows.info(subject.rows[side(direction)]) else { return Side::Open };
        let class = self.classes.at(peer.class()).as_ref().expect("an address is in a class that exists");
        // The pod that explains a port's name is the destination.
        let named = match row.direction {
            Direction::Ingress => &row.ports,
            Direction::Egress => &class.ports,
        };
        for &policy in &*row.policies {
            let rules = self.policy(policy).rules(direction);
            let allows = |rule: &RuleInfo| rule.allows(class, named, key.protocol, key.dst.port);
            if let Some(index) = rules.iter().position(allows) {
                return Side::AllowedBy(RuleId { policy, direction, index: index as u32 });
            }
        }
        Side::Isolated(Arc::clone(&row.policies))
    }

    /// The version of what the table says about the judged pod that owns `address`; `None` where none does.
    #[must_use]
    pub fn epoch_of(&self, address: Address) -> Option<Epoch> {
        Epoch::from_number(self.subjects.at(self.locate(address).pod()).epoch)
    }

    /// The judged pod that owns `address`.
    #[must_use]
    pub fn pod_of(&self, address: Address) -> Option<&LocalPod> {
        self.pods.at(self.locate(address).pod()).as_deref()
    }

    /// Whether one of these is a judged pod and the other its own node. Policy always allows that, so whoever
    /// forwards must know by other means that the packet truly comes from, and goes to, the node.
    #[must_use]
    pub fn between_pod_and_node(&self, one: Address, other: Address) -> bool {
        let (one, other) = (self.locate(one), self.locate(other));
        let on = |pod: Entry, node| self.is_on(self.subjects.at(pod.pod()), node);
        on(one, other) || on(other, one)
    }

    /// The judged pods, by namespace, name and uid.
    pub fn local_pods(&self) -> impl ExactSizeIterator<Item = &LocalPod> {
        let mut pods: Vec<_> = self.pods.iter().flatten().map(|pod| &**pod).collect();
        pods.sort_unstable_by_key(|pod| (pod.name(), pod.uid()));
        pods.into_iter()
    }

    /// The policy with this id.
    ///
    /// # Panics
    ///
    /// May panic when the id comes from another table.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> &PolicyInfo {
        self.policies.at(id.0).as_ref().expect("a policy of this table")
    }

    /// The rule with this id.
    ///
    /// # Panics
    ///
    /// May panic when the id comes from another table.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &RuleInfo {
        &self.policy(id.policy()).rules(id.direction())[id.index()]
    }

    /// A rule for people: `shop/web ingress[0] (shop.yaml:12)`.
    ///
    /// # Panics
    ///
    /// May panic when the id comes from another table.
    pub fn describe(&self, id: RuleId) -> impl fmt::Display {
        let policy = &self.policy(id.policy()).name;
        let origin = &self.rule(id).origin;
        fmt::from_fn(move |f| write!(f, "{policy} {}[{}] ({origin})", id.direction(), id.index()))
    }
}
