//! `portcullis doctor`: what this machine and these interfaces can do, and what to change, before an agent is started.
//! What keeps an agent from starting is asked of [`preflight`](crate::preflight), which asks it at every start.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use nix::sys::utsname::uname;
use serde::Serialize;
use xsk::Device;

use crate::cli::Format;
use crate::exit::{self, Failure, system, usage};
use crate::interface::InterfaceName;
use crate::links::NodeLinks;
use crate::preflight::Machine;

/// The name and version of the JSON form.
pub const SCHEMA: &str = "portcullis.doctor/v1";

/// The largest MTU with which a veth runs native XDP: a page, less what the kernel puts beside the packet.
const VETH_MTU: u32 = 3506;

/// `portcullis doctor`.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  portcullis doctor
  portcullis doctor eth1 veth0 -o json")]
pub struct DoctorArgs {
    /// Interfaces to look at; none without any.
    #[arg(value_name = "IFACE")]
    pub interfaces: Vec<String>,

    /// The form of the output; JSON is of the schema portcullis.doctor/v1.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// The state directory of the agent that is to run.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", default_value = "/run/portcullis", value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// An agent runs, but not as well as it could.
    Warn,
    /// No agent can run.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What was looked at: `kernel`, or the name of an interface.
    pub subject: String,
    /// What was found, and what to do about it.
    pub found: String,
}

/// What is not in [`Machine`], as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The kernel's release, as uname(2) tells it.
    pub kernel: String,
    /// The file that says whether programs get huge pages.
    pub huge_pages: String,
    /// The file that lists isolated cores.
    pub isolated: String,
    /// The interfaces to look at.
    pub interfaces: Vec<Looked>,
}

/// An interface that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Its name.
    pub name: InterfaceName,
    /// The id of the XDP program that it runs.
    pub program: Option<u32>,
    /// Its device; `None` if it is not there.
    pub device: Option<Device>,
}

/// Looks at this machine, and says how it is.
///
/// # Errors
///
/// A name that is none of an interface (exit code 2), or a kernel that does not answer (3).
pub fn run(args: &DoctorArgs) -> Result<u8, Failure> {
    let names: Result<Vec<InterfaceName>, _> = args.interfaces.iter().map(|name| name.parse()).collect();
    let names = names.map_err(usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let view = runtime.block_on(async { NodeLinks::open()?.snapshot().await }).map_err(system)?;
    let program = |name: &InterfaceName| {
        let index = view.interfaces.get(name.as_str())?.index;
        bpf::attached_program(index).ok().flatten()
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let surroundings = Surroundings {
        kernel: uname().map_err(system)?.release().to_string_lossy().into_owned(),
        huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
        isolated: read("/sys/devices/system/cpu/isolated"),
        interfaces: names
            .into_iter()
            .map(|name| Looked { program: program(&name), device: xsk::device(name.as_str()).ok(), name })
            .collect(),
    };
    let findings = examine(&Machine::look(view, &args.state_dir), &surroundings);
    let text = match args.output {
        Format::Table => table(&findings),
        Format::Json => format!("{:#}\n", serde_json::json!({ "schema": SCHEMA, "findings": findings })),
    };
    io::stdout().write_all(text.as_bytes()).map_err(system)?;
    Ok(match findings.iter().map(|finding| finding.level).max() {
        Some(Level::Fail) => exit::SYSTEM,
        Some(Level::Warn) => exit::FINDINGS,
        _ => exit::OK,
    })
}

/// All findings, the machine's first.
#[must_use]
pub fn examine(machine: &Machine, around: &Surroundings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |level, subject: &str, found: String| {
        findings.push(Finding { level, subject: subject.to_owned(), found });
    };
    let (level, found) = kernel(&around.kernel);
    find(level, "kernel", found);
    match &machine.missing_capabilities()[..] {
        [] => find(Level::Ok, "capabilities", "all that a start takes".to_owned()),
        missing => {
            let missing = missing.join(", ");
            find(Level::Fail, "capabilities", format!("missing {missing}: run as root, or grant them"));
        }
    }
    if machine.bpffs {
        find(Level::Ok, "bpffs", "mounted".to_owned());
    } else {
        find(Level::Ok, "bpffs", "not mounted: the agent mounts one in its state directory".to_owned());
    }
    if machine.nft {
        find(Level::Ok, "nftables", "nft is in the PATH".to_owned());
    } else {
        find(Level::Fail, "nftables", "`nft` is not in the PATH: install the nftables package".to_owned());
    }
    match machine.memlock {
        Some(limit) if !machine.locks_memory() => {
            let fix = "raise the limit (ulimit -l, LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK";
            find(
                Level::Warn,
                "memlock",
                format!("{limit} bytes may be locked; packet memory takes more: {fix}"),
            );
        }
        _ => find(Level::Ok, "memlock", "packet memory can be locked".to_owned()),
    }
    if around.huge_pages.is_empty() || around.huge_pages.contains("[never]") {
        let fix = "write `madvise` to /sys/kernel/mm/transparent_hugepage/enabled";
        find(Level::Warn, "huge pages", format!("none for the tables: {fix}"));
    } else {
        find(Level::Ok, "huge pages", "transparent ones are to be had".to_owned());
    }
    if around.isolated.is_empty() {
        let found = "no core is isolated: workers sleep when idle, and share their cores".to_owned();
        find(Level::Ok, "cores", found);
    } else {
        find(Level::Ok, "cores", format!("{} isolated: workers poll there", around.isolated));
    }
    for looked in &around.interfaces {
        let (level, found) = interface(machine, &looked.name, looked.program);
        find(level, looked.name.as_str(), found);
        for (level, found) in looked.device.iter().flat_map(|device| offloads(&looked.name, device)) {
            find(level, looked.name.as_str(), found);
        }
    }
    findings
}

/// What this kernel has of what an agent uses.
fn kernel(release: &str) -> (Level, String) {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        (0..=5, _) | (6, 0) => (Level::Fail, format!("{release}: take Linux 6.1 or later")),
        _ if version < (6, 6) => (
            Level::Ok,
            format!("{release}: inline mode uses filters of a clsact qdisc; from 6.6 on it uses links"),
        ),
        _ if version < (6, 18) => {
            (Level::Ok, format!("{release}: a transmit call sends 32 frames; from 6.18 on it sends more"))
        }
        _ => (Level::Ok, release.to_owned()),
    }
}

fn interface(machine: &Machine, name: &InterfaceName, program: Option<u32>) -> (Level, String) {
    let Some(found) = machine.view.interfaces.get(name.as_str()) else {
        return (Level::Warn, "it is not here yet: it is served as soon as it comes".to_owned());
    };
    if !found.mac.is_usable() {
        return (Level::Fail, "no MAC address: Portcullis works on Ethernet interfaces only".to_owned());
    }
    if let Some(id) = program {
        let fix = format!("if it is no agent's, `ip link set dev {name} xdp off` removes it");
        return (Level::Warn, format!("XDP program {id} is attached: {fix}"));
    }
    if found.controller.is_some() {
        let fix = format!("`ip link set dev {name} nomaster`");
        return (Level::Warn, format!("part of another interface: as a pod's port, take it out with {fix}"));
    }
    if found.mtu > VETH_MTU {
        let mtu = found.mtu;
        return (Level::Warn, format!("an MTU of {mtu}: a veth takes at most {VETH_MTU} for native XDP"));
    }
    let link = if found.up { "" } else { ", the link is down" };
    (Level::Ok, format!("Ethernet, MTU {}{link}", found.mtu))
}

/// Drivers whose native XDP is known to work, and of those the ones that can spare AF_XDP the copy. Any other may as well.
const NATIVE: [&str; 9] = ["veth", "virtio_net", "tun", "i40e", "ice", "igb", "igc", "ixgbe", "mlx5_core"];
const ZERO_COPY: [&str; 6] = ["i40e", "ice", "igb", "igc", "ixgbe", "mlx5_core"];

/// What its driver and its offloads mean for AF_XDP.
fn offloads(name: &InterfaceName, device: &Device) -> Vec<(Level, String)> {
    let Device { driver, queues, most_queues, .. } = device;
    let can = match driver.as_str() {
        driver if ZERO_COPY.contains(&driver) => {
            "native XDP; it could spare the copy, which the agent does not ask for"
        }
        driver if NATIVE.contains(&driver) => "native XDP, with a copy of each frame",
        _ => "whether it has native XDP shows at the start",
    };
    let driver = if driver.is_empty() { "none" } else { driver };
    let mut found = vec![(
        Level::Ok,
        format!(
            "driver {driver}: {can}; {queues} of {most_queues} receive queues in use, all of which get a socket"
        ),
    )];
    if device.hides_tags && driver != "veth" {
        let fix = format!("`ethtool -K {name} rxvlan off`");
        found.push((
            Level::Warn,
            format!("it takes VLAN tags out of frames, where nobody judges them: {fix}"),
        ));
    }
    if device.lro {
        let fix = format!("`ethtool -K {name} lro off`");
        found.push((Level::Warn, format!("it puts packets together, too large for packet memory: {fix}")));
    }
    if driver == "veth" && device.tso {
        let cost = "native XDP takes segmentation away from the pod behind it: TCP costs more in router mode";
        found.push((Level::Ok, cost.to_owned()));
    }
    found
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { level, subject, found } in findings {
        let level = match level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        writeln!(text, "{level}  {subject:width$}  {found}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::{Interface, NodeView};
    use flow::MacAddr;

    fn machine() -> Machine {
        let veth = Interface {
            index: 2,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            carrier: true,
            controller: None,
        };
        let large = Interface { mtu: 9000, ..veth };
        let interfaces = [("veth-a".to_owned(), veth), ("eth1".to_owned(), large)].into();
        let view = NodeView { interfaces, ..NodeView::default() };
        Machine { capabilities: u64::MAX, bpffs: true, nft: true, memlock: None, view }
    }

    fn around() -> Surroundings {
        let device = Device { driver: "veth".to_owned(), queues: 1, most_queues: 2, ..Device::default() };
        let interfaces =
            vec![Looked { name: "veth-a".parse().unwrap(), program: None, device: Some(device) }];
        let (kernel, huge_pages) = ("6.18.44".to_owned(), "always [madvise] never".to_owned());
        Surroundings { kernel, huge_pages, isolated: String::new(), interfaces }
    }

    #[test]
    fn a_fit_machine_is_told_so() {
        let expected = "\
ok    kernel        6.18.44
ok    capabilities  all that a start takes
ok    bpffs         mounted
ok    nftables      nft is in the PATH
ok    memlock       packet memory can be locked
ok    huge pages    transparent ones are to be had
ok    cores         no core is isolated: workers sleep when idle, and share their cores
ok    veth-a        Ethernet, MTU 1500
ok    veth-a        driver veth: native XDP, with a copy of each frame; 1 of 2 receive queues in use, all of which get a socket
";
        assert_eq!(table(&examine(&machine(), &around())), expected);
    }

    #[test]
    fn offloads_that_hide_or_join_are_named() {
        let device = Device {
            driver: "ice".to_owned(),
            queues: 4,
            most_queues: 8,
            hides_tags: true,
            lro: true,
            ..Device::default()
        };
        let found = offloads(&"eth1".parse().unwrap(), &device);
        let levels: Vec<Level> = found.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warn, Level::Warn]);
        assert!(
            found[0].1.contains("4 of 8") && found[1].1.contains("ethtool -K eth1 rxvlan off"),
            "{found:?}"
        );
        assert!(found[2].1.contains("ethtool -K eth1 lro off"), "{found:?}");
    }

    #[test]
    fn what_is_amiss_comes_with_what_to_do() {
        let machine = Machine { capabilities: 1 << 12, nft: false, memlock: Some(65_536), ..machine() };
        let interfaces = ["veth-a", "eth1", "gone0"].map(|name| name.parse().unwrap());
        let interfaces = interfaces.map(|name: InterfaceName| {
            let program = (name.as_str() == "veth-a").then_some(7);
            Looked { name, program, device: None }
        });
        let kernel = "5.4.0-42-generic".to_owned();
        let around = Surroundings { kernel, interfaces: interfaces.into(), ..Surroundings::default() };
        let found: Vec<_> =
            examine(&machine, &around).into_iter().map(|f| (f.level, f.subject, f.found)).collect();
        let of = |subject: &str| found.iter().find(|found| found.1 == subject).unwrap();
        for (subject, level, hint) in [
            ("kernel", Level::Fail, "6.1"),
            ("capabilities", Level::Fail, "CAP_BPF"),
            ("nftables", Level::Fail, "install"),
            ("memlock", Level::Warn, "LimitMEMLOCK"),
            ("huge pages", Level::Warn, "madvise"),
            ("veth-a", Level::Warn, "ip link set dev veth-a xdp off"),
            ("eth1", Level::Warn, "3506"),
            ("gone0", Level::Warn, "not here"),
        ] {
            assert!(of(subject).0 == level && of(subject).2.contains(hint), "{:?}", of(subject));
        }
    }
}
