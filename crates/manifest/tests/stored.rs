//! Objects from a cluster: what is not understood in them matches nothing and is told; the rest counts.

use manifest::{Object, Parsed, Severity, parse};
use policy::model::{Isolation, NetworkPolicy, Phase, Pod, Rule};
use testkit::cluster::{PolicyBuilder, block, cluster, connection, namespaces, pods, policy, rule};

const UID: &str = "uid: 5a8d6e3f-0000-4000-8000-000000000000";

fn read(text: &str) -> Parsed {
    parse("dump.yaml", text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

/// A policy with this `spec` that carries `mark` in its metadata.
fn marked(mark: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: x, {mark}}}\nspec:\n{spec}"
    )
}

/// The stored policy with this `spec`, and what is told about it.
fn stored(spec: &str) -> (NetworkPolicy, Vec<String>) {
    let parsed = read(&marked(UID, spec));
    let told = parsed.warnings.iter().map(ToString::to_string).collect();
    let Object::NetworkPolicy(policy) = parsed.objects[0].object.clone() else { panic!("a policy") };
    (policy, told)
}

fn rules(isolation: &Isolation) -> Vec<Rule> {
    match isolation {
        Isolation::Isolated { rules } => rules.clone(),
        Isolation::Open => panic!("not isolated"),
    }
}

/// The rules are as built, wherever they were written.
#[track_caller]
fn assert_ingress(policy: &NetworkPolicy, built: PolicyBuilder) {
    let built = cluster().policy(built).build().policies.remove(0);
    let (ours, theirs) = (rules(&policy.ingress), rules(&built.ingress));
    let parts = |rules: &[Rule]| rules.iter().map(|r| (r.peers.clone(), r.ports.clone())).collect::<Vec<_>>();
    assert_eq!(parts(&ours), parts(&theirs));
    assert_eq!(policy.subjects, built.subjects);
}

#[test]
fn what_is_not_understood_spoils_its_own_item_only() {
    let (policy, told) = stored(
        "  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: a}}
    - serviceAccounts: {names: [builder]}
    - podSelector: {}
      serviceAccounts: {names: [builder]}
    - namespaceSelector: {matchExpressions: [{key: team, operator: Like, values: [a]}]}
    - ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}
    - ipBlock: {cidr: 10.0.0.300/8}
    - {}
    ports:
    - {port: 80, protocol: QUIC}
    - {port: 443}
    - {port: 8000, endPort: 7000}
    - {port: 53, protocol: UDP, zone: a}
  - from: [{namespaceSelector: {}}]
    unless: [{podSelector: {}}]
  - ports: [{port: 81}]
",
    );
    let built = policy_web().ingress([
        rule().with(pods("app=a")).on("TCP/443"),
        rule().with_nobody(),
        rule().on("TCP/81"),
    ]);
    assert_ingress(&policy, built);
    let at = |place: &str, words: &str| {
        assert!(
            told.iter().any(|line| line.starts_with(place) && line.contains(words)),
            "{place} {words}: {told:#?}"
        );
    };
    at(
        "dump.yaml:9:7: warning[unknown-field]: ",
        "spec.ingress[0].from[1].serviceAccounts: unknown field `serviceAccounts`; the peer matches nothing",
    );
    at("dump.yaml:11:7: warning[unknown-field]: ", "spec.ingress[0].from[2].serviceAccounts");
    at(
        "dump.yaml:12:68: warning[invalid-selector]: ",
        "spec.ingress[0].from[3].namespaceSelector.matchExpressions[0].operator: `Like` is not a valid",
    );
    at("dump.yaml:13:44: warning[except-outside-cidr]: ", "spec.ingress[0].from[4].ipBlock.except[0]");
    at("dump.yaml:14:23: warning[invalid-cidr]: ", "spec.ingress[0].from[5].ipBlock.cidr");
    at("dump.yaml:15:7: warning[empty-peer]: ", "spec.ingress[0].from[6]: must specify a peer");
    at(
        "dump.yaml:17:28: warning[unsupported-value]: ",
        "spec.ingress[0].ports[0].protocol: unsupported protocol \"QUIC\"; the port matches nothing",
    );
    at("dump.yaml:19:29: warning[invalid-end-port]: ", "spec.ingress[0].ports[2].endPort");
    at("dump.yaml:20:33: warning[unknown-field]: ", "spec.ingress[0].ports[3].zone");
    at(
        "dump.yaml:22:5: warning[unknown-field]: ",
        "spec.ingress[1].unless: unknown field `unless`; the rule allows nothing",
    );
    assert_eq!(told.len(), 10, "{told:#?}");
}

fn policy_web() -> PolicyBuilder {
    policy("x/p").subjects("app=web")
}

#[test]
fn fields_of_a_newer_api_beside_the_known_ones_are_told_and_passed_over() {
    let (policy, told) = stored(
        "  podSelector: {matchLabels: {app: web}}\n  ingress: [{from: [{podSelector: {}}]}]\n  tier: 3\n",
    );
    assert_ingress(&policy, policy_web().ingress([rule().with(pods(""))]));
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("spec.tier: unknown field `tier`; it is passed over"), "{told:?}");
}

#[test]
fn a_policy_whose_own_selector_is_not_understood_isolates_its_namespace() {
    let nowhere = "the policy isolates every pod of its namespace and allows nothing";
    for (spec, egress) in [
        ("  podSelector: {matchLabels: {app: 'a,b'}}\n  ingress: [{}]\n", false),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}\n  egress: [{}]\n",
            true,
        ),
        (
            "  podSelector: everything\n  policyTypes: [Ingress, Egress]\n  ingress: [{}]\n  egress: [{}]\n",
            true,
        ),
        ("  - podSelector: {}\n", true),
    ] {
        let (policy, told) = stored(spec);
        assert_ingress(&policy, policy_everywhere().ingress([]));
        assert_eq!(policy.egress != Isolation::Open, egress, "{spec}");
        assert!(!egress || rules(&policy.egress).is_empty(), "{spec}");
        assert!(told[0].contains(nowhere), "{told:?}");
    }
}

fn policy_everywhere() -> PolicyBuilder {
    policy("x/p")
}

#[test]
fn an_unknown_policy_type_may_stand_for_either_direction() {
    for types in ["[Ingress, Forward]", "[egress]", "Egress", "[1]"] {
        let (policy, told) = stored(&format!("  policyTypes: {types}\n  ingress: [{{}}]\n"));
        assert_ingress(&policy, policy_everywhere().ingress([rule()]));
        assert_eq!(rules(&policy.egress), [], "{types}");
        assert!(told[0].contains("; the policy isolates in both directions"), "{told:?}");
    }
    // Rules that are no list are rules for all that anybody knows.
    let (policy, _) = stored("  egress: {to: [{podSelector: {}}]}\n");
    assert_eq!(rules(&policy.egress), []);
}

#[test]
fn the_marks_of_a_stored_object() {
    let wrong = "  types: [Ingress]\n";
    for mark in [
        UID,
        "resourceVersion: '12'",
        "creationTimestamp: '2026-01-01T00:00:00Z'",
        "managedFields: [{manager: kubectl}]",
    ] {
        assert_eq!(read(&marked(mark, wrong)).warnings.len(), 1, "{mark}");
    }
    // What kubectl writes into files that were never stored, and what people write.
    for mark in
        ["creationTimestamp: null", "uid: ''", "managedFields: []", "generation: 1", "labels: {uid: a}"]
    {
        let errors = parse("f.yaml", &marked(mark, wrong)).unwrap_err();
        assert_eq!((errors[0].code, errors[0].severity), ("unknown-field", Severity::Error), "{mark}");
    }
}

#[test]
fn each_object_of_a_list_is_judged_by_its_own_marks() {
    let list = |mark: &str| {
        format!(
            "apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: '1'}}\nitems:\n\
             - {{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: a, {UID}}}, spec: {{tier: 1}}}}\n\
             - {{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: b{mark}}}, spec: {{tier: 1}}}}\n"
        )
    };
    assert_eq!(read(&list(", resourceVersion: '7'")).warnings.len(), 2);
    let found = parse("f.yaml", &list("")).unwrap_err();
    let severities: Vec<_> = found.iter().map(|d| (d.line, d.severity)).collect();
    assert_eq!(severities, [(5, Severity::Warning), (6, Severity::Error)]);
}

#[test]
fn who_an_object_is_must_be_readable_in_any_case() {
    for (text, code) in [
        (format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: 5, {UID}}}\n"), "quote-needed"),
        (
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{b: 5}}, {UID}}}\n"),
            "quote-needed",
        ),
        (
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {UID}}}\nspec: {{hostNetwork: 5}}\n"),
            "wrong-type",
        ),
        (
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {UID}}}\nstatus: {{podIP: ten}}\n"),
            "invalid-address",
        ),
        (
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: [b], {UID}}}\n"),
            "wrong-type",
        ),
        (
            format!("apiVersion: networking.k8s.io/v2\nkind: NetworkPolicy\nmetadata: {{name: a, {UID}}}\n"),
            "unsupported-api-version",
        ),
        (
            format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a/b, {UID}}}\n"
            ),
            "invalid-name",
        ),
    ] {
        assert_eq!(parse("f.yaml", &text).unwrap_err()[0].code, code, "{text}");
    }
}

#[test]
fn what_a_stored_pod_or_node_may_say_that_is_new() {
    let pod = |mark: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a{mark}}}\nspec:\n  containers:\n  - ports:\n    - {{name: a, \
             containerPort: 1, protocol: QUIC}}\n    - {{name: b, containerPort: 70000}}\n    - {{name: c, containerPort: \
             3}}\nstatus: {{phase: Hibernating, podIP: 10.0.0.1}}\n"
        )
    };
    let parsed = read(&pod(&format!(", {UID}")));
    let told: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    let Object::Pod(Pod { phase, ports, addresses, .. }) = &parsed.objects[0].object else { panic!("a pod") };
    assert_eq!((*phase, addresses.len()), (Phase::Running, 1));
    assert_eq!(ports.iter().map(|port| port.number).collect::<Vec<_>>(), [3]);
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].contains(
        "spec.containers[0].ports[0].protocol: unsupported protocol \"QUIC\"; the name stands for no port"
    ));
    assert!(told[2].contains("status.phase: unsupported phase"), "{told:#?}");
    assert_eq!(parse("f.yaml", &pod("")).unwrap_err().len(), 3);

    let node = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node-a, {UID}}}\nstatus: {{addresses: [{{type: InternalIP, address: \
         none}}, {{type: InternalIP, address: 10.0.0.1}}]}}\n"
    );
    let parsed = read(&node);
    let Object::Node(node) = &parsed.objects[0].object else { panic!("a node") };
    assert_eq!(node.addresses.len(), 1);
    assert!(parsed.warnings[0].message.starts_with("status.addresses[0].address: "), "{:?}", parsed.warnings);
}

#[test]
fn many_faults_are_counted() {
    let ports: String = (0..250).map(|_| "    - {port: 0}\n").collect();
    let (policy, told) = stored(&format!("  ingress:\n  - ports:\n{ports}"));
    assert_ingress(&policy, policy_everywhere().ingress([rule().on_nothing()]));
    assert_eq!(told.len(), 101);
    assert_eq!(told[100], "dump.yaml: warning[too-many]: and 150 more");
}

/// A namespace with this value of the old annotation, on line 6.
fn annotated(value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: old\n  annotations:\n    net.beta.kubernetes.io/network-policy: {value}\n"
    )
}

#[test]
fn the_old_annotation_isolates_the_pods_of_its_namespace() {
    let parsed = read(&annotated("'{\"ingress\":{\"isolation\":\"DefaultDeny\"}}'"));
    assert_eq!(parsed.warnings, []);
    let Object::NetworkPolicy(policy) = &parsed.objects[0].object else { panic!("{parsed:#?}") };
    assert_eq!(policy.name.to_string(), "old/net.beta.kubernetes.io/network-policy");
    assert_eq!(policy.origin.to_string(), "dump.yaml:6");
    assert_ingress(policy, policy_everywhere().ingress([]));
    assert_eq!(policy.egress, Isolation::Open);
    assert!(matches!(parsed.objects[1].object, Object::Namespace(_)));
    // Nobody can write a policy of that name, so nothing collides.
    let taken = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: net.beta.kubernetes.io/network-policy}\n";
    assert_eq!(parse("f.yaml", taken).unwrap_err()[0].code, "invalid-name");
}

#[test]
fn other_contents_of_the_old_annotation_are_told() {
    for (value, isolates) in [
        ("'{\"ingress\": {\"isolation\": \"DefaultDeny\", \"from\": []}}'", true),
        ("'{\"ingress\": {\"isolation\": \"DefaultDeny\"}, \"egress\": {}}'", true),
        ("'{\"ingress\": {\"isolation\": \"Default\"}}'", false),
        ("'{\"egress\": {\"isolation\": \"DefaultDeny\"}}'", false),
        ("'{\"ingress\": 5}'", false),
        ("DefaultDeny", false),
        ("''", false),
        (&format!("'[{}'", "[".repeat(4000)), false),
        (&format!("'{}'", "x".repeat(5000)), false),
    ] {
        let parsed = read(&annotated(value));
        let told: Vec<_> = parsed.warnings.iter().map(|d| (d.code, d.line)).collect();
        assert_eq!(told, [("legacy-annotation", 6)], "{value}");
        assert_eq!(parsed.objects.len(), 1 + usize::from(isolates), "{value}");
    }
}

#[test]
fn a_block_with_a_selector_matches_neither() {
    let (policy, _) = stored(
        "  ingress:\n  - from:\n    - {ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}\n    - {ipBlock: {cidr: 11.0.0.0/8}}\n    \
         - {namespaceSelector: {}}\n",
    );
    let built = rule().with(block("11.0.0.0/8", &[])).with(namespaces(""));
    assert_ingress(&policy, policy_everywhere().ingress([built]));
}

/// A policy in which every field is used, as JSON.
const EVERYTHING: &str = r#"{
  "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
  "metadata": {"name": "p", "namespace": "x", "uid": "1"},
  "spec": {
    "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}]},
    "policyTypes": ["Ingress"],
    "ingress": [
      {"from": [{"podSelector": {"matchLabels": {"app": "a"}}}, {"namespaceSelector": {"matchExpressions":
        [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["y"]}]}, "podSelector": {}},
        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}],
       "ports": [{"port": 80}, {"port": 8000, "endPort": 8080, "protocol": "UDP"}, {"protocol": "SCTP"}, {"port": "http"}]},
      {"ports": [{"port": 443, "protocol": "TCP"}]},
      {"from": [{"namespaceSelector": {}}]}
    ],
    "egress": [{"to": [{"podSelector": {}}]}]
  }
}"#;

/// The object with its `n`th change: at each place under `spec` in turn, garbage instead of what is there, or an
/// unknown field beside it.
fn changed(object: &serde_json::Value, n: usize) -> Option<serde_json::Value> {
    use serde_json::json;
    let garbage = [json!(true), json!("gar bage!"), json!([true]), json!({"unheardOf": true}), json!(1.5)];
    let mut paths = vec!["/spec".to_owned()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        match object.pointer(&path) {
            Some(serde_json::Value::Array(items)) => {
                paths.extend((0..items.len()).map(|i| format!("{path}/{i}")))
            }
            Some(serde_json::Value::Object(fields)) => {
                paths.extend(fields.keys().map(|key| format!("{path}/{}", key.replace('/', "~1"))));
            }
            _ => {}
        }
        next += 1;
    }
    let path = paths.get(n / 6)?;
    let mut changed = object.clone();
    let place = changed.pointer_mut(path)?;
    match (garbage.get(n % 6), place) {
        (Some(garbage), place) => *place = garbage.clone(),
        (None, serde_json::Value::Object(fields)) => drop(fields.insert("unheardOf".into(), json!(true))),
        (None, place) => *place = json!({"unheardOf": [1]}),
    }
    Some(changed)
}

/// What is garbled allows no connection that the whole object does not allow.
#[test]
fn no_change_that_is_not_understood_opens_anything() {
    let around = cluster()
        .node("node", "10.9.0.1")
        .pod("x/web", "10.0.0.1", "app=web")
        .named("http", "TCP/8443")
        .pod("x/db", "10.0.0.2", "app=web,tier=db")
        .pod("x/a", "10.0.0.3", "app=a")
        .pod("y/b", "10.0.0.4", "app=b")
        .pod("z/c", "10.0.0.5", "")
        .build();
    let places = [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "192.0.2.1",
        "192.0.2.129",
        "198.51.100.1",
    ];
    let services = ["TCP/80", "TCP/81", "TCP/443", "TCP/8443", "UDP/8000", "UDP/8081", "SCTP/9", "ICMP"];
    let allowed = |object: &serde_json::Value| -> Vec<bool> {
        let parsed = read(&object.to_string());
        let Object::NetworkPolicy(policy) = parsed.objects[0].object.clone() else { panic!("a policy") };
        let with = policy::model::Cluster { policies: vec![policy], ..around.clone() };
        let pairs = places.iter().flat_map(|src| places.iter().map(move |dst| (src, dst)));
        let connections = pairs
            .flat_map(|(src, dst)| services.iter().map(move |service| format!("{src} -> {dst} {service}")));
        connections
            .map(|text| policy::evaluate(&with, &connection(&text)).verdict() == flow::Verdict::Allow)
            .collect()
    };
    let whole: serde_json::Value = serde_json::from_str(EVERYTHING).unwrap();
    assert_eq!(read(EVERYTHING).warnings, []);
    let before = allowed(&whole);
    assert!(before.iter().any(|allowed| *allowed) && before.iter().any(|allowed| !*allowed));
    let (mut changes, mut closed) = (0, 0);
    while let Some(changed) = changed(&whole, changes) {
        let after = allowed(&changed);
        assert!(!read(&changed.to_string()).warnings.is_empty(), "nothing is told of {changed}");
        let opened = before.iter().zip(&after).any(|(before, after)| !before && *after);
        assert!(!opened, "opened by {changed}");
        closed += usize::from(after != before);
        changes += 1;
    }
    assert!(changes > 300 && closed > 200, "{changes} changes, {closed} of them close something");
}
