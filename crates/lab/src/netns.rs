//! One network namespace with a name under `/run/netns`, where iproute2 looks for it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::Error;

/// Every namespace of a lab is called by this and the lab's name.
pub(crate) const PREFIX: &str = "pcl-";

const DIRECTORY: &str = "/run/netns";

/// The file of a namespace of the lab called `lab`: of its `node`, its `outside`, or a pod as `namespace/name`.
/// It may not exist.
#[must_use]
pub fn namespace_path(lab: &str, place: &str) -> PathBuf {
    // Kubernetes namespaces have no dots, so this can be read back.
    path_of(&format!("{PREFIX}{lab}-{}", place.replacen('/', ".", 1)))
}

/// The places of the lab called `lab` that have a namespace of their own, as [`namespace_path`] takes them.
#[must_use]
pub fn namespaces(lab: &str) -> Vec<String> {
    let prefix = format!("{PREFIX}{lab}-");
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut places: Vec<String> =
        names.filter_map(|name| Some(name.strip_prefix(&prefix)?.replacen('.', "/", 1))).collect();
    places.sort();
    places
}

/// What tells one namespace from another of the same name: device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Identity {
    /// That of the file at `path`, which may be a namespace or not.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|file| Self { device: file.dev(), inode: file.ino() })
    }
}

/// A network namespace. Removed when dropped, unless it is persistent; sockets made inside outlive the name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    handle: Arc<File>,
    identity: Identity,
    persistent: bool,
}

impl Namespace {
    /// Makes an empty namespace. `record` learns its identity before it gets its name, so that whoever cleans
    /// up after a crash knows what is the lab's and what is not.
    pub(crate) fn create(
        name: &str,
        record: impl FnOnce(Identity) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let path = path_of(name);
        if path.exists() {
            return Err(Error::Foreign(path.display().to_string()));
        }
        prepare_directory()?;
        let handle = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                File::open("/proc/thread-self/ns/net")
            });
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
        .map_err(Error::io("making a network namespace (needs root)"))?;
        let file = handle.metadata().map_err(Error::io("reading a network namespace"))?;
        let identity = Identity { device: file.dev(), inode: file.ino() };
        record(identity)?;
        File::create_new(&path).map_err(Error::io(format!("creating {}", path.display())))?;
        let namespace =
            Self { name: name.to_owned(), path, handle: Arc::new(handle), identity, persistent: false };
        let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*namespace.handle));
        mount(Some(source.as_str()), &namespace.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::sys(format!("naming network namespace {name}")))?;
        Ok(namespace)
    }

    /// The namespace of that name if it is still the one that was made. It is persistent.
    pub(crate) fn open(name: &str, identity: Identity) -> Result<Self, Error> {
        let path = path_of(name);
        let handle = File::open(&path).map_err(Error::io(format!("opening {}", path.display())))?;
        if Identity::of(&path).ok() != Some(identity) {
            return Err(Error::Foreign(path.display().to_string()));
        }
        Ok(Self { name: name.to_owned(), path, handle: Arc::new(handle), identity, persistent: true })
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, for `nsenter --net=` and `setns`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does some work on a fresh thread that has entered the namespace. Sockets that it makes, and processes
    /// that it starts, belong to the namespace for good.
    ///
    /// # Errors
    /// Without the right to enter.
    ///
    /// # Panics
    /// When the work panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.handle, CloneFlags::CLONE_NEWNET)
                    .map_err(Error::sys(format!("entering network namespace {}", self.name)))?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// A command that runs inside. It keeps its mounts, unlike with `ip netns exec`, which hides bpffs.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Leaves the namespace standing when this value is dropped.
    pub(crate) const fn persist(&mut self) {
        self.persistent = true;
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.persistent {
            remove(&self.name, self.identity);
        }
    }
}

/// Takes the name away if it still stands for this very namespace, or for nothing. Whether it is gone.
pub(crate) fn remove(name: &str, identity: Identity) -> bool {
    let path = path_of(name);
    let Ok(file) = fs::metadata(&path) else { return true };
    let ours = identity == Identity { device: file.dev(), inode: file.ino() };
    // An empty plain file is a name whose namespace went with a reboot, or never got mounted.
    let blank = file.is_file()
        && file.len() == 0
        && fs::metadata(DIRECTORY).is_ok_and(|directory| directory.dev() == file.dev());
    if ours && umount2(&path, MntFlags::MNT_DETACH).is_err() {
        return false;
    }
    (ours || blank) && fs::remove_file(&path).is_ok()
}

/// The file of the namespace of this name.
pub(crate) fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes `/run/netns` a shared mount as `ip netns add` does (ip-netns(8)), so that names made and removed here
/// and there mean the same to both.
fn prepare_directory() -> Result<(), Error> {
    let failed = |what: &str| format!("{what} {DIRECTORY} (needs root)");
    fs::create_dir_all(DIRECTORY).map_err(Error::io(failed("creating")))?;
    let directory = File::open(DIRECTORY).map_err(Error::io(failed("opening")))?;
    directory.lock().map_err(Error::io(failed("locking")))?;
    let share =
        || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share().is_err() {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIRECTORY), DIRECTORY, None::<&str>, bind, None::<&str>)
            .map_err(Error::sys(failed("mounting")))?;
        share().map_err(Error::sys(failed("sharing")))?;
    }
    Ok(())
}
