//! Which policies decide about a judged pod, and which peers their rules therefore bring into play.

use std::sync::Arc;

use crate::peers::{PeerKey, User};
use crate::policies::{DIRECTIONS, PolicyAt, PolicyRecord, index};
use crate::state::{Spent, State};

use flow::Direction;

/// After how many peers and identities the budget is looked at.
const BATCH: usize = 16;

impl State {
    /// Counts the rules of policies that decide, and no others, among the users of their peers and names.
    pub(crate) fn derive_liveness(&mut self) {
        self.dirty.liveness.order();
        while let Some(policy) = self.dirty.liveness.pop() {
            for direction in DIRECTIONS {
                let slot = self.policies.all.value_mut(policy);
                let decides = !slot.rows[index(direction)].is_empty();
                let wanted = slot.record.clone().filter(|_| decides);
                let counted = std::mem::replace(&mut slot.counted[index(direction)], wanted.clone());
                let same = match (&counted, &wanted) {
                    (Some(counted), Some(wanted)) => Arc::ptr_eq(counted, wanted),
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    self.count(policy, direction, counted.as_deref(), false);
                    self.count(policy, direction, wanted.as_deref(), true);
                }
            }
        }
    }

    fn count(&mut self, policy: PolicyAt, direction: Direction, record: Option<&PolicyRecord>, member: bool) {
        let Self { peers, ports, dirty, .. } = self;
        let rules = record.and_then(|record| record.rules(direction)).unwrap_or_default();
        for (number, rule) in (0..).zip(rules) {
            let user = User { policy, direction, rule: number };
            for &peer in rule.peers.iter().flatten() {
                if member {
                    peers.add_user(peer, user);
                } else {
                    peers.remove_user(peer, user);
                }
                dirty.peers.mark(peer);
            }
            if direction == Direction::Egress {
                ports.ask(rule.ports, member, &mut dirty.names);
            }
        }
    }

    /// Looks again at the pods with port names that rules have begun, or ceased, to ask for.
    pub(crate) fn derive_names(&mut self) {
        let Self { dirty, ports, population, .. } = self;
        let names: Vec<_> = dirty.names.drain(..).filter(|&name| ports.take_news(name)).collect();
        if names.is_empty() {
            return;
        }
        let mut concerned: Vec<_> = ports
            .named
            .iter()
            .filter(|(_, named, ())| {
                named.iter().any(|&(name, protocol, _)| names.contains(&(name, protocol)))
            })
            .map(|(at, ..)| at)
            .collect();
        concerned.sort_unstable();
        for (_, _, slot) in population.pods.iter() {
            if let Some(record) = &slot.record
                && concerned.binary_search(&record.ports).is_ok()
            {
                dirty.hosts.extend_from_slice(record.claims());
            }
        }
    }

    /// Makes the indices true to what peers are live, and finds out whom that concerns.
    pub(crate) fn derive_peers(&mut self) -> Result<(), Spent> {
        let Self { dirty, peers, words, population, .. } = self;
        while let Some(namespace) = dirty.namespaces.pop() {
            if peers.place_namespace(words, population, namespace) {
                let identities = &population.namespaces.value(namespace).identities;
                identities.iter().for_each(|&identity| dirty.identities.mark(identity));
            }
        }
        self.dirty.peers.order();
        while let Some(peer) = self.dirty.peers.pop() {
            if !self.peers.is_stale(peer) {
                continue;
            }
            let before = self.footprint_beside_the_table().total();
            match self.peers.peers.key(peer) {
                PeerKey::Pods { .. } => self.show_pods(peer),
                PeerKey::Block(_) => {
                    let Self { cover, classes, peers, ports, dirty, .. } = self;
                    peers.show_block(peer);
                    cover.set(peer, peers.is_live(peer), classes, peers, ports, dirty);
                }
            }
            let mut users: Vec<_> = self.peers.users(peer).iter().map(|user| user.policy).collect();
            users.dedup();
            let grown = self.footprint_beside_the_table().total().saturating_sub(before);
            self.blame(&users, grown);
            if self.dirty.peers.len().is_multiple_of(BATCH) {
                self.check()?;
            }
        }
        self.check()
    }

    fn show_pods(&mut self, peer: crate::peers::PeerAt) {
        let Self { dirty, peers, words, population, .. } = self;
        let namespaces = peers.show_pods(words, population, peer);
        // Whoever is new has yet to be asked anyway.
        if dirty.identities.len() >= population.identities.len() {
            return;
        }
        let PeerKey::Pods { pods, .. } = peers.peers.key(peer) else { return };
        let selector = words.selectors.key(*pods);
        for namespace in namespaces {
            for &identity in &population.namespaces.value(namespace).identities {
                if !dirty.identities.has(identity) && selector.matches(population.labels(identity)) {
                    dirty.identities.mark(identity);
                }
            }
        }
    }

    /// Finds the live peers that select each identity, and the addresses of those for which they are others.
    pub(crate) fn derive_identities(&mut self) -> Result<(), Spent> {
        self.dirty.identities.order();
        while let Some(identity) = self.dirty.identities.pop() {
            let Self { dirty, peers, words, population, hosts, .. } = self;
            let matches = peers.matching(words, population, identity);
            let before = population.identities.value_mut(identity).matches.replace(matches);
            if let Some(before) = before {
                peers.lists.release(before);
            }
            if before != Some(matches) {
                for &pod in &population.identities.value(identity).pods {
                    let claims = population.record(pod).map(|record| record.claims()).unwrap_or_default();
                    let owned = claims.iter().copied().filter(|&address| hosts.owner(address) == Some(pod));
                    dirty.hosts.extend(owned);
                }
            }
            if self.dirty.identities.len().is_multiple_of(BATCH) {
                self.check()?;
            }
        }
        self.check()
    }
}
