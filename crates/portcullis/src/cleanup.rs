//! `portcullis cleanup`: gives the machine back, whatever became of the agent.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::inline;
use crate::instance::{self, InstanceError};
use crate::interface::InterfaceName;
use crate::interlock::{Interlock, InterlockError};

/// What to clean up.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// The state directory of the agent.
    pub state_dir: PathBuf,
    /// Where agents record their interfaces: [`instance::CLAIMS`].
    pub claims_dir: PathBuf,
    /// Only what concerns these interfaces; everything when none is named.
    pub interfaces: Vec<InterfaceName>,
    /// Even while an agent runs, which puts back within seconds what it can.
    pub force: bool,
}

/// What was done, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was there and is gone.
    pub removed: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
    /// The agent that runs, and what it does about that.
    pub warning: Option<String>,
}

/// Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent runs.
    #[error("portcullis runs ({}): end it first (with --force, it puts back within seconds what it can)", name(*.pid))]
    Running {
        /// Its pid, where its file tells.
        pid: Option<i32>,
    },
    /// Whether one runs cannot be told.
    #[error(transparent)]
    Instance(#[from] InstanceError),
}

impl Cleanup {
    /// Removes what is ours: in the calling thread's network namespace the programs and the nftables table, and
    /// on the machine the pins, the bpffs that we mounted, and the files of the state directory. The last two stay
    /// while an agent runs, which could not put them back. A step that fails does not keep the others from being
    /// done.
    ///
    /// # Errors
    ///
    /// An agent runs on this state directory and `force` is not set.
    pub fn run(&self) -> Result<Outcome, CleanupError> {
        let mut outcome = Outcome::default();
        let running = instance::running(&self.state_dir)?;
        if let Some(pid) = running {
            if !self.force {
                return Err(CleanupError::Running { pid });
            }
            outcome.warning = Some(format!(
                "portcullis runs ({}): it opens nothing, and puts back within seconds what it can. End it, and clean up again",
                name(pid)
            ));
        }
        let interlock = Interlock::of(&self.state_dir);
        let [own, systems] = bpf::pin_dirs(&self.state_dir);
        for folder in [&own, &systems] {
            outcome.pins(folder, &self.interfaces, running.is_some());
        }
        if self.interfaces.is_empty() {
            outcome.punt_pair();
            outcome.table(interlock.remove());
            if running.is_none() {
                outcome.bpffs(&own);
                outcome.files(&self.state_dir, &self.claims_dir);
            }
        } else {
            outcome.table(interlock.release(&self.interfaces).map(|()| false));
        }
        Ok(outcome)
    }
}

impl Outcome {
    fn files(&mut self, state_dir: &Path, claims_dir: &Path) {
        match instance::forget(state_dir, claims_dir) {
            Ok(files) => self.removed.extend(files.iter().map(|file| file.display().to_string())),
            Err(error) => self.failed.push(error.to_string()),
        }
    }

    /// Filters stay beside an agent: they are all that enforces, and it puts the pins back.
    fn pins(&mut self, folder: &Path, interfaces: &[InterfaceName], is_running: bool) {
        let names: Vec<&str> = interfaces.iter().map(InterfaceName::as_str).collect();
        match bpf::pins::remove(folder, &names) {
            Ok(pins) => self.removed.extend(
                pins.iter().map(|pin| format!("XDP program of {} ({})", pin.interface, pin.path.display())),
            ),
            Err(error) => self.failed.push(error.to_string()),
        }
        let remove = if is_running { bpf::inline::unpin } else { bpf::inline::remove_pins };
        match remove(&folder.join(inline::PINS), &names) {
            Ok(pins) => self.removed.extend(pins.iter().map(|pin| pin.display().to_string())),
            Err(error) => self.failed.push(error.to_string()),
        }
        // Our folder in the system's bpffs goes when nothing is left in it.
        if is_bpffs(folder.parent().unwrap_or(folder)) && fs::remove_dir(folder).is_ok() {
            self.removed.push(folder.display().to_string());
        }
    }

    fn punt_pair(&mut self) {
        match inline::remove_punt_pair() {
            Ok(true) => self.removed.push("the punt pair".to_owned()),
            Ok(false) => {}
            Err(error) => self.failed.push(format!("{error:#}")),
        }
    }

    fn bpffs(&mut self, own: &Path) {
        // Nobody else mounts one inside our state directory. Detached, so that whoever still has it open does not
        // keep it.
        while is_bpffs(own) {
            if let Err(errno) = umount2(own, MntFlags::MNT_DETACH) {
                self.failed.push(format!("cannot unmount {}: {errno}", own.display()));
                return;
            }
            self.removed.push(format!("bpffs mounted on {}", own.display()));
        }
        // An empty folder without a mount may stay from a machine that went down; one with content is not ours.
        drop(fs::remove_dir(own));
    }

    fn table(&mut self, done: Result<bool, InterlockError>) {
        match done {
            Ok(true) => self.removed.push("the interlock (nftables)".to_owned()),
            Ok(false) => {}
            // Where there is no nft, no agent of ours got far enough to make the table.
            Err(InterlockError::Missing(_)) => {}
            Err(error) => self.failed.push(error.to_string()),
        }
    }
}

fn name(pid: Option<i32>) -> String {
    pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}
