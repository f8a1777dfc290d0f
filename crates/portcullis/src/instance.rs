//! One agent per state directory, and one per interface.
//!
//! Both are locks of flock(2) on files with the owner's pid in them: the kernel releases them however the owner
//! ends. The files stay; a file without a lock means nothing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::admin::snapshot::{self, Ended};
use crate::interface::InterfaceName;
use crate::metrics;

/// Where all agents of this machine record their interfaces, whatever their state directories are.
pub const CLAIMS: &str = "/run/portcullis/interfaces";

/// The name of the lock in the state directory.
const LOCK: &str = "lock";
/// The name of the mark of a clean end.
const CLEAN: &str = "clean";
/// What an agent makes besides, finished and half-way: its figures and its socket.
const MADE: [&str; 4] = [metrics::FILE, ".metrics.prom.new", crate::admin::SOCKET, crate::admin::SOCKET_NEW];

/// The right to run on a state directory and on interfaces, held as long as this lives.
#[derive(Debug)]
pub struct Instance {
    state_dir: PathBuf,
    previous: Previous,
    left: Left,
    claims: Vec<(u32, Flock<File>)>,
    claims_dir: PathBuf,
    _lock: Flock<File>,
}

/// What the last agent has left in the state directory.
#[derive(Debug)]
struct Left {
    figures: String,
    /// When it wrote there last, which it did twice a second.
    at: Option<SystemTime>,
}

impl Left {
    fn find(state_dir: &Path) -> Self {
        let figures = state_dir.join(metrics::FILE);
        let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let at = written(&figures).max(written(&state_dir.join(CLEAN)));
        Self { figures: fs::read_to_string(figures).unwrap_or_default(), at }
    }
}

/// How the last agent on this state directory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// None has run here, or `cleanup` has been run since.
    None,
    /// It ended as it was told to.
    Clean,
    /// It was killed, crashed, or the machine went down.
    Unclean {
        /// Its pid, where its file still tells.
        pid: Option<i32>,
    },
}

/// Another agent is in the way, or its files are.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The state directory is in use.
    #[error("another portcullis ({}) runs with this state directory, {}: end it, or choose another `state_dir`",
        Owner(*.pid), .state_dir.display())]
    Running {
        /// Its pid, where its file tells.
        pid: Option<i32>,
        /// The state directory.
        state_dir: PathBuf,
    },
    /// An interface is in use.
    #[error("interface {interface} is owned by {}, another portcullis: end it, or take the interface out of \
        one of the configurations", Owner(*.pid))]
    Owned {
        /// Its pid, where its file tells.
        pid: Option<i32>,
        /// The interface.
        interface: InterfaceName,
    },
    /// A file of ours cannot be used.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

struct Owner(Option<i32>);

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "pid {pid}"),
            None => f.write_str("pid unknown"),
        }
    }
}

impl Instance {
    /// Takes the state directory, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// Another agent holds it, or it cannot be written.
    pub fn start(state_dir: &Path) -> Result<Self, InstanceError> {
        Self::start_in(state_dir, Path::new(CLAIMS))
    }

    /// As [`start`](Self::start), with another place for the claims than [`CLAIMS`].
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_in(state_dir: &Path, claims_dir: &Path) -> Result<Self, InstanceError> {
        make_dir(state_dir)?;
        let path = state_dir.join(LOCK);
        let (lock, pid) = match take(&path)? {
            Taken::Ours { lock, before } => (lock, before),
            Taken::Theirs { pid } => {
                return Err(InstanceError::Running { pid, state_dir: state_dir.to_owned() });
            }
        };
        let mark = state_dir.join(CLEAN);
        let left = Left::find(state_dir);
        let previous = match fs::remove_file(&mark) {
            Ok(()) => Previous::Clean,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error(&mark)(error)),
            Err(_) if pid.is_some() => Previous::Unclean { pid },
            Err(_) => Previous::None,
        };
        let claims_dir = claims_dir.to_owned();
        Ok(Self {
            state_dir: state_dir.to_owned(),
            previous,
            left,
            claims: Vec::new(),
            claims_dir,
            _lock: lock,
        })
    }

    /// How the agent before this one ended.
    #[must_use]
    pub const fn previous(&self) -> Previous {
        self.previous
    }

    /// What to tell of the agent before this one, at the moment when this one has taken over.
    #[must_use]
    pub fn handover(&self) -> snapshot::Previous {
        let (ended, pid) = match self.previous {
            Previous::None => return snapshot::Previous::default(),
            Previous::Clean => (Ended::Clean, None),
            Previous::Unclean { pid } => (Ended::Unclean, pid.and_then(|pid| u32::try_from(pid).ok())),
        };
        let gap = self.left.at.map(|at| at.elapsed().unwrap_or_default().as_secs_f64());
        let unfiltered = metrics::left_open(&self.left.figures, ended == Ended::Clean);
        snapshot::Previous { ended, pid, gap_seconds: gap, unfiltered }
    }

    /// Claims an interface of the calling thread's network namespace, by its index: a name may come again
    /// with another interface. Claiming what is ours already changes nothing.
    ///
    /// # Errors
    ///
    /// Another agent has it, or the record cannot be written.
    pub fn claim(&mut self, interface: &InterfaceName, index: u32) -> Result<(), InstanceError> {
        if self.claims.iter().any(|(claimed, _)| *claimed == index) {
            return Ok(());
        }
        match take(&self.record(index)?)? {
            Taken::Ours { lock, .. } => self.claims.push((index, lock)),
            Taken::Theirs { pid } => return Err(InstanceError::Owned { pid, interface: interface.clone() }),
        }
        Ok(())
    }

    /// Gives up the claim on an interface that is gone, and removes its record: nobody will claim that index again.
    ///
    /// # Errors
    ///
    /// The record cannot be removed; the claim is given up all the same.
    pub fn release(&mut self, index: u32) -> Result<(), InstanceError> {
        let Some(at) = self.claims.iter().position(|(claimed, _)| *claimed == index) else { return Ok(()) };
        let path = self.record(index)?;
        let removed = fs::remove_file(&path).map_err(file_error(&path));
        // The lock goes last: whoever waits for the record must not meet one that is about to be removed.
        self.claims.remove(at);
        removed
    }

    /// Where the claim on an interface of the calling thread's network namespace is recorded.
    fn record(&self, index: u32) -> Result<PathBuf, InstanceError> {
        let namespace = Path::new("/proc/thread-self/ns/net");
        let inode = fs::metadata(namespace).map_err(file_error(namespace))?.ino();
        Ok(self.claims_dir.join(format!("{inode}-{index}")))
    }

    /// Ends cleanly: leaves the mark that tells the next start so, and gives everything up.
    ///
    /// # Errors
    ///
    /// The mark cannot be written; everything is given up all the same.
    pub fn finish(self) -> Result<(), InstanceError> {
        let mark = self.state_dir.join(CLEAN);
        fs::write(&mark, "").map_err(file_error(&mark))
    }
}

/// The pid of the agent that runs on a state directory; `Some(None)` where its file does not tell, `None` where
/// none runs.
///
/// # Errors
///
/// The lock exists and cannot be opened.
pub fn running(state_dir: &Path) -> Result<Option<Option<i32>>, InstanceError> {
    let path = state_dir.join(LOCK);
    if !path.exists() {
        return Ok(None);
    }
    let file = File::open(&path).map_err(file_error(&path))?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, _)) => Ok(Some(read_pid(&mut file))),
    }
}

/// Removes the files of past agents: of this state directory, and all claims that nobody holds. Tells what was
/// there. Not for a state directory where an agent runs.
///
/// # Errors
///
/// A file cannot be removed.
pub fn forget(state_dir: &Path, claims_dir: &Path) -> Result<Vec<PathBuf>, InstanceError> {
    let mut removed = Vec::new();
    let claims = match fs::read_dir(claims_dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    for path in claims {
        // Removed under its lock: whoever opened it before finds out in `take`.
        if let Taken::Ours { lock, .. } = take(&path)? {
            fs::remove_file(&path).map_err(file_error(&path))?;
            drop(lock);
            removed.push(path);
        }
    }
    for name in [LOCK, CLEAN].iter().chain(&MADE) {
        let path = state_dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(&path)(error)),
        }
    }
    // Folders go only when they are empty.
    for folder in [claims_dir, state_dir] {
        if fs::remove_dir(folder).is_ok() {
            removed.push(folder.to_owned());
        }
    }
    Ok(removed)
}

enum Taken {
    Ours { lock: Flock<File>, before: Option<i32> },
    Theirs { pid: Option<i32> },
}

/// Locks the file, made with its folder where it is missing, and writes our pid into it.
fn take(path: &Path) -> Result<Taken, InstanceError> {
    loop {
        let mut options = OpenOptions::new();
        // Whoever may read it may lock it.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = match options.open(path) {
            Ok(file) => file,
            // `forget` may have removed the folder, which was empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), make_dir)?;
                continue;
            }
            Err(error) => return Err(file_error(path)(error)),
        };
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, Errno::EWOULDBLOCK)) => return Ok(Taken::Theirs { pid: read_pid(&mut file) }),
            Err((_, errno)) => return Err(file_error(path)(errno.into())),
        };
        // `forget` may have removed the file between our opening it and our locking it.
        let ours = lock.metadata().map_err(file_error(path))?;
        if fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino())) {
            let before = read_pid(&mut lock);
            lock.set_permissions(Permissions::from_mode(0o600)).map_err(file_error(path))?;
            write_pid(&mut lock).map_err(file_error(path))?;
            return Ok(Taken::Ours { lock, before });
        }
    }
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn make_dir(path: &Path) -> Result<(), InstanceError> {
    fs::create_dir_all(path).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn state(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn claims(&self) -> PathBuf {
            self.0.path().join("interfaces")
        }

        fn start(&self, name: &str) -> Result<Instance, InstanceError> {
            Instance::start_in(&self.state(name), &self.claims())
        }
    }

    fn us() -> Option<i32> {
        Some(i32::try_from(std::process::id()).unwrap())
    }

    #[test]
    fn a_second_start_names_the_first() {
        let place = Place::new();
        let first = place.start("a").unwrap();
        assert_eq!(running(&place.state("a")).unwrap(), Some(us()));
        let lock = fs::metadata(place.state("a").join(LOCK)).unwrap();
        assert_eq!(lock.permissions().mode() & 0o777, 0o600, "who may read a file may lock it");
        let error = place.start("a").unwrap_err();
        let expected =
            format!("another portcullis (pid {}) runs with this state directory", std::process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");
        drop(first);
        assert_eq!(running(&place.state("a")).unwrap(), None);
        assert_eq!(running(&place.state("never")).unwrap(), None);
        place.start("a").unwrap();
    }

    #[test]
    fn the_next_start_knows_how_the_last_one_ended() {
        let place = Place::new();
        let first = place.start("a").unwrap();
        assert_eq!(first.previous(), Previous::None);
        first.finish().unwrap();
        let second = place.start("a").unwrap();
        assert_eq!(second.previous(), Previous::Clean);
        drop(second);
        let third = place.start("a").unwrap();
        assert_eq!(third.previous(), Previous::Unclean { pid: us() });
        third.finish().unwrap();
        assert_eq!(place.start("a").unwrap().previous(), Previous::Clean);
    }

    #[test]
    fn an_interface_has_one_owner() {
        let place = Place::new();
        let veth: InterfaceName = "veth-web".parse().unwrap();
        let mut first = place.start("a").unwrap();
        let mut second = place.start("b").unwrap();
        first.claim(&veth, 7).unwrap();
        first.claim(&veth, 7).unwrap();
        let error = second.claim(&veth, 7).unwrap_err().to_string();
        let expected = format!("interface veth-web is owned by pid {}", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        // The same name with another index is another interface.
        second.claim(&veth, 8).unwrap();
        first.release(7).unwrap();
        first.release(7).unwrap();
        second.claim(&veth, 7).unwrap();
        assert!(first.claim(&veth, 8).is_err());
        drop(second);
        first.claim(&veth, 8).unwrap();
    }

    #[test]
    fn forgetting_spares_what_is_held() {
        let place = Place::new();
        let veth: InterfaceName = "veth-web".parse().unwrap();
        let mut ended = place.start("ended").unwrap();
        ended.claim(&veth, 1).unwrap();
        ended.finish().unwrap();
        fs::write(place.state("ended").join("metrics.prom"), "").unwrap();
        let mut runs = place.start("runs").unwrap();
        runs.claim(&veth, 2).unwrap();

        let removed = forget(&place.state("ended"), &place.claims()).unwrap();
        assert_eq!(removed.len(), 5, "a claim, the lock, the mark, the figures and the folder: {removed:?}");
        assert!(!place.state("ended").exists());
        assert!(place.start("other").unwrap().claim(&veth, 2).is_err(), "the claim of the running one holds");
        assert_eq!(forget(&place.state("ended"), &place.claims()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(place.start("ended").unwrap().previous(), Previous::None);
    }

    #[test]
    fn two_may_forget_while_a_third_claims() {
        let place = Place::new();
        let veth: InterfaceName = "veth-web".parse().unwrap();
        let mut runs = place.start("runs").unwrap();
        std::thread::scope(|scope| {
            let forgetting =
                || (0..500).try_for_each(|_| forget(&place.state("ended"), &place.claims()).map(drop));
            let others = [scope.spawn(forgetting), scope.spawn(forgetting)];
            for index in 0..500 {
                match runs.claim(&veth, index) {
                    // One who forgets may look at the record before it is ours.
                    Ok(()) | Err(InstanceError::Owned { .. }) => runs.release(index).unwrap(),
                    Err(other) => panic!("{other}"),
                }
            }
            others.into_iter().for_each(|other| other.join().unwrap().unwrap());
        });
    }
}
