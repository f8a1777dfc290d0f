//! What a lab has made, written down before it is made, and how it is removed, whoever made it.
//!
//! `/run/portcullis-lab/NAME/state` is text: a marker, the process that brought the lab up, a line for each
//! namespace with its identity, and `persistent` once the lab is to outlive that process. Nothing that is not in
//! such a file is ever removed.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Error;
use crate::netns::{self, Identity, PREFIX};

const DIRECTORY: &str = "/run/portcullis-lab";
const MARKER: &str = "portcullis-lab 1";

/// How long killed processes may take to go.
const GRACE: Duration = Duration::from_secs(2);

/// The state file of a lab that is being built or used.
#[derive(Debug)]
pub(crate) struct State {
    name: String,
    file: File,
}

/// The contents of a state file.
#[derive(Debug, Default)]
pub(crate) struct Record {
    owner: Option<(u32, u64)>,
    pub(crate) namespaces: Vec<(String, Identity)>,
    persistent: bool,
}

impl State {
    /// Starts the state of a new lab. What a dead or a persistent one of this name left is removed first, and
    /// so are labs of any name whose process is gone although they were not to outlive it. A lab of this name
    /// that somebody alive is using stays, and is an error.
    pub(crate) fn create(name: &str) -> Result<Self, Error> {
        let failed = |path: &Path| format!("creating {} (needs root)", path.display());
        fs::create_dir_all(DIRECTORY).map_err(Error::io(failed(DIRECTORY.as_ref())))?;
        let _lock = lock()?;
        for other in names() {
            let is_over = |record: Record| !record.persistent && record.living_owner().is_none();
            if other != name && read(&other).is_some_and(is_over) {
                // What cannot be removed now is for the next.
                let _left = remove_locked(&other);
            }
        }
        let in_use = read(name).filter(|record| !record.persistent).and_then(|record| record.living_owner());
        if let Some(pid) = in_use {
            return Err(Error::InUse { name: name.to_owned(), pid });
        }
        remove_locked(name)?;
        let directory = directory_of(name);
        fs::create_dir(&directory).map_err(Error::io(failed(&directory)))?;
        let path = directory.join("state");
        let file = File::create_new(&path).map_err(Error::io(failed(&path)))?;
        let mut state = Self { name: name.to_owned(), file };
        let pid = process::id();
        state.write(&format!("{MARKER}\nowner {pid} {}", started(pid).unwrap_or(0)))?;
        Ok(state)
    }

    /// Takes over the state of a lab that stands.
    pub(crate) fn open(name: &str) -> Result<(Self, Record), Error> {
        let record = read(name).ok_or_else(|| Error::Absent(name.to_owned()))?;
        let path = directory_of(name).join("state");
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(Error::io(format!("opening {}", path.display())))?;
        Ok((Self { name: name.to_owned(), file }, record))
    }

    /// Notes a namespace that is about to get its name.
    pub(crate) fn namespace(&mut self, name: &str, identity: Identity) -> Result<(), Error> {
        self.write(&format!("namespace {name} {} {}", identity.device, identity.inode))
    }

    /// Notes that the lab is to stand after its process has ended.
    pub(crate) fn persistent(&mut self) -> Result<(), Error> {
        self.write("persistent")
    }

    /// Mounts a bpffs of the lab's own and says where: pins in it go when the lab goes.
    pub(crate) fn mount_bpffs(&self) -> Result<PathBuf, Error> {
        let path = bpffs_of(&self.name);
        let failed = || format!("mounting a bpffs at {}", path.display());
        fs::create_dir(&path).map_err(Error::io(failed()))?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(Error::sys(failed()))?;
        Ok(path)
    }

    fn write(&mut self, line: &str) -> Result<(), Error> {
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .map_err(Error::io(format!("writing the state of lab {}", self.name)))
    }
}

/// Removes the lab of this name, whoever brought it up: the processes in its namespaces, the namespaces, its
/// bpffs and its state. Whether there was one.
pub(crate) fn remove(name: &str) -> Result<bool, Error> {
    if !directory_of(name).exists() {
        return Ok(false);
    }
    let _lock = lock()?;
    remove_locked(name)
}

/// Held while labs are removed or begun: between the look whether one is over and its removal, nobody may
/// begin another of the same name.
fn lock() -> Result<File, Error> {
    let directory = File::open(DIRECTORY).map_err(Error::io(format!("opening {DIRECTORY}")))?;
    directory.lock().map_err(Error::io(format!("locking {DIRECTORY}")))?;
    Ok(directory)
}

fn remove_locked(name: &str) -> Result<bool, Error> {
    let directory = directory_of(name);
    let Some(record) = read(name) else {
        // A crash between the directory and the marker leaves the directory alone or with an empty file.
        let blank = fs::metadata(directory.join("state")).map_or(true, |file| file.len() == 0);
        if blank && directory.exists() {
            let _absent = fs::remove_file(directory.join("state"));
            fs::remove_dir(&directory).map_err(Error::io(format!("removing {}", directory.display())))?;
        }
        return Ok(false);
    };
    end_processes(&record);
    let bpffs = bpffs_of(name);
    if bpffs.exists() {
        let _not_mounted = umount2(&bpffs, MntFlags::MNT_DETACH);
        let _not_empty = fs::remove_dir(&bpffs);
    }
    for (namespace, identity) in &record.namespaces {
        netns::remove(namespace, *identity);
    }
    fs::remove_dir_all(&directory).map_err(Error::io(format!("removing {}", directory.display())))?;
    Ok(true)
}

/// The names of the labs on this machine.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Where a lab's bpffs is mounted.
pub(crate) fn bpffs_of(name: &str) -> PathBuf {
    directory_of(name).join("bpf")
}

fn directory_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

fn read(name: &str) -> Option<Record> {
    Record::parse(name, &fs::read_to_string(directory_of(name).join("state")).ok()?)
}

impl Record {
    /// `None` without the marker. A last line that a crash cut short is left out.
    fn parse(lab: &str, text: &str) -> Option<Self> {
        let ours = format!("{PREFIX}{lab}-");
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = complete.lines();
        lines.next().filter(|first| *first == MARKER)?;
        let mut record = Self::default();
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["owner", pid, started] => {
                    record.owner = pid.parse().ok().zip(started.parse().ok());
                }
                ["namespace", name, device, inode] if name.starts_with(&ours) && !name.contains('/') => {
                    let identity = device.parse().ok().zip(inode.parse().ok());
                    if let Some((device, inode)) = identity {
                        record.namespaces.push((name.to_owned(), Identity { device, inode }));
                    }
                }
                ["persistent"] => record.persistent = true,
                _ => {}
            }
        }
        Some(record)
    }

    /// The process that brought the lab up, while it lives. A number that was given to another does not count.
    fn living_owner(&self) -> Option<u32> {
        let (pid, start) = self.owner?;
        (started(pid) == Some(start)).then_some(pid)
    }
}

/// Kills what runs in the lab's namespaces and waits until it is gone. This process itself never is.
fn end_processes(record: &Record) {
    let deadline = Instant::now() + GRACE;
    loop {
        let inside = processes_in(record);
        if inside.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in inside {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn processes_in(record: &Record) -> Vec<i32> {
    let myself = i32::try_from(process::id()).unwrap_or(0);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| pid != myself)
        .filter(|pid| {
            let identity = Identity::of(Path::new(&format!("/proc/{pid}/ns/net")));
            identity.is_ok_and(|found| record.namespaces.iter().any(|(_, ours)| *ours == found))
        })
        .collect()
}

/// When a process started, in ticks since boot: field 22 of `/proc/PID/stat` (proc(5)). `None` when it is gone
/// or only waits to be reaped.
fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_without_a_torn_last_line() {
        let text = format!("{MARKER}\nowner 12 345\nnamespace pcl-t-node 4 77\nnamespace pcl-t-x.a 4 7");
        let record = Record::parse("t", &text).unwrap();
        assert_eq!(record.owner, Some((12, 345)));
        assert_eq!(record.namespaces, [("pcl-t-node".to_owned(), Identity { device: 4, inode: 77 })]);
        assert!(!record.persistent);
        assert!(Record::parse("t", &format!("{MARKER}\npersistent\n")).unwrap().persistent);
    }

    #[test]
    fn what_is_not_the_labs_is_not_in_its_record() {
        assert!(Record::parse("t", "something else\nnamespace pcl-t-node 4 77\n").is_none());
        for foreign in ["cni-1", "pcl-u-node", "pcl-t-/../../x"] {
            let record = Record::parse("t", &format!("{MARKER}\nnamespace {foreign} 4 77\n")).unwrap();
            assert_eq!(record.namespaces, [], "{foreign}");
        }
    }

    #[test]
    fn only_the_same_process_counts_as_the_owner() {
        let pid = process::id();
        let start = started(pid).unwrap();
        let owned = |owner| Record { owner: Some(owner), ..Record::default() }.living_owner();
        assert_eq!(owned((pid, start)), Some(pid));
        assert_eq!(owned((pid, start + 1)), None);
    }
}
