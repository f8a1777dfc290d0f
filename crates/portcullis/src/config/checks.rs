//! What each value of a configuration may be wrong about, and what only shows where all of the file is known.

use std::collections::HashMap;
use std::path::Path;

use bpf::inline::MAX_PORTS;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Location, Spanned};

use super::raw::{Mode, Root};
use super::{Problem, Vlan};

/// Settings that only one mode has, by where they are written.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Places {
    services: Option<Spanned<IgnoredAny>>,
    inline: Option<Spanned<IgnoredAny>>,
    workers: Option<Spanned<IgnoredAny>>,
    vlan: Option<Spanned<IgnoredAny>>,
}

/// Everything that is wrong with a file of these settings. `manifests`: their folder, from wherever it is known.
pub(super) fn check(raw: &Root, places: &Places, manifests: &Path) -> Vec<Problem> {
    let mut checks = Checks::default();
    checks.need(raw.node.is_empty(), "`node` is missing: name this node as the pods' spec.nodeName does");
    checks.need(
        manifests.as_os_str().is_empty(),
        "`manifests` is missing: name the folder of the manifests, here or with --manifests DIR",
    );
    checks.need(
        raw.ports.is_empty(),
        "`ports` is missing or empty: list at least one `{interface: NAME, pod: NAMESPACE/NAME}`",
    );
    checks.room(raw);
    checks.interfaces(raw);
    checks.holds(raw);
    checks.mode(raw, places);
    if raw.state_dir.is_relative() {
        checks.found(Location::UNKNOWN, "`state_dir` must be an absolute path".to_owned());
    }
    checks.problems
}

/// What was found so far, and what must not come twice.
#[derive(Default)]
struct Checks {
    problems: Vec<Problem>,
    seen: HashMap<(&'static str, String), Location>,
}

impl Checks {
    /// The kernel's maps have room for so many.
    fn room(&mut self, raw: &Root) {
        let most = match raw.mode {
            Mode::Router => usize::from(MAX_PORTS),
            // No port has the number 0.
            Mode::Inline => usize::from(MAX_PORTS) - 1,
        };
        let count = raw.ports.len() + raw.uplinks.len();
        if count > most {
            let message = format!(
                "{count} `ports` and `uplinks` are too many: mode `{}` has room for {most}",
                raw.mode
            );
            self.problems.push(Problem { at: None, message });
        }
    }

    fn interfaces(&mut self, raw: &Root) {
        for port in &raw.ports {
            let (at, port) = (port.referenced, &port.value);
            self.once("interface", &port.interface.0.to_string(), at);
            self.once("pod", &port.pod.0.to_string(), at);
            if let Some(mac) = &port.mac {
                self.once("MAC address", &mac.0.to_string(), at);
                if !mac.0.is_usable() {
                    self.found(at, format!("`{}` is not the MAC address of one interface", mac.0));
                }
            }
        }
        for uplink in &raw.uplinks {
            self.once("interface", &uplink.value.0.to_string(), uplink.referenced);
        }
    }

    fn holds(&mut self, raw: &Root) {
        let kept = raw.uplinks.iter().map(|u| u.value.0.as_str()).chain(["lo"]);
        for kept in kept {
            for pattern in raw.interlock.hold.iter().filter(|p| p.value.0.matches(kept)) {
                let message = format!(
                    "`{}` would also hold `{kept}`, which is no pod's interface: choose a narrower pattern",
                    pattern.value.0
                );
                self.found(pattern.referenced, message);
            }
        }
    }

    /// A setting of the other mode would be obeyed by nobody.
    fn mode(&mut self, raw: &Root, places: &Places) {
        let other_mode = match raw.mode {
            Mode::Router => [
                (places.services.as_ref(), "`services` needs `mode: inline`"),
                (places.inline.as_ref(), "`inline` needs `mode: inline`"),
            ],
            Mode::Inline => [
                (
                    places.workers.as_ref().filter(|_| raw.workers.0 > 1),
                    "inline mode has one worker: remove `workers`",
                ),
                (
                    places.vlan.as_ref().filter(|_| raw.vlan == Vlan::Strip0),
                    "`vlan: strip0` needs `mode: router`",
                ),
            ],
        };
        for (written, message) in other_mode {
            if let Some(written) = written {
                self.found(written.referenced, message.to_owned());
            }
        }
    }

    fn need(&mut self, missing: bool, message: &str) {
        if missing {
            self.problems.push(Problem { at: None, message: message.to_owned() });
        }
    }

    fn found(&mut self, at: Location, message: String) {
        let at = (at != Location::UNKNOWN).then(|| (at.line(), at.column()));
        self.problems.push(Problem { at, message });
    }

    fn once(&mut self, what: &'static str, value: &str, at: Location) {
        if let Some(first) = self.seen.insert((what, value.to_owned()), at) {
            self.found(at, format!("{what} `{value}` is already used in line {}", first.line()));
        }
    }
}
