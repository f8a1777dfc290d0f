//! The manifests of a folder: which files count, and what they hold.
//!
//! `*.yaml`, `*.yml` and `*.json` directly in the folder, in the order of their names. Not dot-files; but links
//! are followed, so the layout of a ConfigMap volume works: `a.yaml -> ..data/a.yaml`, `..data -> ..2026_01_01`.
//! Subfolders are not read, and those that hold manifests are told of: a policy that nobody reads protects nothing.
//! What would block or never end is refused: pipes, devices, link loops, too much.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use manifest::Diagnostic;

/// Most files of one folder.
const MAX_FILES: usize = 4096;
/// Most bytes of all files that make one set: 256 MiB.
pub(crate) const MAX_TOTAL: u64 = 256 << 20;
/// Most entries of a subfolder that are looked at for a manifest.
const MAX_LOOKED_AT: usize = 1000;
/// How often a folder is read again because it changed meanwhile.
const TRIES: usize = 5;

/// A text of manifests that has been read, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The path of the file, or another name, as diagnostics show it.
    pub name: String,
    /// What it holds. Of a text that is too long, a little more than a manifest may have.
    pub bytes: Vec<u8>,
}

impl Source {
    /// Reads a stream to its end, or until it is too long for a manifest.
    ///
    /// # Errors
    ///
    /// When the stream cannot be read.
    pub fn from_stream(name: impl Into<String>, stream: impl io::Read) -> Result<Self, Diagnostic> {
        let name = name.into();
        match bounded(stream) {
            Ok(bytes) => Ok(Self { name, bytes }),
            Err(error) => {
                let message = format!("cannot be read: {error}");
                Err(Diagnostic::error(Arc::from(name), "unreadable", message))
            }
        }
    }
}

/// What tells a changed file from the same one without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    File { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
    Other,
    Unreadable(io::ErrorKind),
}

/// What a folder holds. Equal listings: nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Its manifests by path, with their stamps.
    manifests: Vec<(PathBuf, Stamp)>,
    /// Its subfolders that hold manifests, which are not read.
    unread: Vec<PathBuf>,
}

impl Listing {
    /// A warning for each subfolder whose manifests are not read.
    pub(crate) fn warnings(&self) -> Vec<Diagnostic> {
        let warning = |path: &PathBuf| {
            let name = Arc::from(path.display().to_string());
            Diagnostic::warning(name, "unread-folder", "the manifests of a subfolder are not read")
                .suggest("move them up")
        };
        self.unread.iter().map(warning).collect()
    }
}

/// Whether a name in the folder is that of a manifest.
pub(crate) fn is_manifest(path: &Path) -> bool {
    let suffix = path.extension().and_then(|suffix| suffix.to_str());
    !is_hidden(path) && matches!(suffix, Some("yaml" | "yml" | "json"))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether a folder holds a manifest, itself or in folders below it. Links in it are not followed.
fn holds_manifests(folder: PathBuf) -> bool {
    let (mut folders, mut looked_at) = (vec![folder], 0);
    while let Some(folder) = folders.pop() {
        // One that cannot be read is none of ours to tell of: `lost+found`.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > MAX_LOOKED_AT {
                return false;
            }
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !is_hidden(&path) => folders.push(path),
                Ok(kind) if !kind.is_dir() && is_manifest(&path) => return true,
                _ => {}
            }
        }
    }
    false
}

/// Lists the manifests of a folder.
pub(crate) fn list(folder: &Path) -> Result<Listing, Diagnostic> {
    let unreadable = |error: &io::Error| {
        let code = if error.kind() == io::ErrorKind::NotFound { "no-folder" } else { "unreadable" };
        refuse(folder, code, format!("the folder of the manifests cannot be read: {error}"))
    };
    let (mut paths, mut unread) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(|e| unreadable(&e))? {
        let path = entry.map_err(|e| unreadable(&e))?.path();
        if is_manifest(&path) {
            paths.push(path);
        } else if !is_hidden(&path) && path.is_dir() && holds_manifests(path.clone()) {
            unread.push(path);
        }
    }
    if paths.len() > MAX_FILES {
        let message = format!("{} files are too many: a folder may have {MAX_FILES}", paths.len());
        return Err(refuse(folder, "too-large", message));
    }
    paths.sort();
    unread.sort();
    let manifests = paths
        .into_iter()
        .map(|path| {
            let stamp = fs::metadata(&path).map_or_else(|e| Stamp::Unreadable(e.kind()), |m| stamp(&m));
            (path, stamp)
        })
        .collect();
    Ok(Listing { manifests, unread })
}

fn stamp(metadata: &Metadata) -> Stamp {
    if !metadata.is_file() {
        return Stamp::Other;
    }
    Stamp::File {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Reads the manifests of a folder as they stand at one moment, if they hold still for one.
pub(crate) fn read_folder(folder: &Path) -> Result<(Vec<Source>, Listing), Vec<Diagnostic>> {
    let mut before = list(folder).map_err(|error| vec![error])?;
    let mut tries = 0;
    loop {
        let sources = read_all(before.manifests.iter().map(|(path, _)| path.as_path()));
        let after = list(folder).map_err(|error| vec![error])?;
        tries += 1;
        // Between the two listings somebody may have swapped files: half old and half new is no set.
        if after == before || tries == TRIES {
            return sources.map(|sources| (sources, before));
        }
        before = after;
    }
}

/// Reads files by path. All that cannot be read are named.
pub(crate) fn read_all<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<Vec<Source>, Vec<Diagnostic>> {
    let (mut sources, mut errors, mut total) = (Vec::new(), Vec::new(), 0);
    for path in paths {
        match read(path) {
            Ok(bytes) => {
                total += bytes.len() as u64;
                if total > MAX_TOTAL {
                    let message = format!("the files together exceed {MAX_TOTAL} bytes");
                    return Err(vec![refuse(path, "too-large", message)]);
                }
                sources.push(Source { name: path.display().to_string(), bytes });
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(sources) } else { Err(errors) }
}

fn read(path: &Path) -> Result<Vec<u8>, Diagnostic> {
    let unreadable = |error: io::Error| {
        let diagnostic = refuse(path, "unreadable", format!("cannot be read: {error}"));
        match error.kind() {
            io::ErrorKind::NotFound if path.is_symlink() => diagnostic.suggest("the link points nowhere"),
            io::ErrorKind::NotFound => diagnostic.suggest("there is no such file or folder"),
            _ => diagnostic,
        }
    };
    let no_file = || {
        refuse(path, "not-a-file", "not a regular file")
            .suggest("move it elsewhere, or give it another suffix")
    };
    // Files are remembered by what their paths look like, so two must not look the same.
    if path.to_str().is_none() {
        return Err(refuse(path, "not-utf8", "the name of this file is not UTF-8 text"));
    }
    // Looked at before it is opened, since opening a device may do things; and after, since it may be
    // another one by then. Without O_NONBLOCK, opening a pipe waits for its writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(no_file());
    }
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(no_file());
    }
    bounded(file).map_err(unreadable)
}

fn bounded(stream: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(manifest::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn refuse(path: &Path, code: &'static str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(Arc::from(path.display().to_string()), code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn which_files_count() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt", "yaml", "d.yaml~"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("more")).unwrap();
        let (sources, _) = read_folder(folder.path()).unwrap();
        let held: Vec<&[u8]> = sources.iter().map(|s| s.bytes.as_slice()).collect();
        assert_eq!(held, [&b"a.yaml"[..], b"b.yml", b"c.json"]);
    }

    #[test]
    fn subfolders_with_manifests_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "notes/a.txt", "team/b.yaml", "base/prod/c.json", ".git/d.yaml", "e/.f/g.yaml"]
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let (sources, listing) = read_folder(folder.path()).unwrap();
        assert_eq!(sources.len(), 1);
        let told: Vec<String> = listing.warnings().iter().map(ToString::to_string).collect();
        let warning = |name: &str| {
            let path = folder.path().join(name);
            format!(
                "{}: warning[unread-folder]: the manifests of a subfolder are not read: move them up",
                path.display()
            )
        };
        assert_eq!(told, [warning("base"), warning("team")]);
    }

    #[test]
    fn what_is_missing_is_told_from_a_link_that_points_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        symlink("nowhere", folder.path().join("link.yaml")).unwrap();
        let help = |name: &str| {
            let path = folder.path().join(name);
            read_all(std::iter::once(path.as_path())).unwrap_err().remove(0).suggestion.unwrap()
        };
        assert_eq!(help("link.yaml"), "the link points nowhere");
        assert_eq!(help("missing.yaml"), "there is no such file or folder");
    }

    #[test]
    fn the_layout_of_a_config_map_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("..2026_01_01")).unwrap();
        fs::write(folder.path().join("..2026_01_01/a.yaml"), "first").unwrap();
        symlink("..2026_01_01", folder.path().join("..data")).unwrap();
        symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
        let (sources, listing) = read_folder(folder.path()).unwrap();
        assert_eq!(sources[0].bytes, b"first");
        fs::create_dir(folder.path().join("..2026_01_02")).unwrap();
        fs::write(folder.path().join("..2026_01_02/a.yaml"), "later").unwrap();
        symlink("..2026_01_02", folder.path().join("..data_tmp")).unwrap();
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        assert_ne!(list(folder.path()).unwrap(), listing);
        assert_eq!(read_folder(folder.path()).unwrap().0[0].bytes, b"later");
    }

    #[test]
    fn what_would_block_or_never_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&folder.path().join("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("loop.yaml", folder.path().join("loop.yaml")).unwrap();
        symlink("nowhere", folder.path().join("nowhere.yaml")).unwrap();
        symlink("/dev/zero", folder.path().join("zero.yaml")).unwrap();
        fs::create_dir(folder.path().join("folder.yaml")).unwrap();
        let errors = read_folder(folder.path()).unwrap_err();
        let told: Vec<(String, &str)> = errors
            .iter()
            .map(|e| (e.source.rsplit('/').next().unwrap_or_default().to_owned(), e.code))
            .collect();
        let told: Vec<(&str, &str)> = told.iter().map(|(name, code)| (name.as_str(), *code)).collect();
        assert_eq!(
            told,
            [
                ("fifo.yaml", "not-a-file"),
                ("folder.yaml", "not-a-file"),
                ("loop.yaml", "unreadable"),
                ("nowhere.yaml", "unreadable"),
                ("zero.yaml", "not-a-file"),
            ]
        );
    }

    #[test]
    fn a_folder_that_is_missing_and_one_with_too_many_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(list(&folder.path().join("gone")).unwrap_err().code, "no-folder");
        for i in 0..=MAX_FILES {
            File::create(folder.path().join(format!("{i}.yaml"))).unwrap();
        }
        assert_eq!(list(folder.path()).unwrap_err().code, "too-large");
    }
}
