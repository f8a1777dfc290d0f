//! What became of the tests: for people, for programs, and for build servers.

use std::fmt::Write as _;

use serde::Serialize;

use super::executor::Question;
use super::{Decided, Outcome, Unmet};
use crate::offline::PortSpec;

/// Failures of one test that the text shows.
const SHOWN: usize = 10;

/// One test in a line, and what it met instead of what was expected.
#[must_use]
pub fn text(outcome: &Outcome) -> String {
    let Outcome { name, expectations, connections, .. } = outcome;
    let ms = milliseconds(outcome);
    let word = if outcome.passed() { "ok  " } else { "FAIL" };
    let mut text =
        format!("{word} {} ({expectations} expectations, {connections} connections, {ms} ms)\n", plain(name));
    for unmet in outcome.failures.iter().take(SHOWN) {
        text += &failure(unmet, "       ");
    }
    let more = outcome.failed - outcome.failures.len().min(SHOWN);
    if more > 0 {
        writeln!(text, "       and {more} more connections are not as expected").expect("a string grows");
    }
    if let Some((question, why)) = outcome.untried.first() {
        let count = outcome.not_tried;
        writeln!(text, "       {count} connections not tried, such as {}: {why}", connection(question))
            .expect("a string grows");
    }
    text
}

/// The last line.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    let sum = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
    let mut text = format!(
        "{} tests: {} ok, {failed} failed; {} expectations, {} connections",
        outcomes.len(),
        outcomes.len() - failed,
        sum(|outcome| outcome.expectations),
        sum(|outcome| outcome.connections),
    );
    let untried = sum(|outcome| outcome.not_tried);
    if untried > 0 {
        write!(text, ", {untried} not tried").expect("a string grows");
    }
    text + "\n"
}

fn failure(unmet: &Unmet, margin: &str) -> String {
    let Unmet { file, line, column, expected, verdict, question, .. } = unmet;
    let step = match &unmet.step {
        None => String::new(),
        Some((number, None)) => format!(" step {number}:"),
        Some((number, Some(name))) => format!(" step {number} ({}):", plain(name)),
    };
    let mut text = format!(
        "{margin}{file}:{line}:{column}:{step} {}: expected {expected}, is {verdict}\n",
        connection(question)
    );
    if !unmet.seen.is_empty() {
        writeln!(text, "{margin}  seen: {}", plain(&unmet.seen)).expect("a string grows");
    }
    for (side, decided) in [
        (format!("egress of {}", question.from), &unmet.egress),
        (format!("ingress of {}", question.to), &unmet.ingress),
    ] {
        let says = match decided {
            Decided::Open => "open".to_owned(),
            Decided::Exempt => "always allowed: its own node, or itself".to_owned(),
            Decided::AllowedBy(rule) => format!("allowed by {rule}"),
            Decided::Isolated(policies) => {
                format!("isolated by {}, and no rule allows it", policies.join(", "))
            }
        };
        writeln!(text, "{margin}  {side}: {says}").expect("a string grows");
    }
    text
}

/// `x/a -> y/b 80/TCP IPv4`.
fn connection(question: &Question) -> String {
    let Question { from, to, connection } = question;
    let family = if connection.dst.is_v4() { "IPv4" } else { "IPv6" };
    let service = PortSpec { protocol: connection.protocol, port: connection.port };
    format!("{from} -> {to} {service} {family}")
}

/// Without characters that move the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn milliseconds(outcome: &Outcome) -> String {
    let ms = outcome.took.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    schema: &'static str,
    executor: &'static str,
    passed: usize,
    failed: usize,
    tests: Vec<JsonTest<'a>>,
}

#[derive(Serialize)]
struct JsonTest<'a> {
    name: &'a str,
    file: &'a str,
    line: u64,
    passed: bool,
    milliseconds: f64,
    expectations: usize,
    connections: usize,
    failed: usize,
    failures: Vec<JsonFailure<'a>>,
    not_tried: usize,
    untried: Vec<JsonUntried<'a>>,
}

#[derive(Serialize)]
struct JsonFailure<'a> {
    file: &'a str,
    line: u64,
    column: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_name: Option<&'a str>,
    #[serde(flatten)]
    connection: JsonConnection<'a>,
    expected: String,
    verdict: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    seen: &'a str,
    egress: JsonSide<'a>,
    ingress: JsonSide<'a>,
}

#[derive(Serialize)]
struct JsonUntried<'a> {
    #[serde(flatten)]
    connection: JsonConnection<'a>,
    reason: &'a str,
}

#[derive(Serialize)]
struct JsonConnection<'a> {
    from: &'a str,
    to: &'a str,
    family: u8,
    protocol: String,
    port: u16,
    source: String,
    destination: String,
}

#[derive(Serialize)]
struct JsonSide<'a> {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    policies: &'a [String],
}

/// All of it, in the form `portcullis.test-report/v1`. `executor` is `table` or `lab`.
#[must_use]
pub fn json(outcomes: &[Outcome], executor: &'static str) -> String {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    let report = JsonReport {
        schema: "portcullis.test-report/v1",
        executor,
        passed: outcomes.len() - failed,
        failed,
        tests: outcomes.iter().map(json_test).collect(),
    };
    serde_json::to_string(&report).expect("strings and numbers") + "\n"
}

fn json_test(outcome: &Outcome) -> JsonTest<'_> {
    JsonTest {
        name: &outcome.name,
        file: &outcome.file,
        line: outcome.line,
        passed: outcome.passed(),
        milliseconds: outcome.took.as_secs_f64() * 1000.0,
        expectations: outcome.expectations,
        connections: outcome.connections,
        failed: outcome.failed,
        failures: outcome.failures.iter().map(json_failure).collect(),
        not_tried: outcome.not_tried,
        untried: outcome
            .untried
            .iter()
            .map(|(question, reason)| JsonUntried { connection: json_connection(question), reason })
            .collect(),
    }
}

fn json_failure(unmet: &Unmet) -> JsonFailure<'_> {
    JsonFailure {
        file: &unmet.file,
        line: unmet.line,
        column: unmet.column,
        step: unmet.step.as_ref().map(|(number, _)| *number),
        step_name: unmet.step.as_ref().and_then(|(_, name)| name.as_deref()),
        connection: json_connection(&unmet.question),
        expected: unmet.expected.to_string(),
        verdict: unmet.verdict.to_string(),
        seen: &unmet.seen,
        egress: json_side(&unmet.egress),
        ingress: json_side(&unmet.ingress),
    }
}

fn json_connection(question: &Question) -> JsonConnection<'_> {
    let connection = &question.connection;
    JsonConnection {
        from: &question.from,
        to: &question.to,
        family: if connection.dst.is_v4() { 4 } else { 6 },
        protocol: connection.protocol.to_string(),
        port: connection.port,
        source: connection.src.ip().to_string(),
        destination: connection.dst.ip().to_string(),
    }
}

fn json_side(decided: &Decided) -> JsonSide<'_> {
    let (reason, rule, policies): (_, _, &[String]) = match decided {
        Decided::Open => ("open", None, &[]),
        Decided::Exempt => ("exempt", None, &[]),
        Decided::AllowedBy(rule) => ("allowed", Some(rule.as_str()), &[]),
        Decided::Isolated(policies) => ("isolated", None, policies),
    };
    JsonSide { reason, rule, policies }
}

/// The form that build servers read: a suite for each file, a case for each test.
#[must_use]
pub fn junit(outcomes: &[Outcome]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let failed = |some: &[Outcome]| some.iter().filter(|outcome| !outcome.passed()).count();
    let time = |some: &[Outcome]| some.iter().map(|outcome| outcome.took.as_secs_f64()).sum::<f64>();
    let counts = |some: &[Outcome]| {
        format!(
            "tests=\"{}\" failures=\"{}\" errors=\"0\" time=\"{:.6}\"",
            some.len(),
            failed(some),
            time(some)
        )
    };
    writeln!(xml, "<testsuites name=\"portcullis test\" {}>", counts(outcomes)).expect("a string grows");
    for suite in outcomes.chunk_by(|a, b| a.file == b.file) {
        writeln!(xml, "  <testsuite name=\"{}\" {}>", escaped(&suite[0].file), counts(suite))
            .expect("a string grows");
        for outcome in suite {
            let Outcome { name, file, line, failed, .. } = outcome;
            let seconds = outcome.took.as_secs_f64();
            let (name, file) = (escaped(name), escaped(file));
            write!(
                xml,
                "    <testcase name=\"{name}\" classname=\"{file}\" file=\"{file}\" line=\"{line}\" time=\"{seconds:.6}\""
            )
            .expect("a string grows");
            if outcome.passed() {
                xml += "/>\n";
                continue;
            }
            let told: String = outcome.failures.iter().map(|unmet| failure(unmet, "")).collect();
            writeln!(
                xml,
                ">\n      <failure message=\"{failed} connections are not as expected\">{}</failure>\n    </testcase>",
                escaped(&told)
            )
            .expect("a string grows");
        }
        xml += "  </testsuite>\n";
    }
    xml + "</testsuites>\n"
}

/// Text for XML 1.0, which has no place for control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' => out.push('\n'),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
