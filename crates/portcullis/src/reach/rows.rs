//! The rows of each format, written into buffers.

use std::fmt::Write as _;

use flow::{Address, Direction, Verdict};
use table::{Explanation, PolicyTable, Side};

use super::{End, Format, Plan};
use crate::offline::{self, Families, PortSpec, key};

/// Rows of one format.
pub(super) struct Rows<'a> {
    plan: &'a Plan<'a>,
    format: Format,
    /// Of the columns that have one.
    widths: (usize, usize, usize),
}

/// The lines of one matrix.
pub(super) struct Matrix<'a> {
    plan: &'a Plan<'a>,
    port: PortSpec,
    family: Option<Families>,
    width: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(plan: &'a Plan<'a>, format: Format) -> Self {
        let ports = plan.ports.iter().map(|port| port.to_string().len()).max().unwrap_or(0).max("PORT".len());
        Self { plan, format, widths: (widest(&plan.sources), widest(&plan.destinations), ports) }
    }

    pub(super) fn head(&self) -> String {
        let (from, to, port) = self.widths;
        match self.format {
            Format::Table => {
                format!("{:from$}  {:to$}  FAMILY  {:port$}  VERDICT  RULE\n", "FROM", "TO", "PORT")
            }
            Format::Json => "{\"schema\":\"portcullis.reach/v1\",\"entries\":[".to_owned(),
            Format::Jsonl | Format::Matrix => String::new(),
            Format::Csv => "from,to,family,protocol,port,verdict,rule\n".to_owned(),
            Format::Md => {
                "| from | to | family | port | verdict | rule |\n|---|---|---|---|---|---|\n".to_owned()
            }
        }
    }

    /// What stands before each row but the first.
    pub(super) const fn separator(&self) -> &'static str {
        if matches!(self.format, Format::Json) { "," } else { "" }
    }

    pub(super) const fn foot(&self) -> &'static str {
        if matches!(self.format, Format::Json) { "\n]}\n" } else { "" }
    }

    /// The rows of one source.
    pub(super) fn of(&self, from: &End, out: &mut Vec<u8>) {
        let table = self.plan.offline.table();
        let mut rule = String::new();
        let mut port_name = String::new();
        for (to, route, port) in self.plan.connections(from) {
            let why = table.why(&key(route, port));
            rule.clear();
            decider(table, &why, &mut rule);
            let family = if route.0.is_v4() { "4" } else { "6" };
            let verdict = word(why.verdict());
            port_name.clear();
            // Writing to a string cannot fail.
            let _infallible = write!(port_name, "{port}");
            let number = port_name.split('/').next().unwrap_or_default();
            let protocol = &port_name[(number.len() + 1).min(port_name.len())..];
            let mut say = |text: &str| out.extend_from_slice(text.as_bytes());
            match self.format {
                Format::Table => {
                    let (from_width, to_width, port_width) = self.widths;
                    for (text, width) in [
                        (from.name.as_str(), from_width),
                        (&to.name, to_width),
                        (family, 6),
                        (&port_name, port_width),
                    ] {
                        say(text);
                        (text.len()..width + 2).for_each(|_| say(" "));
                    }
                    say(verdict);
                    if !rule.is_empty() {
                        say("    ");
                        (verdict.len().."allow".len()).for_each(|_| say(" "));
                        say(&rule);
                    }
                    say("\n");
                }
                Format::Json | Format::Jsonl => {
                    say(if self.format == Format::Json { ",\n" } else { "" });
                    say("{\"from\":");
                    json(&from.name, &mut say);
                    say(",\"to\":");
                    json(&to.name, &mut say);
                    say(",\"family\":");
                    say(family);
                    say(",\"protocol\":\"");
                    say(protocol);
                    say("\",\"port\":");
                    say(number);
                    say(",\"verdict\":\"");
                    say(verdict);
                    say("\",\"rule\":");
                    if rule.is_empty() {
                        say("null")
                    } else {
                        json(&rule, &mut say)
                    }
                    say(if self.format == Format::Json { "}" } else { "}\n" });
                }
                Format::Csv => {
                    for text in [&from.name, &to.name, family, protocol, number, verdict] {
                        say(text);
                        say(",");
                    }
                    if rule.contains([',', '"']) {
                        say("\"");
                        say(&rule.replace('"', "\"\""));
                        say("\"\n");
                    } else {
                        say(&rule);
                        say("\n");
                    }
                }
                Format::Md => {
                    for text in [&from.name, &to.name, family, &port_name, verdict, &rule] {
                        say("| ");
                        say(text);
                        say(" ");
                    }
                    say("|\n");
                }
                Format::Matrix => {}
            }
        }
    }
}

impl<'a> Matrix<'a> {
    pub(super) fn new(plan: &'a Plan<'a>, port: PortSpec, family: Option<Families>) -> Self {
        Self { plan, port, family, width: widest(&plan.sources) }
    }

    /// The destinations, one column each.
    pub(super) fn head(&self) -> String {
        let mut head = format!("{:width$}", "FROM \\ TO", width = self.width);
        for to in &self.plan.destinations {
            head += "  ";
            head += &to.name;
        }
        head + "\n"
    }

    /// The line of one source.
    pub(super) fn of(&self, from: &End, out: &mut Vec<u8>) {
        let mut line = format!("{:width$}", from.name, width = self.width);
        for to in &self.plan.destinations {
            let cell = self.cell(from, to);
            line += "  ";
            line.push(cell);
            line.extend(std::iter::repeat_n(' ', to.name.len() - 1));
        }
        out.extend_from_slice(line.trim_end().as_bytes());
        out.push(b'\n');
    }

    fn cell(&self, from: &End, to: &End) -> char {
        let route: Option<(Address, Address)> = from
            .is_asked_about_to(to)
            .then(|| offline::routes(&from.addresses, &to.addresses, self.family).first().copied())
            .flatten();
        match route.map(|route| self.plan.offline.table().why(&key(route, self.port)).verdict()) {
            None => '-',
            Some(Verdict::Allow) => '.',
            Some(Verdict::Deny) => 'X',
        }
    }
}

/// The rules that allow, or the policies that deny; nothing where no policy has a say.
fn decider(table: &PolicyTable, why: &Explanation, out: &mut String) {
    let denied = why.verdict() == Verdict::Deny;
    for (side, direction) in [(&why.egress, Direction::Egress), (&why.ingress, Direction::Ingress)] {
        match side {
            Side::AllowedBy(id) if !denied => {
                let name = &table.policy(id.policy()).name;
                listed(out, &[&name.namespace, "/", &name.name, " ", spell(direction), "["]);
                // Writing to a string cannot fail.
                let _infallible = write!(out, "{}]", id.index());
            }
            Side::Isolated(policies) => {
                for policy in policies.iter() {
                    let name = &table.policy(*policy).name;
                    listed(out, &[&name.namespace, "/", &name.name, " ", spell(direction)]);
                }
            }
            _ => {}
        }
    }
}

fn listed(out: &mut String, parts: &[&str]) {
    if !out.is_empty() {
        out.push_str(", ");
    }
    out.extend(parts.iter().copied());
}

const fn spell(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

fn widest(ends: &[End]) -> usize {
    ends.iter().map(|end| end.name.len()).max().unwrap_or(0).max("FROM \\ TO".len())
}

/// A JSON string. Names of objects need no escapes, but who knows where they come from.
fn json(text: &str, say: &mut impl FnMut(&str)) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        say("\"");
        say(text);
        say("\"");
    } else {
        say(&serde_json::Value::from(text).to_string());
    }
}
