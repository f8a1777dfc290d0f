//! When to read the folder again.
//!
//! The kernel tells of changes (inotify, by `notify`); this file waits until the folder has settled: a few quiet
//! milliseconds, and nobody in the middle of writing a manifest, since half a policy may be valid and mean
//! something else. Events may be lost and links may lead elsewhere, so [`Control`](crate::Control) also looks at
//! the folder each second by itself.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::files;

/// The folder has settled when nothing happened for so long.
const QUIET: Duration = Duration::from_millis(2);
/// Changes that never pause are read after so long.
const IMPATIENT: Duration = Duration::from_millis(20);
/// A writer is waited for until it has not written for so long: half a file can be a set of its own, and open
/// what the other half closes.
const WRITER: Duration = Duration::from_secs(1);
/// Signals that may wait; more say nothing new.
const SIGNALS: usize = 256;

/// What an event means to us.
#[derive(Debug)]
enum Signal {
    /// The set of files may be another one.
    Changed,
    /// A manifest is being written, by whoever will close it.
    Writing(PathBuf),
    /// It has been closed, replaced or removed.
    Settled(PathBuf),
    /// The folder itself came, went or was replaced, or events were lost: watch anew.
    Folder,
}

/// What makes a folder the same folder: a removed one may give its inode to the next.
type Identity = (u64, u64, Option<SystemTime>);

/// Watches one folder, which need not exist.
pub(crate) struct Watch {
    folder: PathBuf,
    /// `None` where the kernel gave us no watcher; then only the look of each second remains.
    watcher: Option<RecommendedWatcher>,
    signals: mpsc::Receiver<Signal>,
    watched: Option<Identity>,
    parent_watched: bool,
    /// When the first unread change was noticed, and the last.
    noticed: Option<(Instant, Instant)>,
    writers: HashMap<PathBuf, Instant>,
}

impl Watch {
    pub(crate) fn new(folder: &Path) -> Self {
        let (send, signals) = mpsc::channel(SIGNALS);
        let root = folder.to_owned();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            for signal in signals_of(&root, event) {
                // Full: so many signals wait already that the folder will be read anyway.
                if send.try_send(signal).is_err() {
                    break;
                }
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "no file events from the kernel: changes take up to a second");
            })
            .ok();
        Self {
            folder: folder.to_owned(),
            watcher,
            signals,
            watched: None,
            parent_watched: false,
            noticed: None,
            writers: HashMap::new(),
        }
    }

    /// Sees to it that the folder that is there now is watched. Call it before reading the folder, so that no
    /// change falls between.
    pub(crate) fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        if !self.parent_watched
            && let Some(parent) = parent(&self.folder)
        {
            self.parent_watched = watcher.watch(parent, RecursiveMode::NonRecursive).is_ok();
        }
        let identity = fs::metadata(&self.folder).ok().map(|m| (m.dev(), m.ino(), m.created().ok()));
        if identity == self.watched {
            return;
        }
        // It may be gone already, and the watch with it.
        drop(watcher.unwatch(&self.folder));
        self.watched = match watcher.watch(&self.folder, RecursiveMode::NonRecursive) {
            Ok(()) => identity,
            Err(error) => {
                if identity.is_some() {
                    let folder = self.folder.display();
                    tracing::warn!(%folder, %error, "folder cannot be watched: changes take up to a second");
                }
                None
            }
        };
    }

    /// Whether somebody is in the middle of writing a manifest.
    pub(crate) fn is_being_written(&mut self) -> bool {
        let now = Instant::now();
        self.writers.retain(|_, last| now.duration_since(*last) < WRITER);
        !self.writers.is_empty()
    }

    /// Waits until something has changed and the folder has settled, and says when the first change was
    /// noticed. Dropped before it is ready, it forgets nothing.
    pub(crate) async fn settled(&mut self) -> Instant {
        loop {
            let Some((first, last)) = self.noticed else {
                match self.signals.recv().await {
                    Some(signal) => self.take(signal),
                    // Without a watcher there are no signals, ever.
                    None => std::future::pending().await,
                }
                continue;
            };
            let until = (last + QUIET).min(first + IMPATIENT);
            let writing = self.is_being_written();
            if !writing && Instant::now() >= until {
                self.noticed = None;
                return first;
            }
            let wait = if writing { Instant::now() + QUIET } else { until };
            if let Ok(Some(signal)) = tokio::time::timeout_at(wait.into(), self.signals.recv()).await {
                self.take(signal);
            }
        }
    }

    fn take(&mut self, signal: Signal) {
        let now = Instant::now();
        self.noticed = Some((self.noticed.map_or(now, |(first, _)| first), now));
        match signal {
            Signal::Changed => {}
            Signal::Writing(path) => {
                self.writers.insert(path, now);
            }
            Signal::Settled(path) => {
                self.writers.remove(&path);
            }
            Signal::Folder => {
                self.watched = None;
                self.writers.clear();
            }
        }
    }
}

fn parent(folder: &Path) -> Option<&Path> {
    folder.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

/// What an event means for the manifests of `folder`; mostly nothing, since the folder's parent is watched too
/// and our own reading makes events.
fn signals_of(folder: &Path, event: notify::Result<notify::Event>) -> Vec<Signal> {
    let Ok(event) = event else { return vec![Signal::Folder] };
    if event.need_rescan() {
        return vec![Signal::Folder];
    }
    let mut signals = Vec::new();
    for path in &event.paths {
        if path == folder {
            match event.kind {
                EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                    signals.push(Signal::Folder);
                }
                _ => {}
            }
        } else if path.parent() == Some(folder) && (files::is_manifest(path) || path.ends_with("..data")) {
            match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Remove(_)
                | EventKind::Modify(ModifyKind::Name(_)) => signals.push(Signal::Settled(path.clone())),
                EventKind::Modify(ModifyKind::Data(_)) => signals.push(Signal::Writing(path.clone())),
                EventKind::Access(_) => {}
                _ => signals.push(Signal::Changed),
            }
        }
    }
    signals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(folder: &Path) -> Watch {
        let mut watch = Watch::new(folder);
        watch.arm();
        watch
    }

    async fn settles(watch: &mut Watch, within: u64) -> bool {
        tokio::time::timeout(Duration::from_millis(within), watch.settled()).await.is_ok()
    }

    #[tokio::test]
    async fn what_does_not_concern_us_wakes_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("a.yaml");
        fs::write(&manifest, "a: 1").unwrap();
        let mut watch = watch(folder.path());
        assert!(!settles(&mut watch, 30).await, "nothing happened");
        fs::read(&manifest).unwrap();
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        fs::write(folder.path().join(".a.yaml.swp"), "x").unwrap();
        assert!(!settles(&mut watch, 50).await, "reading, notes and hidden files");
        fs::write(&manifest, "a: 2").unwrap();
        assert!(settles(&mut watch, 500).await, "written");
    }

    #[tokio::test]
    async fn a_writer_is_waited_for_but_not_for_ever() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path());
        let mut file = fs::File::create(folder.path().join("a.yaml")).unwrap();
        file.write_all(b"half").unwrap();
        file.flush().unwrap();
        assert!(!settles(&mut watch, 100).await, "half written");
        file.write_all(b"whole").unwrap();
        drop(file);
        assert!(settles(&mut watch, 500).await, "closed");
        let mut file = fs::File::create(folder.path().join("a.yaml")).unwrap();
        file.write_all(b"never closed").unwrap();
        assert!(!settles(&mut watch, 100).await);
        assert!(settles(&mut watch, 3000).await, "patience ends");
        drop(file);
    }

    #[tokio::test]
    async fn waiting_that_is_dropped_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path());
        fs::write(folder.path().join("a.yaml"), "a: 1").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Polled until the first signal is taken, then dropped.
        tokio::select! {
            biased;
            _ = watch.settled() => panic!("it waits for quiet first"),
            () = tokio::task::yield_now() => {}
        }
        assert!(settles(&mut watch, 500).await);
    }
}
