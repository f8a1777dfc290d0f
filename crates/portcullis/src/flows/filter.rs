//! Which flows somebody wants to see. The command and the agent read the same words; the agent filters.

use std::net::IpAddr;

use flow::DropReason;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::record::{End, Flow, Verdict};

/// What somebody asks the agent for, in words: the query of `/v1/flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Either end: `namespace/pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The source: `namespace/pod`, an address or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The destination: `namespace/pod`, an address or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Either end: an address or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port of either end: `80` or `80/TCP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The protocol, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `allow` or `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Names of drop reasons, with commas between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many of those that the agent remembers; all without it, none with `follow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// Those to come as well, until the listener goes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// With the first bytes of each frame.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub packets: bool,
}

/// A word of a [`Query`] that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Neither a pod nor addresses.
    #[error("`{0}` is neither namespace/pod, nor an address, nor a network such as 10.0.0.0/8")]
    Who(String),
    /// Not the name of a pod.
    #[error("`{0}` is no pod: write namespace/pod")]
    Pod(String),
    /// Not addresses.
    #[error("`{0}` is neither an address nor a network such as 10.0.0.0/8")]
    Address(String),
    /// Not a port.
    #[error("`{0}` is no port: write 80, 80/TCP, 53/UDP or 9000/SCTP")]
    Port(String),
    /// Not a protocol.
    #[error("`{0}` is no protocol: write TCP, UDP, SCTP, ICMP, ICMPv6 or a number")]
    Protocol(String),
    /// Not a verdict.
    #[error("`{0}` is no verdict: write allow or deny")]
    Verdict(String),
    /// Not a drop reason.
    #[error("there is no drop reason `{wrong}`{}", .close.map_or_else(String::new, |close| format!(": did you mean {close}?")))]
    Reason {
        /// What was written.
        wrong: String,
        /// What may have been meant.
        close: Option<&'static str>,
    },
}

/// Which flows are wanted: those that meet every condition. Empty, it lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of which one end is one of these, for each.
    either: Vec<Who>,
    from: Option<Who>,
    to: Option<Who>,
    port: Option<u16>,
    /// In capitals, as [`Flow::protocol`] is but for ICMPv6.
    protocols: Vec<String>,
    verdict: Option<Verdict>,
    /// Any of them.
    reasons: Vec<&'static str>,
}

/// An end that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Pod(String),
    Network(IpNet),
}

impl TryFrom<&Query> for Filter {
    type Error = FilterError;

    fn try_from(query: &Query) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        if let Some(name) = &query.pod {
            filter.either.push(pod(name).ok_or_else(|| FilterError::Pod(name.clone()))?);
        }
        if let Some(text) = &query.address {
            filter.either.push(network(text).ok_or_else(|| FilterError::Address(text.clone()))?);
        }
        filter.from = query.from.as_deref().map(who).transpose()?;
        filter.to = query.to.as_deref().map(who).transpose()?;
        if let Some(text) = &query.port {
            let wrong = || FilterError::Port(text.clone());
            let (number, protocol) =
                text.split_once('/').map_or((text.as_str(), None), |(n, p)| (n, Some(p)));
            filter.port = Some(number.parse().map_err(|_not_a_number| wrong())?);
            if let Some(name) = protocol {
                let name =
                    protocol_named(name).filter(|name| ["TCP", "UDP", "SCTP"].contains(&name.as_str()));
                filter.protocols.push(name.ok_or_else(wrong)?);
            }
        }
        if let Some(name) = &query.protocol {
            filter.protocols.push(protocol_named(name).ok_or_else(|| FilterError::Protocol(name.clone()))?);
        }
        filter.verdict = match query.verdict.as_deref() {
            None => None,
            Some("allow") => Some(Verdict::Allow),
            Some("deny") => Some(Verdict::Deny),
            Some(wrong) => return Err(FilterError::Verdict(wrong.to_owned())),
        };
        for name in query.reason.iter().flat_map(|names| names.split(',')) {
            filter.reasons.push(reason(name)?);
        }
        Ok(filter)
    }
}

impl Filter {
    /// Whether a flow is wanted.
    #[must_use]
    pub fn takes(&self, flow: &Flow) -> bool {
        let Flow { from, to, .. } = flow;
        self.either.iter().all(|who| who.is(from) || who.is(to))
            && self.from.as_ref().is_none_or(|who| who.is(from))
            && self.to.as_ref().is_none_or(|who| who.is(to))
            && self.port.is_none_or(|port| [from.port, to.port].contains(&Some(port)))
            && self.protocols.iter().all(|name| is_protocol(flow, name))
            && self.verdict.is_none_or(|verdict| verdict == flow.verdict)
            && (self.reasons.is_empty()
                || flow.reason.as_deref().is_some_and(|reason| self.reasons.contains(&reason)))
    }
}

impl Who {
    fn is(&self, end: &End) -> bool {
        match self {
            Self::Pod(name) => end.pod.as_ref() == Some(name),
            Self::Network(network) => end.address.is_some_and(|address| network.contains(&address)),
        }
    }
}

fn who(text: &str) -> Result<Who, FilterError> {
    network(text).or_else(|| pod(text)).ok_or_else(|| FilterError::Who(text.to_owned()))
}

fn pod(text: &str) -> Option<Who> {
    let (namespace, name) = text.split_once('/')?;
    let sound = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    sound.then(|| Who::Pod(text.to_owned()))
}

fn network(text: &str) -> Option<Who> {
    let address = |text: &str| text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address(text)).ok().map(Who::Network)
}

/// A protocol's name in capitals, or its number as [`Flow::protocol`] writes it.
fn protocol_named(text: &str) -> Option<String> {
    let name = text.to_ascii_uppercase();
    match text.parse::<u8>() {
        Ok(number) => Some(flow::Protocol(number).to_string().to_ascii_uppercase()),
        Err(_) if ["TCP", "UDP", "SCTP", "ICMP", "ICMPV6"].contains(&name.as_str()) => Some(name),
        Err(_) => None,
    }
}

fn is_protocol(flow: &Flow, name: &str) -> bool {
    flow.protocol.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case(name))
}

fn reason(name: &str) -> Result<&'static str, FilterError> {
    let names = DropReason::ALL.map(DropReason::name);
    names
        .into_iter()
        .find(|known| *known == name)
        .ok_or_else(|| FilterError::Reason { wrong: name.to_owned(), close: manifest::closest(name, &names) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::record::tests::flow;

    fn filter(query: Query) -> Result<Filter, FilterError> {
        Filter::try_from(&query)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn every_condition_must_hold() {
        // x/a 10.0.0.1:4000 -> y/b 10.0.0.2:80 over TCP, denied by default.
        let flow = flow();
        let takes = |query: Query| filter(query).unwrap().takes(&flow);
        let none = Query::default;
        for query in [
            none(),
            Query { pod: some("x/a"), ..none() },
            Query { pod: some("y/b"), address: some("10.0.0.1"), ..none() },
            Query { from: some("x/a"), to: some("10.0.0.0/24"), ..none() },
            Query { from: some("10.0.0.1"), to: some("y/b"), ..none() },
            Query { port: some("80"), ..none() },
            Query { port: some("80/tcp"), protocol: some("TCP"), ..none() },
            Query { port: some("4000"), protocol: some("6"), ..none() },
            Query { verdict: some("deny"), reason: some("spoofed_source,default_deny"), ..none() },
        ] {
            assert!(takes(query.clone()), "{query:?}");
        }
        for query in [
            Query { pod: some("y/a"), ..none() },
            Query { pod: some("x/a"), address: some("10.0.0.3"), ..none() },
            Query { from: some("y/b"), ..none() },
            Query { to: some("10.0.1.0/24"), ..none() },
            Query { to: some("::/0"), ..none() },
            Query { port: some("81"), ..none() },
            Query { port: some("80/UDP"), ..none() },
            Query { port: some("80/TCP"), protocol: some("UDP"), ..none() },
            Query { verdict: some("allow"), ..none() },
            Query { reason: some("spoofed_source"), ..none() },
        ] {
            assert!(!takes(query.clone()), "{query:?}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_with_its_words() {
        let none = Query::default;
        for (query, words) in [
            (Query { pod: some("a"), ..none() }, "`a` is no pod: write namespace/pod"),
            (Query { pod: some("a/"), ..none() }, "`a/` is no pod: write namespace/pod"),
            (
                Query { from: some("10.0.0.1/33/x"), ..none() },
                "`10.0.0.1/33/x` is neither namespace/pod, nor",
            ),
            (Query { address: some("x/a"), ..none() }, "`x/a` is neither an address nor a network"),
            (Query { port: some("70000"), ..none() }, "`70000` is no port"),
            (Query { port: some("80/ICMP"), ..none() }, "`80/ICMP` is no port"),
            (Query { protocol: some("TPC"), ..none() }, "`TPC` is no protocol"),
            (Query { verdict: some("drop"), ..none() }, "`drop` is no verdict"),
            (Query { reason: some("defualt_deny"), ..none() }, "did you mean default_deny?"),
        ] {
            let error = filter(query).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_words_arrive_as_they_were_said() {
        let query = Query {
            from: some("x/a"),
            to: some("fd00::/64"),
            port: some("80/TCP"),
            reason: some("no_flow,default_deny"),
            last: Some(7),
            follow: true,
            ..Query::default()
        };
        let text = serde_urlencoded::to_string(&query).unwrap();
        assert_eq!(serde_urlencoded::from_str::<Query>(&text).unwrap(), query, "{text}");
        assert_eq!(serde_urlencoded::from_str::<Query>("").unwrap(), Query::default());
        assert!(serde_urlencoded::from_str::<Query>("prot=80").is_err());
    }
}
