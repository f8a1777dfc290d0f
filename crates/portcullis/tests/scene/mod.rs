//! A lab of nine pods and an agent in its node, for tests on real packets. Needs root.

#![allow(dead_code, reason = "each test file uses its own part of the scene")]

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lab::{Family, Lab, LabPod, Outcome, Place, Servers, Stream, StreamPlan, Topology, Transport, probe};
use portcullis::lab_agent::{AgentHome, LabAgent};
use tempfile::TempDir;

/// Longer than any answer takes, and short for what never comes.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(700);

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// y/a accepts TCP and UDP on port 80 from one namespace, and nothing else.
macro_rules! y_a_from {
    ($namespace:literal) => {
        concat!(
            r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a-from-x, namespace: "y"}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Ingress]
  ingress:
  - from: [{namespaceSelector: {matchLabels: {ns: "#,
            $namespace,
            r#"}}}]
    ports: [{port: 80}, {port: 80, protocol: UDP}]
"#
        )
    };
}

pub(crate) const Y_A_FROM_X: &str = y_a_from!("x");
pub(crate) const Y_A_FROM_Z: &str = y_a_from!("z");

/// One lab at a time: two agents and their load on two cores would measure each other.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) home: AgentHome,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Nine pods, the policy [`Y_A_FROM_X`], and further settings of the agent.
    pub(crate) fn new(settings: &str) -> Self {
        Self::of(&Topology::nine(Lab::unique()), settings)
    }

    /// The same with these pods.
    pub(crate) fn of(topology: &Topology, settings: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lab = Lab::up(topology).expect("the lab comes up (needs root)");
        let folder = TempDir::new().expect("a folder");
        let home = AgentHome::new(folder.path(), BINARY.as_ref(), &lab, false, settings).expect("a home");
        home.apply("cluster.yaml", &topology.manifests()).expect("a manifest");
        home.apply("policy.yaml", Y_A_FROM_X).expect("a manifest");
        Self { lab, home, folder, _turn: turn }
    }

    /// An agent that is ready.
    pub(crate) fn agent(&self) -> LabAgent {
        let mut agent = self.home.start(&self.lab).expect("an agent");
        agent.wait_until_ready().expect("ready");
        agent
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Servers of all pods and hosts on ports 80 and 81.
    pub(crate) fn servers(&self) -> Servers {
        self.servers_on(&[80, 81])
    }

    pub(crate) fn servers_on(&self, ports: &[u16]) -> Servers {
        Servers::start(&self.lab, ports).expect("servers")
    }

    /// What goes into a pod's `eth0` is dropped by the pod itself, unanswered.
    pub(crate) fn silence(&self, name: &str) {
        let rules = "add table inet silent; \
                     add chain inet silent in { type filter hook input priority 0; policy drop; }; \
                     add rule inet silent in meta l4proto icmpv6 accept";
        let output = self.link(name).namespace.command("nft").arg(rules).output().expect("nft");
        assert!(output.status.success(), "{}", text(&output));
    }

    pub(crate) fn address(&self, place: &Place, family: Family) -> IpAddr {
        self.lab.address(place, family).expect("an address")
    }

    /// Whether a new connection reaches whom it is for.
    pub(crate) fn reaches(&self, from: &Place, to: &Place, port: u16, transport: Transport) -> bool {
        let address = self.address(to, Family::V4);
        let outcome = probe(&self.lab, from, address, port, transport, TIMEOUT).expect("a probe");
        matches!(outcome, Outcome::Reached(who) if who == to.to_string())
    }

    /// A UDP stream over IPv4 that ends by itself after a minute.
    pub(crate) fn stream(
        &self,
        from: &Place,
        to: &Place,
        port: u16,
        transport: Transport,
        rate: u32,
    ) -> Stream {
        let (from, to) = (from.clone(), to.clone());
        let limit = u64::from(rate) * 60;
        let plan = StreamPlan { from, to, family: Family::V4, port, transport, rate, limit };
        Stream::start(&self.lab, &plan).expect("a stream")
    }

    /// A pod, and the link to it.
    pub(crate) fn link(&self, name: &str) -> &LabPod {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        self.lab.pod(namespace, name).expect("a pod")
    }

    /// Whether an agent of inline mode has made its punt pair here.
    pub(crate) fn has_punt_pair(&self) -> bool {
        self.node("ip link show portcullis0").status.success()
    }

    /// `portcullis ARGS` in the node.
    pub(crate) fn portcullis(&self, args: &[&str]) -> Output {
        self.lab.node().command(BINARY).args(args).output().expect("portcullis runs")
    }

    /// A command line in the node.
    pub(crate) fn node(&self, line: &str) -> Output {
        self.lab.node().command("sh").args(["-c", line]).output().expect("sh runs")
    }

    fn cleanup(&self) -> Output {
        let state = self.home.state_dir();
        self.portcullis(&["cleanup", "--force", "--state-dir", state.to_str().expect("a plain path")])
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let output = self.cleanup();
        if !output.status.success() && !std::thread::panicking() {
            panic!("cleanup fails: {}", text(&output));
        }
    }
}

pub(crate) fn pod(name: &str) -> Place {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    Place::pod(namespace, name)
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a command of the machine.
pub(crate) fn sh(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().expect("sh runs")
}

/// The lines of a file, none of a missing one.
pub(crate) fn lines(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
