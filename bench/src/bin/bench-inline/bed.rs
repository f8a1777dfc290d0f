//! Four nodes beside each other, alike but for who forwards between their pods.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::generator::{LiveFrames, Load, PacketSocket, Span, Stop, receive_without_a_program};
use bench::machine;
use lab::{Family, Lab, LabPod, Namespace, Place, Topology};
use portcullis::lab_agent::{AgentHome, LabAgent};
use tempfile::TempDir;

/// Of TCP streams.
pub(crate) const TCP: u16 = 5201;
/// Of flows that are established, and that the first packets are timed of.
pub(crate) const FLOWS: u16 = 7000;
/// Of new flows, a port for each repetition.
pub(crate) const NEW: Range<u16> = 7001..7007;
/// The server that answers.
pub(crate) const ECHO: u16 = 7007;
/// No policy allows it.
pub(crate) const DENIED: u16 = 9000;
/// Source ports of flows begin here; the pods drop what comes to these, to [`FLOWS`] and to [`NEW`] unseen.
pub(crate) const SOURCE: u16 = 12_000;
/// How many flows are established.
pub(crate) const ESTABLISHED: u32 = 4096;

/// The generator and clients run here, and with them what the kernel does for them.
pub(crate) const NEAR: usize = 0;
/// Servers and agents run here.
pub(crate) const FAR: usize = 1;

/// The pods that send. One does, but for new flows: of those, a pod may have the worker judge just so many.
pub(crate) const SENDERS: [&str; 6] = ["x/a", "x/b", "x/c", "z/a", "z/b", "z/c"];
const RECEIVER: &str = "y/b";

/// How often counts are looked at, and for how long they must stand still for the end of a load.
const LOOK: Duration = Duration::from_millis(2);
const SETTLED: Duration = Duration::from_millis(20);
/// How long a new policy may take to be in force.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarder {
    /// The kernel, without policy.
    Plain,
    /// The kernel, with connection tracking and a set of allowed tuples.
    Nft,
    /// The kernel, as our agent has judged.
    Inline,
    /// Our agent in userspace.
    Router,
}

impl Forwarder {
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Nft, Self::Inline, Self::Router];

    const fn is_ours(self) -> bool {
        matches!(self, Self::Inline | Self::Router)
    }
}

impl fmt::Display for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::Nft => "nft ct+set",
            Self::Inline => "inline",
            Self::Router => "router mode",
        })
    }
}

/// A node with [`SENDERS`] and a receiver.
pub(crate) struct Bed {
    pub(crate) forwarder: Forwarder,
    pub(crate) lab: Lab,
    pub(crate) home: AgentHome,
    pub(crate) agent: Option<LabAgent>,
    server: Child,
    binary: PathBuf,
    _folder: TempDir,
}

/// The receiver accepts of the senders what the benchmark sends, TCP on these ports.
pub(crate) fn policy(tcp: &[u16]) -> String {
    let tcp: String = tcp.iter().map(|port| format!(", {{port: {port}}}")).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: from-senders, namespace: \"y\"}}\n\
         spec:\n  podSelector: {{}}\n  policyTypes: [Ingress]\n  ingress:\n\
         \x20 - from: [{{namespaceSelector: {{matchExpressions: [{{key: ns, operator: In, values: [x, z]}}]}}}}]\n\
         \x20   ports: [{{port: {FLOWS}, endPort: {ECHO}, protocol: UDP}}{tcp}]\n"
    )
}

impl Bed {
    /// Brings the node up, with its agent, if it has one. `binary` is the agent.
    pub(crate) fn up(forwarder: Forwarder, binary: &Path) -> Result<Self> {
        let mut topology = Topology::nine(Lab::unique());
        topology.pods.retain(|pod| {
            let name = pod.name.to_string();
            name == RECEIVER || SENDERS.contains(&&*name)
        });
        let lab = Lab::up(&topology).context("the lab does not come up (needs root)")?;
        let folder = TempDir::new()?;
        let mode = if forwarder == Forwarder::Inline { "mode: inline\n" } else { "" };
        let home = AgentHome::new(folder.path(), binary, &lab, false, mode)?;
        home.apply("cluster.yaml", &topology.manifests())?;
        home.apply("policy.yaml", &policy(&[TCP]))?;
        if forwarder == Forwarder::Nft {
            nft(lab.node(), &rules(&lab)?)?;
        }
        machine::pin(FAR)?;
        let receiver = lab.pod("y", "b").context("no receiver")?;
        let mut server = receiver.namespace.command("iperf3");
        let server =
            quiet(server.args(["-s", "-p", &TCP.to_string()])).spawn().context("cannot start iperf3")?;
        let binary = binary.to_owned();
        let mut bed = Self { forwarder, lab, home, agent: None, server, binary, _folder: folder };
        for pod in bed.lab.pods() {
            // A pod without a socket would answer every frame with an error.
            nft(
                &pod.namespace,
                &format!(
                    "table ip bench {{ chain in {{ type filter hook prerouting priority raw; \
                     udp dport {{ {FLOWS}-{}, {DENIED}, {SOURCE}-{} }} drop; }}; }}",
                    ECHO - 1,
                    u32::from(SOURCE) + ESTABLISHED - 1
                ),
            )?;
        }
        if forwarder.is_ours() {
            bed.start()?;
        }
        machine::pin(NEAR)?;
        Ok(bed)
    }

    /// Starts the agent, and tells how long it took to be ready.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let mut agent = self.home.start(&self.lab)?;
        agent.wait_until_ready()?;
        self.agent = Some(agent);
        Ok(begin.elapsed())
    }

    /// The pods of [`SENDERS`].
    fn senders(&self) -> impl Iterator<Item = &LabPod> {
        self.lab.pods().iter().filter(|pod| pod.name.to_string() != RECEIVER)
    }

    /// The first of them.
    pub(crate) fn sender(&self) -> &LabPod {
        &self.lab.pods()[0]
    }

    pub(crate) fn receiver(&self) -> Result<&LabPod> {
        self.lab.pods().iter().find(|pod| pod.name.to_string() == RECEIVER).context("no receiver")
    }

    /// The receiver's address.
    pub(crate) fn address(&self, family: Family) -> Result<IpAddr> {
        Ok(self.lab.address(&Place::pod("y", "b"), family)?)
    }

    /// From one sender to the receiver.
    pub(crate) fn load(&self, from: &LabPod, port: u16) -> Result<Load> {
        let (from, to) = (Place::Pod(from.name.clone()), Place::pod("y", "b"));
        let load = Load::between(&self.lab, &from, &to, Family::V4, port)?;
        let source_ports = Span::of(SOURCE, ESTABLISHED);
        Ok(Load { flows: u64::from(ESTABLISHED), stride: 1, limit: u64::MAX, source_ports, ..load })
    }

    /// The same load of each sender.
    pub(crate) fn loads(&self, port: u16) -> Result<Vec<Load>> {
        self.senders().map(|from| self.load(from, port)).collect()
    }

    /// Lets so many of the first sender's flows send and be answered, so that whoever forwards knows them.
    pub(crate) fn establish(&self, flows: u32) -> Result<()> {
        let (a, b) = (self.sender(), self.receiver()?);
        let there = self.load(a, FLOWS)?;
        let back = Load {
            macs: (b.pod_mac, b.host_mac),
            sources: there.destinations,
            destinations: there.sources,
            source_ports: there.destination_ports,
            destination_ports: there.source_ports,
            ..there.clone()
        };
        for (from, load) in [(a, there), (b, back)] {
            let flows = u64::from(flows);
            let load = Load { flows, limit: flows, rate: Some(40_000), ..load };
            PacketSocket::open(&from.namespace, "eth0")?.send(&load, &Stop::default())?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends live frames, the first load from the first sender and so on, all at once; tells what became of them.
    pub(crate) fn send(&self, live: &mut [LiveFrames], loads: &[Load]) -> Result<Passage> {
        let before = self.counts()?;
        thread::scope(|scope| {
            let senders: Vec<_> = self
                .senders()
                .zip(live)
                .zip(loads)
                .map(|((from, live), load)| {
                    scope.spawn(move || live.send(&from.namespace, "eth0", load, &Stop::default()))
                })
                .collect();
            // From the first arrival to the last: what a worker still holds when all is sent, is under way, too.
            let (mut now, mut begin, mut last) = (before, Instant::now(), Instant::now());
            while senders.iter().any(|sender| !sender.is_finished()) || last.elapsed() < SETTLED {
                let looked = Instant::now();
                thread::sleep(LOOK);
                let later = self.counts()?;
                if later != now {
                    last = Instant::now();
                    if now == before {
                        begin = looked;
                    }
                    now = later;
                }
            }
            let mut offered = 0;
            for sender in senders {
                offered +=
                    sender.join().map_err(|_panic| anyhow::anyhow!("a sender's thread panicked"))??.frames;
            }
            let [arrived, delivered] = [0, 1].map(|at| now[at] - before[at]);
            ensure!(arrived > 0, "nothing of {offered} frames arrived");
            Ok(Passage { offered, arrived, delivered, elapsed: last - begin })
        })
    }

    /// Frames of the senders that the node took, IPv4 packets that the receiver took.
    fn counts(&self) -> Result<[u64; 2]> {
        let text = read(self.lab.node(), "/proc/thread-self/net/dev")?;
        let frames = |interface: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
            Ok(line.and_then(|line| line.split_whitespace().nth(1)).context("no such interface")?.parse()?)
        };
        let arrived = self.senders().map(|from| frames(&from.interface)).sum::<Result<u64>>()?;
        let delivered = read(&self.receiver()?.namespace, "/proc/thread-self/net/snmp")?;
        let delivered = delivered.lines().filter_map(|line| line.strip_prefix("Ip: ")).nth(1);
        let delivered = delivered.and_then(|line| line.split(' ').nth(2)).context("no figures of IPv4")?;
        Ok([arrived, delivered.parse()?])
    }

    /// Lets the node take live frames, which it does while an interface has GRO or a program.
    pub(crate) fn take_live_frames(&self) -> Result<()> {
        self.senders().try_for_each(|from| receive_without_a_program(self.lab.node(), &from.interface))
    }

    /// The policy table in force, of a node with an agent.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.agent.as_ref()?.figures().ok()?.remove("portcullis_table_generation")
    }

    /// Gives the node's agent another policy, and waits until it is in force; tells when it was given.
    pub(crate) fn change(&self, policy: &str) -> Result<Instant> {
        let before = self.generation();
        let given = self.home.apply("policy.yaml", policy)?;
        while self.generation() <= before {
            ensure!(given.elapsed() < PATIENCE, "the new policy is not in force after {PATIENCE:?}");
            thread::sleep(LOOK);
        }
        Ok(given)
    }

    /// Drops what is denied where it comes in, as fast as nftables can.
    pub(crate) fn drop_at_ingress(&self) -> Result<()> {
        let device = &self.sender().interface;
        nft(
            self.lab.node(),
            &format!(
                "table netdev bench {{ chain in {{ type filter hook ingress device \"{device}\" priority 0; \
                 udp dport {DENIED} drop; }}; }}"
            ),
        )
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.agent.take());
        // Already gone is as good.
        drop(self.server.kill());
        drop(self.server.wait());
        if self.forwarder.is_ours() {
            let mut cleanup = self.lab.node().command(&self.binary);
            cleanup.args(["cleanup", "--force", "--state-dir"]).arg(self.home.state_dir());
            drop(quiet(&mut cleanup).status());
        }
    }
}

/// What became of loads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage {
    pub(crate) offered: u64,
    pub(crate) arrived: u64,
    pub(crate) delivered: u64,
    pub(crate) elapsed: Duration,
}

/// Nobody is to read or write it here.
pub(crate) fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

pub(crate) fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    let output = namespace.command("nft").arg(rules).output().context("cannot run nft")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn read(namespace: &Namespace, path: &str) -> Result<String> {
    Ok(namespace.run(|| fs::read_to_string(path))??)
}

/// The rules of a node that tracks connections: established ones pass, new ones when the set has their tuple. A
/// thousand further tuples are in the set.
fn rules(lab: &Lab) -> Result<String> {
    let allowed = || [("tcp", TCP)].into_iter().chain((FLOWS..=ECHO).map(|port| ("udp", port)));
    let elements = |family| -> Result<String> {
        let to = lab.address(&Place::pod("y", "b"), family)?;
        let from = |name: &str| -> Result<IpAddr> {
            let (namespace, pod) = name.split_once('/').context("no namespace")?;
            Ok(lab.address(&Place::pod(namespace, pod), family)?)
        };
        let senders = SENDERS.iter().map(|name| from(name)).collect::<Result<Vec<_>>>()?;
        let tuples = senders.iter().flat_map(|from| allowed().map(move |tuple| (*from, tuple)));
        let others = (20_000..21_000).map(|port| (senders[0], ("tcp", port)));
        let tuples = tuples.chain(others);
        let tuples = tuples.map(|(from, (protocol, port))| format!("{from} . {to} . {protocol} . {port}"));
        Ok(tuples.collect::<Vec<_>>().join(", "))
    };
    Ok(format!(
        "table inet bench {{
            set s4 {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; elements = {{ {} }} }}
            set s6 {{ type ipv6_addr . ipv6_addr . inet_proto . inet_service; elements = {{ {} }} }}
            chain forward {{
                type filter hook forward priority 0; policy drop;
                ct state established,related accept
                ip saddr . ip daddr . meta l4proto . th dport @s4 accept
                ip6 saddr . ip6 daddr . meta l4proto . th dport @s6 accept
            }}
        }}",
        elements(Family::V4)?,
        elements(Family::V6)?,
    ))
}
