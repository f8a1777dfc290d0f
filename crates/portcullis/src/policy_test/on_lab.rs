//! Questions on real packets: pods in network namespaces, an agent that enforces between them, and probes.
//!
//! One agent lives through all tests of the same pods, and meets each step as a change of the step before: what
//! it then enforces must not depend on how it came there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use flow::{Address, Protocol, Verdict};
use lab::{Host, Lab, Outcome, Place, Probe, Servers, Topology, Transport, manifests, probe_all};
use policy::Connection;
use policy::model::{Cluster, Labels, Namespace};

use crate::lab_agent::{AgentHome, LabAgent};

/// Longer than any answer takes on a quiet machine, and short for what never comes.
const TIMEOUT: Duration = Duration::from_millis(350);
/// What should have come and has not is asked again, with more patience: a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(3);
/// A namespace without pods that is another one in each step, so that no step looks like the one before.
const MARKER: &str = "portcullis-lab-step";

/// What became of one connection on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Its destination, and nobody else, answered.
    Reached,
    /// Nothing came back, as when a packet is dropped.
    Silence,
    /// Something else: a refusal, or an answer from somebody who was not asked.
    Other(String),
    /// It cannot be tried between network namespaces, and why.
    Untried(&'static str),
}

impl Observed {
    /// Whether this is what a verdict looks like on the wire.
    #[must_use]
    pub fn agrees_with(&self, verdict: Verdict) -> bool {
        match self {
            Self::Reached => verdict == Verdict::Allow,
            Self::Silence => verdict == Verdict::Deny,
            Self::Other(_) => false,
            Self::Untried(_) => true,
        }
    }
}

/// What a lab must hold for tests that are to run in it.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// External addresses that connections come from or go to, among others.
    pub addresses: BTreeSet<Address>,
    /// Where connections go to.
    pub served: BTreeMap<Address, BTreeSet<u16>>,
}

impl Needs {
    /// Adds what a connection needs.
    pub fn add(&mut self, connection: &Connection) {
        self.addresses.extend([connection.src, connection.dst]);
        self.served.entry(connection.dst).or_default().insert(connection.port);
    }
}

/// The pods and addresses by which one lab is told from another: names, addresses and the node.
#[must_use]
pub fn key(cluster: &Cluster) -> String {
    let topology = topology("", cluster, &BTreeSet::new());
    let mut pods: Vec<_> = topology.pods.iter().map(|pod| (&pod.name, &pod.addresses)).collect();
    pods.sort();
    format!("{:?}{pods:?}", topology.node)
}

/// A lab with servers everywhere and an agent that enforces.
#[derive(Debug)]
pub struct OnLab {
    lab: Lab,
    agent: Option<LabAgent>,
    home: AgentHome,
    binary: PathBuf,
    folder: PathBuf,
    places: BTreeMap<IpAddr, Place>,
    step: u64,
    _servers: Vec<Servers>,
}

impl OnLab {
    /// Builds a lab for the pods of a cluster, all of them local, and the external addresses of `needs`; starts
    /// servers, and an agent (`binary`) that enforces the policies of the cluster.
    ///
    /// # Errors
    ///
    /// Without root, for pods that cannot have namespaces of their own, and when the agent does not start.
    pub fn up(binary: &Path, cluster: &Cluster, needs: &Needs) -> Result<Self> {
        let topology = topology(&Lab::unique(), cluster, &needs.addresses);
        let lab = Lab::up(&topology)?;
        let mut places = BTreeMap::new();
        let mut groups: BTreeMap<Vec<u16>, Vec<Place>> = BTreeMap::new();
        for place in topology.places() {
            let mut ports = BTreeSet::new();
            for address in topology.addresses(&place) {
                ports.extend(needs.served.get(&Address::from(address)).into_iter().flatten());
                places.insert(address, place.clone());
            }
            groups.entry(ports.into_iter().collect()).or_default().push(place);
        }
        let servers = groups.iter().filter(|(ports, _)| !ports.is_empty());
        let servers: Result<Vec<_>, _> =
            servers.map(|(ports, places)| Servers::start_at(&lab, places, ports)).collect();
        let folder = std::env::temp_dir().join(format!("portcullis-{}", lab.name()));
        let home = AgentHome::new(&folder, binary, &lab, true, "")?;
        let binary = binary.to_owned();
        let mut on_lab = Self { lab, agent: None, home, binary, folder, places, step: 0, _servers: servers? };
        on_lab.put(cluster)?;
        let agent = on_lab.agent.insert(on_lab.home.start(&on_lab.lab)?);
        agent.wait_until_ready()?;
        Ok(on_lab)
    }

    /// Puts the objects of a cluster in the place of those before, and waits until they are in force.
    ///
    /// # Errors
    ///
    /// When the agent does not take them.
    pub fn enforce(&mut self, cluster: &Cluster) -> Result<()> {
        let before = generation(self.agent()?)?;
        self.put(cluster)?;
        let agent = self.agent.as_mut().context("the agent has ended")?;
        agent.wait_until("does not take the manifests", |figures| {
            figures.get(GENERATION).is_some_and(|generation| *generation > before)
        })
    }

    /// Tries connections, all at once. `verdicts` are what is expected of them, in the same order: what should
    /// arrive is given a second chance when it does not.
    ///
    /// # Errors
    ///
    /// For a source that is not in this lab, and when sockets run out.
    pub fn ask(&self, connections: &[Connection], verdicts: &[Verdict]) -> Result<Vec<Observed>> {
        let mut observed: Vec<Option<Observed>> = connections.iter().map(untried).collect();
        for (timeout, again) in [(TIMEOUT, false), (PATIENCE, true)] {
            let open = |(at, observed): (usize, &Option<Observed>)| match observed {
                None => Some(at),
                Some(Observed::Silence) if again && verdicts[at] == Verdict::Allow => Some(at),
                Some(_) => None,
            };
            let open: Vec<usize> = observed.iter().enumerate().filter_map(open).collect();
            let probes: Result<Vec<Probe>> = open.iter().map(|&at| self.probe(&connections[at])).collect();
            let outcomes = if open.is_empty() { Vec::new() } else { probe_all(&self.lab, &probes?, timeout)? };
            for (at, outcome) in open.into_iter().zip(outcomes) {
                observed[at] = Some(self.observed(&connections[at], &outcome));
            }
        }
        Ok(observed.into_iter().flatten().collect())
    }

    /// Ends the agent and takes the lab down; nothing of them stays.
    ///
    /// # Errors
    ///
    /// When something stays.
    pub fn down(mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            let log = agent.log();
            let (status, _) = agent.terminate()?;
            ensure!(status.success(), "the agent ended with {status}:\n{log}");
        }
        let mut command = self.lab.node().command(&self.binary);
        command.args(["cleanup", "--force", "--state-dir"]).arg(self.home.state_dir());
        let output = command.output().context("cannot clean up")?;
        ensure!(output.status.success(), "cannot clean up: {}", String::from_utf8_lossy(&output.stderr));
        fs::remove_dir_all(&self.folder)?;
        Ok(self.lab.down()?)
    }

    fn agent(&self) -> Result<&LabAgent> {
        self.agent.as_ref().context("the agent has ended")
    }

    fn put(&mut self, cluster: &Cluster) -> Result<()> {
        self.step += 1;
        let labels = Labels::from([("step".to_owned(), self.step.to_string())]);
        let marker = Namespace { name: MARKER.to_owned(), labels };
        let marker = manifests(&Cluster { namespaces: vec![marker], ..Cluster::default() });
        // One file, renamed into place: the agent sees the step before or this one, and nothing between.
        self.home.apply("cluster.yaml", &(marker + &manifests(cluster)))?;
        Ok(())
    }

    fn probe(&self, connection: &Connection) -> Result<Probe> {
        let source = connection.src.ip();
        let from = self.places.get(&source).with_context(|| format!("{source} is not in this lab"))?;
        Ok(Probe {
            from: from.clone(),
            to: connection.dst.ip(),
            port: connection.port,
            transport: transport(connection.protocol)
                .ok_or_else(|| anyhow!("no probe speaks {}", connection.protocol))?,
        })
    }

    fn observed(&self, connection: &Connection, outcome: &Outcome) -> Observed {
        match (outcome, self.places.get(&connection.dst.ip())) {
            (Outcome::TimedOut, _) => Observed::Silence,
            (outcome, Some(place)) if outcome.reached(place) => Observed::Reached,
            (outcome, _) => Observed::Other(outcome.to_string()),
        }
    }
}

const GENERATION: &str = "portcullis_table_generation";

fn generation(agent: &LabAgent) -> Result<u64> {
    agent.figures()?.get(GENERATION).copied().context("the agent has no policy table")
}

/// A lab for the pods of a cluster, whatever nodes they name: the node is the first of them.
fn topology(name: &str, cluster: &Cluster, addresses: &BTreeSet<Address>) -> Topology {
    let mut topology = Topology::from_cluster(name, "", cluster);
    topology.pods.iter_mut().for_each(|pod| pod.node.clear());
    topology.outside.clear();
    let known: BTreeSet<IpAddr> =
        topology.places().iter().flat_map(|place| topology.addresses(place)).collect();
    let external = addresses.iter().filter(|address| why_not(**address).is_none()).map(|address| address.ip());
    topology.outside = external
        .filter(|address| !known.contains(address))
        .map(|address| Host { name: address.to_string(), addresses: vec![address] })
        .collect();
    topology
}

fn untried(connection: &Connection) -> Option<Observed> {
    let why = why_not(connection.src).or_else(|| why_not(connection.dst)).or_else(|| {
        let answered = transport(connection.protocol).is_some();
        (!answered).then_some("nobody answers to a protocol without ports")
    });
    why.map(Observed::Untried)
}

const fn transport(protocol: Protocol) -> Option<Transport> {
    match protocol {
        Protocol::TCP => Some(Transport::Tcp),
        Protocol::UDP => Some(Transport::Udp),
        Protocol::SCTP => Some(Transport::Sctp),
        _ => None,
    }
}

/// Why no host of the lab can have an address, if none can.
fn why_not(address: Address) -> Option<&'static str> {
    match address.ip() {
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some("an address of \"this network\" (RFC 6890)"),
        IpAddr::V4(ip) if ip.is_loopback() => Some("a loopback address"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
        IpAddr::V4(ip) if ip.octets()[0] >= 224 => Some("a multicast or reserved address"),
        IpAddr::V6(ip) if ip.is_unspecified() || ip.is_loopback() => Some("a loopback address"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(ip) if ip.is_multicast() => Some("a multicast or reserved address"),
        _ => None,
    }
}
