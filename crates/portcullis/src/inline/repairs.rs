//! The punt pair, and what else is no port's, kept as it was left.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use bpf::inline::Hook;
use engine::io::Slot;
use nix::net::if_::if_nametoindex;
use tracing::{error, info};

use super::{InlinePlane, punt_pair};
use crate::links::NodeLinks;

/// How long the worker may take to bind its socket anew.
const ERRAND: Duration = Duration::from_secs(1);

impl InlinePlane {
    /// Mends the pair, and says what cannot be mended.
    pub(super) async fn keep_pair(&mut self, links: &NodeLinks) {
        let mended = self.mend_pair(links).await;
        self.tell(mended);
    }

    /// Mends the pair, its settings, and pins, and says what cannot be mended. The programs hold meanwhile.
    pub(super) async fn mend(&mut self, links: &NodeLinks) {
        let pair = self.mend_pair(links).await;
        // Whatever an administrator has set there: packets that are punted need it as it was.
        let settings = punt_pair::set_up(links.handle()).await;
        // A link that cannot be pinned is held, and cannot be looked at by its pin.
        let programs = self.mend_pins().and_then(|()| self.mend_reinject());
        self.tell(pair.and(settings).and(programs));
    }

    /// Makes the pair again where somebody has removed it. Until it is there, what would be punted is dropped.
    async fn mend_pair(&mut self, links: &NodeLinks) -> Result<()> {
        let index = |end: &str| if_nametoindex(end).unwrap_or_default();
        if index(punt_pair::NEAR) == self.settings.punt_ifindex && index(punt_pair::FAR) == self.far {
            return Ok(());
        }
        self.make_pair(links).await.context("the punt pair has gone, and cannot be made again")?;
        error!("somebody has removed the punt pair; it is made again");
        self.repairs.pair += 1;
        Ok(())
    }

    async fn make_pair(&mut self, links: &NodeLinks) -> Result<()> {
        punt_pair::set_up(links.handle()).await?;
        let near = if_nametoindex(punt_pair::NEAR).context("it has gone again")?;
        let bound = self.workers.ask(0, ERRAND, |io| io.reopen(Slot(0)));
        let bound = bound.map_err(|_late| Error::msg("the worker does not answer"))?;
        let Some((_, Ok(bound))) = bound.into_iter().next() else { bail!("its socket cannot be bound") };
        for (queue, socket) in (0..).zip(&bound.sockets) {
            self.programs.insert_socket(queue, socket.as_fd())?;
        }
        for gone in [self.settings.punt_ifindex, self.far] {
            self.programs.forget_links(gone)?;
        }
        self.programs.attach_steer(punt_pair::FAR)?;
        self.programs.attach(punt_pair::NEAR, Hook::Reinject)?;
        self.settings.punt_ifindex = near;
        self.programs.set_settings(&self.settings)?;
        self.far = bound.ifindex;
        Ok(())
    }

    /// Without its program, what the worker gives back goes nowhere.
    fn mend_reinject(&mut self) -> Result<()> {
        if self.programs.attach(punt_pair::NEAR, Hook::Reinject)?.anew {
            error!("the punt pair does not run our program any more; it is attached again");
            self.repairs.programs += 1;
        }
        Ok(())
    }

    fn mend_pins(&mut self) -> Result<()> {
        let mended = self.programs.mend_pins().context("pins are missing, and cannot be put back")?;
        if mended > 0 {
            error!(pins = mended, "somebody has removed pins; they are put back");
            self.repairs.pins += mended as u64;
        }
        Ok(())
    }

    /// Says when something cannot be mended, and when it can again.
    fn tell(&mut self, mended: Result<()>) {
        let ailed = std::mem::replace(&mut self.ails, mended.is_err());
        match mended {
            Err(error) if !ailed => error!("{error:#}"),
            Ok(()) if ailed => info!("what could not be mended is mended"),
            _ => {}
        }
    }
}
