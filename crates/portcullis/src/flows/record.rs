//! The form `portcullis.flow/v1`: what the agent tells of one connection or frame, with names. Fields are added,
//! never renamed.

use std::fmt;
use std::net::IpAddr;

use flow::Direction;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Schema {
    /// This one.
    #[serde(rename = "portcullis.flow/v1")]
    V1,
}

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Line {
    /// A connection was judged, or a frame dropped.
    Flow(Box<Flow>),
    /// What went by without being shown.
    Passed(Passed),
}

/// A connection was judged, or a frame dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// The version of this form.
    pub schema: Schema,
    /// When, in UTC, to the millisecond.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// What the record tells of.
    pub occasion: Occasion,
    /// What became of it.
    pub verdict: Verdict,
    /// The name of the drop reason; absent when it was allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// TCP, UDP, SCTP, ICMP, ICMPv6, or `protocol 47`; absent when the frame's headers could not be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Who opens the connection; of a frame, who sends it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// What policy says on the source's side; absent where policy was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Side>,
    /// What policy says on the destination's side; absent where policy was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Side>,
    /// The interface by which the frame came; absent when another worker took it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_interface: Option<String>,
    /// The interface by which it leaves or would have left, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_interface: Option<String>,
    /// The generation of the policy table in force; 0 before the first.
    pub generation: u64,
    /// The worker that tells it.
    pub worker: usize,
    /// The length of the frame, in bytes.
    pub length: u32,
    /// The first bytes of the frame, at most 128, in hexadecimal; only when packets were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
}

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// A connection that nobody knew was judged.
    NewConnection,
    /// A known connection was judged again, because policy about one of its pods had changed.
    JudgedAgain,
    /// A frame was dropped; no connection was judged for it.
    Frame,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// It goes no further.
    Deny,
}

/// One end of a connection, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    /// The pod, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port, where the protocol has ports; 0 for a later fragment, which does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What policy says on one side of a connection, in the words of `portcullis.explain/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Side {
    /// No policy isolates this end in this direction.
    Open,
    /// The other end is the pod's own node, or the pod itself.
    Exempt,
    /// This rule allows it; of several, the first by namespace, name and index.
    Allowed {
        /// The rule.
        rule: Named,
    },
    /// These policies isolate the pod, and none of their rules allows it.
    Isolated {
        /// The policies.
        policies: Vec<Named>,
    },
}

/// A policy or a rule, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    /// `namespace/policy`, or `namespace/policy ingress[0]`.
    pub name: String,
    /// `file:line`.
    pub origin: String,
}

/// What went by since the line like this before, or since the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Passed {
    /// The version of this form.
    pub schema: Schema,
    /// How many records were looked at, shown ones included.
    pub seen: u64,
    /// How many more there should have been: beyond a worker's rate, or because somebody was too slow. Whether they
    /// would have been shown, nobody knows.
    pub lost: u64,
}

/// The JSON schema of a line.
#[must_use]
pub fn schema() -> String {
    let schema =
        schemars::generate::SchemaSettings::draft07().into_generator().into_root_schema_for::<Line>();
    serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n"
}

impl Flow {
    /// What decided: the rules that allow, or the policies that deny, each with its place; empty where policy has no
    /// say.
    #[must_use]
    pub fn deciders(&self) -> String {
        let denied =
            [&self.egress, &self.ingress].iter().any(|side| matches!(side, Some(Side::Isolated { .. })));
        let mut parts = Vec::new();
        for (side, direction) in [(&self.egress, Direction::Egress), (&self.ingress, Direction::Ingress)] {
            match side {
                Some(Side::Allowed { rule }) if !denied => parts.push(rule.to_string()),
                Some(Side::Isolated { policies }) => {
                    let policies: Vec<String> = policies.iter().map(ToString::to_string).collect();
                    parts.push(format!("{direction} isolated by {}", policies.join(", ")));
                }
                _ => {}
            }
        }
        parts.join("; ")
    }

    /// The protocol and the port that is asked for: `TCP/80`.
    #[must_use]
    pub fn service(&self) -> String {
        match (&self.protocol, self.to.port) {
            (Some(protocol), Some(port)) => format!("{protocol}/{port}"),
            (Some(protocol), None) => protocol.clone(),
            (None, _) => "-".to_owned(),
        }
    }
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod, &self.address) {
            (Some(pod), _) => f.pad(pod),
            (None, Some(address)) => f.pad(&address.to_string()),
            (None, None) => f.pad("?"),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.origin)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// x/a is denied TCP port 80 of y/b by one policy.
    pub(crate) fn flow() -> Flow {
        let end = |pod: &str, address: &str, port| End {
            pod: Some(pod.to_owned()),
            address: Some(address.parse().unwrap()),
            port: Some(port),
        };
        let policy = Named { name: "y/p".to_owned(), origin: "p.yaml:4".to_owned() };
        Flow {
            schema: Schema::V1,
            time: "2026-11-21T10:00:00.250Z".parse().unwrap(),
            occasion: Occasion::NewConnection,
            verdict: Verdict::Deny,
            reason: Some("default_deny".to_owned()),
            protocol: Some("TCP".to_owned()),
            from: end("x/a", "10.0.0.1", 4000),
            to: end("y/b", "10.0.0.2", 80),
            egress: Some(Side::Open),
            ingress: Some(Side::Isolated { policies: vec![policy] }),
            in_interface: Some("veth0".to_owned()),
            out_interface: None,
            generation: 3,
            worker: 0,
            length: 74,
            packet: None,
        }
    }

    #[test]
    fn the_form_is_what_the_reference_says() {
        let json = serde_json::to_string(&Line::Flow(Box::new(flow()))).unwrap();
        assert_eq!(
            json,
            r#"{"schema":"portcullis.flow/v1","time":"2026-11-21T10:00:00.25Z","occasion":"new_connection","#
                .to_owned()
                + r#""verdict":"deny","reason":"default_deny","protocol":"TCP","#
                + r#""from":{"pod":"x/a","address":"10.0.0.1","port":4000},"#
                + r#""to":{"pod":"y/b","address":"10.0.0.2","port":80},"egress":{"state":"open"},"#
                + r#""ingress":{"state":"isolated","policies":[{"name":"y/p","origin":"p.yaml:4"}]},"#
                + r#""in_interface":"veth0","generation":3,"worker":0,"length":74}"#
        );
        assert_eq!(serde_json::from_str::<Line>(&json).unwrap(), Line::Flow(Box::new(flow())));
        let passed = Line::Passed(Passed { schema: Schema::V1, seen: 5, lost: 2 });
        let json = serde_json::to_string(&passed).unwrap();
        assert_eq!(json, r#"{"schema":"portcullis.flow/v1","seen":5,"lost":2}"#);
        assert_eq!(serde_json::from_str::<Line>(&json).unwrap(), passed);
    }

    #[test]
    fn who_denies_is_named_and_not_who_would_allow() {
        let rule = Named { name: "x/q egress[0]".to_owned(), origin: "q.yaml:9".to_owned() };
        let denied = Flow { egress: Some(Side::Allowed { rule: rule.clone() }), ..flow() };
        assert_eq!(denied.deciders(), "ingress isolated by y/p (p.yaml:4)");
        let allowed = Flow { ingress: Some(Side::Allowed { rule }), ..flow() };
        assert_eq!(allowed.deciders(), "x/q egress[0] (q.yaml:9)");
        assert_eq!(Flow { egress: None, ingress: None, ..flow() }.deciders(), "");
        assert_eq!((flow().service(), flow().from.to_string()), ("TCP/80".to_owned(), "x/a".to_owned()));
    }
}
