//! The pages of `docs/reference` say what the code says of itself, and the README's example works. `UPDATE=1`
//! writes the pages anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bpf::inline::Counted;
use flow::DropReason;
use portcullis::admin::snapshot::{
    Frames, Inline, Port, PortState, Queue, Statistics, Status, Tc, Worker, Xdp,
};
use portcullis::config::{Config, settings};
use portcullis::metrics::{self, VALUES};

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
    is_up_to_date("metrics.md", &metrics_page(&one_of_everything()));
}

#[test]
fn the_values_of_labels_are_those_that_have_a_meaning() {
    let page = one_of_everything();
    let named = |label: &str| {
        ["iface", "queue", "worker", "version", "mode", "fallback", "on_exit", "reason"].contains(&label)
    };
    let mut met: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((metric, rest)) = line.split_once('{') else { continue };
        for label in rest.split_once('}').unwrap().0.split(',') {
            let (label, value) = label.split_once('=').unwrap();
            if !named(label) {
                met.insert((metric, label, value.trim_matches('"')));
            }
        }
    }
    let meant = VALUES
        .iter()
        .flat_map(|values| values.meanings.iter().map(|(value, _)| (values.metric, values.label, *value)));
    assert_eq!(met, meant.collect());
}

/// The page of an agent that has one of everything, so that no family is without a line, and no label without its
/// values.
fn one_of_everything() -> String {
    let queue = Queue { statistics: Some(Statistics::default()), ..Queue::default() };
    let packets = Counted::default().each().map(|(what, count)| (what.to_owned(), count)).collect();
    let tc = Some(Tc { packets, ..Tc::default() });
    let states =
        [PortState::Unknown, PortState::Attached, PortState::Paused, PortState::Absent, PortState::Closed];
    let port = |state| Port {
        xdp: Some(Xdp::default()),
        tc: tc.clone(),
        queues: vec![queue.clone()],
        state,
        ..Port::default()
    };
    let worker = Worker { frames: Some(Frames::default()), ..Worker::default() };
    let drops = [(DropReason::DefaultDeny.name().to_owned(), 0)].into();
    let (ports, inline) = (states.map(port).into(), Some(Inline::default()));
    metrics::encode(Status { ports, workers: vec![worker], drops, inline, ..Status::default() }).unwrap()
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
         Every frame that a worker drops counts under exactly one of these, in \
         `portcullis_drops_total{reason=\"...\"}`, in the order of a packet's path. What the programs in the kernel \
         drop by themselves counts in `portcullis_xdp_frames_total{to=\"dropped\"}`, and in mode `inline` in \
         `portcullis_tc_packets_total` ([metrics.md](metrics.md#values-of-labels)).\n\n\
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
    text += "\n## Values of labels\n\nThe reasons are those of [drop-reasons.md](drop-reasons.md). `iface`, `queue` and `worker` name what is \
             counted.\n\n| metric | label | value | meaning |\n|---|---|---|---|\n";
    for values in VALUES {
        for (value, meaning) in values.meanings {
            writeln!(text, "| `{}` | `{}` | `{value}` | {meaning} |", values.metric, values.label).unwrap();
        }
    }
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
