//! The settings as they are written: each with its form, its default and its description, in one place.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use flow::MacAddr;
use ipnet::IpNet;
use policy::model::ObjectName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use crate::interface::{InterfaceName, InterfacePattern};

/// One setting, as the reference describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where it stands in the file: `xsk.frames`, `ports[].pod`.
    pub key: &'static str,
    /// What may be written.
    pub form: &'static str,
    /// What holds when nothing is written, or `required`, or empty.
    pub default: String,
    /// What it does.
    pub meaning: String,
}

/// All settings, in the order of the file.
#[must_use]
pub fn settings() -> Vec<Setting> {
    [
        Root::settings(),
        Port::settings(),
        Xsk::settings(),
        Flows::settings(),
        Metrics::settings(),
        Interlock::settings(),
    ]
    .concat()
}

/// Declares one mapping of the file. Each key: description, type, form, key in full, and in parentheses its
/// default, or `required` (checked where all of the file is known), or `none`.
macro_rules! mapping {
    (@value required) => { Default::default() };
    (@value none) => { Default::default() };
    (@value ($default:expr)) => { $default };
    (@shown $value:expr, required) => { "required".to_owned() };
    (@shown $value:expr, none) => { String::new() };
    (@shown $value:expr, ($default:expr)) => { $value.to_string() };
    ($(#[$attribute:meta])* $name:ident {
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty, $key:literal, $form:literal, $default:tt;)*
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[doc = $doc])+ pub(super) $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: mapping!(@value $default),)* }
            }
        }

        impl $name {
            fn settings() -> Vec<Setting> {
                vec![$(Setting {
                    key: $key,
                    form: $form,
                    default: mapping!(@shown Self::default().$field, $default),
                    meaning: concat!($($doc),+).trim().to_owned(),
                }),*]
            }
        }
    };
}

mapping! {
    /// The whole file.
    Root {
        /// The name of this node. The ports decide whose policy is enforced here;
        /// a pod of a port whose `spec.nodeName` is another gets a warning.
        node: String, "node", "name", required;
        /// The folder of the manifests: Namespace, Pod, Node and NetworkPolicy objects as YAML or JSON.
        /// A relative path starts at the folder of this file; `--manifests DIR` outdoes it.
        manifests: Option<PathBuf>, "manifests", "folder", required;
        /// How traffic is taken up: `router` carries it all in userspace; `inline` leaves it to the kernel and judges
        /// what is new. `inline` is not finished: docs/inline.md says what is missing.
        mode: Mode, "mode", "`router` or `inline`", (Mode::Router);
        /// Mode `inline`: the networks of service addresses, which the node's kernel translates to those of
        /// backends. Policy is asked about the backend.
        services: Vec<Spanned<Parsed<IpNet>>>, "services", "list of networks such as `10.96.0.0/12`", none;
        /// The pods' interfaces.
        ports: Vec<Spanned<Port>>, "ports", "list", required;
        /// The interfaces to the rest of the network. What arrives on them for a pod is judged; everything
        /// else is left to the kernel.
        uplinks: Vec<Spanned<Parsed<InterfaceName>>>, "uplinks", "list of interfaces", none;
        /// How workers wait for packets: `busy` keeps a core at full load, `adaptive` sleeps when idle, `auto` is
        /// busy on isolated cores and adaptive elsewhere.
        polling: Polling, "polling", "`auto`, `busy` or `adaptive`", (Polling::Auto);
        /// How many workers share the ports.
        workers: Within<1, 256>, "workers", "1 to 256", (Within(1));
        /// Packet memory.
        xsk: Xsk, "xsk", "mapping", none;
        /// The flow table.
        flows: Flows, "flows", "mapping", none;
        /// How long after a start a TCP segment in mid-stream may open its connection again, in whichever direction
        /// the policy allows. `0s`: never.
        recovery_window: Span, "recovery_window", "duration up to 5m", (Span(Duration::from_secs(30)));
        /// What becomes of the pinned programs when the agent is told to end: `keep` leaves them in force, `detach`
        /// removes them, and with them all enforcement.
        on_exit: OnExit, "on_exit", "`keep` or `detach`", (OnExit::Keep);
        /// What the pinned programs do with packets while no agent runs: `closed` drops them, `open` hands them to
        /// the kernel unjudged. With `open` there is no interlock either, also while the agent runs.
        fallback: Fallback, "fallback", "`closed` or `open`", (Fallback::Closed);
        /// What becomes of frames with a VLAN tag: `deny` drops them; `strip0` takes one priority tag (VLAN 0) off and
        /// judges what is behind it, which then leaves untagged. `allow`, for VLANs to carry through, is refused in
        /// router mode.
        vlan: Vlan, "vlan", "`deny` or `strip0`", (Vlan::Deny);
        /// The folder of the agent's own state; one agent runs in each.
        state_dir: Folder, "state_dir", "absolute path", (Folder(PathBuf::from("/run/portcullis")));
        /// Figures and health for whoever watches the agent.
        metrics: Metrics, "metrics", "mapping", none;
        /// The nftables rules that stop what the kernel would forward to or from a pod's interface.
        interlock: Interlock, "interlock", "mapping", none;
    }
}

/// One entry of `ports`. Not a [`mapping`] with defaults: a key that is missing is told with its position.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) interface: Parsed<InterfaceName>,
    pub(super) pod: Parsed<PodName>,
    pub(super) mac: Option<Parsed<MacAddr>>,
}

impl Port {
    fn settings() -> Vec<Setting> {
        let setting = |key, form, default: &str, meaning: &str| Setting {
            key,
            form,
            default: default.to_owned(),
            meaning: meaning.to_owned(),
        };
        vec![
            setting("ports[].interface", "interface", "required", "The host side of the pod's veth pair."),
            setting("ports[].pod", "`namespace/name`", "required", "The pod behind it."),
            setting(
                "ports[].mac",
                "MAC address",
                "",
                "The pod's MAC address. Without it, the first valid ARP or neighbour discovery of the pod pins it.",
            ),
        ]
    }
}

mapping! {
    /// `xsk`.
    Xsk {
        /// Frames of packet memory for each worker, shared by its ports.
        frames: Within<256, 1_048_576>, "xsk.frames", "256 to 1048576", (Within(16_384));
    }
}

mapping! {
    /// `flows`.
    Flows {
        /// How many connections the flow table holds. When it is full, new connections are dropped as
        /// `flow_table_full`; established ones go on.
        capacity: Within<1024, 67_108_864>, "flows.capacity", "1024 to 67108864", (Within(262_144));
    }
}

mapping! {
    /// `metrics`.
    Metrics {
        /// Where `/metrics`, `/livez` and `/readyz` are answered over TCP. They can also be asked for over the
        /// agent's own socket, `admin.sock` in its `state_dir`, which is for root alone.
        listen: Listen, "metrics.listen", "`address:port` or `none`", (Listen(Some(METRICS)));
    }
}

mapping! {
    /// `interlock`.
    Interlock {
        /// Interfaces that belong to pods, by name or as a beginning with `*`: until one of `ports` claims such an
        /// interface, nothing from it and nothing forwarded to it passes.
        hold: Vec<Spanned<Parsed<InterfacePattern>>>, "interlock.hold", "list of patterns such as `veth*`", none;
    }
}

/// Declares a setting of a few words.
macro_rules! words {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

words! {
    /// How traffic is taken up.
    #[derive(clap::ValueEnum)]
    Mode {
        /// Userspace carries everything.
        Router = "router",
        /// The kernel carries what userspace has judged.
        Inline = "inline",
    }
}

words! {
    /// How a worker waits for packets.
    Polling {
        /// Busy on isolated cores, adaptive elsewhere.
        Auto = "auto",
        /// It never sleeps.
        Busy = "busy",
        /// It polls for a while, then sleeps until a packet comes.
        Adaptive = "adaptive",
    }
}

words! {
    /// What becomes of programs and links when the agent ends.
    OnExit {
        /// They stay in force.
        Keep = "keep",
        /// They are removed.
        Detach = "detach",
    }
}

words! {
    /// What the programs do with packets while no agent runs.
    Fallback {
        /// Drop them.
        Closed = "closed",
        /// Hand them to the kernel.
        Open = "open",
    }
}

/// What becomes of frames with a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vlan {
    /// They are dropped.
    Deny,
    /// One priority tag is taken off; the rest is dropped.
    Strip0,
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "deny",
            Self::Strip0 => "strip0",
        })
    }
}

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Lists(HashMap<String, serde::de::IgnoredAny>),
            Other(serde::de::IgnoredAny),
        }
        let allows = match Written::deserialize(deserializer)? {
            Written::Word(word) if word == "deny" => return Ok(Self::Deny),
            Written::Word(word) if word == "strip0" => return Ok(Self::Strip0),
            Written::Word(word) => word.starts_with("allow"),
            Written::Lists(lists) => lists.contains_key("allow"),
            Written::Other(_) => false,
        };
        Err(D::Error::custom(if allows {
            "`allow` has no meaning in router mode: what is routed leaves its VLAN, and no port has an address in \
             another one; use `deny` or `strip0`"
        } else {
            "`vlan` is `deny` or `strip0`"
        }))
    }
}

/// A value that is written as text of its own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodName(pub(super) ObjectName);

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/');
        match parts.filter(|(space, name)| !space.is_empty() && !name.is_empty() && !name.contains('/')) {
            Some((space, name)) => Ok(Self(ObjectName::new(space, name))),
            None => Err(format!("`{text}` does not name a pod as namespace/name")),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A whole number with bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Within<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Within<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u32::try_from(number) {
            Ok(number) if (LEAST..=MOST).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format!("{number} is not between {LEAST} and {MOST}"))),
        }
    }
}

impl<const LEAST: u32, const MOST: u32> fmt::Display for Within<LEAST, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A duration with its unit: `500ms`, `30s`, `5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// The engine remembers a connection that policy has cut for ten minutes; while it does, no packet in mid-stream can
/// open it from its other end.
const LONGEST: Duration = Duration::from_secs(300);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match duration(&text) {
            Some(span) if span <= LONGEST => Ok(Self(span)),
            Some(_) => Err(D::Error::custom(format!("`{text}` is longer than {} s", LONGEST.as_secs()))),
            None => Err(D::Error::custom(format!("`{text}` is not a duration such as 30s or 500ms"))),
        }
    }
}

/// A duration with its unit: `500ms`, `30s`, `10m`, `1h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.parse::<u32>().ok()?.into();
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() > 0 {
            write!(f, "{}ms", self.0.as_millis())
        } else {
            write!(f, "{}s", self.0.as_secs())
        }
    }
}

/// On this node alone, unless it is said otherwise.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9471);

/// Where to listen, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match &*String::deserialize(deserializer)? {
            "none" => Ok(Self(None)),
            text => text.parse().map(|address| Self(Some(address))).map_err(|_not_one| {
                D::Error::custom(format!(
                    "`{text}` is neither address:port, such as 127.0.0.1:9471, nor `none`"
                ))
            }),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Folder(pub(super) PathBuf);

impl Deref for Folder {
    type Target = PathBuf;

    fn deref(&self) -> &PathBuf {
        &self.0
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        let read = |text: &str| serde_saphyr::from_str::<Span>(text).ok().map(|span| span.0);
        assert_eq!(read("30s"), Some(Duration::from_secs(30)));
        assert_eq!(read("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(read("2m"), Some(Duration::from_secs(120)));
        for bad in ["30", "s", "-1s", "1.5s", "30 s", "9999999999s", "1h", "301s"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(Span(Duration::from_millis(1500)).to_string(), "1500ms");
    }

    #[test]
    fn what_the_reference_calls_a_default_is_one() {
        // Whatever is shown as a default can be written, and changes nothing.
        for setting in settings().iter().filter(|s| !s.default.is_empty() && s.default != "required") {
            let written = match setting.key.split_once('.') {
                Some((section, key)) => format!("{section}: {{{key}: {}}}", setting.default),
                None => format!("{}: {}", setting.key, setting.default),
            };
            let root: Root = serde_saphyr::from_str(&written).unwrap();
            assert_eq!(format!("{root:?}"), format!("{:?}", Root::default()), "{written}");
        }
    }
}
