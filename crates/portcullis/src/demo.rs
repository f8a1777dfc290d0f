//! `portcullis lab demo`: everything once, on real packets, expected against observed.

mod screen;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use flow::{Address, DropReason, Verdict};
use lab::{
    Family, Flood, Lab, Matrix, Place, Probe, Servers, Stream, StreamPlan, Topology, Transport, probe_all,
};
use policy::model::Cluster;
use policy::{Connection, evaluate};

use crate::config::Mode;
use crate::exit::{self, Failure, system};
use crate::lab_agent::{AgentHome, LabAgent};
use crate::lab_command;
use screen::Screen;

const PORTS: [u16; 2] = [80, 53];
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];
const TIMEOUT: Duration = Duration::from_millis(1500);
/// The stream that the changed policy cuts.
const RATE: u32 = 5000;

/// Runs the demonstration with an agent in this mode; the exit code: 0 only if everything observed was expected.
///
/// # Errors
///
/// Examples that cannot be read (exit code 2), or a system that refuses (3).
pub fn run(examples: &Path, mode: Mode) -> Result<u8, Failure> {
    let policies = examples.join("policies");
    let cluster = lab_command::load(&[examples.join("cluster.yaml"), policies.clone()])?;
    let demo = Demo { cluster, examples, mode, screen: Screen::new(), unexpected: 0 };
    demo.show().map_err(system)
}

struct Demo<'a> {
    cluster: Cluster,
    examples: &'a Path,
    mode: Mode,
    screen: Screen,
    /// How many observations were not as expected.
    unexpected: usize,
}

impl Demo<'_> {
    fn show(mut self) -> Result<u8> {
        let start = Instant::now();
        self.screen.step("building a node, pods and an outside in network namespaces");
        let mut topology = Topology::from_cluster("demo", "", &self.cluster);
        topology.outside = lab_command::outside();
        let lab = Lab::up(&topology)?;
        let namespaces = self.cluster.namespaces.len();
        self.screen.say(&format!(
            "{} pods in {namespaces} Kubernetes namespaces, {} hosts outside; no enforcement yet",
            lab.pods().len(),
            topology.outside.len()
        ));
        let servers = Servers::start(&lab, &PORTS)?;
        self.reachability(&lab, "without enforcement everything is open", |_| Verdict::Allow)?;

        let carried = match self.mode {
            Mode::Router => "XDP programs, AF_XDP sockets",
            Mode::Inline => "tc programs, the punt pair and its AF_XDP socket",
        };
        self.screen.step(&format!("starting the agent in {} mode: {carried}, policy table", self.mode));
        let folder = std::env::temp_dir().join(format!("portcullis-demo-{}", std::process::id()));
        let home = AgentHome::new(
            &folder,
            &std::env::current_exe()?,
            &lab,
            false,
            &format!("mode: {}\n", self.mode),
        )?;
        let outcome = self.enforce(&lab, &home, servers);
        let removed = home_away(&lab, &folder);
        outcome?;
        removed?;
        lab.down()?;

        let seconds = start.elapsed().as_secs_f64();
        let verdict = match self.unexpected {
            0 => "everything observed was expected".to_owned(),
            n => format!("{n} observations were NOT expected"),
        };
        self.screen.say(&format!("\n{verdict} ({seconds:.1} s)"));
        Ok(if self.unexpected == 0 { exit::OK } else { exit::FINDINGS })
    }

    fn enforce(&mut self, lab: &Lab, home: &AgentHome, servers: Servers) -> Result<()> {
        for file in fs::read_dir(self.examples.join("policies"))? {
            let file = file?;
            fs::copy(file.path(), home.manifests().join(file.file_name()))?;
        }
        fs::copy(self.examples.join("cluster.yaml"), home.manifests().join("cluster.yaml"))?;
        let mut agent = home.start(lab)?;
        agent.wait_until_ready()?;

        let cluster = self.cluster.clone();
        let expected = |connection: &Connection| evaluate(&cluster, connection).verdict();
        let title = format!("with the policies of the examples, {} mode", self.mode);
        self.reachability(lab, &title, expected)?;
        drop(servers);
        self.cut(lab, home)?;
        self.rates(lab, &agent)?;
        self.drops(&agent)?;
        let (status, took) = agent.terminate()?;
        self.expect(status.success(), &format!("the agent ends in {} ms: {status}", took.as_millis()));
        Ok(())
    }

    /// Probes every ordered pair over both ports, transports and families.
    fn reachability(
        &mut self,
        lab: &Lab,
        title: &str,
        expected: impl Fn(&Connection) -> Verdict,
    ) -> Result<()> {
        let pods: Vec<Place> = lab.pods().iter().map(|pod| Place::Pod(pod.name.clone())).collect();
        let outside = lab.topology().outside.iter().map(|host| Place::outside(&host.name));
        let targets: Vec<Place> = pods.iter().cloned().chain(outside).collect();
        let mut asked = Vec::new();
        for (port, transport) in PORTS.iter().flat_map(|port| TRANSPORTS.map(|transport| (*port, transport)))
        {
            for from in &pods {
                for to in targets.iter().filter(|to| *to != from) {
                    for family in Family::ALL {
                        let address = lab.address(to, family)?;
                        asked.push((to, family, Probe { from: from.clone(), to: address, port, transport }));
                    }
                }
            }
        }
        self.screen.step(&format!("probing {} connections: {title}", asked.len()));
        let probes: Vec<Probe> = asked.iter().map(|(_, _, probe)| probe.clone()).collect();
        let start = Instant::now();
        let outcomes = probe_all(lab, &probes, TIMEOUT)?;
        let took = start.elapsed();

        let mut matrices: HashMap<(u16, Transport), Matrix> = HashMap::new();
        let mut surprises = String::new();
        for ((to, family, probe), outcome) in asked.iter().zip(&outcomes) {
            let connection = Connection {
                src: Address::from(lab.address(&probe.from, *family)?),
                dst: Address::from(probe.to),
                protocol: probe.transport.protocol(),
                port: probe.port,
            };
            let allowed = expected(&connection) == Verdict::Allow;
            let matrix = matrices
                .entry((probe.port, probe.transport))
                .or_insert_with(|| Matrix::new(pods.clone(), targets.clone()));
            if !matrix.note(&probe.from, to, allowed, outcome) {
                self.unexpected += 1;
                let wanted = if allowed { "reached" } else { "denied" };
                writeln!(
                    surprises,
                    "  ! {} -> {to} {} {}/{}: expected {wanted}, observed {outcome}",
                    probe.from, probe.to, probe.port, probe.transport
                )?;
            }
        }
        let mut text = format!("\n{title} ({} connections in {:.1} s)\n", asked.len(), took.as_secs_f64());
        text += "  . expected open, and is    X expected closed, and is    ! not as expected\n";
        for (port, transport) in PORTS.iter().flat_map(|port| TRANSPORTS.map(|transport| (*port, transport)))
        {
            let matrix = &matrices[&(port, transport)];
            write!(text, "\n{transport} {port}, IPv4 and IPv6 (rows connect to columns)\n{matrix}")?;
        }
        text += &surprises;
        self.screen.say(&text);
        Ok(())
    }

    /// Changes a policy under a running connection.
    fn cut(&mut self, lab: &Lab, home: &AgentHome) -> Result<()> {
        self.screen.step("changing allow-same-namespace.yaml under a running connection");
        let (client, server) = (Place::pod("shop", "client"), Place::pod("shop", "server"));
        let plan = StreamPlan {
            from: client,
            to: server,
            family: Family::V4,
            port: 80,
            transport: Transport::Tcp,
            rate: RATE,
            limit: u64::from(RATE) * 30,
        };
        let stream = Stream::start(lab, &plan)?;
        wait_for(Duration::from_secs(5), || stream.report().delivered > 500)
            .context("the connection does not carry data before the change")?;
        let changed = fs::read_to_string(self.examples.join("demo-change.yaml"))?;
        let renamed = home.apply("allow-same-namespace.yaml", &changed)?;
        // Over when nothing has come for a while.
        wait_for(Duration::from_secs(5), || {
            let last = stream.report().last_delivery.unwrap_or(renamed);
            last.elapsed() > Duration::from_millis(300)
        })
        .context("the connection is not cut")?;
        let report = stream.stop();
        let after =
            report.last_delivery.map_or(Duration::ZERO, |last| last.saturating_duration_since(renamed));
        self.expect(
            after <= Duration::from_millis(100),
            &format!(
                "\na TCP connection from shop/client to shop/server, {} records delivered, is cut {:.1} ms after the \
                 policy file was renamed",
                report.delivered,
                after.as_secs_f64() * 1000.0
            ),
        );
        Ok(())
    }

    /// Floods an allowed and a denied port.
    fn rates(&mut self, lab: &Lab, agent: &LabAgent) -> Result<()> {
        let pair = (Place::pod("policy-demo", "auditor"), Place::pod("kube-system", "dns"));
        for (what, port, delivered) in [("allowed", 53, true), ("denied", 5353, false)] {
            self.screen.step(&format!("sending UDP as fast as a socket can: {what}"));
            let before = settled(agent)?;
            let time = Duration::from_secs(2);
            let flood =
                Flood::start(lab, (&pair.0, &pair.1), (Family::V4, port), 18, u64::MAX, time)?.finish();
            let after = settled(agent)?;
            let grown = |of: &dyn Fn(&Figures) -> u64| of(&after) - of(&before);
            let received = grown(&|figures| figure(figures, "portcullis_received_frames_total"));
            let denied = grown(&denied);
            let per_second =
                |count: u64| (count as f64 / flood.elapsed.as_secs_f64() / 1000.0).round() as u64;
            let line = format!(
                "{what:<8} UDP: {} thousand packets a second sent, {} received by the worker, {} delivered, {} denied",
                per_second(flood.sent),
                per_second(received),
                per_second(flood.delivered),
                per_second(denied)
            );
            // A few neighbour messages of the pod's own kernel may arrive meanwhile.
            let as_expected = if delivered {
                flood.delivered > 1000 && denied < 100
            } else {
                flood.delivered < 100 && denied > 1000
            };
            self.expect(as_expected, &line);
        }
        Ok(())
    }

    fn drops(&self, agent: &LabAgent) -> Result<()> {
        let figures = settled(agent)?;
        let mut text = "\ndrops by reason\n".to_owned();
        let programs = by_programs(&figures);
        for reason in DropReason::ALL {
            let count = figures.get(&format!("portcullis_drops_total{{reason=\"{reason}\"}}")).copied();
            if let Some(count) = count.filter(|count| *count > 0) {
                writeln!(text, "  {:<14} {count:>10}  {}", reason.name(), reason.sentence())?;
            }
        }
        if !programs.is_empty() {
            text += "\npackets by what the kernel's programs made of them\n";
        }
        for (what, count) in programs {
            writeln!(text, "  {what:<14} {count:>10}")?;
        }
        self.screen.say(&text);
        Ok(())
    }

    /// Says what was observed, and notes whether it was expected.
    fn expect(&mut self, as_expected: bool, what: &str) {
        if !as_expected {
            self.unexpected += 1;
        }
        let mark = if as_expected { "" } else { "  ! NOT as expected" };
        self.screen.say(&format!("{what}{mark}"));
    }
}

/// An agent's figures, by name.
type Figures = HashMap<String, u64>;

fn figure(figures: &Figures, name: &str) -> u64 {
    figures.get(name).copied().unwrap_or_default()
}

/// Packets that policy has denied: to the worker, and in inline mode to the kernel's programs as well.
fn denied(figures: &Figures) -> u64 {
    let by_worker = figure(figures, "portcullis_drops_total{reason=\"default_deny\"}");
    by_worker + by_programs(figures).get("denied").copied().unwrap_or_default()
}

/// What the programs of inline mode have counted, of all ports together.
fn by_programs(figures: &Figures) -> BTreeMap<&str, u64> {
    let mut counted = BTreeMap::new();
    for (name, count) in figures.iter().filter(|(_, count)| **count > 0) {
        let labels = name.strip_prefix("portcullis_tc_packets_total{");
        if let Some((_, what)) = labels.and_then(|labels| labels.split_once("what=\"")) {
            *counted.entry(what.trim_end_matches("\"}")).or_default() += count;
        }
    }
    counted
}

/// The agent's figures, after what was sent before has been counted.
fn settled(agent: &LabAgent) -> Result<Figures> {
    std::thread::sleep(Duration::from_millis(1200));
    Ok(agent.figures()?)
}

fn wait_for(patience: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(start.elapsed() < patience, "waited for {patience:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Removes the agent's traces: pins and mounts of its state directory, and its folder.
fn home_away(lab: &Lab, folder: &Path) -> Result<()> {
    let mut command = lab.node().command(std::env::current_exe()?);
    command.arg("cleanup").arg("--force").arg("--state-dir").arg(folder.join("state"));
    let output = command.output().context("cannot clean up")?;
    if !output.status.success() {
        return Err(anyhow!("cannot clean up: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(fs::remove_dir_all(folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_count_is_summed_over_ports() {
        let figures = [
            ("portcullis_tc_packets_total{iface=\"a\",what=\"denied\"}", 3),
            ("portcullis_tc_packets_total{iface=\"b\",what=\"denied\"}", 4),
            ("portcullis_tc_packets_total{iface=\"b\",what=\"hit\"}", 0),
            ("portcullis_drops_total{reason=\"default_deny\"}", 5),
        ];
        let figures = figures.map(|(name, count)| (name.to_owned(), count)).into();
        assert_eq!(by_programs(&figures), BTreeMap::from([("denied", 7)]));
        assert_eq!(denied(&figures), 12);
    }

    #[test]
    fn the_outside_hosts_have_both_families() {
        for host in lab_command::outside() {
            let families: Vec<Family> = host.addresses.iter().map(Family::of).collect();
            assert_eq!(families, Family::ALL);
        }
    }
}
