//! What the lab writes for its agent, held against what it was written from, on random clusters.

use control::{Source, assemble};
use policy::evaluate;
use policy::model::{Cluster, IpBlock, Isolation, Peer, Peers, PortSet, Ports, Rule};
use proptest::prelude::*;
use testkit::arbitrary::clusters_with_connections;

/// Without what no API server ever took: holes that are not in their block, and port zero.
fn as_the_api_takes_it(mut cluster: Cluster) -> Cluster {
    let sides = cluster.policies.iter_mut().flat_map(|policy| [&mut policy.ingress, &mut policy.egress]);
    let rules = sides.filter_map(|side| match side {
        Isolation::Isolated { rules } => Some(rules),
        Isolation::Open => None,
    });
    for Rule { peers, ports, .. } in rules.flatten() {
        if let Peers::OneOf(peers) = peers {
            for peer in peers {
                if let Peer::Block(IpBlock { cidr, except }) = peer {
                    except.retain(|hole| cidr.contains(hole) && cidr != hole);
                }
            }
        }
        if let Ports::OneOf(ports) = ports {
            for port in ports {
                if let PortSet::Range(first, last) = &mut port.port {
                    (*first, *last) = ((*first).max(1), (*last).max(1));
                }
            }
        }
    }
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_and_read_again_a_cluster_means_the_same((cluster, connections) in clusters_with_connections(30)) {
        let cluster = as_the_api_takes_it(cluster);
        let text = lab::manifests(&cluster);
        let source = Source { name: "written.yaml".to_owned(), bytes: text.clone().into_bytes() };
        let read = assemble(&[source]).map_err(|errors| TestCaseError::fail(format!("{}\n{text}", errors[0])))?;
        for connection in &connections {
            let (before, after) = (evaluate(&cluster, connection), evaluate(&read.cluster, connection));
            prop_assert_eq!(after, before, "{:?}\n{}", connection, text);
        }
    }
}
