//! From an expectation to the connections that it speaks of, in the cluster of its step.

use std::collections::BTreeMap;
use std::sync::Arc;

use flow::Address;
use manifest::Diagnostic;
use policy::Connection;
use policy::model::{Labels, ObjectName};

use super::executor::Question;
use super::format::Family;
use super::plan::{Expected, Who};
use crate::offline::{Families, Offline, routes};

/// Most connections of one step: all pairs of a thousand pods, in both families.
pub(super) const MAX_QUESTIONS: usize = 2_000_000;

/// Who is where in one step.
pub(super) struct Places<'a> {
    offline: &'a Offline,
    namespaces: BTreeMap<&'a str, Labels>,
}

/// Somebody with addresses.
struct End {
    name: Arc<str>,
    addresses: Vec<Address>,
    /// Whether a selector found it.
    found: bool,
}

impl<'a> Places<'a> {
    pub(super) fn new(offline: &'a Offline) -> Self {
        let cluster = offline.cluster();
        let names = cluster.pods.iter().map(|pod| pod.name.namespace.as_str());
        let mut namespaces = BTreeMap::new();
        for name in names {
            namespaces.entry(name).or_insert_with(|| cluster.namespace_labels(name));
        }
        Self { offline, namespaces }
    }

    /// The connections that an expectation speaks of; there is one at least. An error is told at its place in
    /// `file`.
    pub(super) fn questions(
        &self,
        file: &Arc<str>,
        expected: &Expected,
    ) -> Result<Vec<Question>, Diagnostic> {
        let refuse = |code, message: String| {
            Diagnostic::error(Arc::clone(file), code, message).at(expected.at.0, expected.at.1)
        };
        let ends = |who: &[Who]| -> Result<Vec<End>, Diagnostic> {
            let mut ends = Vec::new();
            for who in who {
                self.find(who, &mut ends).map_err(|(code, message)| refuse(code, message))?;
            }
            Ok(ends)
        };
        let (from, to) = (ends(&expected.from)?, ends(&expected.to)?);
        if from.len().saturating_mul(to.len()).saturating_mul(expected.services.len()) > MAX_QUESTIONS {
            return Err(refuse("too-large", format!("more than {MAX_QUESTIONS} connections")));
        }
        let mut questions = Vec::new();
        for source in &from {
            for destination in &to {
                if source.name == destination.name && (source.found || destination.found) {
                    continue;
                }
                let (families, least) = match expected.family {
                    Some(Family::V4) => (Families::V4, 1),
                    Some(Family::V6) => (Families::V6, 1),
                    Some(Family::Both) => (Families::Both, 2),
                    None => (Families::Both, 1),
                };
                let routes = routes(&source.addresses, &destination.addresses, Some(families));
                if routes.len() < least {
                    let what = match expected.family {
                        Some(Family::V4) => "have no IPv4 address each",
                        Some(Family::V6) => "have no IPv6 address each",
                        Some(Family::Both) => "do not both have both families",
                        None => "have no address family in common",
                    };
                    let message = format!("{} and {} {what}", source.name, destination.name);
                    return Err(refuse("no-address", message));
                }
                for service in expected.services.iter() {
                    questions.extend(routes.iter().map(|&(src, dst)| Question {
                        from: Arc::clone(&source.name),
                        to: Arc::clone(&destination.name),
                        connection: Connection { src, dst, protocol: service.protocol, port: service.port },
                    }));
                }
            }
        }
        if questions.is_empty() {
            return Err(refuse("no-pair", "this speaks of no pair of different pods".to_owned()));
        }
        Ok(questions)
    }

    fn find(&self, who: &Who, ends: &mut Vec<End>) -> Result<(), (&'static str, String)> {
        match who {
            Who::Address(address) => {
                let name = Arc::from(address.ip().to_string());
                ends.push(End { name, addresses: vec![*address], found: false });
            }
            Who::Pod(name) => {
                let text = name.to_string();
                let endpoint = self.offline.endpoint(&text).map_err(|e| ("no-such-pod", e.to_string()))?;
                let addresses = self.offline.addresses(&endpoint);
                if addresses.is_empty() {
                    return Err(("no-address", format!("{text} has no address of its own in this step")));
                }
                ends.push(End { name: Arc::from(text), addresses, found: false });
            }
            Who::Pods { namespace, namespaces, pods } => {
                let before = ends.len();
                // In the order of their names, so that reports do not depend on the order of the manifests.
                let mut matching: Vec<&ObjectName> = self
                    .offline
                    .cluster()
                    .pods
                    .iter()
                    .filter(|pod| {
                        !pod.host_network
                            && namespace.as_ref().is_none_or(|name| pod.name.namespace == *name)
                            && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
                            && namespaces.as_ref().is_none_or(|selector| {
                                self.namespaces
                                    .get(pod.name.namespace.as_str())
                                    .is_some_and(|labels| selector.matches(labels))
                            })
                    })
                    .map(|pod| &pod.name)
                    .collect();
                matching.sort_unstable();
                for name in matching {
                    let addresses = self.offline.addresses(&crate::offline::Endpoint::Pod(name.clone()));
                    if !addresses.is_empty() {
                        ends.push(End { name: Arc::from(name.to_string()), addresses, found: true });
                    }
                }
                if ends.len() == before {
                    return Err(("no-such-pod", "the selector matches no pod with an address".to_owned()));
                }
            }
        }
        Ok(())
    }
}
