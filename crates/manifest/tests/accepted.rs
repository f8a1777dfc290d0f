//! What is accepted, and what it means: defaults, positions, and objects as kubectl prints them.

use std::sync::Arc;

use flow::{Address, Protocol};
use manifest::{Object, parse};
use policy::model::{
    IpBlock, Isolation, NamedPort, Namespaces, NetworkPolicy, ObjectName, Origin, Peer, Peers, Phase, Pod,
    PortMatch, PortSet, Ports,
};
use policy::selector::{Operator, Requirement, Selector};

fn objects(text: &str) -> Vec<Object> {
    let parsed = parse("f.yaml", text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
    parsed.objects.into_iter().map(|item| item.object).collect()
}

/// The policy with this `spec`, which begins on line 4.
fn policy(spec: &str) -> NetworkPolicy {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\n";
    match objects(&format!("{head}{spec}")).remove(0) {
        Object::NetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

fn pod(text: &str) -> Pod {
    match objects(text).remove(0) {
        Object::Pod(pod) => pod,
        other => panic!("{other:?}"),
    }
}

fn is(key: &str, value: &str) -> Requirement {
    Requirement { key: key.into(), operator: Operator::In(vec![value.into()]) }
}

const fn isolated(isolation: &Isolation) -> Option<usize> {
    match isolation {
        Isolation::Open => None,
        Isolation::Isolated { rules } => Some(rules.len()),
    }
}

/// "If no `policyTypes` are specified on a NetworkPolicy then by default `Ingress` will always be set and `Egress`
/// will be set if the NetworkPolicy has any egress rules."
#[test]
fn policy_types_default() {
    for (spec, ingress, egress) in [
        ("", Some(0), None),
        ("spec:\n", Some(0), None),
        ("spec: {}\n", Some(0), None),
        ("spec: {policyTypes: []}\n", Some(0), None),
        ("spec: {policyTypes: null}\n", Some(0), None),
        ("spec: {egress: []}\n", Some(0), None),
        ("spec: {egress: [{}]}\n", Some(0), Some(1)),
        ("spec: {ingress: [{}], egress: [{}, {}]}\n", Some(1), Some(2)),
        ("spec: {policyTypes: [Egress]}\n", None, Some(0)),
        ("spec: {policyTypes: [Egress], ingress: [{}]}\n", None, Some(0)),
        ("spec: {policyTypes: [Ingress], egress: [{}]}\n", Some(0), None),
        ("spec: {policyTypes: [Egress, Ingress]}\n", Some(0), Some(0)),
    ] {
        let policy = policy(spec);
        assert_eq!((isolated(&policy.ingress), isolated(&policy.egress)), (ingress, egress), "{spec}");
        assert_eq!(policy.subjects, Selector::default(), "{spec}");
    }
}

#[test]
fn absent_and_empty_peers_and_ports_mean_any() {
    let Isolation::Isolated { rules } = policy(
        "spec:\n  ingress:\n  - {}\n  - from:\n    ports:\n  - from: []\n    ports: []\n  - ports: [{}]\n  - from: \
         [{podSelector: {}}]\n",
    )
    .ingress
    else {
        panic!("isolated")
    };
    assert!(rules[..3].iter().all(|rule| rule.peers == Peers::Any && rule.ports == Ports::Any));
    let all_tcp = PortMatch { protocol: Protocol::TCP, port: PortSet::All };
    assert_eq!(rules[3].ports, Ports::OneOf(vec![all_tcp]));
    let own = Peer::Pods { namespaces: Namespaces::SameAsPolicy, pods: Selector::default() };
    assert_eq!((&rules[4].peers, &rules[4].ports), (&Peers::OneOf(vec![own]), &Ports::Any));
}

#[test]
fn every_field_of_a_policy() {
    let text = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: everything
  namespace: shop
  labels: {app.kubernetes.io/part-of: shop}
  annotations: {note: \"free text, as long as it likes\"}
  uid: 5a8d6e3f-0000-4000-8000-000000000000
  resourceVersion: \"12\"
  generation: 1
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  managedFields:
  - manager: kubectl
spec:
  podSelector:
    matchLabels: {role: db}
    matchExpressions:
    - {key: tier, operator: NotIn, values: [test, \"no\"]}
    - {key: owner, operator: Exists}
    - {key: legacy, operator: DoesNotExist, values: []}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - namespaceSelector: {}
      podSelector: {matchLabels: {role: frontend}}
    - namespaceSelector: {matchLabels: {team: a}}
    ports:
    - port: 6379
    - {port: 8000, endPort: 8080, protocol: TCP}
    - {protocol: UDP, port: dns}
    - protocol: SCTP
  egress:
  - to:
    - ipBlock:
        cidr: 10.0.0.0/8
        except: [10.1.0.0/16, 10.2.3.0/24]
    - ipBlock: {cidr: \"fd00::/8\"}
status: {}
";
    let source: Arc<str> = Arc::from("f.yaml");
    let at = |line, column| Origin { source: Arc::clone(&source), line, column };
    let Object::NetworkPolicy(policy) = objects(text).remove(0) else { panic!("a policy") };
    assert_eq!(policy.name, ObjectName::new("shop", "everything"));
    assert_eq!(policy.origin, at(4, 9));
    let requirement = |key: &str, operator| Requirement { key: key.into(), operator };
    assert_eq!(
        policy.subjects.requirements,
        [
            is("role", "db"),
            requirement("tier", Operator::NotIn(vec!["test".into(), "no".into()])),
            requirement("owner", Operator::Exists),
            requirement("legacy", Operator::DoesNotExist),
        ]
    );
    let Isolation::Isolated { rules } = &policy.ingress else { panic!("isolated") };
    assert_eq!(rules[0].origin, at(23, 5));
    let selector = |requirement| Selector { requirements: vec![requirement] };
    assert_eq!(
        rules[0].peers,
        Peers::OneOf(vec![
            Peer::Pods {
                namespaces: Namespaces::Matching(Selector::default()),
                pods: selector(is("role", "frontend"))
            },
            Peer::Pods {
                namespaces: Namespaces::Matching(selector(is("team", "a"))),
                pods: Selector::default()
            },
        ])
    );
    let ports = [
        (Protocol::TCP, PortSet::Range(6379, 6379)),
        (Protocol::TCP, PortSet::Range(8000, 8080)),
        (Protocol::UDP, PortSet::Named("dns".into())),
        (Protocol::SCTP, PortSet::All),
    ];
    let ports = ports.into_iter().map(|(protocol, port)| PortMatch { protocol, port }).collect();
    assert_eq!(rules[0].ports, Ports::OneOf(ports));
    let Isolation::Isolated { rules } = &policy.egress else { panic!("isolated") };
    assert_eq!(rules[0].origin, at(33, 5));
    let block = |cidr: &str, except: &[&str]| {
        let except = except.iter().map(|e| e.parse().unwrap()).collect();
        Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except })
    };
    assert_eq!(
        rules[0].peers,
        Peers::OneOf(vec![block("10.0.0.0/8", &["10.1.0.0/16", "10.2.3.0/24"]), block("fd00::/8", &[])])
    );
}

#[test]
fn blocks_as_older_servers_stored_them() {
    for (cidr, meaning) in [
        ("10.0.0.5/8", "10.0.0.0/8"),
        ("010.000.001.000/24", "10.0.1.0/24"),
        ("\"::ffff:10.0.0.0/104\"", "10.0.0.0/8"),
    ] {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec:\n  egress:\n  - to:\n    - \
             ipBlock: {{cidr: {cidr}}}\n"
        );
        let parsed = parse("f.yaml", &text).unwrap();
        let warning = &parsed.warnings[0];
        assert_eq!((warning.code, warning.line, warning.column), ("ambiguous-cidr", 7, 23), "{cidr}");
        assert!(warning.message.ends_with(&format!("read as {meaning}")), "{warning}");
        let Object::NetworkPolicy(policy) = &parsed.objects[0].object else { panic!("a policy") };
        let Isolation::Isolated { rules } = &policy.egress else { panic!("isolated") };
        let block = IpBlock { cidr: meaning.parse().unwrap(), except: vec![] };
        assert_eq!(rules[0].peers, Peers::OneOf(vec![Peer::Block(block)]), "{cidr}");
    }
}

#[test]
fn a_pod_as_kubectl_prints_it() {
    let text = "apiVersion: v1
items:
- apiVersion: v1
  kind: Pod
  metadata:
    creationTimestamp: \"2026-01-01T00:00:00Z\"
    labels: {app: web, \"y\": \"1\"}
    name: web-0
    namespace: shop
    uid: 0c1d
  spec:
    nodeName: node-a
    hostNetwork: false
    containers:
    - name: web
      image: web
      ports:
      - {containerPort: 8080, name: http, protocol: TCP}
      - {containerPort: 8443}
      - {containerPort: 5353, name: dns, protocol: UDP}
    - name: other
      ports: [{containerPort: 8081, name: http}]
    initContainers:
    - name: setup
      ports: [{containerPort: 1, name: gone}]
    - name: proxy
      restartPolicy: Always
      ports: [{containerPort: 15001, name: mesh}]
    unheardOf: {field: [1, 2]}
  status:
    phase: Running
    podIP: 10.0.0.9
    podIPs:
    - ip: 10.0.0.9
    - ip: fd00::9
    startTime: \"2026-01-01T00:00:01Z\"
kind: List
metadata:
  resourceVersion: \"\"
";
    let pod = pod(text);
    assert_eq!(pod.name, ObjectName::new("shop", "web-0"));
    assert_eq!((pod.uid.as_str(), pod.node.as_str(), pod.host_network), ("0c1d", "node-a", false));
    assert_eq!(pod.labels.get("y").map(String::as_str), Some("1"));
    assert_eq!((pod.phase, pod.started.as_str()), (Phase::Running, "2026-01-01T00:00:01Z"));
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.9", "fd00::9"]);
    let port = |name: &str, protocol, number| NamedPort { name: name.into(), protocol, number };
    assert_eq!(
        pod.ports,
        [
            port("http", Protocol::TCP, 8080),
            port("dns", Protocol::UDP, 5353),
            port("http", Protocol::TCP, 8081),
            port("mesh", Protocol::TCP, 15001),
        ]
    );
}

#[test]
fn a_terminating_pod_still_counts() {
    let pod = pod(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: web}, deletionTimestamp: '2026-01-01T00:00:00Z', \
         deletionGracePeriodSeconds: 30}\nspec: {nodeName: node-a}\nstatus: {phase: Running, podIPs: [{ip: 10.0.0.1}]}\n",
    );
    assert_eq!((pod.addresses.len(), pod.phase, pod.labels.len()), (1, Phase::Running, 1));
}

#[test]
fn phases_of_a_pod() {
    for (phase, meaning) in [
        ("Pending", Phase::Pending),
        ("Running", Phase::Running),
        ("Unknown", Phase::Running),
        ("Succeeded", Phase::Ended),
        ("Failed", Phase::Ended),
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nstatus: {{phase: {phase}}}\n");
        assert_eq!(pod(&text).phase, meaning, "{phase}");
    }
}

/// An empty value is a value; YAML's null is the empty text here, and deserves a word.
#[test]
fn an_empty_label_value_is_a_value() {
    for (value, warned) in [("\"\"", 0), ("", 1)] {
        let text = format!("spec:\n  podSelector:\n    matchLabels: {{tier: {value}}}\n");
        assert_eq!(policy(&text).subjects.requirements, [is("tier", "")]);
        let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n";
        assert_eq!(parse("f.yaml", &format!("{head}{text}")).unwrap().warnings.len(), warned);
    }
}

#[test]
fn a_pod_with_little() {
    let pod =
        pod("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1, phase: Failed}\n");
    assert_eq!(pod.name, ObjectName::new("default", "a"));
    assert_eq!((pod.addresses, pod.phase), (vec![Address::v4([10, 0, 0, 1])], Phase::Ended));
}

#[test]
fn nodes_namespaces_and_lists_of_one_kind() {
    let text = "apiVersion: v1
kind: NodeList
items:
- metadata: {name: node-a}
  status:
    addresses:
    - {type: Hostname, address: node-a}
    - {type: InternalIP, address: 192.168.0.1}
    - {type: ExternalIP, address: \"fd00::1\"}
---
apiVersion: v1
kind: Namespace
metadata:
  name: \"y\"
  labels: {kubernetes.io/metadata.name: \"y\"}
";
    let objects = objects(text);
    let Object::Node(node) = &objects[0] else { panic!("a node") };
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!((node.name.as_str(), addresses), ("node-a", vec!["192.168.0.1".into(), "fd00::1".into()]));
    let Object::Namespace(namespace) = &objects[1] else { panic!("a namespace") };
    assert_eq!((namespace.name.as_str(), namespace.labels.len()), ("y", 1));
}

#[test]
fn other_kinds_are_passed_over_with_a_word() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n---\napiVersion: cilium.io/v2\nkind: \
                CiliumNetworkPolicy\nspec: {anything: [goes]}\n";
    let parsed = parse("f.yaml", text).unwrap();
    assert!(parsed.objects.is_empty());
    let said: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "f.yaml:2:7: warning[ignored-kind]: objects of kind \"Service\" are ignored",
            "f.yaml:6:7: warning[ignored-kind]: objects of kind \"CiliumNetworkPolicy\" are ignored",
        ]
    );
}

#[test]
fn json_and_aliases_and_byte_order_marks() {
    let json = "\u{feff}{\n\t\"apiVersion\": \"v1\", \"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"x\"}\n}\n";
    assert_eq!(objects(json)[0].name(), "x");
    let aliases = policy(
        "spec:\n  podSelector: &web {matchLabels: {app: web}}\n  ingress:\n  - from: [{podSelector: *web}]\n",
    );
    assert_eq!(aliases.subjects.requirements, [is("app", "web")]);
    let Isolation::Isolated { rules } = aliases.ingress else { panic!("isolated") };
    let peer = Peer::Pods { namespaces: Namespaces::SameAsPolicy, pods: aliases.subjects };
    assert_eq!(rules[0].peers, Peers::OneOf(vec![peer]));
}

/// What tutorials mean by their examples, written as the API wants it.
#[test]
fn examples_from_tutorials_corrected() {
    let blue = Selector { requirements: vec![is("color", "blue")] };
    let red = Selector { requirements: vec![is("color", "red")] };
    let port_80 = Ports::OneOf(vec![PortMatch { protocol: Protocol::TCP, port: PortSet::Range(80, 80) }]);
    let allow = policy(
        "spec:\n  podSelector:\n    matchLabels: {\"color\": \"blue\"}\n  ingress:\n  - from:\n    - podSelector: \
         {matchLabels: {\"color\": \"red\"}}\n      namespaceSelector: {matchLabels: {\"something\": \"else\"}}\n    \
         ports:\n    - port: 80\n",
    );
    assert_eq!((&allow.subjects, &allow.egress), (&blue, &Isolation::Open));
    let Isolation::Isolated { rules } = allow.ingress else { panic!("isolated") };
    let elsewhere = Namespaces::Matching(Selector { requirements: vec![is("something", "else")] });
    assert_eq!(rules[0].peers, Peers::OneOf(vec![Peer::Pods { namespaces: elsewhere, pods: red }]));
    assert_eq!(rules[0].ports, port_80);
    let deny =
        policy("spec:\n  podSelector:\n    matchLabels: {}\n  policyTypes:\n  - Ingress\n  - Egress\n");
    assert_eq!((isolated(&deny.ingress), isolated(&deny.egress)), (Some(0), Some(0)));
    assert_eq!(deny.subjects, Selector::default());
    let inns = policy(
        "spec:\n  podSelector:\n    matchExpressions:\n    - {key: inns, operator: In, values: [\"yes\"]}\n",
    );
    assert_eq!(inns.subjects.requirements, [is("inns", "yes")]);
}
