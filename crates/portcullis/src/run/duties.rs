//! What the agent does unasked: it passes on what workers have seen, asks for neighbours, writes its figures, and looks
//! whether everything is still as it was left.

use std::time::Instant;

use anyhow::Result;
use engine::events::Event;
use engine::wiring::PortId;
use tracing::{error, warn};

use super::{Agent, UPKEEP};
use crate::broker::BrokerError;
use crate::metrics;
use crate::plane::Plane;

/// How often somebody looks whether programs, maps and interlock are still what they were, in rounds of upkeep: also
/// in case an event of the links was lost.
const INSPECT: u32 = 4;
/// How often the kernel is reminded of the neighbours that it does not use itself, in rounds of upkeep.
const REMIND: u32 = 60;

impl<P: Plane> Agent<P> {
    /// Looks whether anything is not as it was left.
    async fn inspect(&mut self) -> Result<()> {
        match self.broker.inspect() {
            Ok(false) => {}
            Ok(true) => {
                error!("somebody has changed the interlock (nftables); it is put in force again");
                self.plane.repairs_mut().interlock += 1;
            }
            // The next time may be better. The programs hold meanwhile.
            Err(error @ BrokerError::Refused(_)) => error!("the interlock may not be in force: {error}"),
            Err(error) => return Err(error.into()),
        }
        self.plane.inspect(&self.links).await;
        self.follow().await?;
        if self.rewire.inspect(&mut self.plane)? {
            error!("somebody has changed the maps of the programs; they are mended");
            self.plane.repairs_mut().maps += 1;
        }
        Ok(())
    }

    /// What the workers have to say.
    pub(super) async fn events(&mut self) -> Result<()> {
        if self.plane.is_waiting() {
            self.follow().await?;
        }
        let mut unresolved = Vec::new();
        while let Some(event) = self.plane.shared().events.take() {
            match event {
                Event::MacSeen(port, mac) => {
                    self.rewire.mac_seen(port, mac, &mut self.plane)?;
                    self.introduce(port).await;
                }
                Event::Unresolved(port, address) => {
                    unresolved.extend(self.plane.ifindex(port).map(|index| (index, address)));
                }
            }
        }
        unresolved.sort_unstable();
        unresolved.dedup();
        for (index, address) in unresolved {
            self.ask(index, address).await;
        }
        Ok(())
    }

    pub(super) async fn upkeep(&mut self, round: u32) -> Result<()> {
        if self.debug_panic.is_some_and(|when| when <= Instant::now()) {
            let answer =
                self.plane.workers().ask(0, UPKEEP, |_| -> () { panic!("as --debug-panic-after says") });
            warn!(?answer, "the worker does not panic");
        }
        if round.is_multiple_of(INSPECT) {
            self.inspect().await?;
        }
        self.plane.upkeep(round)?;
        self.rewire.collect();
        self.observer.observe(self.plane.workers());
        self.write_figures();
        self.solicit().await;
        if round.is_multiple_of(REMIND) {
            for (index, address) in self.rewire.gateways() {
                self.ask(index, address).await;
            }
        }
        Ok(())
    }

    /// Writes the figures. Where they cannot be written, a full disk for one, nothing else suffers.
    pub(super) fn write_figures(&mut self) {
        let status = self.observer.status(&self.parts());
        let written = metrics::write(status, &self.config.state_dir);
        metrics::tell(&written, &mut self.figures_written);
    }

    pub(super) async fn solicit(&self) {
        for (index, address) in self.rewire.missing() {
            self.ask(index, address).await;
        }
    }

    /// What the pod has answered went to the engine: without this, the kernel would ask again after a second.
    async fn introduce(&self, port: PortId) {
        let Some(index) = self.plane.ifindex(port) else { return };
        let Some((pod, mac)) =
            self.rewire.pods().get(usize::from(port.0)).and_then(|pod| Some((pod, pod.mac?)))
        else {
            return;
        };
        for address in &pod.addresses {
            if let Err(error) = self.links.introduce(index, *address, mac).await {
                warn!(%address, %error, "cannot introduce a pod to the kernel");
            }
        }
    }

    async fn ask(&self, index: u32, address: flow::Address) {
        if let Err(error) = self.links.solicit(index, address).await {
            warn!(%address, %error, "cannot ask for a neighbour");
        }
    }
}
