//! What the offline commands share: objects from files, the table that the workers would use, and what people call
//! its endpoints and ports.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::anyhow;
use clap::ValueEnum;
use compiler::{Scope, compile};
use control::{Diagnostic, Source};
use flow::{Address, FlowKey, Protocol};
use policy::model::{Cluster, ObjectName, Phase, Pod};
use table::PolicyTable;

use crate::exit::{Failure, usage};

/// What standard input is called in messages and positions.
const STDIN: &str = "stdin";
/// The source port of the connections that are asked about; no policy looks at it.
const CLIENT_PORT: u16 = 40_000;
/// Most names that an error suggests.
const SUGGESTIONS: usize = 5;

/// A cluster, and the table that answers for all of its pods.
#[derive(Debug)]
pub struct Offline {
    cluster: Cluster,
    table: PolicyTable,
    /// The pods' addresses, the first of `status.podIPs` first, by name.
    pods: BTreeMap<ObjectName, Vec<Address>>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A pod.
    Pod(ObjectName),
    /// An address that is no pod's.
    External(IpAddr),
}

/// Which address families are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Families {
    /// IPv4.
    #[value(name = "4")]
    V4,
    /// IPv6.
    #[value(name = "6")]
    V6,
    /// Each family that both ends have.
    Both,
}

/// A protocol and its destination port, written `80`, `80/TCP`, `53/UDP` or `9000/SCTP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSpec {
    /// TCP, UDP or SCTP; TCP where nothing else is said.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl Offline {
    /// Reads files, the manifests of folders, and standard input where a path is `-`. Warnings go to the log.
    ///
    /// # Errors
    ///
    /// Exit code 2, with everything that is wrong with any of them.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Failure> {
        let (mut sources, mut warnings) = (Vec::new(), Vec::new());
        let mut stdin_read = false;
        for path in paths {
            if path.as_os_str() != "-" {
                let read = control::read(std::slice::from_ref(path));
                let files = read.map_err(|errors| refused(&errors, &[]))?;
                sources.extend(files.sources);
                warnings.extend(files.warnings);
            } else if !std::mem::replace(&mut stdin_read, true) {
                let read = Source::from_stream(STDIN, io::stdin().lock());
                sources.push(read.map_err(|error| refused(&[error], &[]))?);
            }
        }
        let loaded = control::assemble(&sources).map_err(|errors| refused(&errors, &sources))?;
        for warning in warnings.iter().chain(&loaded.warnings) {
            tracing::warn!("{warning}");
        }
        if let Some(source) = sources.first().filter(|_| loaded.cluster == Cluster::default()) {
            return Err(refused(&[control::no_objects(&source.name)], &[]));
        }
        Self::new(loaded.cluster)
    }

    /// Compiles a cluster as the workers' table is compiled, for all of its pods.
    ///
    /// # Errors
    ///
    /// Exit code 2 when the table would be too large.
    pub fn new(cluster: Cluster) -> Result<Self, Failure> {
        let table = compile(&cluster, &Scope::AllPods).map_err(usage)?;
        let owners = cluster.owners();
        let mut pods: BTreeMap<ObjectName, Vec<Address>> = BTreeMap::new();
        for (index, pod) in cluster.pods.iter().enumerate() {
            let addresses = if pod.host_network {
                host_addresses(&cluster, pod)
            } else {
                let owned = |address: &&Address| owners.get(address) == Some(&index);
                pod.addresses.iter().filter(owned).copied().collect()
            };
            pods.entry(pod.name.clone()).or_default().extend(addresses);
        }
        Ok(Self { cluster, table, pods })
    }

    /// The objects.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &PolicyTable {
        &self.table
    }

    /// All pods with their addresses, by name. A pod that has ended, or whose addresses a newer pod has, has none. A
    /// pod in its node's network has those of the node.
    pub fn pods(&self) -> impl Iterator<Item = (&ObjectName, &[Address])> {
        self.pods.iter().map(|(name, addresses)| (name, addresses.as_slice()))
    }

    /// Reads `namespace/pod` or an address; the address of a pod means that pod.
    ///
    /// # Errors
    ///
    /// Exit code 2 when there is no such pod, with what may have been meant.
    pub fn endpoint(&self, text: &str) -> Result<Endpoint, Failure> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            // An IPv4-mapped address is the IPv4 address.
            let address = Address::from(ip);
            return Ok(match self.table.pod_of(address) {
                Some(pod) => Endpoint::Pod(ObjectName::new(&pod.name().namespace, &pod.name().name)),
                None => Endpoint::External(address.ip()),
            });
        }
        let Some((namespace, name)) = text.split_once('/') else {
            let found = self.pods.keys().filter(|pod| pod.name == text);
            let hint = suggestion(found.map(ToString::to_string));
            return Err(usage(anyhow!("`{text}` is neither namespace/pod nor an address{hint}")));
        };
        let wanted = ObjectName::new(namespace, name);
        if self.pods.contains_key(&wanted) { Ok(Endpoint::Pod(wanted)) } else { Err(self.unknown(&wanted)) }
    }

    /// The addresses of an endpoint, its first one first.
    #[must_use]
    pub fn addresses(&self, endpoint: &Endpoint) -> Vec<Address> {
        match endpoint {
            Endpoint::Pod(name) => self.pods.get(name).cloned().unwrap_or_default(),
            Endpoint::External(ip) => vec![Address::from(*ip)],
        }
    }

    /// From which address to which a connection goes, once for each family asked about. Without a wish: in the family
    /// of the source's first address, or in the other one where the ends share only that.
    ///
    /// # Errors
    ///
    /// Exit code 2 when the ends share no such family.
    pub fn routes(
        &self,
        from: &Endpoint,
        to: &Endpoint,
        families: Option<Families>,
    ) -> Result<Vec<(Address, Address)>, Failure> {
        let (sources, destinations) = (self.addresses(from), self.addresses(to));
        for (endpoint, addresses) in [(from, &sources), (to, &destinations)] {
            if addresses.is_empty() {
                return Err(usage(anyhow!("{endpoint} has no address: {}", self.why_no_address(endpoint))));
            }
        }
        let found = routes(&sources, &destinations, families);
        if found.is_empty() {
            let family = match families {
                Some(Families::V4) => "no IPv4 address each",
                Some(Families::V6) => "no IPv6 address each",
                Some(Families::Both) | None => "no address family in common",
            };
            return Err(usage(anyhow!(
                "{from} and {to} have {family}: no connection between them can exist"
            )));
        }
        Ok(found)
    }

    fn why_no_address(&self, endpoint: &Endpoint) -> &'static str {
        let Endpoint::Pod(name) = endpoint else { return "it is none" };
        let pod = self.cluster.pods.iter().find(|pod| pod.name == *name);
        match pod {
            Some(pod) if pod.phase == Phase::Ended => "it has ended",
            Some(pod) if pod.addresses.is_empty() => "its status.podIPs is empty",
            _ => "a newer pod has the same one",
        }
    }

    fn unknown(&self, wanted: &ObjectName) -> Failure {
        let known: Vec<String> = self.pods.keys().map(ToString::to_string).collect();
        let close =
            manifest::closest(&wanted.to_string(), &known.iter().map(String::as_str).collect::<Vec<_>>());
        let namesakes = self.pods.keys().filter(|pod| pod.name == wanted.name);
        let neighbours = self.pods.keys().filter(|pod| pod.namespace == wanted.namespace);
        let mut meant: Vec<String> = close.into_iter().map(str::to_owned).collect();
        for name in namesakes.chain(neighbours).map(ToString::to_string) {
            if !meant.contains(&name) {
                meant.push(name);
            }
        }
        usage(anyhow!("there is no pod {wanted}{}", suggestion(meant.into_iter())))
    }
}

/// The addresses that a pod in its node's network has: its node's.
fn host_addresses(cluster: &Cluster, pod: &Pod) -> Vec<Address> {
    match pod.phase {
        Phase::Ended => Vec::new(),
        _ if pod.addresses.is_empty() => cluster.node_addresses(&pod.node).collect(),
        _ => pod.addresses.clone(),
    }
}

/// From which of `sources` to which of `destinations`, once for each family.
pub(crate) fn routes(
    sources: &[Address],
    destinations: &[Address],
    families: Option<Families>,
) -> Vec<(Address, Address)> {
    let first = |addresses: &[Address], v4| addresses.iter().copied().find(|address| address.is_v4() == v4);
    let within = |v4| Some((first(sources, v4)?, first(destinations, v4)?));
    let primary = sources.first().is_none_or(|address| address.is_v4());
    let (wanted, most) = match families {
        Some(Families::V4) => ([Some(true), None], 1),
        Some(Families::V6) => ([Some(false), None], 1),
        Some(Families::Both) => ([Some(true), Some(false)], 2),
        None => ([Some(primary), Some(!primary)], 1),
    };
    wanted.into_iter().flatten().filter_map(within).take(most).collect()
}

/// The key of a new connection.
#[must_use]
pub fn key((src, dst): (Address, Address), service: PortSpec) -> FlowKey {
    FlowKey::new(service.protocol, (src, CLIENT_PORT), (dst, service.port))
}

fn suggestion(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(SUGGESTIONS).collect();
    match names.split_last() {
        None => String::new(),
        Some((only, [])) => format!(": did you mean {only}?"),
        Some((last, others)) => format!(": did you mean {} or {last}?", others.join(", ")),
    }
}

/// Diagnostics with the lines that they are about.
fn refused(errors: &[Diagnostic], sources: &[Source]) -> Failure {
    let rendered = errors.iter().map(|error| {
        let source = sources.iter().find(|source| *source.name == *error.source);
        let text = source.map_or_else(Default::default, |source| String::from_utf8_lossy(&source.bytes));
        error.render(&text)
    });
    usage(anyhow!("{}", rendered.collect::<Vec<_>>().join("\n").trim_end().to_owned()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::External(ip) => ip.fmt(f),
        }
    }
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (port, protocol_of(protocol)?),
            None => (text, Protocol::TCP),
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port @ 1..) if digits => Ok(Self { protocol, port }),
            _ => Err(format!("`{port}` is no port: a number from 1 to 65535 is, as in 80, 80/TCP or 53/UDP")),
        }
    }
}

/// A protocol that has ports, by its name in whatever case.
pub(crate) fn protocol_of(name: &str) -> Result<Protocol, String> {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP]
        .into_iter()
        .find(|protocol| protocol.to_string().eq_ignore_ascii_case(name))
        .ok_or_else(|| format!("`{name}` is no protocol with ports: TCP, UDP and SCTP are"))
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::cluster::cluster;

    fn offline() -> Offline {
        Offline::new(
            cluster()
                .pod("x/a", "10.0.0.1 fd00::1", "")
                .pod("x/b", "fd00::2", "")
                .pod("y/a", "10.0.0.3", "")
                .build(),
        )
        .unwrap()
    }

    #[test]
    fn an_address_of_a_pod_means_the_pod() {
        let offline = offline();
        let pod = Endpoint::Pod(ObjectName::new("x", "a"));
        for text in ["x/a", "10.0.0.1", "fd00::1", "::ffff:10.0.0.1"] {
            assert_eq!(offline.endpoint(text).unwrap(), pod, "{text}");
        }
        let external = Endpoint::External("192.0.2.1".parse().unwrap());
        assert_eq!(offline.endpoint("192.0.2.1").unwrap(), external);
    }

    #[test]
    fn who_is_unknown_gets_suggestions_and_exit_code_2() {
        let offline = offline();
        for (text, message) in [
            ("z/a", "there is no pod z/a: did you mean x/a or y/a?"),
            ("y/b", "there is no pod y/b: did you mean x/b or y/a?"),
            ("a", "`a` is neither namespace/pod nor an address: did you mean x/a or y/a?"),
            ("nobody", "`nobody` is neither namespace/pod nor an address"),
        ] {
            let failure = offline.endpoint(text).unwrap_err();
            assert_eq!((failure.code, failure.to_string().as_str()), (2, message));
        }
    }

    #[test]
    fn a_route_stays_in_one_family() {
        let offline = offline();
        let routes = |from: &str, to: &str, families| {
            let (from, to) = (offline.endpoint(from).unwrap(), offline.endpoint(to).unwrap());
            offline.routes(&from, &to, families).map(|routes| {
                routes.iter().map(|(src, dst)| format!("{src} {dst}")).collect::<Vec<_>>().join(", ")
            })
        };
        assert_eq!(routes("x/a", "y/a", None).unwrap(), "10.0.0.1 10.0.0.3");
        assert_eq!(routes("x/a", "x/b", None).unwrap(), "fd00::1 fd00::2", "the only one that they share");
        assert_eq!(routes("x/a", "x/a", Some(Families::Both)).unwrap(), "10.0.0.1 10.0.0.1, fd00::1 fd00::1");
        assert_eq!(routes("x/a", "2001:db8::1", None).unwrap(), "fd00::1 2001:db8::1");
        assert_eq!(routes("y/a", "x/b", None).unwrap_err().code, 2);
        assert_eq!(routes("x/a", "y/a", Some(Families::V6)).unwrap_err().code, 2);
    }

    #[test]
    fn ports_are_written_as_people_write_them() {
        let port = |text: &str| text.parse::<PortSpec>().map(|port| port.to_string());
        assert_eq!(port("80").unwrap(), "80/TCP");
        assert_eq!(port("53/udp").unwrap(), "53/UDP");
        assert_eq!(port("9000/SCTP").unwrap(), "9000/SCTP");
        for wrong in ["", "0", "65536", "-1", "+80", "http", "80/ICMP", "80/", "/TCP", "80/TCP/UDP"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }
}
