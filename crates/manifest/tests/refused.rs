//! What people write wrong, and what they are told: code, exact place, and what the message must say.

use manifest::{Diagnostic, Severity, parse, parse_bytes};

/// The errors of a text, warnings left out.
fn errors(text: &str) -> Vec<Diagnostic> {
    let mut all = parse("f.yaml", text).map_or_else(|errors| errors, |parsed| parsed.warnings);
    all.retain(|d| d.severity == Severity::Error);
    all
}

/// A policy with this `spec`, which begins on line 4.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: x}}\n{spec}"
    )
}

/// One error, with this code at this place, whose line for logs contains these words.
fn expect(text: &str, code: &str, place: (u32, u32), words: &str) {
    let errors = errors(text);
    let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 1, "one error for {text}: {got:#?}");
    let error = &errors[0];
    assert_eq!((error.code, error.line, error.column), (code, place.0, place.1), "{text}: {got:#?}");
    assert!(got[0].contains(words), "{text}: {words:?} in {got:#?}");
}

#[test]
fn unknown_fields() {
    for (spec, place, words) in [
        (
            "spec:\n  podSelector: {}\n  types:\n  - Ingress\n",
            (6, 3),
            "unknown field `types`: did you mean `policyTypes`?",
        ),
        ("spec:\n  egres: []\n", (5, 3), "did you mean `egress`?"),
        ("spec:\n  podSelector:\n    app: web\n", (6, 5), "labels go under `matchLabels`"),
        ("spec:\n  podSelector:\n    matchlabels: {app: web}\n", (6, 5), "did you mean `matchLabels`?"),
        ("spec:\n  podSelector:\n    ingress: []\n", (6, 5), "belongs directly under `spec`"),
        ("specs: {}\n", (4, 1), "did you mean `spec`?"),
        ("spec: {}\npolicyTypes: [Egress]\n", (5, 1), "belongs directly under `spec`"),
        ("spec:\n  egress:\n  - from: []\n", (6, 5), "rules of `egress` take `to`"),
        ("spec:\n  ingress:\n  - to: []\n", (6, 5), "rules of `ingress` take `from`"),
        ("spec:\n  egress:\n  - action: Deny\n", (6, 5), "only rules that allow"),
        ("spec:\n  egress:\n  - to: [{podSelector: {}, ports: []}]\n", (6, 28), "beside `from` or `to`"),
        (
            "spec:\n  egress:\n  - to:\n    - ipBlock: {cidr: 10.0.0.0/8}\n      except: [10.1.0.0/16]\n",
            (8, 7),
            "belongs inside `ipBlock`",
        ),
        (
            "spec:\n  ingress:\n  - ports: [{port: 80, nodePort: 81}]\n",
            (6, 24),
            "known here: protocol, port, endPort",
        ),
        ("spec:\n  selector: app == 'web'\n", (5, 3), "did you mean `podSelector`?"),
        ("spec: {}\nstatuss: {}\n", (5, 1), "did you mean `status`?"),
    ] {
        expect(&policy(spec), "unknown-field", place, words);
    }
    let metadata =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  lables: {}\n";
    expect(metadata, "unknown-field", (5, 3), "did you mean `labels`?");
}

#[test]
fn wrong_shapes() {
    for (spec, code, place, words) in [
        ("spec: []\n", "wrong-type", (4, 7), "`spec` must be a mapping"),
        ("spec:\n  ingress:\n    from: []\n", "wrong-type", (6, 5), "begin each item with `- `"),
        (
            "spec:\n  ingress:\n  - from: {podSelector: {}}\n",
            "wrong-type",
            (6, 11),
            "begin each item with `- `",
        ),
        ("spec: {policyTypes: Ingress}\n", "wrong-type", (4, 21), "`policyTypes` must be a list"),
        ("spec: {ingress: [{ports: [80]}]}\n", "wrong-type", (4, 27), "write `- port: 80`"),
        ("spec: {ingress: [{from: [{ipBlock: 10.0.0.0/8}]}]}\n", "wrong-type", (4, 36), "{cidr: 10.0.0.0/8}"),
        ("spec: {ingress: [allow]}\n", "wrong-type", (4, 18), "this is a string"),
        (
            "spec: {podSelector: {matchLabels: [app]}}\n",
            "wrong-type",
            (4, 35),
            "`matchLabels` must be a mapping",
        ),
        ("spec: {ingress: [{ports: [{port: 80.5}]}]}\n", "wrong-type", (4, 34), "whole number or a name"),
        ("spec: {ingress: [{ports: [{port: 80, endPort: \"90\"}]}]}\n", "wrong-type", (4, 47), "`endPort`"),
    ] {
        expect(&policy(spec), code, place, words);
    }
    expect("- a\n- b\n", "wrong-type", (1, 1), "an object must be a mapping");
}

#[test]
fn bare_words_that_kubectl_reads_as_something_else() {
    for word in ["y", "n", "yes", "no", "on", "off", "Yes", "NO", "true", "False"] {
        let text = policy(&format!("spec: {{podSelector: {{matchLabels: {{debug: {word}}}}}}}\n"));
        let words = format!(
            "the value of `debug` must be a string, and a bare `{word}` is a boolean: quote it: \"{word}\""
        );
        expect(&text, "quote-needed", (4, 43), &words);
        assert!(
            errors(&text.replace(&format!(": {word}}}"), &format!(": \"{word}\"}}"))).is_empty(),
            "{word}"
        );
    }
    for number in ["1", "1.10", "0x1f", "1e3", "99999999999999999999"] {
        let text = policy(&format!("spec: {{podSelector: {{matchLabels: {{v: {number}}}}}}}\n"));
        expect(
            &text,
            "quote-needed",
            (4, 39),
            &format!("a bare `{number}` is a number: quote it: \"{number}\""),
        );
    }
    expect(&policy("spec: {podSelector: {matchLabels: {y: a}}}\n"), "quote-needed", (4, 36), "a bare `y`");
    expect(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: y\n",
        "quote-needed",
        (4, 9),
        "quote it: \"y\"",
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: n\n";
    expect(pod, "quote-needed", (5, 14), "`namespace` must be a string");
}

#[test]
fn numbers_that_yaml_1_1_and_1_2_read_differently() {
    for number in ["010", "080", "0o10", "0x50", "0b11", "+80", "-010", "1_000"] {
        let text = policy(&format!("spec: {{ingress: [{{ports: [{{port: {number}}}]}}]}}\n"));
        let words = format!("`port` is written as `{number}`, which ");
        expect(&text, "ambiguous-number", (4, 34), &words);
        let range = policy(&format!("spec: {{ingress: [{{ports: [{{port: 1, endPort: {number}}}]}}]}}\n"));
        expect(&range, "ambiguous-number", (4, 46), "write it in decimal digits");
    }
    for number in ["80.0", "8e1", "0.5"] {
        let text = policy(&format!("spec: {{ingress: [{{ports: [{{port: {number}}}]}}]}}\n"));
        expect(&text, "wrong-type", (4, 34), "must be a whole number");
    }
    // A string, as a sexagesimal number would be one to kubectl; and neither is a port.
    expect(&policy("spec: {ingress: [{ports: [{port: 1:30}]}]}\n"), "invalid-port", (4, 34), "1:30");
}

#[test]
fn ports_protocols_and_types() {
    for (item, code, column, words) in [
        ("port: 0", "invalid-port", 34, "must be between 1 and 65535, inclusive"),
        ("port: 65536", "invalid-port", 34, "must be between 1 and 65535, inclusive"),
        ("port: -1", "invalid-port", 34, "must be between 1 and 65535, inclusive"),
        ("port: \"80\"", "invalid-port", 34, "a number has no quotes: 80"),
        ("port: 80-90", "invalid-port", 34, "use `port` and `endPort`"),
        ("port: HTTP", "invalid-port", 34, "must contain only a-z, 0-9 and '-'"),
        ("port: serve-http-alternate", "invalid-port", 34, "no more than 15 characters"),
        ("port: 90, endPort: 80", "invalid-end-port", 47, "greater than or equal to `port`"),
        ("port: 80, endPort: 70000", "invalid-end-port", 47, "must be between 1 and 65535"),
        ("port: http, endPort: 80", "invalid-end-port", 49, "when `port` is non-numeric"),
        ("endPort: 80", "invalid-end-port", 37, "when `port` is not specified"),
        ("protocol: tcp", "unsupported-value", 38, "did you mean `TCP`?"),
        ("protocol: ICMP", "unsupported-value", 38, "supported: SCTP, TCP, UDP"),
    ] {
        let text = policy(&format!("spec: {{ingress: [{{ports: [{{{item}}}]}}]}}\n"));
        expect(&text, code, (4, column), words);
    }
    for (types, column, words) in [
        ("[ingress]", 22, "did you mean `Ingress`?"),
        ("[Both]", 22, "supported: Egress, Ingress"),
        ("[Ingress, Egress, Egress]", 21, "more than two"),
    ] {
        expect(
            &policy(&format!("spec: {{policyTypes: {types}}}\n")),
            "unsupported-value",
            (4, column),
            words,
        );
    }
}

#[test]
fn peers_and_blocks() {
    for (item, code, column, words) in [
        ("{}", "empty-peer", 26, "must specify a peer"),
        ("", "empty-peer", 25, "must specify a peer"),
        ("{podSelector: null}", "empty-peer", 26, "must specify a peer"),
        ("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}", "mixed-peer", 36, "both ipBlock and another peer"),
        ("{ipBlock: {}}", "missing-field", 36, "`cidr` is missing"),
        ("{ipBlock: {cidr: \"\"}}", "invalid-cidr", 43, "is not a valid CIDR value"),
        ("{ipBlock: {cidr: 10.0.0.5}}", "invalid-cidr", 43, "write 10.0.0.5/32"),
        ("{ipBlock: {cidr: \"fd00::1\"}}", "invalid-cidr", 43, "write fd00::1/128"),
        ("{ipBlock: {cidr: 10.0.0.0/33}}", "invalid-cidr", 43, "for example 10.9.8.0/24"),
        ("{ipBlock: {cidr: “10.0.0.0/8”}}", "invalid-cidr", 43, "write plain quotes"),
        ("{ipBlock: {cidr: 10.0.0.0/16, except: 10.0.1.0/24}}", "wrong-type", 64, "`except` must be a list"),
        (
            "{ipBlock: {cidr: 10.0.0.0/16, except: [10.1.0.0/24]}}",
            "except-outside-cidr",
            65,
            "strict subset of `cidr`",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.0.0/16]}}",
            "except-outside-cidr",
            65,
            "strict subset of `cidr`",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.0.0/8]}}",
            "except-outside-cidr",
            65,
            "strict subset of `cidr`",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/16, except: [\"fd00::/64\"]}}",
            "except-outside-cidr",
            65,
            "strict subset",
        ),
    ] {
        // An item that is left out needs a list in block style.
        let text = if item.is_empty() {
            policy("spec: {}\n").replace("spec: {}", "spec:\n ingress:\n  - from:\n    -")
        } else {
            policy(&format!("spec: {{ingress: [{{from: [{item}]}}]}}\n"))
        };
        let place = if item.is_empty() { (7, 6) } else { (4, column) };
        expect(&text, code, place, words);
    }
}

#[test]
fn selectors() {
    for (selector, code, column, words) in [
        ("matchLabels: {“color”: blue}", "invalid-label", 36, "write plain quotes"),
        ("matchLabels: {app: “blue”}", "invalid-label", 41, "write plain quotes"),
        ("matchLabels: {app: \"a,b\"}", "invalid-label", 41, "`operator: In`"),
        ("matchLabels: {\"color**\": red}", "invalid-label", 36, "is not a label key"),
        ("matchExpressions: [{operator: Exists}]", "missing-field", 41, "`key` is missing"),
        ("matchExpressions: [{key: a}]", "missing-field", 41, "`operator` is missing"),
        (
            "matchExpressions: [{key: a, operator: in, values: [b]}]",
            "invalid-selector",
            60,
            "did you mean `In`?",
        ),
        ("matchExpressions: [{key: a, operator: Equals}]", "invalid-selector", 60, "supported: In, NotIn"),
        ("matchExpressions: [{key: a, operator: In}]", "invalid-selector", 60, "must be specified when"),
        (
            "matchExpressions: [{key: a, operator: NotIn, values: []}]",
            "invalid-selector",
            75,
            "must be specified when",
        ),
        (
            "matchExpressions: [{key: a, operator: Exists, values: [b]}]",
            "invalid-selector",
            76,
            "may not be specified",
        ),
        ("matchExpressions: [{key: a, operator: In, values: [yes]}]", "quote-needed", 73, "quote it"),
    ] {
        expect(&policy(&format!("spec: {{podSelector: {{{selector}}}}}\n")), code, (4, column), words);
    }
}

#[test]
fn objects_and_names() {
    for (text, code, place, words) in [
        ("kind: Pod\nmetadata: {name: a}\n", "missing-field", (1, 1), "`apiVersion` is missing"),
        ("apiVersion: v1\nmetadata: {name: a}\n", "missing-field", (1, 1), "`kind` is missing"),
        ("apiVersion: v1\nkind: Pod\n", "missing-field", (1, 1), "`metadata` is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\n", "missing-field", (3, 11), "`name` is missing"),
        ("apiVersion: v1\nkind: List\n", "missing-field", (1, 1), "`items` is missing"),
        ("apiVersion: v1\nkind: pod\nmetadata: {name: a}\n", "unknown-kind", (2, 7), "did you mean `Pod`?"),
        ("apiVersion: v1\nkind: NetworkPolcy\n", "unknown-kind", (2, 7), "did you mean `NetworkPolicy`?"),
        (
            "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\n",
            "unsupported-api-version",
            (1, 13),
            "use `apiVersion: networking.k8s.io/v1`",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n",
            "unsupported-api-version",
            (1, 13),
            "no matches for kind",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: Allow_Web}\n",
            "invalid-name",
            (3, 18),
            "`Allow_Web` is not a name",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.0/8}\n",
            "invalid-address",
            (4, 17),
            "is not an IP address",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {phase: Runing}\n",
            "unsupported-value",
            (4, 17),
            "supported: Pending, Running",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: \"true\"}\n",
            "wrong-type",
            (4, 21),
            "`hostNetwork` must be a boolean",
        ),
    ] {
        expect(text, code, place, words);
    }
}

#[test]
fn texts_that_are_not_yaml() {
    for (text, code, place, words) in [
        ("a:\n\tb: 1\n", "yaml-syntax", (2, 2), "indent with spaces, not with tabs"),
        ("spec:\n  ingress: []\n  ingress: []\n", "duplicate-key", (3, 3), "`ingress` is written twice"),
        ("a: [1, 2\nb: 3\n", "yaml-syntax", (2, 2), "not YAML"),
        ("port: **80**\n", "yaml-syntax", (1, 7), "a bare `*` starts an alias"),
        ("spec:\n  types:\n  - Ingress\nEgress\n", "yaml-syntax", (4, 1), "not YAML"),
    ] {
        expect(text, code, place, words);
    }
    let bytes = parse_bytes("f.yaml", b"a: 1\nb: \xc3\xbc\xff\n").unwrap_err();
    assert_eq!((bytes[0].code, bytes[0].line, bytes[0].column), ("not-utf8", 2, 5));
    let long = parse_bytes("f.yaml", &vec![b'#'; manifest::MAX_BYTES + 1]).unwrap_err();
    assert_eq!((long[0].code, long[0].line), ("too-large", 0));
}

/// Examples from tutorials, as a reader would paste them.
#[test]
fn examples_from_tutorials_as_they_stand() {
    let quotes = "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata:\n  name: allow-same-namespace\n  \
                  namespace: default\nspec:\n  podSelector:\n    matchLabels: {“color”: “blue”}\n  ingress:\n  - \
                  from:\n    - podSelector: {“color”: “red”}\n    to:\n      ports:\n      - port: 80\n";
    let found: Vec<_> = errors(quotes).iter().map(|d| (d.code, d.line, d.column)).collect();
    assert_eq!(
        found,
        [
            ("invalid-label", 8, 19),
            ("invalid-label", 8, 28),
            ("unknown-field", 11, 21),
            ("unknown-field", 12, 5)
        ]
    );
    // Peers and rules that lost their indentation.
    let shifted = policy(
        "spec:\n  policyTypes:\n  - Ingress\n  ingress:\n  - from:\n    - ipBlock:\n        cidr: 172.17.0.0/16\n  - \
         namespaceSelector:\n      matchLabels:\n        project: myproject\n  ports:\n  - protocol: TCP\n    port: \
         6379\negress:\n- to: []\n",
    );
    let found: Vec<_> = errors(&shifted).iter().map(|d| (d.code, d.line, d.column)).collect();
    assert_eq!(found, [("unknown-field", 11, 5), ("unknown-field", 14, 3), ("unknown-field", 17, 1)]);
    // A list whose dashes were escaped for another format.
    let escaped =
        policy("spec:\n  ingress:\n\\- from:\n\\- podSelector:\n        matchLabels:\n          a: b\n");
    assert!(errors(&escaped).iter().all(|d| d.code == "unknown-field" && d.line >= 6));
    assert_eq!(errors(&escaped).len(), 2);
}

#[test]
fn all_mistakes_of_a_text_are_told_up_to_a_limit() {
    let many: String = (0..150).map(|i| format!("  bad{i}: 1\n")).collect();
    let errors = errors(&policy(&format!("spec:\n{many}")));
    assert_eq!(errors.len(), 101);
    assert_eq!(errors[100].message, "and 50 more");
    // One error behind many warnings still refuses the text.
    let strangers = "apiVersion: v1\nkind: Service\n---\n".repeat(200);
    assert!(parse("f.yaml", &strangers).is_ok());
    let found = parse("f.yaml", &format!("{strangers}kind: Pod\n")).unwrap_err();
    assert!(found.iter().any(|d| d.severity == Severity::Error && d.code == "missing-field"));
}
