//! Before anything is touched: can this process do its work on this machine?

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::config::Config;
use crate::interface::InterfaceName;
use crate::links::{Interface, NodeView};

/// The most bytes that one frame of packet memory takes.
const FRAME_BYTES: u64 = 4096;

/// Capabilities that matter here, with their numbers (include/uapi/linux/capability.h).
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const NET_RAW: (u32, &str) = (13, "CAP_NET_RAW");
const IPC_LOCK: (u32, &str) = (14, "CAP_IPC_LOCK");
const SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const BPF: (u32, &str) = (39, "CAP_BPF");

/// What this process finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The effective capabilities, one bit each.
    pub capabilities: u64,
    /// Whether a bpffs is there for our pins.
    pub bpffs: bool,
    /// Whether `nft` can be run.
    pub nft: bool,
    /// How many bytes may be locked in memory; `None` without a limit.
    pub memlock: Option<u64>,
    /// Links and the rest.
    pub view: NodeView,
}

/// Why the agent cannot run here. All map to exit code [`SYSTEM`](crate::exit::SYSTEM).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// The process may not do what it must.
    #[error("missing {}: run as root, or grant the capabilities to the process", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// A pod's interface is part of another one, which carries its packets past us.
    #[error(
        "`{interface}` belongs to `{controller}`, which would carry packets to the pod past Portcullis; take it \
        out with `ip link set dev {interface} nomaster` and route to the pod instead"
    )]
    Enslaved {
        /// The pod's interface.
        interface: InterfaceName,
        /// The bridge, bond or VRF.
        controller: String,
    },
    /// Not an Ethernet interface.
    #[error("`{0}` has no MAC address; Portcullis works on Ethernet interfaces only")]
    NotEthernet(InterfaceName),
    /// Nothing to put the interlock in force with.
    #[error("`nft` is not in the PATH; install the nftables package")]
    NoNft,
}

/// What may go wrong later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hint {
    /// No interface of this name yet.
    #[error("there is no interface `{interface}` here yet{}; it is served as soon as it comes", alike(.similar))]
    NoSuchInterface {
        /// The name in the configuration.
        interface: InterfaceName,
        /// Names that look like it, the closest first.
        similar: Vec<String>,
    },
    /// Packet memory is locked, and the limit is low.
    #[error(
        "{needed} bytes of packet memory exceed the {limit} that may be locked: raise the limit (ulimit -l, \
        LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK; otherwise the sockets may fail with ENOBUFS"
    )]
    Memlock {
        /// What the workers will ask for at most, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
}

impl Machine {
    /// Looks around. `state_dir` tells where our pins may be.
    #[must_use]
    pub fn look(view: NodeView, state_dir: &Path) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let is_bpffs = |path: &Path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
        let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(RLIM_INFINITY, |(soft, _)| soft);
        Self {
            capabilities: effective(&status),
            bpffs: is_bpffs(Path::new("/sys/fs/bpf")) || is_bpffs(&state_dir.join("bpf")),
            nft: in_path("nft"),
            memlock: (limit != RLIM_INFINITY).then_some(limit),
            view,
        }
    }

    /// The capabilities that a start takes and that are not there, each with what it is for where that helps.
    #[must_use]
    pub fn missing_capabilities(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        missing.extend([NET_ADMIN, NET_RAW].iter().filter(|c| !self.has(**c)).map(|c| c.1));
        // CAP_SYS_ADMIN includes these two (bpf_capable and perfmon_capable in include/linux/capability.h).
        // CAP_PERFMON: the verifier asks for it when a program looks into packets at places that depend on the
        // packet. It is given up once the programs are loaded.
        for needed in [PERFMON, BPF] {
            if !self.has(needed) && !self.has(SYS_ADMIN) {
                missing.push(needed.1);
            }
        }
        if !self.bpffs && !self.has(SYS_ADMIN) {
            missing.push(
                "CAP_SYS_ADMIN (only to mount a bpffs: `mount -t bpf bpf /sys/fs/bpf` does it beforehand)",
            );
        }
        missing
    }

    /// Whether memory can be locked beyond the limit.
    #[must_use]
    pub const fn locks_memory(&self) -> bool {
        self.has(IPC_LOCK)
    }

    const fn has(&self, capability: (u32, &str)) -> bool {
        self.capabilities >> capability.0 & 1 == 1
    }
}

/// Everything that keeps the agent of this configuration from running here; else what may go wrong later.
///
/// # Errors
///
/// At least one reason.
pub fn check(config: &Config, machine: &Machine) -> Result<Vec<Hint>, Vec<PreflightError>> {
    let mut errors = Vec::new();

    let missing = machine.missing_capabilities();
    if !missing.is_empty() {
        errors.push(PreflightError::Capabilities(missing));
    }
    if !machine.nft {
        errors.push(PreflightError::NoNft);
    }

    let mut hints = Vec::new();
    for (position, interface) in config.interfaces().enumerate() {
        if let Some(found) = machine.view.interfaces.get(interface.as_str()) {
            errors.extend(unfit(interface, found, position < config.ports.len(), &machine.view));
        } else {
            let names = machine.view.interfaces.keys().map(String::as_str);
            let similar = similar_to(interface.as_str(), names);
            hints.push(Hint::NoSuchInterface { interface: interface.clone(), similar });
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }

    let needed = config.workers as u64 * u64::from(config.xsk.frames) * FRAME_BYTES;
    let low = machine.memlock.filter(|limit| *limit < needed && !machine.has(IPC_LOCK));
    hints.extend(low.map(|limit| Hint::Memlock { needed, limit }));
    Ok(hints)
}

/// Why an interface cannot be the port of a pod, or an uplink.
#[must_use]
pub fn unfit(
    interface: &InterfaceName,
    found: &Interface,
    is_pod: bool,
    view: &NodeView,
) -> Option<PreflightError> {
    if !found.mac.is_usable() {
        return Some(PreflightError::NotEthernet(interface.clone()));
    }
    let index = found.controller.filter(|_| is_pod)?;
    let name = view.interfaces.iter().find(|(_, other)| other.index == index);
    let controller = name.map_or_else(|| format!("interface {index}"), |(name, _)| name.clone());
    Some(PreflightError::Enslaved { interface: interface.clone(), controller })
}

/// The bits of `CapEff` in the text of /proc/PID/status.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn in_path(program: &str) -> bool {
    let executable =
        |file: &Path| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| executable(&folder.join(program))))
}

/// At most three names that look like `wanted`, the closest first.
fn similar_to<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut near: Vec<(usize, &str)> = names
        .map(|name| (distance(wanted, name), name))
        .filter(|(d, name)| d * 2 <= name.len().max(4))
        .collect();
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// How many characters must be inserted, removed or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn alike(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!(" (similar: {})", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::MacAddr;

    fn config() -> Config {
        let text = "\
node: n
manifests: m
ports:
  - {interface: veth-a, pod: x/a}
uplinks: [eth1]
";
        Config::parse(text, Path::new("c.yaml"), None).unwrap()
    }

    const ALL: u64 = u64::MAX;

    fn without(capabilities: &[(u32, &str)]) -> u64 {
        capabilities.iter().fold(ALL, |all, c| all & !(1 << c.0))
    }

    fn machine() -> Machine {
        let interfaces = [("lo", 1), ("veth-a", 2), ("eth1", 3), ("br0", 4)].map(|(name, index)| {
            let mac = MacAddr([if index == 1 { 0 } else { 2 }, 0, 0, 0, 0, 0]);
            let mac = if index == 1 { MacAddr([0; 6]) } else { mac };
            (name.to_owned(), Interface { index, mac, mtu: 1500, up: true, carrier: true, controller: None })
        });
        let view = NodeView { interfaces: interfaces.into(), ..NodeView::default() };
        Machine { capabilities: ALL, bpffs: true, nft: true, memlock: None, view }
    }

    fn errors(machine: &Machine) -> Vec<String> {
        check(&config(), machine).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fit_machine_passes() {
        assert_eq!(check(&config(), &machine()), Ok(vec![]));
    }

    #[test]
    fn missing_capabilities_are_named_together() {
        let missing =
            |capabilities, bpffs| match check(&config(), &Machine { capabilities, bpffs, ..machine() }) {
                Err(errors) => match &errors[..] {
                    [PreflightError::Capabilities(missing)] => missing.clone(),
                    other => panic!("{other:?}"),
                },
                Ok(_) => vec![],
            };
        assert_eq!(missing(0, true), ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing(0, false).len(), 5);
        assert!(missing(without(&[SYS_ADMIN]), false)[0].starts_with("CAP_SYS_ADMIN"));
        // What is needed is enough, and CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON.
        let least = 1 << NET_ADMIN.0 | 1 << NET_RAW.0 | 1 << PERFMON.0 | 1 << BPF.0;
        assert_eq!(missing(least, true), Vec::<&str>::new());
        assert_eq!(missing(without(&[BPF]), true), Vec::<&str>::new());
        assert_eq!(missing(without(&[NET_RAW]), true), ["CAP_NET_RAW"]);
    }

    #[test]
    fn a_missing_interface_is_waited_for_and_named_with_those_like_it() {
        let mut machine = machine();
        let hints = |machine: &Machine| {
            check(&config(), machine).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let veth = machine.view.interfaces.remove("veth-a").unwrap();
        machine.view.interfaces.insert("veth-aa".into(), veth);
        let expected =
            "there is no interface `veth-a` here yet (similar: veth-aa); it is served as soon as it comes";
        assert_eq!(hints(&machine), [expected]);
        machine.view.interfaces.clear();
        assert_eq!(hints(&machine).len(), 2, "the uplink is waited for, too");
        assert!(!hints(&machine)[0].contains("similar"), "{:?}", hints(&machine));
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let mut machine = machine();
        machine.nft = false;
        machine.view.interfaces.get_mut("veth-a").unwrap().controller = Some(4);
        machine.view.interfaces.get_mut("eth1").unwrap().mac = MacAddr([0; 6]);
        // An uplink may belong to another interface: what it brings for pods is taken all the same.
        machine.view.interfaces.get_mut("eth1").unwrap().controller = Some(4);
        let errors = errors(&machine);
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].contains("nftables"));
        assert!(errors[1].contains("`veth-a` belongs to `br0`"));
        assert!(errors[2].contains("`eth1` has no MAC address"));
    }

    #[test]
    fn a_low_limit_of_locked_memory_is_a_hint() {
        let needed = 16_384 * FRAME_BYTES;
        let hints = |memlock, capabilities| {
            check(&config(), &Machine { memlock, capabilities, ..machine() }).unwrap()
        };
        let low = without(&[IPC_LOCK]);
        assert_eq!(hints(Some(65_536), low), [Hint::Memlock { needed, limit: 65_536 }]);
        assert_eq!(hints(Some(65_536), ALL), []);
        assert_eq!(hints(Some(needed), low), []);
        assert_eq!(hints(None, low), []);
    }

    #[test]
    fn the_effective_set_is_read_from_status() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000003000\nCapBnd:\t0\n";
        assert_eq!(effective(status), 1 << 12 | 1 << 13);
        assert_eq!(effective("Name:\tx\n"), 0);
        assert!(in_path("sh") && !in_path("no-such-program-here"));
    }

    #[test]
    fn distances_are_small_for_slips() {
        assert_eq!(distance("eth0", "eth0"), 0);
        assert_eq!(distance("eth0", "eth1"), 1);
        assert_eq!(distance("veth", "vteh"), 2);
        assert_eq!(distance("", "abc"), 3);
        let names = ["lo", "eth0", "eth1", "veth-web", "ens3"];
        assert_eq!(similar_to("eth2", names.into_iter()), ["eth0", "eth1"]);
    }
}
