//! `explain` and `reach` against the oracle, on random clusters.

use std::collections::HashMap;

use clap::Parser;
use flow::Verdict;
use policy::{Connection, evaluate};
use portcullis::cli::{Cli, Command};
use portcullis::explain::{Half, explain};
use portcullis::offline::{Offline, PortSpec};
use portcullis::reach::answer;
use proptest::prelude::*;
use serde_json::Value;
use testkit::arbitrary::clusters;

fn typed(line: &str) -> Command {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

fn addresses(offline: &Offline) -> HashMap<String, Vec<flow::Address>> {
    offline.pods().map(|(name, addresses)| (name.to_string(), addresses.to_vec())).collect()
}

/// Whether what `explain` says of a side is what the oracle says.
fn agrees(half: &Half, side: &policy::Side, direction: &str) -> bool {
    match (half, side) {
        (Half::Open | Half::NoPod, policy::Side::Open) | (Half::Exempt, policy::Side::Exempt) => true,
        (Half::AllowedBy(rule), policy::Side::AllowedBy { policy, rule: index }) => {
            rule.name == format!("{policy} {direction}[{index}]")
        }
        (Half::Isolated { policies, .. }, policy::Side::Isolated { policies: expected }) => {
            policies.iter().map(|policy| policy.name.clone()).eq(expected.iter().map(ToString::to_string))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reach_says_what_the_oracle_says(cluster in clusters()) {
        let offline = Offline::new(cluster.clone()).unwrap();
        let pods = addresses(&offline);
        let Command::Reach(args) = typed(
            "portcullis reach -f - --family both --ports 80,53/UDP --external 192.0.2.1,2001:db8::1 -o json",
        ) else { panic!("it is reach") };
        let text = answer(&offline, &args).unwrap();
        let parsed: Value = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(&parsed["schema"], "portcullis.reach/v1");
        let entries = parsed["entries"].as_array().unwrap();

        let mut expected = 0;
        let ends: Vec<_> = pods.values().cloned().chain(
            ["192.0.2.1", "2001:db8::1"].map(|ip| vec![ip.parse::<std::net::IpAddr>().unwrap().into()]),
        ).collect();
        for (from, sources) in ends.iter().enumerate() {
            for (to, destinations) in ends.iter().enumerate() {
                if from == to || from.min(to) >= pods.len() {
                    continue;
                }
                for v4 in [true, false] {
                    let has = |addresses: &[flow::Address]| addresses.iter().any(|address| address.is_v4() == v4);
                    expected += 2 * usize::from(has(sources) && has(destinations));
                }
            }
        }
        prop_assert_eq!(entries.len(), expected);

        for entry in entries {
            let v4 = entry["family"] == 4;
            let end = |name: &str| match pods.get(name) {
                Some(addresses) => *addresses.iter().find(|address| address.is_v4() == v4).unwrap(),
                None => name.parse::<std::net::IpAddr>().unwrap().into(),
            };
            let (from, to) = (entry["from"].as_str().unwrap(), entry["to"].as_str().unwrap());
            let text = format!("{}/{}", entry["port"], entry["protocol"].as_str().unwrap());
            let port: PortSpec = text.parse().unwrap();
            let connection =
                Connection { src: end(from), dst: end(to), protocol: port.protocol, port: port.port };
            let decision = evaluate(&cluster, &connection);
            let allowed = decision.verdict() == Verdict::Allow;
            prop_assert_eq!(&entry["verdict"], if allowed { "allow" } else { "deny" }, "{:?}", connection);
            for (side, direction) in [(&decision.egress, "egress"), (&decision.ingress, "ingress")] {
                let named = match side {
                    policy::Side::AllowedBy { policy, rule } if allowed => {
                        vec![format!("{policy} {direction}[{rule}]")]
                    }
                    policy::Side::Isolated { policies } => {
                        policies.iter().map(|policy| format!("{policy} {direction}")).collect()
                    }
                    _ => Vec::new(),
                };
                let rule = entry["rule"].as_str().unwrap_or_default();
                prop_assert!(named.iter().all(|name| rule.split(", ").any(|one| one == name)), "{}", entry);
            }
        }
    }

    #[test]
    fn explain_says_what_the_oracle_says(cluster in clusters()) {
        let offline = Offline::new(cluster.clone()).unwrap();
        let pods = addresses(&offline);
        for (from, to) in pods.keys().flat_map(|from| pods.keys().map(move |to| (from, to))) {
            let line = format!("portcullis explain -f - --from {from} --to {to} --port 80");
            let Command::Explain(args) = typed(&line) else { panic!("it is explain") };
            // Ends without a common family have no connection.
            let Ok(explained) = explain(&offline, &args) else { continue };
            let parsed: Value = serde_json::from_str(&explained.json()).unwrap();
            let v4 = parsed["family"] == 4;
            let end = |name: &String| *pods[name].iter().find(|address| address.is_v4() == v4).unwrap();
            let connection =
                Connection { src: end(from), dst: end(to), protocol: flow::Protocol::TCP, port: 80 };
            let decision = evaluate(&cluster, &connection);
            prop_assert_eq!(explained.verdict, decision.verdict());
            prop_assert!(agrees(&explained.egress, &decision.egress, "egress"), "{:?} {:?}", explained, decision);
            prop_assert!(agrees(&explained.ingress, &decision.ingress, "ingress"), "{:?} {:?}", explained, decision);
            for half in [&explained.egress, &explained.ingress] {
                if let Half::Isolated { nearest: Some(miss), .. } = half {
                    prop_assert!(!(miss.peer_matches && miss.port_matches), "{:?} would allow", miss);
                }
            }
        }
    }
}
