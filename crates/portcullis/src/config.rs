//! The configuration file: raw as written, then checked as a whole. A [`Config`] that exists is sound.
//!
//! The settings, their defaults and their descriptions stand in `raw.rs`, once;
//! `docs/reference/config.md` is made from them.

mod checks;
mod raw;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flow::{Address, MacAddr};
use policy::model::ObjectName;

use crate::interface::{InterfaceName, InterfacePattern};

use checks::Places;
pub use raw::{Attach, Fallback, Mode, OnExit, Polling, Setting, settings};
pub use values::Vlan;
pub(crate) use values::duration;

/// A sound configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from.
    pub source: PathBuf,
    /// The name of this node.
    pub node: String,
    /// How traffic is taken up.
    pub mode: Mode,
    /// Networks of service addresses, with prefix lengths in the family's own bits.
    pub services: Vec<(Address, u8)>,
    /// What holds the programs of inline mode in their places.
    pub attach: Attach,
    /// The pods' interfaces, at least one; no interface, pod or MAC address twice.
    pub ports: Vec<PodPort>,
    /// The interfaces to the rest of the network; none of them a pod's.
    pub uplinks: Vec<InterfaceName>,
    /// The folder of the manifests.
    pub manifests: PathBuf,
    /// How workers wait.
    pub polling: Polling,
    /// How many workers.
    pub workers: usize,
    /// Packet memory.
    pub xsk: Xsk,
    /// The flow table.
    pub flows: Flows,
    /// How long after a start connections of TCP and SCTP may be taken up in mid-stream.
    pub recovery_window: Duration,
    /// What becomes of the programs when the agent ends.
    pub on_exit: OnExit,
    /// What the programs do while no agent runs.
    pub fallback: Fallback,
    /// What becomes of frames with a VLAN tag.
    pub vlan: Vlan,
    /// The folder of our own state.
    pub state_dir: PathBuf,
    /// Where figures and health can be asked for over TCP.
    pub metrics_listen: Option<SocketAddr>,
    /// Interfaces that are held until they are claimed; no uplink and not `lo`.
    pub hold: Vec<InterfacePattern>,
}

/// The host side of one pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// The interface.
    pub interface: InterfaceName,
    /// The pod behind it.
    pub pod: ObjectName,
    /// The pod's MAC address; learnt where it is not given.
    pub mac: Option<MacAddr>,
}

/// Packet memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xsk {
    /// Frames of packet memory for each worker.
    pub frames: u32,
}

/// The flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// How many connections it holds.
    pub capacity: usize,
}

/// The configuration cannot be used. Shown one problem a line, each with its file, line and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The configuration file.
    pub file: PathBuf,
    /// What is wrong; at least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, both from one; `None` for what is missing in the file as a whole.
    pub at: Option<(u64, u64)>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Config {
    /// Reads and checks a configuration file. `manifests`, from the command line, overrides the file's own.
    ///
    /// # Errors
    ///
    /// The file cannot be read or parsed, a value contradicts another, or the folder of the manifests does
    /// not exist.
    pub fn load(file: &Path, manifests: Option<&Path>) -> Result<Self, ConfigError> {
        let whole =
            |message| ConfigError { file: file.to_owned(), problems: vec![Problem { at: None, message }] };
        let text =
            std::fs::read_to_string(file).map_err(|error| whole(format!("cannot be read: {error}")))?;
        let config = Self::parse(&text, file, manifests)?;
        if config.manifests.is_dir() {
            Ok(config)
        } else {
            let folder = config.manifests.display();
            Err(whole(format!(
                "the manifests folder {folder} does not exist: create it, or correct `manifests`"
            )))
        }
    }

    /// Checks the text of a configuration file. A relative folder of manifests is looked for beside `file`;
    /// one from the command line is taken as it is.
    ///
    /// # Errors
    ///
    /// Everything that is wrong in it; of errors that keep it from being parsed, the first.
    pub fn parse(text: &str, file: &Path, manifests: Option<&Path>) -> Result<Self, ConfigError> {
        let fail = |problems| ConfigError { file: file.to_owned(), problems };
        // An empty document would be null, which is no mapping; let it miss its keys like `{}`.
        let empty = text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
        let text = if empty { "{}" } else { text };
        let unread = |error: serde_saphyr::Error| fail(vec![Problem::from_yaml(&error)]);
        let raw: raw::Root = serde_saphyr::from_str(text).map_err(unread)?;
        let places: Places = serde_saphyr::from_str(text).map_err(unread)?;
        let written = raw.manifests.as_ref().map(|m| file.parent().unwrap_or_else(|| Path::new("")).join(m));
        let manifests = manifests.map(Path::to_owned).or(written).unwrap_or_default();
        let problems = checks::check(&raw, &places, &manifests);
        if !problems.is_empty() {
            return Err(fail(problems));
        }

        let ports = raw.ports.into_iter().map(|port| PodPort {
            interface: port.value.interface.0,
            pod: port.value.pod.0.0,
            mac: port.value.mac.map(|mac| mac.0),
        });
        Ok(Self {
            source: file.to_owned(),
            node: raw.node,
            mode: raw.mode,
            services: raw
                .services
                .iter()
                .map(|net| (net.value.0.network().into(), net.value.0.prefix_len()))
                .collect(),
            attach: raw.inline.attach,
            ports: ports.collect(),
            uplinks: raw.uplinks.into_iter().map(|uplink| uplink.value.0).collect(),
            manifests,
            polling: raw.polling,
            workers: raw.workers.0 as usize,
            xsk: Xsk { frames: raw.xsk.frames.0 },
            flows: Flows { capacity: raw.flows.capacity.0 as usize },
            recovery_window: raw.recovery_window.0,
            on_exit: raw.on_exit,
            fallback: raw.fallback,
            vlan: raw.vlan,
            state_dir: raw.state_dir.0,
            metrics_listen: raw.metrics.listen.0,
            hold: raw.interlock.hold.into_iter().map(|pattern| pattern.value.0).collect(),
        })
    }

    /// The pods' interfaces and the uplinks, in this order.
    pub fn interfaces(&self) -> impl Iterator<Item = &InterfaceName> {
        self.ports.iter().map(|port| &port.interface).chain(&self.uplinks)
    }
}

impl Problem {
    fn from_yaml(error: &serde_saphyr::Error) -> Self {
        let at = error.location().map(|at| (at.line(), at.column()));
        let message = match error.without_snippet() {
            serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => unknown_key(field, expected),
            other => {
                let message = other.to_string();
                // The position stands before the message already.
                let place = at.map(|(line, column)| format!(" at line {line}, column {column}"));
                place.and_then(|place| message.strip_suffix(&place)).unwrap_or(&message).to_owned()
            }
        };
        Self { at, message }
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    match manifest::closest(key, known) {
        Some(meant) => format!("unknown key `{key}`: did you mean `{meant}`?"),
        None => format!("unknown key `{key}`: the keys here are {}", known.join(", ")),
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some((line, column)) = problem.at {
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " {}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "\
node: node-1
manifests: manifests
ports:
  - {interface: veth-web, pod: shop/web}
";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/portcullis/config.yaml"), None)
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_small_file_gets_the_defaults() {
        let config = parse(SMALL).unwrap();
        let name = |text: &str| text.parse::<InterfaceName>().unwrap();
        let pod = ObjectName::new("shop", "web");
        assert_eq!(
            config,
            Config {
                source: "/etc/portcullis/config.yaml".into(),
                node: "node-1".into(),
                mode: Mode::Router,
                services: vec![],
                attach: Attach::Auto,
                ports: vec![PodPort { interface: name("veth-web"), pod, mac: None }],
                uplinks: vec![],
                manifests: "/etc/portcullis/manifests".into(),
                polling: Polling::Auto,
                workers: 1,
                xsk: Xsk { frames: 16_384 },
                flows: Flows { capacity: 262_144 },
                recovery_window: Duration::from_secs(30),
                on_exit: OnExit::Keep,
                fallback: Fallback::Closed,
                vlan: Vlan::Deny,
                state_dir: "/run/portcullis".into(),
                metrics_listen: Some(([127, 0, 0, 1], 9471).into()),
                hold: vec![],
            }
        );
    }

    #[test]
    fn every_setting_is_read() {
        let text = "\
node: n
mode: inline
services: [10.96.0.0/12, \"fd00:96::/108\"]
inline: {attach: clsact}
manifests: /srv/manifests
ports:
  - interface: pod0
    pod: a/b
    mac: 02:00:5e:10:00:01
uplinks: [eth1, eth2]
polling: busy
xsk: {frames: 4096}
flows: {capacity: 1024}
recovery_window: 500ms
on_exit: detach
fallback: open
state_dir: /tmp/state
metrics: {listen: \"[::1]:9999\"}
interlock: {hold: [\"pod*\", tap7]}
";
        let config = parse(text).unwrap();
        assert_eq!(config.ports[0].mac, Some(MacAddr([2, 0, 0x5e, 0x10, 0, 1])));
        assert_eq!((config.mode, config.attach), (Mode::Inline, Attach::Clsact));
        assert_eq!(config.services.iter().map(|(_, length)| *length).collect::<Vec<_>>(), [12, 108]);
        assert_eq!(config.manifests, Path::new("/srv/manifests"));
        assert_eq!(
            config.interfaces().map(InterfaceName::as_str).collect::<Vec<_>>(),
            ["pod0", "eth1", "eth2"]
        );
        assert_eq!(config.polling, Polling::Busy);
        assert_eq!((config.xsk.frames, config.flows.capacity), (4096, 1024));
        assert_eq!(config.recovery_window, Duration::from_millis(500));
        assert_eq!((config.on_exit, config.fallback), (OnExit::Detach, Fallback::Open));
        assert_eq!(config.state_dir, Path::new("/tmp/state"));
        assert_eq!(config.metrics_listen, Some("[::1]:9999".parse().unwrap()));
        assert_eq!(config.hold.iter().map(InterfacePattern::as_str).collect::<Vec<_>>(), ["pod*", "tap7"]);
        let config = parse(&format!("{SMALL}workers: 2\nvlan: strip0\n")).unwrap();
        assert_eq!((config.workers, config.vlan), (2, Vlan::Strip0));
    }

    #[test]
    fn settings_of_the_other_mode_are_refused_where_they_stand() {
        let cases = [
            ("router", "services: [10.96.0.0/12]", "6:11: `services` needs `mode: inline`"),
            ("router", "inline: {attach: tcx}", "6:9: `inline` needs `mode: inline`"),
            ("inline", "vlan: strip0", "6:7: `vlan: strip0` needs `mode: router`"),
            ("inline", "workers: 2", "6:10: inline mode has one worker: remove `workers`"),
        ];
        for (mode, setting, problem) in cases {
            let written = |mode| format!("{SMALL}mode: {mode}\n{setting}\n");
            assert_eq!(error(&written(mode)), format!("/etc/portcullis/config.yaml:{problem}"));
            let other = if mode == "router" { "inline" } else { "router" };
            assert!(parse(&written(other)).is_ok(), "{setting} in mode {other}");
        }
        assert!(
            parse(&format!("{SMALL}mode: inline\nworkers: 1\nvlan: deny\n")).is_ok(),
            "what holds anyway"
        );
    }

    #[test]
    fn more_interfaces_than_there_is_room_for_are_refused() {
        let with = |mode: &str, uplinks: usize| {
            let uplinks: String = (0..uplinks).map(|n| format!("  - up{n}\n")).collect();
            parse(&format!("{SMALL}mode: {mode}\nuplinks:\n{uplinks}"))
        };
        for (mode, most) in [("router", 1024), ("inline", 1023)] {
            assert!(with(mode, most - 1).is_ok(), "{mode}");
            let refused = with(mode, most).unwrap_err().to_string();
            assert!(refused.ends_with(&format!("mode `{mode}` has room for {most}")), "{refused}");
        }
    }

    #[test]
    fn an_unknown_key_is_told_once_with_what_was_meant() {
        assert_eq!(
            error(&SMALL.replace("manifests: manifests", "manifest: manifests")),
            "/etc/portcullis/config.yaml:2:1: unknown key `manifest`: did you mean `manifests`?"
        );
        assert_eq!(
            error(&format!("{SMALL}xsk: {{ring_size: 64}}\n")),
            "/etc/portcullis/config.yaml:5:7: unknown key `ring_size`: the keys here are frames"
        );
        let lazy = error(&format!("{SMALL}polling: lazy\n"));
        assert!(lazy.ends_with(": unknown variant `lazy`, expected one of auto, busy, adaptive"), "{lazy}");
    }

    #[test]
    fn the_command_line_overrides_the_files_manifests() {
        let given = Config::parse(SMALL, Path::new("c.yaml"), Some(Path::new("elsewhere"))).unwrap();
        assert_eq!(given.manifests, Path::new("elsewhere"));
        let without = SMALL.replace("manifests: manifests\n", "");
        let given = Config::parse(&without, Path::new("c.yaml"), Some(Path::new("elsewhere"))).unwrap();
        assert_eq!(given.manifests, Path::new("elsewhere"));
        assert!(error(&without).contains("`manifests` is missing"), "{}", error(&without));
    }

    #[test]
    fn what_is_missing_is_told_all_at_once() {
        for text in ["", "# nothing yet\n", "{}"] {
            let problems = parse(text).unwrap_err().problems;
            assert_eq!(problems.len(), 3, "{problems:?}");
            assert!(problems.iter().all(|p| p.at.is_none() && p.message.contains("is missing")));
        }
    }

    #[test]
    fn errors_name_line_and_column() {
        let cases = [
            (format!("{SMALL}uplink: [eth1]\n"), "config.yaml:5:1: ", "uplink"),
            (format!("{SMALL}polling: lazy\n"), "config.yaml:5:10: ", "adaptive"),
            (format!("{SMALL}vlan: allow\n"), "config.yaml:5:7: ", "`allow` is not supported"),
            (format!("{SMALL}vlan: {{allow: [5, 7]}}\n"), "config.yaml:5:7: ", "`allow` is not supported"),
            (format!("{SMALL}vlan: tagged\n"), "config.yaml:5:7: ", "`deny` or `strip0`"),
            (format!("{SMALL}vlan: [5]\n"), "config.yaml:5:7: ", "`deny` or `strip0`"),
            (format!("{SMALL}workers: 0\n"), "config.yaml:5:10: ", "between 1 and 256"),
            (format!("{SMALL}xsk: {{frames: 1}}\n"), "config.yaml:5:15: ", "between 256 and 1048576"),
            (format!("{SMALL}recovery_window: soon\n"), "config.yaml:5:18: ", "such as 30s"),
            (
                format!("{SMALL}uplinks: [eth0, this-name-is-too-long]\n"),
                "config.yaml:5:17: ",
                "15 characters",
            ),
            (format!("{SMALL}interlock: {{hold: [\"*\"]}}\n"), "config.yaml:5:20: ", "missing"),
            (SMALL.replace("shop/web", "web"), "config.yaml:4:32: ", "namespace/name"),
            (SMALL.replace("shop/web", "shop/web, mac: 1-2"), "config.yaml:4:47: ", "not a MAC address"),
            (
                SMALL.replace("pod: shop/web", "mac: 02:00:5e:10:00:01"),
                "config.yaml:4:27: ",
                "missing field `pod`",
            ),
            (format!("{SMALL}node: again\n"), "config.yaml:5:1: ", "duplicate"),
            ("node: [\n".into(), "config.yaml:", ""),
        ];
        for (text, place, word) in cases {
            let error = error(&text);
            assert!(error.contains(place) && error.contains(word), "{place} {word}\n{text}\n{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn what_comes_twice_names_the_first_line() {
        let second = |line: &str| error(&format!("{SMALL}  - {line}\n"));
        assert_eq!(
            second("{interface: veth-web, pod: shop/db}"),
            "/etc/portcullis/config.yaml:5:5: interface `veth-web` is already used in line 4"
        );
        assert!(
            second("{interface: veth-2, pod: shop/web}").contains("pod `shop/web` is already used in line 4")
        );
        let uplink = error(&format!("{SMALL}uplinks: [veth-web]\n"));
        assert!(uplink.contains(":5:11: interface `veth-web` is already used in line 4"), "{uplink}");
        let mac = SMALL.replace("shop/web}", "shop/web, mac: 02:00:00:00:00:01}");
        let twice = format!("{mac}  - {{interface: v2, pod: a/b, mac: 02:00:00:00:00:01}}\n");
        assert!(
            error(&twice).contains("MAC address `02:00:00:00:00:01` is already used"),
            "{}",
            error(&twice)
        );
        let group = SMALL.replace("shop/web}", "shop/web, mac: ff:ff:ff:ff:ff:ff}");
        assert!(error(&group).contains("not the MAC address of one interface"));
    }

    #[test]
    fn holding_an_uplink_or_the_loopback_is_refused() {
        let uplink = error(&format!("{SMALL}uplinks: [eth1]\ninterlock: {{hold: [\"e*\"]}}\n"));
        assert!(uplink.contains(":6:20: `e*` would also hold `eth1`"), "{uplink}");
        let lo = error(&format!("{SMALL}interlock: {{hold: [\"l*\"]}}\n"));
        assert!(lo.contains("would also hold `lo`"), "{lo}");
    }

    #[test]
    fn a_folder_of_manifests_must_exist() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, SMALL).unwrap();
        let error = Config::load(&file, None).unwrap_err().to_string();
        assert!(error.contains("manifests does not exist: create it"), "{error}");
        std::fs::create_dir(folder.path().join("manifests")).unwrap();
        assert_eq!(Config::load(&file, None).unwrap().manifests, folder.path().join("manifests"));
        let missing = Config::load(&folder.path().join("none.yaml"), None).unwrap_err().to_string();
        assert!(missing.contains("none.yaml: cannot be read"), "{missing}");
    }
}
