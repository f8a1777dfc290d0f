//! `portcullis explain`: allowed or denied, and why.
//!
//! Verdict, rules and isolating policies are the table's. What a rule misses by is asked of the policy model
//! (`miss.rs`): it explains, and decides nothing.

mod miss;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::anyhow;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use flow::{Address, Direction, Verdict};
use policy::Connection;
use serde_json::{Value, json};
use table::{PolicyTable, Side};

use crate::exit::{self, Failure, usage};
use crate::offline::{Endpoint, Families, Offline, PortSpec, key, protocol_of};

pub use miss::Miss;

/// `portcullis explain`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  portcullis explain --from shop/client --to shop/server --port 80 -f manifests/
  portcullis explain --from policy-demo/auditor --to kube-system/dns --port 53/UDP -f manifests/
  portcullis explain --from shop/batch --to 198.51.100.10 --port 443 -f manifests/ -o json
  kubectl get namespaces,pods,nodes,networkpolicies -A -o yaml | portcullis explain --from x/a --to y/b --port 80 -f -",
    after_help = "Exit codes: 0 allowed; 1 denied; 2 usage, or input that cannot be read."
)]
pub struct ExplainArgs {
    /// Who opens the connection: namespace/pod, or an address.
    #[arg(long, value_name = "ENDPOINT")]
    pub from: String,

    /// To whom: namespace/pod, or an address.
    #[arg(long, value_name = "ENDPOINT")]
    pub to: String,

    /// The destination port: 80, 80/TCP, 53/UDP or 9000/SCTP.
    #[arg(long, value_name = "PORT")]
    pub port: PortSpec,

    /// TCP (the default), UDP or SCTP.
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,

    /// Kubernetes objects: files, folders, or `-` for standard input. May be repeated.
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// The address family; by default that of the source's first address.
    #[arg(long, value_parser = one_family())]
    pub family: Option<Families>,

    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,

    /// Exit with 0 also when the connection is denied.
    #[arg(long)]
    pub exit_zero: bool,
}

/// A connection has one.
fn one_family() -> impl TypedValueParser<Value = Families> {
    PossibleValuesParser::new(["4", "6"])
        .map(|family| if family == "4" { Families::V4 } else { Families::V6 })
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Sentences.
    Text,
    /// One JSON object, schema portcullis.explain/v1.
    Json,
}

/// Why one connection is allowed or denied.
#[derive(Debug)]
pub struct Explained {
    from: Endpoint,
    to: Endpoint,
    route: (Address, Address),
    port: PortSpec,
    /// The verdict of the table.
    pub verdict: Verdict,
    /// What the source's side says.
    pub egress: Half,
    /// What the destination's side says.
    pub ingress: Half,
}

/// What one side of a connection says, by name.
#[derive(Debug, PartialEq, Eq)]
pub enum Half {
    /// No policy isolates the pod in this direction.
    Open,
    /// This end is no pod with an address of its own, so policies do not speak of it.
    NoPod,
    /// The other end is the pod's own node, or the pod itself.
    Exempt,
    /// A rule allows it.
    AllowedBy(Named),
    /// These policies isolate the pod, and no rule of theirs allows it.
    Isolated {
        /// By namespace and name.
        policies: Vec<Named>,
        /// The rule that misses by least; `None` where there are no rules.
        nearest: Option<Miss>,
    },
}

/// A policy or a rule, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// `namespace/policy`, or `namespace/policy ingress[0]`.
    pub name: String,
    /// `file:line`.
    pub origin: String,
}

/// Answers; the exit code.
///
/// # Errors
///
/// Input or usage that is wrong (exit code 2), or output that cannot be written (3).
pub fn run(args: &ExplainArgs) -> Result<u8, Failure> {
    let explained = explain(&Offline::load(&args.files)?, args)?;
    let text = match args.output {
        Format::Text => explained.text(),
        Format::Json => format!("{}\n", explained.json()),
    };
    io::stdout().lock().write_all(text.as_bytes()).map_err(exit::system)?;
    Ok(if explained.verdict == Verdict::Allow || args.exit_zero { exit::OK } else { exit::FINDINGS })
}

/// Explains the connection that the arguments name; their files are not read.
///
/// # Errors
///
/// Exit code 2 when the connection cannot exist.
pub fn explain(offline: &Offline, args: &ExplainArgs) -> Result<Explained, Failure> {
    let mut port = args.port;
    if let Some(protocol) = &args.protocol {
        port.protocol = protocol_of(protocol).map_err(|error| usage(anyhow!("--protocol: {error}")))?;
    }
    let (from, to) = (offline.endpoint(&args.from)?, offline.endpoint(&args.to)?);
    let routes = offline.routes(&from, &to, args.family)?;
    let route = routes[0];
    let why = offline.table().why(&key(route, port));
    let connection = Connection { src: route.0, dst: route.1, protocol: port.protocol, port: port.port };
    let half = |side, direction| Half::of(offline, side, direction, &connection);
    let verdict = why.verdict();
    let (egress, ingress) = (half(why.egress, Direction::Egress), half(why.ingress, Direction::Ingress));
    Ok(Explained { from, to, route, port, verdict, egress, ingress })
}

impl Half {
    fn of(offline: &Offline, side: Side, direction: Direction, connection: &Connection) -> Self {
        let table = offline.table();
        let own = match direction {
            Direction::Egress => connection.src,
            Direction::Ingress => connection.dst,
        };
        match side {
            Side::Open if table.pod_of(own).is_none() => Self::NoPod,
            Side::Open => Self::Open,
            Side::Exempt => Self::Exempt,
            Side::AllowedBy(id) => {
                let rule = table.rule(id);
                let policy = &table.policy(id.policy()).name;
                let name = format!("{policy} {direction}[{}]", id.index());
                Self::AllowedBy(Named { name, origin: rule.origin.clone() })
            }
            Side::Isolated(ids) => {
                let policies: Vec<Named> = ids.iter().map(|id| named(table, *id)).collect();
                let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
                let nearest = miss::nearest(offline.cluster(), &names, direction, connection);
                Self::Isolated { policies, nearest }
            }
        }
    }

    /// One sentence, and what belongs to it.
    fn text(&self, out: &mut String, who: &str) {
        // Writing to a string cannot fail.
        let _infallible = match self {
            Self::Open => writeln!(out, "open: no policy isolates {who}"),
            Self::NoPod => writeln!(out, "open: {who} has no pod's address, and policies speak of pods"),
            Self::Exempt => writeln!(out, "exempt: a pod always reaches its own node and itself"),
            Self::AllowedBy(rule) => writeln!(out, "allowed by {} ({})", rule.name, rule.origin),
            Self::Isolated { policies, nearest } => {
                out.push_str("isolated, and no rule allows it\n");
                for policy in policies {
                    let _infallible = writeln!(out, "    isolated by {} ({})", policy.name, policy.origin);
                }
                match nearest {
                    Some(miss) => writeln!(out, "    nearest miss: {}", miss.sentence()),
                    None => writeln!(out, "    these policies have no rule for this direction"),
                }
            }
        };
    }

    fn json(&self) -> Value {
        let place = |named: &Named| json!({ "name": named.name, "origin": named.origin });
        match self {
            Self::Open | Self::NoPod => json!({ "state": "open" }),
            Self::Exempt => json!({ "state": "exempt" }),
            Self::AllowedBy(rule) => json!({ "state": "allowed", "rule": place(rule) }),
            Self::Isolated { policies, nearest } => json!({
                "state": "isolated",
                "policies": policies.iter().map(place).collect::<Vec<_>>(),
                "nearest_miss": nearest.as_ref().map(|miss| json!({
                    "rule": place(&miss.rule),
                    "peer_matches": miss.peer_matches,
                    "port_matches": miss.port_matches,
                    "message": miss.message,
                })),
            }),
        }
    }
}

impl Explained {
    /// The answer for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { from, to, route: (src, dst), port, .. } = self;
        let mut out = format!("{from} -> {to} {port} ({src} -> {dst}): {}\n", self.word());
        for (half, direction, who) in
            [(&self.egress, Direction::Egress, from), (&self.ingress, Direction::Ingress, to)]
        {
            let who = who.to_string();
            // Writing to a string cannot fail.
            let _infallible = write!(out, "  {direction} of {who}: ");
            half.text(&mut out, &who);
        }
        out
    }

    /// The answer for programs: schema portcullis.explain/v1.
    #[must_use]
    pub fn json(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        };
        let rest = json!({
            "verdict": verdict,
            "reason": self.reason(),
            "from": self.from.to_string(),
            "to": self.to.to_string(),
            "family": if self.route.0.is_v4() { 4 } else { 6 },
            "protocol": self.port.protocol.to_string(),
            "port": self.port.port,
            "egress": self.egress.json(),
            "ingress": self.ingress.json(),
        });
        // The schema comes first, whatever the order of the others.
        format!("{{\"schema\":\"portcullis.explain/v1\",{}", &rest.to_string()[1..])
    }

    fn reason(&self) -> String {
        let denying = [(&self.egress, "egress", &self.from), (&self.ingress, "ingress", &self.to)];
        let mut reasons = Vec::new();
        for (half, direction, who) in denying {
            match half {
                Half::Isolated { policies, .. } => {
                    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
                    reasons.push(format!("{direction} of {who} is isolated by {}", names.join(", ")));
                }
                Half::AllowedBy(rule) if self.verdict == Verdict::Allow => {
                    reasons.push(format!("allowed by {}", rule.name));
                }
                _ => {}
            }
        }
        if reasons.is_empty() { "no policy forbids it".to_owned() } else { reasons.join("; ") }
    }

    const fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Deny => "denied",
        }
    }
}

fn named(table: &PolicyTable, id: table::PolicyId) -> Named {
    let policy = table.policy(id);
    Named { name: policy.name.to_string(), origin: policy.origin.clone() }
}
