//! Answers from real packets: pods in network namespaces, an agent that enforces between them, and probes.
//!
//! One agent lives through all tests of the same pods, and meets each step as a change of the step before: what
//! it enforces then must not depend on how it came there.

mod cluster_ips;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use flow::{Address, Protocol, Verdict};
use lab::{Host, Lab, Outcome, Place, Probe, RulesOf, Servers, Topology, Transport, manifests, probe_all};
use policy::model::{Cluster, Labels, Namespace};
use policy::{Connection, evaluate};

use self::cluster_ips::ClusterIps;
use super::executor::{Answer, Executor, Question};
use crate::config::Mode;
use crate::exit::{Failure, system};
use crate::lab_agent::{AgentHome, LabAgent};

/// Longer than any answer takes on a quiet machine, and short for what never comes.
const TIMEOUT: Duration = Duration::from_millis(350);
/// What policy allows and has not arrived is asked again, with more patience: a machine may be busy. So is what
/// was neither answered nor dropped in silence.
const PATIENCE: Duration = Duration::from_secs(3);
/// A namespace without pods that is another one in each step, so that no step looks like the one before.
const MARKER: &str = "portcullis-lab-step";
const GENERATION: &str = "portcullis_table_generation";

/// Answers from packets between the pods of a lab. Needs root.
#[derive(Debug)]
pub struct OnLab {
    binary: PathBuf,
    mode: Mode,
    rules: Option<RulesOf>,
    standing: Option<Standing>,
}

impl OnLab {
    /// The lab comes up with the first step; `binary` is the agent that enforces in it, in this mode.
    #[must_use]
    pub fn new(binary: &Path, mode: Mode) -> Self {
        Self { binary: binary.to_owned(), mode, rules: None, standing: None }
    }

    /// The same in inline mode, where connections to pods go to cluster IPs: each pod has a Service of its own, which
    /// the node translates by these rules. Connections to others go to their addresses.
    #[must_use]
    pub fn by_cluster_ip(binary: &Path, rules: RulesOf) -> Self {
        Self { binary: binary.to_owned(), mode: Mode::Inline, rules: Some(rules), standing: None }
    }

    /// Takes the lab down; nothing of it stays.
    ///
    /// # Errors
    ///
    /// When something stays.
    pub fn down(mut self) -> Result<(), Failure> {
        self.standing.take().map_or(Ok(()), Standing::down).map_err(system)
    }
}

impl Executor for OnLab {
    /// Nothing to do: enforcement goes on from test to test.
    fn begin(&mut self, _test: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn step(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        let same = |standing: &mut Standing| standing.people == people(cluster);
        let outcome = match self.standing.take_if(same) {
            Some(mut standing) => {
                let enforced = standing.enforce(cluster);
                self.standing = Some(standing);
                enforced
            }
            None => self
                .standing
                .take()
                .map_or(Ok(()), Standing::down)
                .and_then(|()| Standing::up(&self.binary, self.mode, self.rules, cluster))
                .map(|standing| self.standing = Some(standing)),
        };
        outcome.map_err(system)
    }

    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, Failure> {
        let standing = self.standing.as_mut().ok_or_else(|| system(anyhow!("no step has been made")))?;
        standing.ask(questions).map_err(system)
    }
}

/// A run that fails leaves nothing behind either.
impl Drop for OnLab {
    fn drop(&mut self) {
        // The failure has been told; what stays of the lab is removed by the next one.
        let _unreported = self.standing.take().map(Standing::down);
    }
}

/// A lab with an agent that enforces.
#[derive(Debug)]
struct Standing {
    lab: Lab,
    /// Whose lab it is: [`people`] of its cluster.
    people: String,
    /// What is in force.
    cluster: Cluster,
    binary: PathBuf,
    folder: PathBuf,
    home: AgentHome,
    agent: Option<LabAgent>,
    places: BTreeMap<IpAddr, Place>,
    cluster_ips: Option<ClusterIps>,
    servers: BTreeMap<Place, (BTreeSet<u16>, Servers)>,
    step: u64,
}

impl Standing {
    fn up(binary: &Path, mode: Mode, rules: Option<RulesOf>, cluster: &Cluster) -> Result<Self> {
        let topology = topology(&Lab::unique(), cluster);
        let lab = Lab::up(&topology)?;
        let folder = std::env::temp_dir().join(format!("portcullis-{}", lab.name()));
        let cluster_ips = rules.map(|rules| ClusterIps::new(rules, &topology));
        let services = cluster_ips.as_ref().map(|_| ClusterIps::settings()).unwrap_or_default();
        let home = AgentHome::new(&folder, binary, &lab, true, &format!("mode: {mode}\n{services}"))?;
        let addresses =
            |place: Place| topology.addresses(&place).into_iter().map(move |it| (it, place.clone()));
        let mut standing = Self {
            people: people(cluster),
            cluster: cluster.clone(),
            binary: binary.to_owned(),
            folder,
            home,
            agent: None,
            places: topology.places().into_iter().flat_map(addresses).collect(),
            cluster_ips,
            servers: BTreeMap::new(),
            step: 0,
            lab,
        };
        match standing.start(cluster) {
            Ok(()) => Ok(standing),
            Err(error) => {
                let _first_error_counts = standing.down();
                Err(error)
            }
        }
    }

    fn start(&mut self, cluster: &Cluster) -> Result<()> {
        self.put(cluster)?;
        self.agent.insert(self.home.start(&self.lab)?).wait_until_ready()
    }

    /// Puts the objects of a cluster in the place of those before, and waits until they are in force.
    fn enforce(&mut self, cluster: &Cluster) -> Result<()> {
        self.put(cluster)?;
        let agent = self.agent.as_mut().context("the agent has ended")?;
        // Each step has its marker, so each makes one table.
        let step = self.step;
        agent.wait_until("does not take the manifests", |figures| figures.get(GENERATION) == Some(&step))
    }

    /// Gives the agent the objects of a cluster, and a marker. One file, renamed into place: the agent sees the
    /// step before or this one, and nothing between.
    fn put(&mut self, cluster: &Cluster) -> Result<()> {
        self.step += 1;
        self.cluster = cluster.clone();
        let labels = Labels::from([("step".to_owned(), self.step.to_string())]);
        let marker = Namespace { name: MARKER.to_owned(), labels };
        let marker = manifests(&Cluster { namespaces: vec![marker], ..Cluster::default() });
        self.home.apply("cluster.yaml", &(marker + &manifests(cluster)))?;
        Ok(())
    }

    /// Tries all connections at once.
    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>> {
        let mut answers = vec![None; questions.len()];
        let mut open = Vec::new();
        let mut odd = None;
        let owners = self.cluster.owners();
        for (at, Question { connection, .. }) in questions.iter().enumerate() {
            let why = why_not(connection)
                .or_else(|| self.is_taken(connection))
                .or_else(|| self.elsewhere(&owners, connection));
            match why {
                Some(why) => answers[at] = Some(Answer::Untried(why.to_owned())),
                None => open.push(at),
            }
        }
        self.prepare(open.iter().map(|&at| &questions[at].connection))?;
        for timeout in [TIMEOUT, PATIENCE, PATIENCE] {
            let probes: Result<Vec<Probe>> =
                open.iter().map(|&at| self.probe(&questions[at].connection)).collect();
            let mut again = Vec::new();
            for (at, outcome) in open.into_iter().zip(probe_all(&self.lab, &probes?, timeout)?) {
                let connection = &questions[at].connection;
                answers[at] = self.answer(connection, &outcome)?;
                let allowed = || evaluate(&self.cluster, connection).verdict() == Verdict::Allow;
                match &answers[at] {
                    Some(Answer::Verdict { verdict: Verdict::Allow, .. }) => {}
                    Some(_) if !allowed() => {}
                    _ => again.push((at, outcome)),
                }
            }
            odd = again.iter().find(|(at, _)| answers[*at].is_none()).cloned();
            open = again.into_iter().map(|(at, _)| at).collect();
            if open.is_empty() {
                break;
            }
        }
        if let Some((at, outcome)) = odd {
            let Question { from, to, connection } = &questions[at];
            bail!("{from} -> {to} {}/{}: {outcome}", connection.port, connection.protocol);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Sees to it that all addresses are somebody's, and that whoever is asked serves the port.
    fn prepare<'c>(&mut self, connections: impl Iterator<Item = &'c Connection> + Clone) -> Result<()> {
        let asked = connections.clone().flat_map(|connection| [connection.src.ip(), connection.dst.ip()]);
        let missing: BTreeSet<IpAddr> = asked.filter(|address| !self.places.contains_key(address)).collect();
        let host = |address: &IpAddr| Host { name: address.to_string(), addresses: vec![*address] };
        if !missing.is_empty() {
            self.lab.add_outside(missing.iter().map(host).collect())?;
        }
        self.places.extend(missing.iter().map(|address| (*address, Place::outside(address.to_string()))));

        if let Some(cluster_ips) = &mut self.cluster_ips {
            let asked = connections.clone().filter_map(|connection| {
                let to = SocketAddr::new(connection.dst.ip(), connection.port);
                Some((to, transport(connection.protocol)?))
            });
            cluster_ips.serve(&self.lab, asked)?;
        }

        let mut wanted: BTreeMap<Place, BTreeSet<u16>> = BTreeMap::new();
        for connection in connections {
            let place = self.place(connection.dst.ip())?;
            wanted.entry(place.clone()).or_default().insert(connection.port);
        }
        for (place, mut ports) in wanted {
            let served = self.servers.get(&place).map(|(served, _)| served.clone()).unwrap_or_default();
            if !ports.is_subset(&served) {
                ports.extend(served);
                // Two servers at one address would contradict each other.
                drop(self.servers.remove(&place));
                let all: Vec<u16> = ports.iter().copied().collect();
                let servers = Servers::start_at(&self.lab, std::slice::from_ref(&place), &all)?;
                self.servers.insert(place, (ports, servers));
            }
        }
        Ok(())
    }

    /// Where connections are tried by cluster IP, those are nobody's own.
    fn is_taken(&self, connection: &Connection) -> Option<&'static str> {
        let taken = [connection.src, connection.dst].into_iter().any(|end| ClusterIps::take(end.ip()));
        (self.cluster_ips.is_some() && taken).then_some("an address is in the network of the cluster IPs")
    }

    /// A pod's own node is where its port is, which the lab has in one place only.
    fn elsewhere(&self, owners: &BTreeMap<Address, usize>, connection: &Connection) -> Option<&'static str> {
        let node = self.lab.topology().node.name.as_str();
        let apart = |pod: Address, other: Address| {
            let pod = &self.cluster.pods[*owners.get(&pod)?];
            let mut nodes = self.cluster.node_addresses(node).chain(self.cluster.node_addresses(&pod.node));
            (pod.node != node && nodes.any(|address| address == other))
                .then_some("the lab has one node, and the pod names another")
        };
        apart(connection.src, connection.dst).or_else(|| apart(connection.dst, connection.src))
    }

    fn place(&self, address: IpAddr) -> Result<&Place> {
        self.places.get(&address).with_context(|| format!("{address} is not in this lab"))
    }

    fn probe(&self, connection: &Connection) -> Result<Probe> {
        let transport = transport(connection.protocol);
        Ok(Probe {
            from: self.place(connection.src.ip())?.clone(),
            to: self.asked_at(connection),
            port: connection.port,
            transport: transport.with_context(|| format!("no probe speaks {}", connection.protocol))?,
        })
    }

    /// The address at which whom a connection is for is asked.
    fn asked_at(&self, connection: &Connection) -> IpAddr {
        let own = connection.dst.ip();
        self.cluster_ips.as_ref().map_or(own, |cluster_ips| cluster_ips.stand_for(own))
    }

    /// What an outcome says of policy. Enforcement drops in silence, and nobody answers for another, so all else
    /// says nothing of it: a machine that is busy may be late with its neighbours.
    fn answer(&self, connection: &Connection, outcome: &Outcome) -> Result<Option<Answer>> {
        let verdict = match outcome {
            Outcome::TimedOut => Verdict::Deny,
            outcome if outcome.reached(self.place(connection.dst.ip())?) => Verdict::Allow,
            _ => return Ok(None),
        };
        let asked_at = self.asked_at(connection);
        let seen = match asked_at == connection.dst.ip() {
            true => outcome.to_string(),
            false => format!("{outcome}, asked at {asked_at}"),
        };
        Ok(Some(Answer::Verdict { verdict, seen }))
    }

    fn down(self) -> Result<()> {
        let Self { lab, binary, folder, home, agent, servers, .. } = self;
        drop(servers);
        let ended = agent.map(LabAgent::terminate).transpose();
        let log = fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
        let mut command = lab.node().command(binary);
        command.args(["cleanup", "--force", "--state-dir"]).arg(home.state_dir());
        let output = command.output().context("cannot clean up")?;
        ensure!(output.status.success(), "cannot clean up: {}", String::from_utf8_lossy(&output.stderr));
        fs::remove_dir_all(folder)?;
        lab.down()?;
        if let Some((status, _)) = ended? {
            ensure!(status.success(), "the agent ended with {status}:\n{log}");
        }
        Ok(())
    }
}

/// The pods of a cluster, all of them local whatever nodes they name; the node is the first of its nodes.
fn topology(name: &str, cluster: &Cluster) -> Topology {
    let mut topology = Topology::from_cluster(name, "", cluster);
    topology.pods.iter_mut().for_each(|pod| pod.node.clear());
    topology.outside.clear();
    topology
}

/// What tells one lab from another: the node, and names and addresses of the pods.
fn people(cluster: &Cluster) -> String {
    let topology = topology("", cluster);
    let mut pods: Vec<_> = topology.pods.iter().map(|pod| (&pod.name, &pod.addresses)).collect();
    pods.sort();
    format!("{:?} {pods:?}", topology.node)
}

/// Why a connection cannot be tried between network namespaces, if it cannot.
fn why_not(connection: &Connection) -> Option<&'static str> {
    let address = |address: IpAddr| match address {
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some("no host has an address in 0.0.0.0/8"),
        IpAddr::V4(ip) if ip.octets()[0] >= 224 => Some("no host has an address above 223.255.255.255"),
        IpAddr::V6(ip) if ip.is_multicast() => Some("no host has a multicast address"),
        ip if ip.is_unspecified() || ip.is_loopback() => Some("a loopback address leaves no host"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address leaves no link"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address leaves no link"),
        _ => None,
    };
    let protocol = || transport(connection.protocol).is_none().then_some("nobody answers to this protocol");
    address(connection.src.ip()).or_else(|| address(connection.dst.ip())).or_else(protocol)
}

const fn transport(protocol: Protocol) -> Option<Transport> {
    match protocol {
        Protocol::TCP => Some(Transport::Tcp),
        Protocol::UDP => Some(Transport::Udp),
        Protocol::SCTP => Some(Transport::Sctp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_tried_is_what_no_host_can_send_or_answer() {
        let connection = |src: &str, dst: &str, protocol| Connection {
            src: Address::from(src.parse::<IpAddr>().expect("an address")),
            dst: Address::from(dst.parse::<IpAddr>().expect("an address")),
            protocol,
            port: 80,
        };
        for odd in ["0.0.0.1", "127.255.255.255", "255.1.1.1", "255.255.255.254", "224.0.0.1", "169.254.1.1"]
        {
            assert!(why_not(&connection("10.0.0.1", odd, Protocol::TCP)).is_some(), "to {odd}");
            assert!(why_not(&connection(odd, "10.0.0.1", Protocol::TCP)).is_some(), "from {odd}");
        }
        for odd in ["fe80::1", "::", "::1", "ff02::1"] {
            assert!(why_not(&connection("fd00::1", odd, Protocol::UDP)).is_some(), "to {odd}");
        }
        for plain in ["128.0.0.0", "10.4.0.0", "198.51.100.255", "223.255.255.255"] {
            assert_eq!(why_not(&connection("10.0.0.1", plain, Protocol::SCTP)), None, "to {plain}");
        }
        assert!(why_not(&connection("10.0.0.1", "10.0.0.2", Protocol::ICMP)).is_some());
    }
}
