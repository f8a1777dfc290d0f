//! Cleanup after an agent that left everything behind. Needs root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod space;

use std::fs;
use std::path::{Path, PathBuf};

use portcullis::cleanup::{Cleanup, CleanupError, Outcome};
use portcullis::instance::{Instance, Previous};
use portcullis::interface::InterfaceName;
use portcullis::interlock::Interlock;
use space::Space;

struct Left {
    node: Space,
    folder: tempfile::TempDir,
}

impl Left {
    /// A bpffs of our own with a folder in place of pins, the table, and an agent's files.
    fn behind() -> Self {
        let left = Self { node: Space::new(), folder: tempfile::tempdir().unwrap() };
        let (state, claims) = (left.state(), left.claims());
        left.node.sh(&format!("mkdir -p {0} && mount -t bpf bpf {0}", state.join("bpf").display()));
        left.node.run(move || {
            let mut instance = Instance::start_in(&state, &claims).unwrap();
            instance.claim(&"lo".parse().unwrap(), 1).unwrap();
            let ports: Vec<InterfaceName> = ["pod-a", "pod-b"].map(|name| name.parse().unwrap()).into();
            Interlock::of(&state).apply(&ports, &[].into(), &[]).unwrap();
        });
        left
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state-of-cleanup-test")
    }

    fn claims(&self) -> PathBuf {
        self.folder.path().join("interfaces")
    }

    fn cleanup(&self, interfaces: &[&str], force: bool) -> Result<Outcome, CleanupError> {
        let interfaces = interfaces.iter().map(|name| name.parse().unwrap()).collect();
        let cleanup = Cleanup { state_dir: self.state(), claims_dir: self.claims(), interfaces, force };
        self.node.run(move || cleanup.run())
    }

    fn table(&self) -> bool {
        let state = self.state();
        self.node.run(move || Interlock::of(&state).present().unwrap())
    }

    fn mounts(&self) -> String {
        self.node.sh("cat /proc/thread-self/mounts | grep state-of-cleanup-test || true")
    }
}

#[test]
fn everything_goes_and_a_second_time_finds_nothing() {
    let left = Left::behind();
    assert!(left.table() && !left.mounts().is_empty());
    let outcome = left.cleanup(&[], false).unwrap();
    assert_eq!(outcome.failed, Vec::<String>::new());
    let has = |word: &str| outcome.removed.iter().any(|line| line.contains(word));
    assert!(
        has("bpffs mounted on") && has("the interlock") && has("lock") && has("interfaces/"),
        "{outcome:?}"
    );
    assert!(!left.table());
    assert_eq!(left.mounts(), "");
    assert!(!left.state().exists() && !left.claims().exists());
    assert_eq!(left.cleanup(&[], false).unwrap(), Outcome::default());
}

#[test]
fn a_running_agent_is_spared_unless_forced() {
    let left = Left::behind();
    let (state, claims) = (left.state(), left.claims());
    let agent = Instance::start_in(&state, &claims).unwrap();
    assert!(matches!(agent.previous(), Previous::Unclean { .. }));
    let error = left.cleanup(&[], false).unwrap_err().to_string();
    assert!(error.contains(&format!("pid {}", std::process::id())) && error.contains("--force"), "{error}");
    assert!(left.table() && !left.mounts().is_empty());
    let outcome = left.cleanup(&[], true).unwrap();
    assert!(outcome.warning.is_some_and(|warning| warning.contains("puts back within seconds")));
    assert!(!left.table());
    assert!(
        !left.mounts().is_empty() && state.join("lock").exists(),
        "what the agent could not put back stays"
    );
}

#[test]
fn one_interface_goes_alone() {
    let left = Left::behind();
    left.cleanup(&["pod-a"], false).unwrap();
    let set = left.node.sh("nft list ruleset");
    assert!(set.contains("pod-b") && !set.contains("pod-a"), "{set}");
    assert!(!left.mounts().is_empty() && left.state().join("lock").exists());
    assert!(Path::new("/sys/fs/bpf").exists());
    assert!(fs::read_dir(left.claims()).unwrap().count() == 1);
}
