//! Hostile files on the command line: an error that names the file, exit code 2, and soon.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Without optimisation, on a machine that does other things.
const LONGEST: Duration = Duration::from_secs(60);

/// The exit code and the messages of `portcullis ARGS`, which must end in time.
fn portcullis(args: &[&str]) -> (Option<i32>, String) {
    let begin = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("portcullis runs");
    let mut stderr = child.stderr.take().expect("piped");
    let messages = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("messages are text");
        text
    });
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        if begin.elapsed() > LONGEST {
            child.kill().expect("it can be killed");
            panic!("{args:?} takes longer than {LONGEST:?}");
        }
        thread::sleep(Duration::from_millis(10));
    };
    (status.code(), messages.join().expect("the reader ends"))
}

/// Puts each kind of hostile file into the folder: its name, and what the error must say.
fn hostile(folder: &Path) -> Vec<(&'static str, &'static str)> {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("a file");
    let bomb = (1..12).fold(String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n"), |bomb, i| {
        bomb + &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))
    });
    write("bomb.yaml", bomb.as_bytes());
    write("documents.yaml", "---\na: 1\n".repeat(100_000).as_bytes());
    write("bytes.yaml", b"kind: \xff\xfe\n");
    write("tabs.yaml", b"kind: Pod\nmetadata:\n\tname: a\n");
    write("huge.yaml", &vec![b'#'; (16 << 20) + 1]);
    write("deep.yaml", "[".repeat(1 << 20).as_bytes());
    write("boolean.yaml", b"apiVersion: v1\nkind: Namespace\nmetadata: {name: on}\n");
    write(
        "octal.yaml",
        b"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {ingress: [{ports: [{port: 010}]}]}\n",
    );
    nix::unistd::mkfifo(&folder.join("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    symlink("loop.yaml", folder.join("loop.yaml")).expect("a link");
    symlink("/dev/zero", folder.join("zero.yaml")).expect("a link");
    vec![
        ("bomb.yaml", "more than is read of one file"),
        ("documents.yaml", "more than is read of one file"),
        ("bytes.yaml", "UTF-8"),
        ("tabs.yaml", "tab"),
        ("huge.yaml", "too many"),
        ("deep.yaml", "not YAML"),
        ("boolean.yaml", "quote it"),
        ("octal.yaml", "decimal digits"),
        ("fifo.yaml", "not a regular file"),
        ("loop.yaml", "cannot be read"),
        ("zero.yaml", "not a regular file"),
        ("missing.yaml", "cannot be read"),
    ]
}

#[test]
fn hostile_manifests_are_an_error_of_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, words) in hostile(folder.path()) {
        let test = folder.path().join("a.test.yaml");
        let text = format!("schema: portcullis.test/v1\nname: t\nmanifests: [{name}]\nexpect: []\n");
        fs::write(&test, text).expect("a file");
        let (code, messages) = portcullis(&["test", test.to_str().expect("a path")]);
        assert_eq!(code, Some(2), "{name}: {messages}");
        assert!(messages.contains(name) && messages.contains(words), "{name}: {messages}");
        assert!(messages.len() < 10_000, "{name}: {} bytes of messages", messages.len());
    }
}

#[test]
fn hostile_test_files_are_an_error_of_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, _) in hostile(folder.path()) {
        let (code, messages) = portcullis(&["test", folder.path().join(name).to_str().expect("a path")]);
        assert_eq!(code, Some(2), "{name}: {messages}");
        assert!(messages.contains(name), "{name}: {messages}");
        assert!(messages.len() < 10_000, "{name}: {} bytes of messages", messages.len());
    }
}
