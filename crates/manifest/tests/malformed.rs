//! Mistakes that people make, one file each in `malformed/`: refused in a file that somebody writes, and what the
//! object means if an API server stored it.
//!
//! The files and what an API server says of them come from a catalogue made by reading the API's validation and
//! defaulting code and confirmed by a kube-apiserver 1.36.3. On purpose other than there: repeated keys are refused
//! (mf-15, mf-21), where kubectl keeps the last; blocks in the spelling of older servers (mf-68 to mf-70) are
//! accepted with a warning, as those servers did.

use std::fs;
use std::path::Path;

use manifest::{Diagnostic, Object, Parsed, Severity, parse};
use policy::model::{Isolation, NetworkPolicy, Origin};
use testkit::cluster::{PolicyBuilder, block, cluster, namespaces, pods, policy, rule};

/// What is said of a file that somebody writes.
#[derive(Clone, Copy, Debug)]
enum Strict {
    /// An error with this code.
    Refused(&'static str),
    /// A warning with this code.
    Warned(&'static str),
    Accepted,
}
use Strict::{Accepted, Refused, Warned};

/// What the file is as a stored object, with all that it says.
enum Stored {
    /// Never stored, and refused: not even a cluster makes sense of it.
    Nonsense,
    Means(PolicyBuilder),
    /// It says something of which the API server drops, with a warning, what it does not know: the file without
    /// that is `spec`. What is dropped here might be of a newer API: then the policy means less.
    Less {
        means: PolicyBuilder,
        spec: &'static str,
        then: PolicyBuilder,
    },
}
use Stored::{Less, Means, Nonsense};

fn cases() -> Vec<(u32, Strict, Stored)> {
    let p = || policy("x/p");
    // Isolates and allows nothing, in the direction that is the default.
    let closed = || p().ingress([]);
    let nobody = || p().ingress([rule().with_nobody()]);
    let no_port = || p().ingress([rule().on_nothing()]);
    let unknown = Refused("unknown-field");
    let less = |means, spec, then| Less { means, spec, then };
    vec![
        (1, unknown, less(closed(), "{podSelector: {}}", closed())),
        (2, unknown, less(closed(), "{podSelector: {}, policyTypes: [Ingress]}", closed())),
        (
            3,
            unknown,
            less(
                nobody(),
                "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}",
                p().ingress([rule().with(pods(""))]),
            ),
        ),
        (
            4,
            unknown,
            less(
                nobody(),
                "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}",
                p().ingress([rule().with(namespaces(""))]),
            ),
        ),
        (5, unknown, less(closed(), "{podSelector: {}, policyTypes: [Ingress]}", closed())),
        (
            6,
            unknown,
            less(
                p().egress([rule().with_nobody()]),
                "{policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}",
                p().egress([rule().with(pods("app=db"))]),
            ),
        ),
        (7, unknown, Means(p().egress([rule().with(pods("app=db"))]))),
        (
            8,
            unknown,
            less(closed(), "{podSelector: {matchLabels: {app: web}}}", closed().subjects("app=web")),
        ),
        (9, unknown, less(closed(), "{podSelector: {}}", closed())),
        (10, unknown, less(closed(), "{podSelector: {}}", closed())),
        (
            11,
            unknown,
            less(
                p().egress([rule().with_nobody()]),
                "{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 169.254.169.254/32}}]}]}",
                p().egress([rule().with(block("169.254.169.254/32", &[]))]),
            ),
        ),
        (12, unknown, less(closed(), "{}", closed())),
        (
            13,
            unknown,
            less(
                p().egress([rule().with_nobody()]),
                "{policyTypes: [Egress], egress: [{}]}",
                p().egress([rule()]),
            ),
        ),
        (
            14,
            unknown,
            less(
                p().egress([rule().with_nobody()]),
                "{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}",
                p().egress([rule().with(block("0.0.0.0/0", &[]))]),
            ),
        ),
        (15, Refused("duplicate-key"), Nonsense),
        (16, Refused("invalid-label"), Means(closed())),
        (17, Refused("invalid-cidr"), Means(nobody())),
        (18, Refused("yaml-syntax"), Nonsense),
        (19, Refused("quote-needed"), Means(closed())),
        (20, Refused("quote-needed"), Means(closed())),
        (21, Refused("duplicate-key"), Nonsense),
        (22, Refused("wrong-type"), Means(closed())),
        (23, Refused("wrong-type"), Means(nobody())),
        (24, Refused("wrong-type"), Means(closed().egress([]))),
        (25, Refused("wrong-type"), Means(nobody())),
        (26, Refused("wrong-type"), Means(no_port())),
        (27, Refused("wrong-type"), Means(nobody())),
        (28, Refused("unsupported-api-version"), Nonsense),
        (29, Refused("unsupported-api-version"), Nonsense),
        (30, unknown, less(nobody(), "{ingress: [{}]}", p().ingress([rule()]))),
        (31, Accepted, Means(policy("default/p").subjects("app=web").ingress([]))),
        (32, Refused("invalid-name"), Nonsense),
        (33, Refused("unsupported-value"), Means(closed().egress([]))),
        (34, Refused("unsupported-value"), Means(closed().egress([]))),
        (35, Warned("duplicate-policy-type"), Means(closed())),
        (36, Accepted, Means(closed())),
        (37, Accepted, Means(p().ingress([rule()]).egress([]))),
        (38, Accepted, Means(closed())),
        (
            39,
            Accepted,
            Means(p().subjects("app=db").ingress([rule().with(namespaces("ns=y")).with(pods("app=web"))])),
        ),
        (
            40,
            Accepted,
            Means(p().subjects("app=db").ingress([rule().with(pods("app=web")), rule().on("TCP/5432")])),
        ),
        (41, Refused("empty-peer"), Means(nobody())),
        (42, Refused("empty-peer"), Means(nobody())),
        (43, Accepted, Means(p().ingress([rule()]))),
        (44, Accepted, Means(p().ingress([rule()]))),
        (45, Refused("mixed-peer"), Means(nobody())),
        (46, Accepted, Means(closed().subjects("app=wbe"))),
        (47, Accepted, Means(p().ingress([rule().with(namespaces("name=kube-system"))]))),
        (48, Refused("invalid-selector"), Means(closed())),
        (49, Refused("invalid-selector"), Means(closed())),
        (50, Refused("invalid-selector"), Means(closed())),
        (51, Refused("invalid-label"), Means(closed())),
        (52, Refused("invalid-port"), Means(no_port())),
        (53, Refused("invalid-port"), Means(no_port())),
        (54, Refused("invalid-port"), Means(no_port())),
        (55, Refused("invalid-end-port"), Means(no_port())),
        (56, Refused("invalid-end-port"), Means(no_port())),
        (57, Refused("invalid-end-port"), Means(no_port())),
        (58, Refused("invalid-end-port"), Means(no_port())),
        (59, Refused("wrong-type"), Means(no_port())),
        (60, Refused("unsupported-value"), Means(no_port())),
        (61, Refused("invalid-port"), Means(no_port())),
        (62, Accepted, Means(p().ingress([rule().on("TCP/htpp")]))),
        (63, Accepted, Means(p().egress([rule().on("TCP/443")]))),
        (64, Accepted, Means(p().egress([rule().with(pods("app=db"))]))),
        (65, Accepted, Means(p().ingress([rule().on("TCP/53")]))),
        (66, Refused("invalid-cidr"), Means(nobody())),
        (67, Refused("invalid-cidr"), Means(nobody())),
        (68, Warned("ambiguous-cidr"), Means(p().ingress([rule().with(block("10.0.0.0/8", &[]))]))),
        (69, Warned("ambiguous-cidr"), Means(p().ingress([rule().with(block("10.0.1.0/24", &[]))]))),
        (70, Warned("ambiguous-cidr"), Means(p().ingress([rule().with(block("10.0.0.0/8", &[]))]))),
        (71, Refused("except-outside-cidr"), Means(nobody())),
        (72, Refused("except-outside-cidr"), Means(nobody())),
        (73, Refused("except-outside-cidr"), Means(nobody())),
        (
            74,
            Accepted,
            Means(p().ingress([rule().with(block("10.0.0.0/16", &["10.0.0.0/17", "10.0.128.0/17"]))])),
        ),
        (
            75,
            Accepted,
            Means(p().egress([
                rule().with(block("0.0.0.0/0", &["169.254.169.254/32"])),
                rule().with(block("169.254.0.0/16", &[])),
            ])),
        ),
        (76, Accepted, Means(p().egress([rule().with(block("10.96.0.0/12", &[]))]))),
        (77, Accepted, Means(p().egress([rule().with(block("0.0.0.0/0", &[]))]))),
        (78, Refused("missing-field"), Means(nobody())),
    ]
}

fn text(case: u32) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/malformed/mf-{case:02}.yaml"));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The text of an object as it is after an API server stored it.
fn stored(text: &str) -> String {
    let stored = text.replace("metadata: {", "metadata: {uid: 5a8d6e3f-0000-4000-8000-000000000000, ");
    assert_ne!(stored, text);
    stored
}

fn codes(diagnostics: &[Diagnostic], severity: Severity) -> Vec<&'static str> {
    diagnostics.iter().filter(|d| d.severity == severity).map(|d| d.code).collect()
}

/// The only policy of a text, without its origins.
fn meaning(parsed: Parsed) -> NetworkPolicy {
    assert_eq!(parsed.objects.len(), 1);
    match parsed.objects.into_iter().next().map(|item| item.object) {
        Some(Object::NetworkPolicy(policy)) => without_origins(policy),
        other => panic!("{other:?}"),
    }
}

fn built(policy: PolicyBuilder) -> NetworkPolicy {
    without_origins(cluster().policy(policy).build().policies.remove(0))
}

fn without_origins(mut policy: NetworkPolicy) -> NetworkPolicy {
    let nowhere = Origin { source: "".into(), line: 0, column: 0 };
    policy.origin = nowhere.clone();
    for isolation in [&mut policy.ingress, &mut policy.egress] {
        if let Isolation::Isolated { rules } = isolation {
            rules.iter_mut().for_each(|rule| rule.origin = nowhere.clone());
        }
    }
    policy
}

#[test]
fn every_file_has_its_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let cases: Vec<_> = cases().iter().map(|(case, ..)| format!("mf-{case:02}.yaml")).collect();
    assert_eq!(files, cases);
    assert_eq!(cases.len(), 78);
}

#[test]
fn what_people_write_is_judged_as_by_the_api_server() {
    for (case, strict, _) in cases() {
        let read = parse("f.yaml", &text(case));
        match (strict, read) {
            (Refused(code), Err(found)) => {
                assert!(codes(&found, Severity::Error).contains(&code), "mf-{case:02}: {code}: {found:#?}");
                assert!(found.iter().all(|d| d.line > 0 && d.column > 0), "mf-{case:02}: {found:#?}");
            }
            (Warned(code), Ok(parsed)) => {
                assert_eq!(codes(&parsed.warnings, Severity::Warning), [code], "mf-{case:02}");
            }
            (Accepted, Ok(parsed)) => assert_eq!(parsed.warnings, [], "mf-{case:02}"),
            (strict, read) => panic!("mf-{case:02} is to be {strict:?}: {read:#?}"),
        }
    }
}

#[test]
fn a_stored_object_never_allows_more_than_it_says() {
    for (case, strict, as_stored) in cases() {
        let read = parse("f.yaml", &stored(&text(case)));
        let means = match as_stored {
            Nonsense => {
                assert!(read.is_err(), "mf-{case:02}: {read:#?}");
                continue;
            }
            Means(means) | Less { means, .. } => means,
        };
        let parsed = read.unwrap_or_else(|errors| panic!("mf-{case:02}: {errors:#?}"));
        if let Refused(code) = strict {
            // What nobody may write is told, with its place and its path.
            let told = &parsed.warnings;
            assert!(codes(told, Severity::Warning).contains(&code), "mf-{case:02}: {told:#?}");
            for warning in told.iter().filter(|warning| warning.code == code) {
                assert!(warning.line > 0 && warning.message.contains(": "), "mf-{case:02}: {warning}");
            }
        }
        assert_eq!(meaning(parsed), built(means), "mf-{case:02}");
    }
}

#[test]
fn without_the_fields_that_a_server_drops_an_object_means_what_was_stored() {
    let mut seen = 0;
    for (case, _, as_stored) in cases() {
        let Less { spec, then, .. } = as_stored else { continue };
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: x}}\nspec: {spec}\n"
        );
        let parsed =
            parse("f.yaml", &stored(&text)).unwrap_or_else(|errors| panic!("mf-{case:02}: {errors:#?}"));
        assert_eq!(parsed.warnings, [], "mf-{case:02}");
        assert_eq!(meaning(parsed), built(then), "mf-{case:02}");
        seen += 1;
    }
    assert_eq!(seen, 14);
}
