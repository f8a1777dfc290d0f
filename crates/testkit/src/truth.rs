//! Who reaches whom, drawn as a table.

use std::fmt::Write as _;

use flow::{Address, Verdict};
use policy::Connection;
use policy::model::Cluster;

use crate::cluster::{address, object_name, service_of};

/// Holds a drawn table against `judge`, for one protocol and destination port such as `TCP/80` or `ICMP`.
///
/// The first line names the destinations, each further line a source and its cells: `.` for allowed, `X` for
/// denied. A name is `namespace/pod` (its first address) or an address.
///
/// ```text
///             x/a  x/b  192.0.2.1
/// x/a         .    X    .
/// 192.0.2.1   X    X    .
/// ```
///
/// # Panics
///
/// When a cell differs, with the table as it is; also when the text cannot be read.
pub fn assert_truth(cluster: &Cluster, service: &str, judge: impl Fn(&Connection) -> Verdict, drawn: &str) {
    let (protocol, port) = service_of(service);
    let mut lines = drawn.lines().map(str::trim).filter(|line| !line.is_empty());
    let destinations: Vec<&str> = lines.next().expect("a line of destinations").split_whitespace().collect();
    let mut expected = String::new();
    let mut observed = String::new();
    for line in lines {
        let (source, cells) = line.split_once(' ').expect("a source and its cells");
        let cells: Vec<&str> = cells.split_whitespace().collect();
        assert_eq!(cells.len(), destinations.len(), "a cell for each destination: {line}");
        for (cell, destination) in cells.into_iter().zip(&destinations) {
            assert!(matches!(cell, "." | "X"), "neither . nor X: {line}");
            let src = locate(cluster, source);
            let dst = locate(cluster, destination);
            let verdict = judge(&Connection { src, dst, protocol, port });
            let seen = if verdict == Verdict::Allow { "." } else { "X" };
            writeln!(expected, "{source} -> {destination} {service}  {cell}").expect("a string grows");
            writeln!(observed, "{source} -> {destination} {service}  {seen}").expect("a string grows");
        }
    }
    assert_eq!(observed, expected, "observed on the left, drawn on the right");
}

fn locate(cluster: &Cluster, name: &str) -> Address {
    if !name.contains('/') {
        return address(name);
    }
    let wanted = object_name(name);
    let pod = cluster.pods.iter().find(|pod| pod.name == wanted);
    let Some(&first) = pod.and_then(|pod| pod.addresses.first()) else { panic!("no address of {name}") };
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::cluster;

    fn two_pods() -> Cluster {
        cluster().pod("x/a", "10.0.0.1", "").pod("x/b", "10.0.0.2", "").build()
    }

    /// Only what goes to x/b passes.
    fn to_b(connection: &Connection) -> Verdict {
        if connection.dst == address("10.0.0.2") { Verdict::Allow } else { Verdict::Deny }
    }

    #[test]
    fn a_true_table_holds() {
        assert_truth(
            &two_pods(),
            "TCP/80",
            to_b,
            "           x/a  x/b
            x/a        X    .
            192.0.2.1  X    .",
        );
    }

    #[test]
    #[should_panic(expected = "observed on the left")]
    fn one_wrong_cell_is_seen() {
        assert_truth(
            &two_pods(),
            "TCP/80",
            to_b,
            "     x/a  x/b
            x/a  X    X",
        );
    }
}
