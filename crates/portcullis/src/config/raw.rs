//! The settings as they are written: each with its form, its default and its description, in one place.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use flow::MacAddr;
use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::values::{Folder, Listen, METRICS, Parsed, PodName, Span, Vlan, Within};
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
        Inline::settings(),
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
        /// Every `*.yaml`, `*.yml` and `*.json` directly in it counts; subfolders are not read. A relative path starts
        /// at the folder of this file; `--manifests DIR` overrides it.
        manifests: Option<PathBuf>, "manifests", "folder", required;
        /// How traffic is taken up: `router` carries it all in userspace; `inline` leaves it to the kernel and judges
        /// what is new, which is the mode for Kubernetes nodes (docs/inline.md). Nothing is guessed from the machine
        /// (docs/decisions/0017).
        mode: Mode, "mode", "`router` or `inline`", (Mode::Router);
        /// Mode `inline` only. The networks of service addresses, which the node's kernel translates to those of
        /// backends. Policy is asked about the backend.
        services: Vec<Spanned<Parsed<IpNet>>>, "services", "list of networks such as `10.96.0.0/12`", none;
        /// Mode `inline` only. What is the kernel's in it.
        inline: Inline, "inline", "mapping", none;
        /// The pods' interfaces.
        ports: Vec<Spanned<Port>>, "ports", "list", required;
        /// The interfaces to the rest of the network. What arrives on them for a pod is judged; everything
        /// else is left to the kernel.
        uplinks: Vec<Spanned<Parsed<InterfaceName>>>, "uplinks", "list of interfaces", none;
        /// How workers wait for packets: `busy` keeps a core at full load, `adaptive` sleeps when idle, `auto` is
        /// busy on isolated cores and adaptive elsewhere.
        polling: Polling, "polling", "`auto`, `busy` or `adaptive`", (Polling::Auto);
        /// Mode `router` only. How many workers share the ports; mode `inline` has one.
        workers: Within<1, 256>, "workers", "1 to 256", (Within(1));
        /// Packet memory.
        xsk: Xsk, "xsk", "mapping", none;
        /// The flow table.
        flows: Flows, "flows", "mapping", none;
        /// How long after a start a packet of TCP or SCTP in mid-stream may open its connection again, in whichever direction
        /// the policy allows. `0s`: never.
        recovery_window: Span, "recovery_window", "duration up to 5m", (Span(Duration::from_secs(30)));
        /// What becomes of the pinned programs when the agent is told to end: `keep` leaves them in force, `detach`
        /// removes them, and with them all enforcement.
        on_exit: OnExit, "on_exit", "`keep` or `detach`", (OnExit::Keep);
        /// What the pinned programs do with packets while no agent runs: `closed` drops them, `open` hands them to
        /// the kernel unjudged. With `open` there is no interlock either, also while the agent runs.
        fallback: Fallback, "fallback", "`closed` or `open`", (Fallback::Closed);
        /// What becomes of frames with a VLAN tag: `deny` drops them; `strip0`, in mode `router` only, takes one
        /// priority tag (VLAN 0) off and judges what is behind it, which then leaves untagged. VLANs cannot be carried
        /// through.
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
    /// `inline`.
    Inline {
        /// Mode `inline` only. What holds its programs in their places: `tcx` links (Linux 6.6 or later), which only the
        /// agent and its pins hold; filters of a `clsact` qdisc, which go with the qdisc when somebody removes that;
        /// or `auto`, links where the kernel has them and filters elsewhere.
        attach: Attach, "inline.attach", "`auto`, `tcx` or `clsact`", (Attach::Auto);
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
        /// `flow_table_full`; established ones go on. In mode `inline`, the kernel has room for twice as many verdicts
        /// of each family.
        capacity: Within<1024, 67_108_864>, "flows.capacity", "1024 to 67108864", (Within(262_144));
    }
}

mapping! {
    /// `metrics`.
    Metrics {
        /// Where `/metrics`, `/livez` and `/readyz` are answered over TCP. They can also be asked for over the
        /// agent's own socket, `admin.sock` in its `state_dir`, which is for root and the agent's own user.
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
    /// What holds the programs of inline mode in their places.
    Attach {
        /// Links where the kernel has them, filters elsewhere.
        Auto = "auto",
        /// tcx links.
        Tcx = "tcx",
        /// Filters of a clsact qdisc.
        Clsact = "clsact",
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

#[cfg(test)]
mod tests {
    use super::*;

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
