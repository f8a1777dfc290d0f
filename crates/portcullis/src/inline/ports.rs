//! The life of each port: its interface comes, gets its programs once policy is known, changes, and goes.

use anyhow::{Error, Result, bail};
use bpf::inline::{By, Hook, Inline, Tap};
use engine::wiring::PortId;
use tracing::{info, warn};

use super::InlinePlane;
use crate::admin::snapshot::PortState;
use crate::instance::Instance;
use crate::interface::InterfaceName;
use crate::links::{Interface, NodeView, PodLink};
use crate::preflight;

/// The programs of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hooks {
    Pod,
    Uplink,
}

impl Hooks {
    pub(super) const fn all(self) -> &'static [Hook] {
        match self {
            // What goes to the pod first: nothing that it opens is answered before it is judged.
            Self::Pod => &[Hook::PodOut, Hook::PodIn],
            Self::Uplink => &[Hook::UplinkOut],
        }
    }
}

/// One port, as it stands.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) interface: InterfaceName,
    pub(super) hooks: Hooks,
    /// The index of its interface, while it is claimed.
    pub(super) ifindex: Option<u32>,
    /// What holds its programs, once they are attached.
    pub(super) placed: Option<By>,
    /// Whether its programs were removed since, and cannot be put back.
    bare: bool,
    /// Whether the interface is down or has no carrier.
    paused: bool,
    /// Why it cannot be served.
    pub(super) why: Option<String>,
}

impl Port {
    pub(super) const fn new(interface: InterfaceName, hooks: Hooks) -> Self {
        Self { interface, hooks, ifindex: None, placed: None, bare: false, paused: false, why: None }
    }

    pub(super) const fn state(&self) -> PortState {
        match (self.ifindex, &self.why, self.placed) {
            (_, Some(_), _) => PortState::Closed,
            (None, None, _) => PortState::Absent,
            (Some(_), None, None) => PortState::Unknown,
            (Some(_), None, Some(_)) if self.paused => PortState::Paused,
            (Some(_), None, Some(_)) => PortState::Attached,
        }
    }

    /// Whether its programs are in their places, as far as is known.
    pub(super) const fn is_guarded(&self) -> bool {
        self.placed.is_some() && !self.bare
    }

    /// A port that cannot be served is tried again. What its programs know nothing of, they drop; and without them the
    /// interlock lets nothing through.
    fn close(&mut self, error: &Error) {
        let why = format!("{error:#}");
        if self.why.as_ref() != Some(&why) {
            warn!(interface = %self.interface, "the port is closed: {why}");
        }
        self.why = Some(why);
    }

    fn tell_missing(&self) {
        let interface = &self.interface;
        warn!(%interface, "the interface does not run our programs any more; they are attached again");
    }

    /// Claims the interface.
    fn take(&mut self, found: &Interface, view: &NodeView, claims: &mut Instance) -> Result<()> {
        if let Some(unfit) = preflight::unfit(&self.interface, found, self.hooks == Hooks::Pod, view) {
            bail!(unfit);
        }
        claims.claim(&self.interface, found.index)?;
        self.ifindex = Some(found.index);
        Ok(())
    }

    /// Tells the programs about the port, and puts them in their places. Whether the maps held something else, and
    /// whether a program was missing that had been there.
    fn serve(
        &mut self,
        programs: &mut Inline,
        id: u16,
        view: &NodeView,
        pod: Option<&PodLink>,
    ) -> Result<Served> {
        let mut served = Served::default();
        let (Some(ifindex), Some(found)) = (self.ifindex, view.interfaces.get(self.interface.as_str()))
        else {
            return Ok(served);
        };
        let uplink = self.hooks == Hooks::Uplink;
        let tap = Tap { id, mac: pod.and_then(|pod| pod.mac), gateway: found.mac, uplink };
        served.told = programs.set_tap(ifindex, &tap)?;
        let addresses = pod.map(|pod| &*pod.addresses).unwrap_or_default();
        served.told |= programs.set_pod_addresses(ifindex, addresses)?;
        served.missing = self.attach(programs)?;
        Ok(served)
    }

    /// Puts the programs in their places; tells whether one was missing that had been there.
    fn attach(&mut self, programs: &mut Inline) -> Result<bool> {
        let mut missing = false;
        let mut by = None;
        for hook in self.hooks.all() {
            let placed = programs.attach(self.interface.as_str(), *hook)?;
            (missing, by) = (missing | placed.anew, Some(placed.by));
        }
        let before = std::mem::replace(&mut self.placed, by);
        self.bare = false;
        if let (None, Some(by)) = (before, by) {
            info!(interface = %self.interface, index = self.ifindex, by = by.name(), "the port is attached");
        }
        Ok(missing && before.is_some())
    }

    /// Puts filters back that somebody has removed; tells whether there were any. While they cannot be put back, the
    /// interlock stands for them.
    fn keep_filters(&mut self, programs: &mut Inline) -> bool {
        if self.placed != Some(By::Filter) {
            return false;
        }
        match self.attach(programs) {
            Ok(missing) => missing,
            Err(error) => {
                self.bare = true;
                self.close(&error);
                false
            }
        }
    }
}

/// What was done for a port.
#[derive(Clone, Copy, Debug, Default)]
struct Served {
    told: bool,
    missing: bool,
}

impl InlinePlane {
    /// Brings every port in step with the links as they are now.
    pub(super) fn follow_links(&mut self, view: &NodeView, claims: &mut Instance) {
        for n in 0..self.ports.len() {
            let found = view.interfaces.get(self.ports[n].interface.as_str()).copied();
            if self.ports[n].ifindex.is_some_and(|before| found.is_none_or(|now| now.index != before)) {
                self.lose(n, claims);
            }
            let port = &mut self.ports[n];
            let Some(found) = found else {
                port.why = None;
                continue;
            };
            if port.keep_filters(&mut self.programs) {
                self.repairs.programs += 1;
                port.tell_missing();
            }
            port.paused = !(found.up && found.carrier);
            if port.ifindex.is_none() {
                match port.take(&found, view, claims) {
                    Ok(()) => port.why = None,
                    Err(error) => port.close(&error),
                }
            }
        }
    }

    /// The ports that a predecessor's programs serve go on as they are until there is a policy table.
    pub(super) fn take_over(&mut self) {
        for port in &mut self.ports {
            let by = |index| bpf::inline::held_by(&self.pins, index, port.hooks.all());
            port.placed = port.ifindex.and_then(by);
        }
    }

    /// Tells the programs about every port; whether their maps held something else.
    pub(super) fn serve(&mut self, view: &NodeView, pods: &[PodLink]) -> bool {
        let mut told = false;
        for (n, port) in self.ports.iter_mut().enumerate().filter(|(_, port)| port.ifindex.is_some()) {
            let id = self.numbers.of(PortId(n as u16));
            let was_attached = port.placed.is_some();
            match port.serve(&mut self.programs, id, view, pods.get(n)) {
                Ok(served) => {
                    told |= served.told && was_attached;
                    if served.missing {
                        port.tell_missing();
                        self.repairs.programs += 1;
                    }
                    port.why = None;
                }
                Err(error) => port.close(&error),
            }
        }
        told
    }

    /// The interface of a port is gone: so is everything that was for it.
    fn lose(&mut self, n: usize, claims: &mut Instance) {
        let port = &mut self.ports[n];
        let Some(ifindex) = port.ifindex.take() else { return };
        let interface = port.interface.clone();
        info!(%interface, index = ifindex, "the interface has gone; the port is closed until it is back");
        (port.placed, port.bare, port.why) = (None, false, None);
        let forgotten = self.programs.remove_tap(ifindex, self.numbers.of(PortId(n as u16)));
        let forgotten = forgotten.map_err(Error::from);
        for error in
            [forgotten, claims.release(ifindex).map_err(Error::from)].into_iter().filter_map(Result::err)
        {
            warn!(%interface, "cannot clear away all of the interface that has gone: {error:#}");
        }
    }
}
