//! What `portcullis status` shows, as JSON of the form `portcullis.status/v1`. Fields are added, never renamed.

mod port;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use port::{Port, PortState, Queue, Rings, Role, Statistics, Tc, Xdp};

/// The name and version of this form.
pub const SCHEMA: &str = "portcullis.status/v1";

/// How the agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    /// The agent's version.
    pub version: String,
    /// The node that it enforces policy on.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run.
    pub uptime_seconds: f64,
    /// How it is attached: `router` or `inline`.
    pub mode: String,
    /// What becomes of traffic while no agent runs: `closed` or `open`.
    pub fallback: String,
    /// What becomes of the programs when the agent is told to end: `keep` or `detach`.
    pub on_exit: String,
    /// What was before it.
    pub previous: Previous,
    /// The time after the first table in which connections may be taken up in mid-stream.
    pub recovery: Recovery,
    /// The policy table in force; without one, everything from and to pods is dropped.
    pub table: Option<Table>,
    /// What the manifests say.
    pub manifests: Manifests,
    /// All ports: pods', then uplinks, in the order of the configuration.
    pub ports: Vec<Port>,
    /// All workers, by number.
    pub workers: Vec<Worker>,
    /// Frames dropped by all workers, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The connection table.
    pub connections: Connections,
    /// What the kernel knows, in inline mode.
    #[serde(default)]
    pub inline: Option<Inline>,
    /// What was found otherwise than the agent had left it, and was mended.
    #[serde(default)]
    pub repairs: Repairs,
}

/// The kernel's verdicts in inline mode: one for each pod of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inline {
    /// Verdicts that it has: as counted every five seconds, and those entered since.
    pub verdicts: usize,
    /// Verdicts of each family that have room.
    pub capacity: usize,
    /// Verdicts that were not entered, for want of room or because their port had its share. Their connections are
    /// judged packet by packet.
    pub refused: u64,
    /// Verdicts that were idle for too long, or nobody's any more, and were forgotten.
    pub expired: u64,
    /// Verdicts that a new policy table allowed still, and that were entered anew.
    pub renewed: u64,
}

/// The instance before this one, on the same state directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// How it ended.
    pub ended: Ended,
    /// Its process, where that is still known.
    pub pid: Option<u32>,
    /// How long nobody enforced between its last sign of life and our taking over; within half a second.
    pub gap_seconds: Option<f64>,
    /// Whether the ports let everything pass in that time (`fallback: open`), rather than nothing.
    pub unfiltered: bool,
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// There was none.
    #[default]
    Never,
    /// As it was told to.
    Clean,
    /// It was killed or crashed, or the machine went down.
    Unclean,
}

/// The recovery window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// How long it is.
    pub window_seconds: f64,
    /// How much of it is left; all of it before the first table.
    pub left_seconds: f64,
}

/// The policy table in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its number among those of this instance.
    pub generation: u64,
    /// How long it has been in force.
    pub age_seconds: f64,
    /// When it came into force, in seconds since 1970.
    pub published_timestamp_seconds: f64,
    /// From the first notice of the change to its publication.
    pub took_seconds: f64,
    /// Pods whose connections are judged.
    pub pods: usize,
    /// Policies of the cluster.
    pub policies: usize,
    /// Their rules.
    pub rules: usize,
    /// The memory that it takes.
    pub bytes: usize,
}

/// What the manifests say, and whether it is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifests {
    /// Whether the set, as it is now, is in force.
    pub state: ManifestState,
    /// How often a set was refused.
    pub refusals: u64,
    /// Why it is refused now.
    pub refusal: Option<Refusal>,
}

/// Whether the manifests are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestState {
    /// They have not been read yet.
    #[default]
    Unread,
    /// They are.
    InForce,
    /// They have errors; the table of before stays in force.
    Refused,
}

/// Why manifests are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// For how long.
    pub since_seconds: f64,
    /// How many errors there are.
    pub errors: usize,
    /// They, with their lines, as the log has them.
    pub report: String,
}

/// How often something was found otherwise than the agent had left it, and was mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repairs {
    /// An interface ran another program than ours, or none.
    pub programs: u64,
    /// The pin of a program was gone.
    pub pins: u64,
    /// The programs' maps held something else.
    pub maps: u64,
    /// The interlock's rules were others.
    pub interlock: u64,
    /// The punt pair was gone.
    #[serde(default)]
    pub pair: u64,
}

impl Repairs {
    /// Each with the name of what was mended.
    #[must_use]
    pub const fn named(self) -> [(&'static str, u64); 5] {
        let Self { programs, pins, maps, interlock, pair } = self;
        [
            ("programs", programs),
            ("pins", pins),
            ("maps", maps),
            ("interlock", interlock),
            ("punt pair", pair),
        ]
    }
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub worker: usize,
    /// Whether it has answered when it was asked about its ports.
    pub answers: bool,
    /// Whether the watchdog has seen it stand still for a second.
    #[serde(default)]
    pub hangs: bool,
    /// How long ago it turned last.
    pub heartbeat_age_seconds: f64,
    /// How it waits: `busy` or `adaptive`.
    pub polling: String,
    /// The core that it is pinned to.
    pub core: Option<usize>,
    /// The share of the last seconds in which it had frames to handle.
    pub busy_ratio: f64,
    /// Frames received from its ports.
    pub received: u64,
    /// Frames given to transmit rings.
    pub transmitted: u64,
    /// Frames taken over from other workers.
    pub handed_in: u64,
    /// Frames handed to other workers.
    pub handed_out: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Turns that handled at least one frame.
    pub bursts: u64,
    /// Connections that policy was asked about.
    pub judged: u64,
    /// ICMP errors that it made about packets that could not be forwarded.
    pub icmp_errors: u64,
    /// ICMP errors that it did not make, because their port had its share.
    pub icmp_errors_withheld: u64,
    /// Fragmented datagrams that were forgotten for others.
    pub fragments_displaced: u64,
    /// Records for `portcullis flows` that were lost: beyond the rate of their kind, or because the ring was full.
    pub records_lost: u64,
    /// Where the frames of its packet memory are.
    pub frames: Option<Frames>,
}

/// Where the frames of a packet memory are: `free + fill + tx + held = total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Ready for use.
    pub free: usize,
    /// In fill and receive rings.
    pub fill: usize,
    /// In transmit and completion rings.
    pub tx: usize,
    /// With the worker.
    pub held: usize,
    /// All.
    pub total: usize,
}

/// The connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Connections in it.
    pub entries: usize,
    /// Its room.
    pub capacity: usize,
    /// Connections that were over, or unanswered, and gave their place to others.
    pub given_up: u64,
    /// The memory that it takes.
    pub bytes: usize,
}
