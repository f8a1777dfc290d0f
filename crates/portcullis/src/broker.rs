//! A small process that keeps what the agent gives up: it may run `nft`.
//!
//! The agent starts it before it gives up its [`privileges`], and tells it once what the interlock
//! is. From then on the broker takes four requests, whose only argument is which of the pods' interfaces may send, so
//! that whoever had the agent in his hands could ask for nothing else. It has CAP_NET_ADMIN alone, and ends with its
//! agent, however that ends: its end of the pair of sockets that joins them reads the end of the file then.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use caps::Capability;
use nix::sys::signal::{SigSet, Signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cleanup::Cleanup;
use crate::config::{Config, Fallback, Mode};
use crate::exit::{Failure, system};
use crate::instance;
use crate::interface::{InterfaceName, InterfaceNameError};
use crate::interlock::{Forwards, Guarded, Interlock, InterlockError};
use crate::privileges;

/// The command by which the agent's binary becomes a broker.
pub const COMMAND: &str = "broker";

/// How long an answer may take. A transaction of `nft` takes milliseconds; a listing on a node with very many rules of
/// others can take seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The agent's end.
#[derive(Debug)]
pub struct Broker {
    stream: BufReader<UnixStream>,
    /// The interfaces that may send; `None` where there is no interlock.
    ready: Option<BTreeSet<u32>>,
}

/// The broker does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It could not be started.
    #[error("cannot start the broker, which runs nft for the agent: {0}")]
    Start(#[source] io::Error),
    /// It is gone, or hangs.
    #[error("the broker, which runs nft for the agent, does not answer: {0}; was it killed?")]
    Gone(#[source] io::Error),
    /// It could not do it.
    #[error("{0}")]
    Refused(String),
}

/// All that the broker will ever act on, told once.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    state_dir: PathBuf,
    /// Pod ports, as the interlock knows them.
    ports: Vec<String>,
    hold: Vec<String>,
    /// What the kernel forwards of what pods send.
    forwards: Option<Forwards>,
    /// Pod ports and uplinks.
    interfaces: Vec<String>,
}

/// What may be asked of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Request {
    /// Put the interlock in force; of the ports, the interfaces with these indices may send.
    Apply(BTreeSet<u32>),
    /// See whether the interlock is still what it was, and put it in force again if not.
    Inspect,
    /// Remove the interlock.
    Remove,
    /// Remove the interlock, and the programs and pins of the interfaces.
    Detach,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    /// Somebody had changed the interlock.
    PutBack,
    Detached {
        removed: Vec<String>,
        failed: Vec<String>,
    },
    Refused(String),
}

impl Broker {
    /// Starts the broker of this agent, and has it put the interlock in force, or remove it where the fallback is
    /// open. Of the pods' interfaces, those that are `ready` may send.
    ///
    /// # Errors
    ///
    /// The process cannot be started, or `nft` refuses.
    pub fn start(config: &Config, ready: BTreeSet<u32>) -> Result<Self, BrokerError> {
        let (ours, theirs) = UnixStream::pair().map_err(BrokerError::Start)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(BrokerError::Start)?;
        let output: OwnedFd = theirs.try_clone().map_err(BrokerError::Start)?.into();
        let program = env::current_exe().map_err(BrokerError::Start)?;
        Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output))
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .map_err(BrokerError::Start)?;
        let mut broker = Self { stream: BufReader::new(ours), ready: None };
        let names = |interfaces: &mut dyn Iterator<Item = &InterfaceName>| -> Vec<String> {
            interfaces.map(ToString::to_string).collect()
        };
        let orders = Orders {
            state_dir: config.state_dir.clone(),
            ports: names(&mut config.ports.iter().map(|port| &port.interface)),
            hold: config.hold.iter().map(ToString::to_string).collect(),
            forwards: (config.mode == Mode::Inline).then(|| Forwards {
                services: config.services.iter().map(|(address, length)| (address.ip(), *length)).collect(),
            }),
            interfaces: names(&mut config.interfaces()),
        };
        send(broker.stream.get_mut(), &orders).map_err(BrokerError::Gone)?;
        match config.fallback {
            Fallback::Closed => broker.apply(ready)?,
            Fallback::Open => drop(broker.ask(Request::Remove)?),
        }
        Ok(broker)
    }

    /// From now on these of the pods' interfaces may send, by index. Whether others could until now.
    ///
    /// # Errors
    ///
    /// The broker is gone, or `nft` refuses.
    pub fn let_through(&mut self, ready: BTreeSet<u32>) -> Result<bool, BrokerError> {
        let changed = self.ready.as_ref().is_some_and(|before| *before != ready);
        if changed {
            self.apply(ready)?;
        }
        Ok(changed)
    }

    fn apply(&mut self, ready: BTreeSet<u32>) -> Result<(), BrokerError> {
        self.ask(Request::Apply(ready.clone()))?;
        self.ready = Some(ready);
        Ok(())
    }

    /// Sees whether the interlock is still in force as it was; tells whether somebody had changed it, in which case
    /// it is in force again.
    ///
    /// # Errors
    ///
    /// The broker is gone, or `nft` refuses.
    pub fn inspect(&mut self) -> Result<bool, BrokerError> {
        Ok(matches!(self.ask(Request::Inspect)?, Answer::PutBack))
    }

    /// Removes programs, pins and interlock: what was removed, and what could not be, a line each.
    ///
    /// # Errors
    ///
    /// The broker is gone, or cannot even begin.
    pub fn detach(&mut self) -> Result<(Vec<String>, Vec<String>), BrokerError> {
        match self.ask(Request::Detach)? {
            Answer::Detached { removed, failed } => Ok((removed, failed)),
            Answer::Done | Answer::PutBack | Answer::Refused(_) => Ok((vec![], vec![])),
        }
    }

    fn ask(&mut self, request: Request) -> Result<Answer, BrokerError> {
        send(self.stream.get_mut(), &request).map_err(BrokerError::Gone)?;
        match receive(&mut self.stream).map_err(BrokerError::Gone)? {
            Some(Answer::Refused(why)) => Err(BrokerError::Refused(why)),
            Some(answer) => Ok(answer),
            None => Err(BrokerError::Gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// `portcullis broker`: serves the agent at the other end of standard input, until that is gone.
///
/// # Errors
///
/// Whoever started it is no agent, or privileges cannot be given up.
pub fn serve() -> Result<(), Failure> {
    // The end of a session or of a service is told to all of its processes. The agent decides when this one ends.
    let mut ours = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        ours.add(signal);
    }
    ours.thread_block().map_err(system)?;
    privileges::keep_only(&[Capability::CAP_NET_ADMIN].into_iter().collect()).map_err(system)?;
    let mut input = io::stdin().lock();
    let Some(orders) = receive::<Orders>(&mut input).map_err(system)? else { return Ok(()) };
    let mut charge = Charge::of(orders).map_err(system)?;
    let mut output = io::stdout().lock();
    while let Some(request) = receive(&mut input).map_err(system)? {
        let answer = charge.answer(request).unwrap_or_else(|error| Answer::Refused(error.to_string()));
        send(&mut output, &answer).map_err(system)?;
    }
    Ok(())
}

/// What the broker acts on.
struct Charge {
    state_dir: PathBuf,
    interfaces: Vec<InterfaceName>,
    interlock: Guarded,
}

impl Charge {
    fn of(orders: Orders) -> Result<Self, InterfaceNameError> {
        let Orders { state_dir, ports, hold, forwards, interfaces } = orders;
        let names = |names: Vec<String>| -> Result<_, _> {
            names.iter().map(|name| name.parse()).collect::<Result<_, _>>()
        };
        let hold = hold.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>()?;
        let interlock = Interlock::of(&state_dir);
        let interlock = match forwards {
            Some(what) => interlock.forwarding(what),
            None => interlock,
        };
        let interlock = Guarded::new(interlock, names(ports)?, hold);
        Ok(Self { interlock, interfaces: names(interfaces)?, state_dir })
    }

    fn answer(&mut self, request: Request) -> Result<Answer, InterlockError> {
        match request {
            Request::Apply(ready) => self.interlock.apply(&ready)?,
            Request::Inspect if self.interlock.inspect()? => return Ok(Answer::PutBack),
            Request::Inspect => {}
            Request::Remove => self.interlock.remove()?,
            Request::Detach => return Ok(self.detach()),
        }
        Ok(Answer::Done)
    }

    fn detach(&mut self) -> Answer {
        let detach = Cleanup {
            state_dir: self.state_dir.clone(),
            claims_dir: instance::CLAIMS.into(),
            interfaces: self.interfaces.clone(),
            force: true,
        };
        let outcome = detach.run().map_err(|error| error.to_string());
        match outcome.and_then(|outcome| self.interlock.remove().map(|()| outcome).map_err(|e| e.to_string()))
        {
            Ok(outcome) => Answer::Detached { removed: outcome.removed, failed: outcome.failed },
            Err(why) => Answer::Refused(why),
        }
    }
}

/// One message: JSON in a line.
fn send(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.flush()
}

/// The next message; `None` when the other end is gone.
fn receive<T: DeserializeOwned>(stream: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
