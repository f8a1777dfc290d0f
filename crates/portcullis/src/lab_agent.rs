//! An agent that enforces in a lab: a process of its own in the lab's node, as on a real one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use lab::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::metrics;

/// How long an agent may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(2);

/// A folder with a configuration, manifests and the state of an agent for one lab.
#[derive(Debug)]
pub struct AgentHome {
    folder: PathBuf,
    binary: PathBuf,
}

/// A running agent. Killed when dropped.
#[derive(Debug)]
pub struct LabAgent {
    child: Child,
    since: SystemTime,
    state_dir: PathBuf,
    log: PathBuf,
    pods: usize,
}

impl AgentHome {
    /// A home in `folder` (made, if need be) for the agent `binary` in `lab`. `settings` are further lines of
    /// the configuration.
    ///
    /// # Errors
    ///
    /// When files cannot be written.
    pub fn new(folder: &Path, binary: &Path, lab: &Lab, with_macs: bool, settings: &str) -> Result<Self> {
        let home = Self { folder: folder.to_owned(), binary: binary.to_owned() };
        fs::create_dir_all(home.manifests())?;
        fs::create_dir_all(home.staging())?;
        let state = home.state_dir();
        let config = format!(
            "{}manifests: manifests\nstate_dir: {}\n{settings}",
            lab.config(with_macs),
            state.display()
        );
        fs::write(home.config(), config)?;
        Ok(home)
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    /// The watched folder.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn staging(&self) -> PathBuf {
        self.folder.join("staging")
    }

    /// Puts a manifest into the watched folder by rename(2), and tells when that returned.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn apply(&self, name: &str, text: &str) -> io::Result<Instant> {
        let staged = self.staging().join(name);
        fs::write(&staged, text)?;
        fs::rename(staged, self.manifests().join(name))?;
        Ok(Instant::now())
    }

    /// Starts an agent in the lab's node.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub fn start(&self, lab: &Lab) -> Result<LabAgent> {
        self.start_with(lab, &[])
    }

    /// Starts an agent with these variables in its environment.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub fn start_with(&self, lab: &Lab, variables: &[(&str, &Path)]) -> Result<LabAgent> {
        let log = self.folder.join("agent.log");
        let mut command = lab.node().command(&self.binary);
        command.arg("run").arg("--config").arg(self.config()).envs(variables.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log)?);
        let since = SystemTime::now();
        let child = command.spawn().context("cannot start the agent")?;
        Ok(LabAgent { child, since, state_dir: self.state_dir(), log, pods: lab.pods().len() })
    }
}

impl LabAgent {
    /// Waits until a policy table is in force and every pod can be reached.
    ///
    /// # Errors
    ///
    /// With the agent's log, when that does not come about.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let pods = self.pods as u64;
        self.wait_until("is not ready", |figures| {
            figures.get("portcullis_ready_pods") == Some(&pods)
                && figures.get("portcullis_table_generation").is_some_and(|generation| *generation > 0)
        })
    }

    /// Waits until the figures are as wanted.
    ///
    /// # Errors
    ///
    /// With the agent's log, when that does not come about.
    pub fn wait_until(&mut self, what: &str, wanted: impl Fn(&HashMap<String, u64>) -> bool) -> Result<()> {
        let start = Instant::now();
        while !self.figures().is_ok_and(|figures| wanted(&figures)) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent has ended ({status}):\n{}", self.log());
            }
            if start.elapsed() > PATIENCE {
                bail!("the agent {what} after {PATIENCE:?}:\n{}\n{:?}", self.log(), self.figures());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The agent's figures, by metric name with its labels. They are at most half a second old.
    ///
    /// # Errors
    ///
    /// When there are none yet.
    pub fn figures(&self) -> io::Result<HashMap<String, u64>> {
        let file = self.state_dir.join(metrics::FILE);
        if fs::metadata(&file)?.modified()? < self.since {
            return Err(io::Error::other("what an agent of before has written says nothing of this one"));
        }
        let text = fs::read_to_string(file)?;
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse::<f64>().ok()? as u64))
        };
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect())
    }

    /// What the agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Sends SIGTERM and waits for the end: how it ended, and how long that took.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn terminate(mut self) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status = self.wait()?;
        Ok((status, start.elapsed()))
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    ///
    /// When it does not die.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let status = self.wait()?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("the agent had ended before ({status}):\n{}", self.log());
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                bail!("the agent has not ended after {PATIENCE:?}:\n{}", self.log());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for LabAgent {
    fn drop(&mut self) {
        // Already gone is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
