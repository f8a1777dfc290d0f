//! How much memory a compiler and its table may take, and what is said when that is not enough.

use std::fmt;

use policy::model::ObjectName;

/// Most bytes that a compiler and the table that it gives may hold together.
///
/// A change that only takes away may need a little more on its way. So near the budget, and beyond it up to a
/// sixteenth, a step may still add 64 KiB. And what a refused change has left as spare room, up to a quarter beyond
/// the budget, may be used by those that come after it: else they would all be refused.
///
/// The default is one GiB: room for 100,000 pods, all of them judged, under 10,000 policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The bytes.
    pub bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: 1 << 30 }
    }
}

/// Bytes held, by structure. What allocators add is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// The table: addresses, rows and sets of ports.
    pub table: usize,
    /// Keys and values of labels, names of ports, and selectors.
    pub words: usize,
    /// Pods, namespaces and nodes.
    pub pods: usize,
    /// Who owns which address, and intervals of blocks.
    pub addresses: usize,
    /// Policies, and the ports of their rules.
    pub policies: usize,
    /// Peers of rules: selections of pods, and blocks.
    pub peers: usize,
    /// Classes of addresses.
    pub classes: usize,
    /// Rows.
    pub rows: usize,
}

/// A change that would need more memory than there may be. It has been taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct OverBudget {
    /// The budget, in bytes.
    pub limit: usize,
    /// What was held before the change.
    pub before: Box<Footprint>,
    /// What was held when the compiler gave up. The change may need more.
    pub reached: Box<Footprint>,
    /// The policy that made it grow most, if one did.
    pub policy: Option<ObjectName>,
}

impl Budget {
    /// How many bytes there may be while a step goes on that began with `held`.
    pub(crate) fn limit(self, held: usize) -> usize {
        /// What a step may always add.
        const SLACK: usize = 64 << 10;
        let little = held.saturating_add(SLACK).min(self.bytes.saturating_add(self.bytes / 16));
        let spare = held.min(self.bytes.saturating_add(self.bytes / 4));
        self.bytes.max(little).max(spare)
    }
}

impl Footprint {
    /// The structures by name.
    #[must_use]
    pub const fn parts(&self) -> [(&'static str, usize); 8] {
        [
            ("table", self.table),
            ("labels and selectors", self.words),
            ("pods", self.pods),
            ("addresses", self.addresses),
            ("policies", self.policies),
            ("peers", self.peers),
            ("classes", self.classes),
            ("rows", self.rows),
        ]
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> usize {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl OverBudget {
    /// The structure that grew most, and by how many bytes.
    #[must_use]
    pub fn grew(&self) -> (&'static str, usize) {
        let parts = self.before.parts().into_iter().zip(self.reached.parts());
        let grown = parts.map(|((name, before), (_, reached))| (name, reached.saturating_sub(before)));
        grown.max_by_key(|(_, bytes)| *bytes).unwrap_or_default()
    }
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1 << 20) as f64;
        let mib = |bytes: usize| bytes as f64 / MIB;
        let (what, grown) = self.grew();
        write!(
            f,
            "the policy table would need more than {:.0} MiB ({:.1} MiB before): {what} grew by {:.1} MiB",
            mib(self.limit),
            mib(self.before.total()),
            mib(grown),
        )?;
        match &self.policy {
            Some(policy) => write!(f, ", most of it for policy {policy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_always_left() {
        const MIB: usize = 1 << 20;
        let limit = |held| Budget { bytes: 16 * MIB }.limit(held);
        assert_eq!([0, 15 * MIB].map(limit), [16 * MIB; 2]);
        assert_eq!(limit(16 * MIB), 16 * MIB + (64 << 10));
        assert_eq!([17 * MIB, 19 * MIB].map(limit), [17 * MIB, 19 * MIB]);
        assert_eq!(limit(40 * MIB), 20 * MIB);
        assert_eq!(Budget { bytes: usize::MAX }.limit(5), usize::MAX);
    }

    #[test]
    fn a_refusal_says_what_grew_by_how_much_and_who_did_it() {
        let before = Footprint { pods: 3 << 20, ..Footprint::default() };
        let reached = Footprint { table: 5 << 20, pods: 4 << 20, ..Footprint::default() };
        let policy = Some(ObjectName::new("shop", "wide"));
        let refusal = OverBudget { limit: 8 << 20, before: before.into(), reached: reached.into(), policy };
        assert_eq!(refusal.grew(), ("table", 5 << 20));
        assert_eq!(
            refusal.to_string(),
            "the policy table would need more than 8 MiB (3.0 MiB before): table grew by 5.0 MiB, most of it for \
             policy shop/wide"
        );
        assert_eq!(before.total(), 3 << 20);
    }
}
