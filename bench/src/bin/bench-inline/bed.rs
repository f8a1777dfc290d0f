//! Four nodes beside each other, alike but for who forwards between their two pods.

use std::fmt;
use std::fs;
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
pub(crate) const NEW: Range<u16> = 7001..7005;
/// The server that answers.
pub(crate) const ECHO: u16 = 7005;
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

/// A node with two pods, x/a that sends and y/b that receives.
pub(crate) struct Bed {
    pub(crate) forwarder: Forwarder,
    pub(crate) lab: Lab,
    pub(crate) home: AgentHome,
    pub(crate) agent: Option<LabAgent>,
    server: Child,
    binary: PathBuf,
    _folder: TempDir,
}

/// y/b accepts from x what the benchmark sends. `also` is one port more, so that policy can change.
pub(crate) fn policy(also: u16) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: from-x, namespace: \"y\"}}\n\
         spec:\n  podSelector: {{}}\n  policyTypes: [Ingress]\n  ingress:\n\
         \x20 - from: [{{namespaceSelector: {{matchLabels: {{ns: x}}}}}}]\n\
         \x20   ports: [{{port: {TCP}}}, {{port: {FLOWS}, endPort: {ECHO}, protocol: UDP}}, {{port: {also}}}]\n"
    )
}

impl Bed {
    /// Brings the node up, with its agent, if it has one. `binary` is the agent.
    pub(crate) fn up(forwarder: Forwarder, binary: &Path) -> Result<Self> {
        let mut topology = Topology::nine(Lab::unique());
        topology.pods.retain(|pod| ["x/a", "y/b"].contains(&&*pod.name.to_string()));
        let lab = Lab::up(&topology).context("the lab does not come up (needs root)")?;
        let folder = TempDir::new()?;
        let mode = if forwarder == Forwarder::Inline { "mode: inline\n" } else { "" };
        let home = AgentHome::new(folder.path(), binary, &lab, false, mode)?;
        home.apply("cluster.yaml", &topology.manifests())?;
        home.apply("policy.yaml", &policy(1))?;
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

    pub(crate) fn sender(&self) -> &LabPod {
        &self.lab.pods()[0]
    }

    pub(crate) fn receiver(&self) -> &LabPod {
        &self.lab.pods()[1]
    }

    /// From one pod to the other, and the other way.
    pub(crate) fn load(&self, port: u16, back: bool) -> Result<Load> {
        let (a, b) = (Place::pod("x", "a"), Place::pod("y", "b"));
        let (from, to) = if back { (b, a) } else { (a, b) };
        let flows = Span::of(SOURCE, ESTABLISHED);
        let load = Load::between(&self.lab, &from, &to, Family::V4, port)?;
        let load = Load { flows: u64::from(ESTABLISHED), stride: 1, limit: u64::MAX, ..load };
        Ok(match back {
            true => Load { source_ports: Span::one(port), destination_ports: flows, ..load },
            false => Load { source_ports: flows, ..load },
        })
    }

    /// Lets every flow send and be answered, so that whoever forwards knows it.
    pub(crate) fn establish(&self) -> Result<()> {
        for back in [false, true] {
            let pod = if back { self.receiver() } else { self.sender() };
            let load = Load { limit: u64::from(ESTABLISHED), rate: Some(40_000), ..self.load(FLOWS, back)? };
            PacketSocket::open(&pod.namespace, "eth0")?.send(&load, &Stop::default())?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends live frames. What arrived at the node, what at the receiver's IPv4, and how long that took.
    pub(crate) fn send(&self, live: &mut LiveFrames, load: &Load) -> Result<Passage> {
        let before = self.counts()?;
        let offered = live.send(&self.sender().namespace, "eth0", load, &Stop::default())?;
        // What a worker still holds.
        let mut after = self.counts()?;
        loop {
            thread::sleep(Duration::from_millis(10));
            let later = self.counts()?;
            if later == after {
                break;
            }
            after = later;
        }
        let [arrived, delivered] = [0, 1].map(|at| after[at] - before[at]);
        Ok(Passage { offered: offered.frames, arrived, delivered, elapsed: offered.elapsed })
    }

    /// Frames of the sender that the node took, IPv4 packets that the receiver took.
    fn counts(&self) -> Result<[u64; 2]> {
        let interface = &self.sender().interface;
        let arrived = read(self.lab.node(), "/proc/thread-self/net/dev")?;
        let arrived = arrived.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
        let arrived = arrived.and_then(|line| line.split_whitespace().nth(1)).context("no such interface")?;
        let delivered = read(&self.receiver().namespace, "/proc/thread-self/net/snmp")?;
        let delivered = delivered.lines().filter_map(|line| line.strip_prefix("Ip: ")).nth(1);
        let delivered = delivered.and_then(|line| line.split(' ').nth(2)).context("no figures of IPv4")?;
        Ok([arrived.parse()?, delivered.parse()?])
    }

    /// Lets the node take live frames, which it does while an interface has GRO or a program.
    pub(crate) fn take_live_frames(&self) -> Result<()> {
        receive_without_a_program(self.lab.node(), &self.sender().interface)
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

/// What became of a load.
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
    let [a, b] = [Place::pod("x", "a"), Place::pod("y", "b")];
    let allowed = || [("tcp", TCP)].into_iter().chain((FLOWS..=ECHO).map(|port| ("udp", port)));
    let elements = |family| -> Result<String> {
        let (from, to) = (lab.address(&a, family)?, lab.address(&b, family)?);
        let tuple = |(protocol, port): (&str, u16)| format!("{from} . {to} . {protocol} . {port}");
        let others = (20_000..21_000).map(|port| ("tcp", port));
        Ok(allowed().chain(others).map(tuple).collect::<Vec<_>>().join(", "))
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
