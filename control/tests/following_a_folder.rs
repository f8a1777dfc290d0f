//! The published table follows the folder: each test changes files and asks the table, not only the events.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests by allow-unwrap-in-tests")]

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use compiler::Scope;
use control::{Control, Event, load};
use flow::{FlowKey, Protocol, Verdict};
use table::{PolicyTable, Publisher, Reader};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Node, namespace and the pods `a` (10.0.0.1) and `b` (10.0.0.2).
const CLUSTER: &str = "apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {app: a}}
spec: {nodeName: node-a}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: x, labels: {app: b}}
spec: {nodeName: node-a}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}
";

/// A policy that lets only TCP `port` into all pods of `x`.
fn only(port: u16) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: only, namespace: x}}\nspec:\n  \
         podSelector: {{}}\n  ingress:\n  - ports: [{{port: {port}}}]\n"
    )
}

struct Following {
    folder: TempDir,
    reader: Reader<PolicyTable>,
    events: mpsc::Receiver<Event>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Following {
    /// Follows `manifests` in a new folder, which `fill` may fill first.
    fn start(fill: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fill(&folder.path().join("manifests"));
        let mut publisher = Publisher::new();
        let reader = publisher.reader();
        let (control, events) = Control::new(folder.path().join("manifests"), Scope::AllPods, publisher);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(control.run(async { drop(stopped.await) }));
        Self { folder, reader, events, stop, running }
    }

    /// Follows a folder with the cluster and `only(80)`, already published.
    async fn with_port_80() -> Self {
        let mut following = Self::start(|folder| {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("cluster.yaml"), CLUSTER).unwrap();
            fs::write(folder.join("only.yaml"), only(80)).unwrap();
        });
        following.published().await;
        following.assert_open(&[80]);
        following
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("manifests").join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes a file elsewhere and renames it into the folder.
    fn rename_into(&self, name: &str, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(Duration::from_secs(10), self.events.recv()).await;
        event.expect("something happens").expect("control runs")
    }

    async fn published(&mut self) -> Event {
        let event = self.event().await;
        assert!(matches!(event, Event::Published { .. }), "{event:#?}");
        event
    }

    /// The code and the report of the refusal that comes next.
    async fn refused(&mut self) -> (&'static str, String) {
        match self.event().await {
            Event::Refused { diagnostics, report } => (diagnostics[0].code, report),
            other => panic!("{other:#?}"),
        }
    }

    async fn mended(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Mended { .. }), "{event:#?}");
    }

    async fn assert_silent(&mut self, millis: u64) {
        let event = tokio::time::timeout(Duration::from_millis(millis), self.events.recv()).await;
        assert!(event.is_err(), "{event:#?}");
    }

    fn generation(&mut self) -> u64 {
        self.reader.get().expect("published").generation()
    }

    /// The TCP ports of b, of 80 to 83, that the published table opens to a.
    fn open(&mut self) -> Vec<u16> {
        let table = self.reader.get().expect("published");
        let ports: Vec<u16> = (80..84).collect();
        let keys: Vec<FlowKey> = ports
            .iter()
            .map(|port| {
                FlowKey::new(
                    Protocol::TCP,
                    (Ipv4Addr::new(10, 0, 0, 1), 40000),
                    (Ipv4Addr::new(10, 0, 0, 2), *port),
                )
            })
            .collect();
        let mut verdicts = vec![Verdict::Deny; keys.len()];
        table.classify(&keys, &mut verdicts);
        ports.into_iter().zip(verdicts).filter(|(_, v)| *v == Verdict::Allow).map(|(p, _)| p).collect()
    }

    #[track_caller]
    fn assert_open(&mut self, ports: &[u16]) {
        assert_eq!(self.open(), ports);
    }

    async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(Duration::from_secs(5), self.running).await.expect("it stops").unwrap();
    }
}

#[tokio::test]
async fn files_are_added_changed_and_removed() {
    let mut following = Following::start(|folder| {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("cluster.yaml"), CLUSTER).unwrap();
    });
    following.published().await;
    following.assert_open(&[80, 81, 82, 83]);
    following.write("only.yaml", only(80));
    following.published().await;
    following.assert_open(&[80]);
    following.write("only.yaml", only(81));
    following.published().await;
    following.assert_open(&[81]);
    following.write("also.yml", only(82).replace("name: only", "name: also"));
    following.published().await;
    following.assert_open(&[81, 82]);
    fs::remove_file(following.path("only.yaml")).unwrap();
    following.published().await;
    following.assert_open(&[82]);
    fs::rename(following.path("also.yml"), following.path("also.txt")).unwrap();
    following.published().await;
    following.assert_open(&[80, 81, 82, 83]);
    following.stop().await;
}

#[tokio::test]
async fn a_rename_is_in_force() {
    let mut following = Following::with_port_80().await;
    let mut waits = Vec::new();
    for round in 0..20 {
        let port = 81 + round % 2;
        let new = following.folder.path().join("new");
        fs::write(&new, only(port)).unwrap();
        let begin = Instant::now();
        fs::rename(new, following.path("only.yaml")).unwrap();
        following.published().await;
        waits.push(begin.elapsed());
        following.assert_open(&[port]);
    }
    waits.sort();
    println!("rename to published: median {:?}, worst {:?}", waits[10], waits[19]);
}

#[tokio::test]
async fn a_config_map_is_swapped() {
    let volume = |folder: &Path, stamp: &str, port: u16| {
        fs::create_dir(folder.join(stamp)).unwrap();
        fs::write(folder.join(stamp).join("cluster.yaml"), CLUSTER).unwrap();
        fs::write(folder.join(stamp).join("only.yaml"), only(port)).unwrap();
        symlink(stamp, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    let mut following = Following::start(|folder| {
        fs::create_dir(folder).unwrap();
        volume(folder, "..2026_01_01", 80);
        symlink("..data/cluster.yaml", folder.join("cluster.yaml")).unwrap();
        symlink("..data/only.yaml", folder.join("only.yaml")).unwrap();
    });
    following.published().await;
    following.assert_open(&[80]);
    let folder = following.path("");
    volume(&folder, "..2026_01_02", 81);
    fs::remove_dir_all(folder.join("..2026_01_01")).unwrap();
    following.published().await;
    following.assert_open(&[81]);
}

#[tokio::test]
async fn an_error_in_one_file_keeps_the_whole_old_table() {
    let mut following = Following::with_port_80().await;
    let generation = following.generation();
    // A good change and a bad one: neither counts.
    following.rename_into("cluster.yaml", &CLUSTER.replace("10.0.0.2", "10.0.0.3"));
    following.published().await;
    following.rename_into("only.yaml", &only(81).replace("podSelector", "podSelektor"));
    let (code, report) = following.refused().await;
    assert_eq!(code, "unknown-field");
    let place = format!("{}:5:3", following.path("only.yaml").display());
    assert!(report.contains(&place) && report.contains("^^^^^^^^^^^"), "{report}");
    assert!(report.contains("did you mean `podSelector`?"), "{report}");
    following.rename_into("cluster.yaml", CLUSTER);
    following.assert_silent(100).await;
    assert_eq!(following.generation(), generation + 1);
    following.rename_into("only.yaml", &only(81));
    following.published().await;
    following.assert_open(&[81]);
    // Mended to what is in force: said, not published.
    following.rename_into("only.yaml", "kind: NetworkPolicy\n");
    assert_eq!(following.refused().await.0, "missing-field");
    following.assert_open(&[81]);
    let generation = following.generation();
    following.rename_into("only.yaml", &only(81));
    following.mended().await;
    assert_eq!(following.generation(), generation);
}

#[tokio::test]
async fn broken_files_of_every_kind_keep_the_old_table() {
    let mut following = Following::with_port_80().await;
    let generation = following.generation();
    let bomb = (1..12).fold(String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n"), |bomb, i| {
        bomb + &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))
    });
    let files: [(&str, Vec<u8>); 7] = [
        ("yaml-syntax", b"spec:\n\tpodSelector: {}\n".to_vec()),
        ("not-utf8", b"kind: \xff\n".to_vec()),
        ("duplicate-key", b"kind: Pod\nkind: Pod\n".to_vec()),
        ("duplicate-object", CLUSTER.as_bytes().to_vec()),
        ("too-large", bomb.into_bytes()),
        ("too-large", vec![b'#'; (16 << 20) + 1]),
        ("too-large", "---\na: 1\n".repeat(100_000).into_bytes()),
    ];
    for (code, bytes) in files {
        following.write("zz.yaml", bytes);
        assert_eq!(following.refused().await.0, code);
        following.assert_open(&[80]);
        fs::remove_file(following.path("zz.yaml")).unwrap();
        following.mended().await;
    }
    let fifo = following.path("fifo.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(following.refused().await.0, "not-a-file");
    fs::remove_file(fifo).unwrap();
    following.mended().await;
    symlink("loop.yaml", following.path("loop.yaml")).unwrap();
    assert_eq!(following.refused().await.0, "unreadable");
    following.assert_open(&[80]);
    fs::remove_file(following.path("loop.yaml")).unwrap();
    following.mended().await;
    assert_eq!(following.generation(), generation);
}

#[tokio::test]
async fn both_places_of_a_duplicate_are_told() {
    let mut following = Following::with_port_80().await;
    following.write("twice.yaml", only(81));
    let (code, report) = following.refused().await;
    assert_eq!(code, "duplicate-object");
    let first = format!("NetworkPolicy x/only is also in {}:3", following.path("only.yaml").display());
    let second = format!("{}:3:18", following.path("twice.yaml").display());
    assert!(report.contains(&first) && report.contains(&second), "{report}");
    following.assert_open(&[80]);
}

#[tokio::test]
async fn the_folder_is_deleted_and_comes_back() {
    let mut following = Following::with_port_80().await;
    for port in [81, 82] {
        fs::remove_dir_all(following.path("")).unwrap();
        // While it is being emptied, the set may be read as incomplete, but never as empty.
        while following.refused_or_published().await != Some("no-folder") {}
        let before = following.open();
        // Back without objects: still nothing to publish.
        fs::create_dir(following.path("")).unwrap();
        assert_eq!(following.refused().await.0, "no-objects");
        assert_eq!(following.open(), before);
        following.write("all.yaml", format!("{CLUSTER}---\n{}", only(port)));
        following.published().await;
        following.assert_open(&[port]);
        following.rename_into("all.yaml", &format!("{CLUSTER}---\n{}", only(83)));
        following.published().await;
        following.assert_open(&[83]);
    }
}

impl Following {
    async fn refused_or_published(&mut self) -> Option<&'static str> {
        match self.event().await {
            Event::Refused { diagnostics, .. } => Some(diagnostics[0].code),
            _ => None,
        }
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet() {
    let mut following = Following::start(|_| {});
    assert_eq!(following.refused().await.0, "no-folder");
    assert!(following.reader.get().is_none());
    let elsewhere = following.folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("all.json"), format!("{CLUSTER}---\n{}", only(80))).unwrap();
    fs::rename(elsewhere, following.path("")).unwrap();
    following.published().await;
    following.assert_open(&[80]);
}

#[tokio::test]
async fn what_says_the_same_is_not_published() {
    let mut following = Following::with_port_80().await;
    let generation = following.generation();
    following.rename_into("only.yaml", &only(80));
    following.write("only.yaml", format!("{}# a note\n", only(80)));
    following.write("notes.txt", "not a manifest");
    following.assert_silent(300).await;
    assert_eq!(following.generation(), generation);
}

#[tokio::test]
async fn half_a_file_is_never_published() {
    let mut following = Following::with_port_80().await;
    let generation = following.generation();
    // Both halves are valid by themselves, and the first alone would open everything.
    let mut file = fs::File::create(following.path("only.yaml")).unwrap();
    following.assert_silent(100).await;
    file.write_all(b"# the policy is to come\n").unwrap();
    following.assert_silent(100).await;
    assert_eq!(following.generation(), generation);
    file.write_all(only(81).as_bytes()).unwrap();
    drop(file);
    following.published().await;
    following.assert_open(&[81]);
    assert_eq!(following.generation(), generation + 1);
}

#[tokio::test]
async fn a_slow_writer_is_waited_for() {
    let mut following = Following::with_port_80().await;
    let generation = following.generation();
    let mut file = fs::File::create(following.path("only.yaml")).unwrap();
    // Longer than a single pause may be, and the beginning is a set of its own.
    for _ in 0..15 {
        file.write_all(b"# the policy is to come\n").unwrap();
        following.assert_silent(100).await;
    }
    assert_eq!(following.generation(), generation);
    file.write_all(only(81).as_bytes()).unwrap();
    drop(file);
    following.published().await;
    following.assert_open(&[81]);
}

#[tokio::test]
async fn what_no_event_tells_is_seen_by_looking() {
    let mut following = Following::with_port_80().await;
    let elsewhere = following.folder.path().join("elsewhere");
    fs::write(&elsewhere, only(81)).unwrap();
    fs::remove_file(following.path("only.yaml")).unwrap();
    following.published().await;
    symlink(&elsewhere, following.path("only.yaml")).unwrap();
    following.published().await;
    following.assert_open(&[81]);
    fs::write(&elsewhere, only(82)).unwrap();
    following.published().await;
    following.assert_open(&[82]);
}

#[tokio::test]
async fn what_is_published_says_where_it_comes_from() {
    let mut following = Following::with_port_80().await;
    following.write("service.yaml", "apiVersion: v1\nkind: Service\n---\n");
    following.rename_into("only.yaml", &only(81));
    let Event::Published { table, cluster, generation, took, warnings } = following.published().await else {
        panic!("published")
    };
    assert_eq!((generation, cluster.pods.len(), cluster.policies.len()), (table.generation(), 2, 1));
    assert_eq!(warnings[0].code, "ignored-kind");
    assert!(took < Duration::from_secs(5));
    assert_eq!(following.generation(), generation);
    following.stop().await;
}

#[test]
fn files_and_folders_are_loaded_without_watching() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("more")).unwrap();
    fs::write(folder.path().join("cluster.txt"), CLUSTER).unwrap();
    fs::write(folder.path().join("more/only.yaml"), only(80)).unwrap();
    let paths = [folder.path().join("cluster.txt"), folder.path().join("more")];
    let cluster = load(&paths).unwrap().cluster;
    assert_eq!((cluster.pods.len(), cluster.policies.len()), (2, 1));
    fs::write(folder.path().join("more/bad.yaml"), "kind: Pod\n").unwrap();
    assert_eq!(load(&paths).unwrap_err()[0].code, "missing-field");
    assert_eq!(load(&[folder.path().join("gone")]).unwrap_err()[0].code, "unreadable");
}

#[test]
fn nothing_loaded_is_no_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let refused = || load(&[folder.path().to_owned()]).unwrap_err().remove(0);
    assert_eq!((refused().code, refused().suggestion), ("no-files", None));
    fs::create_dir(folder.path().join("team")).unwrap();
    fs::write(folder.path().join("team/all.yaml"), CLUSTER).unwrap();
    let help = refused().suggestion.unwrap();
    assert!(help.contains("team are not read: move them up"), "{help}");
    fs::write(folder.path().join("empty.yaml"), "# later\n").unwrap();
    assert_eq!(refused().code, "no-objects");
    fs::write(folder.path().join("all.yaml"), CLUSTER).unwrap();
    let loaded = load(&[folder.path().to_owned()]).unwrap();
    assert_eq!((loaded.cluster.pods.len(), loaded.warnings[0].code), (2, "unread-folder"));
}

#[tokio::test]
async fn a_subfolder_with_manifests_is_told_of_once() {
    let mut following = Following::with_port_80().await;
    fs::create_dir(following.path("team")).unwrap();
    fs::write(following.path("team/more.yaml"), only(81)).unwrap();
    let Event::Warned { warnings } = following.event().await else { panic!("warned") };
    assert!(warnings[0].source.ends_with("/team"), "{warnings:?}");
    following.assert_open(&[80]);
    following.rename_into("only.yaml", &only(82));
    following.published().await;
    fs::remove_dir_all(following.path("team")).unwrap();
    following.assert_silent(1500).await;
    following.stop().await;
}
