//! The life of each port: its interface comes, changes, goes, and comes back with another index.
//!
//! ```text
//!            claim, sockets, maps, program              link down, no carrier
//!   Absent ----------------------------------> Attached <-------------------> Paused
//!     ^  |                                        ^                             |
//!     |  +--- something refuses ---> Closed ------+ tried again                 |
//!     |                                 |                                       |
//!     +---------------------------------+-- the interface has gone, or another -+
//!                                           one has its name
//! ```
//!
//! Whatever happens on the way, the port is closed: the program is attached last, and until then the interlock lets
//! nothing through.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use bpf::{Drift, Kind, PortEntry, pins};
use engine::io::{PacketIo as _, Slot};
use engine::shared::Owner;
use engine::wiring::PortId;
use flow::MacAddr;
use tracing::{debug, error, info, warn};
use xsk::{Bound, Reopened, XskError, XskIo};

use super::RouterPlane;
use crate::instance::Instance;
use crate::interface::InterfaceName;
use crate::links::{Interface, NodeView};
use crate::preflight;

/// How long a worker may take to do something with a port.
const ERRAND: Duration = Duration::from_secs(1);
/// For how long a queue may be taken by the socket that was closed on it a moment ago.
const TAKEN: Duration = Duration::from_secs(2);
/// How often it is tried again at the start.
const RETRY: Duration = Duration::from_millis(10);

/// One port, as it stands.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// The name of its interface.
    pub interface: InterfaceName,
    /// Which program it runs. Always in native mode.
    pub kind: Kind,
    /// Which worker drives it, and as which of its ports.
    pub owner: Owner,
    /// Where its sockets begin in the socket map, and under which number its program counts.
    pub base: u32,
    /// The index of its interface, while it is claimed.
    pub ifindex: Option<u32>,
    /// How many receive queues are bound.
    pub queues: u32,
    /// Whether the interface ran a program of ours already when this process came.
    pub taken_over: bool,
    /// How it stands.
    pub state: PortState,
    /// How many sockets fit at `base`.
    room: u32,
    /// The interface's MTU when its queues were bound.
    mtu: u32,
    /// Whether its program runs on the interface.
    pub(super) attached: bool,
    /// The pod's MAC address, as its program knows it.
    mac: Option<MacAddr>,
}

/// How a port stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// There is no interface of the name.
    Absent,
    /// It is served.
    Attached,
    /// It is served, and its interface is down or has no carrier.
    Paused,
    /// Its interface is there and cannot be served: it drops everything, and is tried again.
    Closed {
        /// Why, and what to do.
        why: String,
        /// Since when.
        since: Instant,
        /// Whether only sockets that were closed a moment ago are in the way.
        passing: bool,
    },
}

impl PortState {
    const fn is_served(&self) -> bool {
        matches!(self, Self::Attached | Self::Paused)
    }
}

impl Port {
    /// A port whose interface nobody has looked for yet, with room for so many sockets at `base`.
    pub(super) const fn new(
        id: PortId,
        interface: InterfaceName,
        kind: Kind,
        owner: Owner,
        (base, room): (u32, u32),
    ) -> Self {
        Self {
            id,
            interface,
            kind,
            owner,
            base,
            ifindex: None,
            queues: 0,
            taken_over: false,
            state: PortState::Absent,
            room,
            mtu: 0,
            attached: false,
            mac: None,
        }
    }
}

impl RouterPlane {
    /// Whether a port waits for queues that may be free in a moment.
    pub(super) fn waits_for_queues(&self) -> bool {
        let passes = |port: &Port| matches!(port.state, PortState::Closed { passing: true, since, .. } if since.elapsed() < TAKEN);
        self.ports.iter().any(passes)
    }

    /// Brings every port in step with the links as they are now, and mends what has drifted.
    pub(super) fn follow_links(&mut self, view: &NodeView, claims: &mut Instance) {
        for n in 0..self.ports.len() {
            let found = view.interfaces.get(self.ports[n].interface.as_str()).copied();
            if self.ports[n].ifindex.is_some_and(|before| found.is_none_or(|now| now.index != before)) {
                self.lose(n, claims);
            }
            let Some(found) = found else {
                self.ports[n].state = PortState::Absent;
                continue;
            };
            if !self.is_settled(n, &found)
                && let Err(error) = self.serve(n, &found, view, claims)
            {
                self.close(n, &error);
            }
            let port = &mut self.ports[n];
            if port.state.is_served() {
                port.state = if found.up && found.carrier { PortState::Attached } else { PortState::Paused };
            }
        }
    }

    /// The first [`follow_links`](Self::follow_links): what refuses now is an error; what is missing comes later.
    pub(super) fn open_ports(&mut self, view: &NodeView, claims: &mut Instance) -> Result<()> {
        self.follow_links(view, claims);
        while self.waits_for_queues() {
            std::thread::sleep(RETRY);
            self.follow_links(view, claims);
        }
        let mut refused = Vec::new();
        for port in &self.ports {
            match &port.state {
                PortState::Closed { why, .. } => refused.push(why.as_str()),
                PortState::Absent | PortState::Attached | PortState::Paused => {}
            }
        }
        ensure!(refused.is_empty(), refused.join("\n"));
        Ok(())
    }

    /// Tells a port's XDP program the MAC address of the pod behind it. Whether it did not know.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn set_mac(&mut self, port: PortId, mac: Option<MacAddr>) -> Result<bool> {
        self.ports[usize::from(port.0)].mac = mac;
        self.tell_program(usize::from(port.0))
    }

    fn tell_program(&mut self, n: usize) -> Result<bool> {
        let Port { ifindex: Some(ifindex), base, queues, mac, .. } = self.ports[n] else { return Ok(false) };
        let entry = PortEntry { base, queues, mac, ..self.entry };
        Ok(self.steering.set_port(ifindex, entry)?)
    }

    /// Whether there is nothing to do for a port whose interface is this.
    fn is_settled(&mut self, n: usize, found: &Interface) -> bool {
        let port = &mut self.ports[n];
        let Some(ifindex) = port.ifindex.filter(|_| port.state.is_served()) else { return false };
        let interface = &port.interface;
        match self.steering.drift(ifindex) {
            Ok(None) => {
                let queues = xsk::receive_queues(interface.as_str()).unwrap_or(port.queues);
                return port.mtu == found.mtu && port.queues == queues;
            }
            Ok(Some(Drift::Program)) => {
                warn!(%interface, "the interface does not run our program any more; it is attached again");
                port.attached = false;
                self.repairs.programs += 1;
            }
            Ok(Some(Drift::Pin)) => {
                warn!(%interface, "the pin of the program has gone; it is pinned again");
                self.repairs.pins += 1;
            }
            Err(error) => debug!(%interface, %error, "cannot look at the program"),
        }
        false
    }

    /// Claims the interface, binds its queues, and attaches the program: as far as it is not so already.
    fn serve(&mut self, n: usize, found: &Interface, view: &NodeView, claims: &mut Instance) -> Result<()> {
        let (interface, kind) = (self.ports[n].interface.clone(), self.ports[n].kind);
        if let Some(unfit) = preflight::unfit(&interface, found, kind == Kind::Pod, view) {
            bail!(unfit);
        }
        claims.claim(&interface, found.index)?;
        self.ports[n].ifindex = Some(found.index);
        self.rebind(n, XskIo::reopen)?;
        // What the pod sends from now on finds a socket.
        let attached = self.steering.attach(interface.as_str(), kind, &self.pins)?;
        ensure!(attached.ifindex == found.index, "interface {interface} changes just now");
        let port = &mut self.ports[n];
        if !std::mem::replace(&mut port.attached, true) {
            let (index, queues, taken_over) = (found.index, port.queues, attached.taken_over);
            info!(%interface, index, queues, taken_over, program = kind.program(), "the port is attached");
            port.taken_over = taken_over;
        }
        (port.mtu, port.state) = (found.mtu, PortState::Attached);
        Ok(())
    }

    /// Has the worker bind or close a port, and puts what was bound into the map. Other ports may have been bound
    /// again on the way.
    fn rebind(
        &mut self,
        n: usize,
        errand: impl FnOnce(&mut XskIo, Slot) -> Vec<Reopened> + Send + 'static,
    ) -> Result<()> {
        let Owner { worker, slot } = self.ports[n].owner;
        let answer = self.workers.ask(worker, ERRAND, move |io| (errand(io, slot), io.census()));
        let (reopened, census) =
            answer.map_err(|_late| Error::msg(format!("worker {worker} does not answer")))?;
        if !census.balances() {
            error!(worker, ?census, "frames of packet memory are lost: please report this");
        }
        let mut own = Ok(());
        for (slot, result) in reopened {
            let owner = Owner { worker, slot };
            let m =
                self.ports.iter().position(|port| port.owner == owner).context("a slot without a port")?;
            match result.map_err(Error::from).and_then(|bound| self.place(m, &bound)) {
                Ok(()) => {}
                Err(error) if m == n => own = Err(error),
                Err(error) => self.close(m, &error),
            }
        }
        own
    }

    /// Puts a port's sockets into the map.
    fn place(&mut self, n: usize, bound: &Bound) -> Result<()> {
        let Port { base, room, queues: before, ref interface, ifindex, .. } = self.ports[n];
        ensure!(ifindex == Some(bound.ifindex), "interface {interface} changes just now");
        let queues = u32::try_from(bound.sockets.len())?;
        ensure!(
            queues <= room,
            "{interface} has {queues} receive queues, and among so many ports there is room for {room}: \
             `ethtool -L {interface} combined {room}` leaves so many"
        );
        for (index, socket) in (base..).zip(&bound.sockets) {
            self.steering.insert_socket(index, socket.as_fd())?;
        }
        for index in base + queues..base + before.max(queues) {
            self.steering.remove_socket(index)?;
        }
        if before > 0 && before != queues {
            info!(%interface, before, queues, "the number of receive queues has changed");
        }
        self.ports[n].queues = queues;
        self.tell_program(n)?;
        if before > 0 && before < queues {
            self.steering.renew(bound.ifindex)?;
        }
        Ok(())
    }

    /// A port that cannot be served. Its program, if it is attached, drops what finds no socket.
    fn close(&mut self, n: usize, error: &Error) {
        let passing = matches!(error.downcast_ref(), Some(XskError::Taken { .. }));
        let port = &mut self.ports[n];
        let (why, interface) = (format!("{error:#}"), &port.interface);
        let (said, since) = match &port.state {
            PortState::Closed { why: before, since, .. } => (*before == why, *since),
            _ => (false, Instant::now()),
        };
        if passing && since.elapsed() < TAKEN {
            debug!(%interface, %why, "the port waits");
        } else if !said {
            warn!(%interface, "the port is closed: {why}");
        }
        port.state = PortState::Closed { why, since, passing };
    }

    /// The interface of a port is gone: so is everything that was for it.
    fn lose(&mut self, n: usize, claims: &mut Instance) {
        let port = &mut self.ports[n];
        let Some(ifindex) = port.ifindex.take() else { return };
        let (interface, base, queues) = (port.interface.clone(), port.base, port.queues);
        info!(%interface, index = ifindex, "the interface has gone; the port is closed until it is back");
        (port.queues, port.attached, port.mac, port.state) = (0, false, None, PortState::Absent);

        let mut failed: Vec<Error> = Vec::new();
        for index in base..base + queues {
            failed.extend(self.steering.remove_socket(index).err().map(Error::from));
        }
        failed.extend(self.steering.remove_port(ifindex).err().map(Error::from));
        self.steering.release(ifindex);
        match pins::sweep(&self.pins) {
            Ok(swept) => {
                swept.iter().for_each(|pin| debug!(pin = %pin.path.display(), "removed a stale pin"))
            }
            Err(error) => failed.push(error.into()),
        }
        failed.extend(self.rebind(n, XskIo::close).err());
        failed.extend(claims.release(ifindex).err().map(Error::from));
        for error in failed {
            warn!(%interface, "cannot clear away all of the interface that has gone: {error:#}");
        }
    }
}
