//! The pages of `docs/reference` say what the code says of itself, and the README's example works. `UPDATE=1`
//! writes the pages anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use flow::DropReason;
use portcullis::admin::snapshot::{Frames, Inline, Port, Queue, Statistics, Status, Tc, Worker, Xdp};
use portcullis::config::{Config, settings};
use portcullis::metrics;

fn docs(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn is_up_to_date(page: &str, expected: &str) {
    let file = docs("docs/reference").join(page);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{} is out of date; `UPDATE=1 cargo test -p portcullis --test reference` mends it",
        file.display()
    );
}

#[test]
fn the_settings() {
    is_up_to_date("config.md", &settings_page());
}

#[test]
fn the_drop_reasons() {
    is_up_to_date("drop-reasons.md", &drop_reasons_page());
}

#[test]
fn the_metrics() {
    // One of everything, so that no family is without a line.
    let queue = Queue { statistics: Some(Statistics::default()), ..Queue::default() };
    let tc = Tc { packets: [("hit".to_owned(), 0)].into(), ..Tc::default() };
    let port = Port { xdp: Some(Xdp::default()), tc: Some(tc), queues: vec![queue], ..Port::default() };
    let worker = Worker { frames: Some(Frames::default()), ..Worker::default() };
    let drops = [(DropReason::DefaultDeny.name().to_owned(), 0)].into();
    let inline = Some(Inline::default());
    let status = Status { ports: vec![port], workers: vec![worker], drops, inline, ..Status::default() };
    is_up_to_date("metrics.md", &metrics_page(&metrics::encode(status).unwrap()));
}

#[test]
fn the_readmes_configuration_is_sound() {
    let readme = std::fs::read_to_string(docs("README.md")).unwrap();
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let config = Config::parse(example, Path::new("/etc/portcullis.yaml"), None).unwrap();
    assert_eq!(config.ports.len(), 2);
    assert_eq!(config.uplinks.len(), 1);
}

fn drop_reasons_page() -> String {
    let mut text = String::from(
        "# Why frames are dropped\n\n\
         <!-- Made from crates/flow/src/drop_reason.rs by a test; do not edit. -->\n\n\
         Every dropped frame counts under exactly one of these, in `portcullis_drops_total{reason=\"...\"}`, in the \
         order of a packet's path.\n\n\
         | reason | what happened | what to do |\n|---|---|---|\n",
    );
    for reason in DropReason::ALL {
        writeln!(text, "| `{}` | {} | {} |", reason.name(), reason.sentence(), reason.hint()).unwrap();
    }
    text
}

/// Of OpenMetrics text, what its HELP and TYPE lines say.
fn metrics_page(written: &str) -> String {
    let mut text = String::from(
        "# Figures\n\n\
         <!-- Made from crates/portcullis/src/metrics.rs by a test; do not edit. -->\n\n\
         The agent gives them out as OpenMetrics text on `/metrics` (`metrics.listen`), and writes them twice a second \
         to `metrics.prom` in its `state_dir`, whole. They start from zero with the agent; those of a queue, with its \
         socket. Drops are of frames that came to a socket: what the kernel dropped before, because a ring was full, \
         `portcullis_xsk_*` tell, of which two count the same frames and must not be summed.\n\n\
         | metric | type | meaning |\n|---|---|---|\n",
    );
    let about = |word: &str, name: &str| {
        let start = format!("# {word} {name} ");
        written.lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
    };
    let values: Vec<&str> = written.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(!values.is_empty(), "{written}");
    let mut told: Vec<&str> = Vec::new();
    for value in values {
        let name = value.split(['{', ' ']).next().unwrap();
        if told.contains(&name) {
            continue;
        }
        told.push(name);
        let family = name.strip_suffix("_total").unwrap_or(name);
        let labels =
            value.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(labels, _)| labels);
        let labels = labels.map_or_else(String::new, |labels| {
            let names: Vec<&str> = labels.split(',').filter_map(|label| label.split('=').next()).collect();
            format!("{{{}}}", names.join(","))
        });
        writeln!(text, "| `{name}{labels}` | {} | {} |", about("TYPE", family), about("HELP", family))
            .unwrap();
    }
    text += "\nThe reasons are those of [drop-reasons.md](drop-reasons.md).\n";
    text
}

fn settings_page() -> String {
    let mut text = String::from(
        "# The configuration file\n\n\
         <!-- Made from crates/portcullis/src/config/raw.rs by its test; do not edit. -->\n\n\
         `portcullis run --config FILE` reads one YAML mapping. Unknown and repeated keys are errors. \
         The smallest file names the node, the manifests and one port:\n\n\
         ```yaml\nnode: node-1\nmanifests: manifests\nports:\n  - {interface: veth-web, pod: shop/web}\n```\n\n\
         | key | form | default | meaning |\n|---|---|---|---|\n",
    );
    for setting in settings() {
        let default = match setting.default.as_str() {
            "" | "required" => setting.default.clone(),
            value => format!("`{value}`"),
        };
        writeln!(text, "| `{}` | {} | {default} | {} |", setting.key, setting.form, setting.meaning).unwrap();
    }
    text
}
