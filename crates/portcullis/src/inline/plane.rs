//! Inline mode as the agent sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bpf::inline::{self as kernel, By, Inline};
use engine::io::Slot;
use engine::shared::{Owner, Shared};
use engine::wiring::{PortId, Role as Behind, Wiring};
use table::PolicyTable;
use tracing::debug;

use super::ports::Hooks;
use super::{InlinePlane, PINS, capacity, punt_pair, upkeep};
use crate::admin::snapshot::{self, PortState, Repairs, Role};
use crate::config::{self, Config};
use crate::instance::Instance;
use crate::links::{NodeLinks, NodeView, PodLink};
use crate::plane::{Beginning, Known, Plane, shown};
use crate::workers::Workers;

/// For how long `fallback: open` takes the agent's last beat for a sign of life: four rounds of upkeep.
const BEAT: Duration = Duration::from_secs(2);
/// How often the kernel's verdicts are looked through, in rounds of upkeep: a connection that nobody has answered is
/// forgotten after 30 s, and must have been seen before.
const SWEEP: u32 = 10;

impl Plane for InlinePlane {
    type Programs = Inline;

    fn load(config: &Config, pins: &Path) -> Result<Inline> {
        let pins = pins.join(PINS);
        fs::create_dir_all(&pins).with_context(|| format!("cannot make {}", pins.display()))?;
        let mut programs = Inline::load(&pins, capacity(config))?;
        programs.attach_by(match config.attach {
            config::Attach::Auto => kernel::Attach::Auto,
            config::Attach::Tcx => kernel::Attach::Tcx,
            config::Attach::Clsact => kernel::Attach::Clsact,
        });
        Ok(programs)
    }

    fn already_ready(config: &Config, view: &NodeView, pins: &Path) -> Result<BTreeSet<u32>> {
        let pins = pins.join(PINS);
        let pods = config.ports.iter().map(|port| (&port.interface, Hooks::Pod));
        let ports = pods.chain(config.uplinks.iter().map(|uplink| (uplink, Hooks::Uplink)));
        let ports = ports.filter_map(|(interface, hooks)| Some((view.index(interface)?, hooks)));
        let ready = ports.filter(|(index, hooks)| kernel::held_by(&pins, *index, hooks.all()).is_some());
        Ok(ready.map(|(index, _)| index).collect())
    }

    async fn start(programs: Inline, beginning: Beginning<'_>) -> Result<Self> {
        Self::open(programs, beginning).await
    }

    fn workers(&self) -> &Workers {
        &self.workers
    }

    fn workers_mut(&mut self) -> &mut Workers {
        &mut self.workers
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn repairs(&self) -> Repairs {
        self.repairs
    }

    fn repairs_mut(&mut self) -> &mut Repairs {
        &mut self.repairs
    }

    fn ifindex(&self, port: PortId) -> Option<u32> {
        self.ports[usize::from(port.0)].ifindex
    }

    fn ready(&self) -> BTreeSet<u32> {
        self.ports.iter().filter(|port| port.is_guarded()).filter_map(|port| port.ifindex).collect()
    }

    fn is_waiting(&self) -> bool {
        false
    }

    fn follow(&mut self, view: &NodeView, claims: &mut Instance) {
        self.follow_links(view, claims);
    }

    fn table(&mut self, table: &Arc<PolicyTable>) {
        self.table = Some(Arc::clone(table));
    }

    /// Renews what the table still allows, and has the kernel ask about the rest.
    fn renew(&mut self, wiring: &Wiring) -> Result<()> {
        let Some(table) = self.table.clone() else { return Ok(()) };
        let ports = (0..).map(PortId).zip(wiring.ports());
        let mut owned = BTreeSet::new();
        for (port, known) in ports {
            match &known.role {
                Behind::Pod { addresses, .. } => {
                    owned.extend(addresses.iter().map(|address| (*address, port)));
                }
                // What pods send by it under an address of the node.
                Behind::Uplink => owned.extend(wiring.node().map(|address| (address, port))),
            }
        }
        if std::mem::replace(&mut self.owned, owned) != self.owned {
            // What another pod was allowed, or one that is gone.
            self.sweep()?;
        }
        let mut changed = upkeep::epochs(&table, wiring, self.base);
        let mut current = BTreeMap::new();
        for port in changed.keys() {
            current.insert(*port, self.programs.epoch(self.numbers.of(*port))?);
        }
        changed.retain(|port, epoch| current.get(port) != Some(epoch));
        if changed.is_empty() {
            return Ok(());
        }
        let renewed = upkeep::renew(&mut self.cache, &table, wiring, &self.numbers, &changed)?;
        for (port, epoch) in &changed {
            self.programs.set_epoch(self.numbers.of(*port), *epoch)?;
        }
        self.rounds.renewed += renewed;
        debug!(ports = changed.len(), renewed, "epochs are raised");
        Ok(())
    }

    fn steer(&mut self, Known { view, pods }: Known<'_>) -> Result<bool> {
        let told = self.serve(view, pods);
        let node: Vec<_> = view.node_addresses(pods).into_iter().collect();
        Ok(self.programs.set_node_addresses(&node)? | told)
    }

    async fn keep(&mut self, links: &NodeLinks) {
        self.keep_pair(links).await;
    }

    async fn inspect(&mut self, links: &NodeLinks) {
        self.mend(links).await;
    }

    fn upkeep(&mut self, round: u32) -> Result<()> {
        self.beat(BEAT)?;
        // Without a table nobody knows whose an address is.
        if round.is_multiple_of(SWEEP) && self.table.is_some() {
            self.sweep()?;
        }
        Ok(())
    }

    async fn clear_away(self, links: &NodeLinks) -> Result<()> {
        let pins = self.pins.clone();
        drop(self);
        punt_pair::remove(links.handle()).await?;
        kernel::remove_pins(&pins, &[])?;
        Ok(())
    }

    fn ports(&self, config: &Config, pods: &[PodLink]) -> Vec<snapshot::Port> {
        let ports = self.ports.iter().enumerate().map(|(n, port)| {
            let id = self.numbers.of(PortId(n as u16));
            let tc = self.told_of(id, self.quota.of(PortId(n as u16)));
            snapshot::Port {
                state: port.state(),
                why: port.why.clone(),
                attach: port.placed.map_or("", By::name).to_owned(),
                dropped: tc.as_ref().map_or(0, |tc| tc.dropped),
                tc,
                ..shown(&port.interface, port.ifindex, config.ports.get(n), pods.get(n))
            }
        });
        let tc = self.told_of(0, 0);
        let pair = snapshot::Port {
            interface: punt_pair::FAR.to_owned(),
            ifindex: self.far,
            role: Role::Punt,
            state: PortState::Attached,
            attach: "native".to_owned(),
            dropped: self.workers.counters[0].dropped_from(Slot(0)) + tc.as_ref().map_or(0, |tc| tc.dropped),
            tc,
            ..snapshot::Port::default()
        };
        ports.chain([pair]).collect()
    }

    fn sockets(&self) -> Vec<Option<Owner>> {
        let pair = Some(Owner { worker: 0, slot: Slot(0) });
        std::iter::repeat_n(None, self.ports.len()).chain([pair]).collect()
    }

    fn inline(&self) -> Option<snapshot::Inline> {
        let ports = (0..self.ports.len()).map(|n| self.quota.of(PortId(n as u16)) as usize);
        Some(snapshot::Inline {
            verdicts: ports.sum(),
            capacity: self.quota.capacity() as usize,
            refused: self.quota.refused(),
            expired: self.rounds.expired as u64,
            renewed: self.rounds.renewed as u64,
        })
    }
}

impl InlinePlane {
    /// What the programs of a port have counted; `None` if the kernel does not say.
    fn told_of(&self, id: u16, verdicts: u32) -> Option<snapshot::Tc> {
        let counted = self.programs.counted(id).ok()?;
        Some(snapshot::Tc {
            epoch: self.programs.epoch(id).ok()?,
            verdicts,
            dropped: counted.dropped(),
            packets: counted.each().map(|(what, count)| (what.to_owned(), count)).collect(),
        })
    }
}
