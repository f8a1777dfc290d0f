//! The command line, as a person types it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Mode;

/// Kubernetes NetworkPolicy, enforced in userspace on AF_XDP.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    max_term_width = 100,
    before_help = "\
Examples:
  portcullis run --config /etc/portcullis/config.yaml
  portcullis explain --from x/a --to y/b --port 80 -f manifests/
  portcullis reach -f manifests/           # who can talk to whom
  portcullis test policy-tests/            # do my policies do what I say they do?
  portcullis flows --follow --dropped-only # what a running agent drops, and why
  portcullis status                        # how is the agent?
  portcullis top                           # like status, live
  portcullis lab demo                      # try everything on this machine, without a cluster
  portcullis lab up cluster.yaml           # a node with pods in network namespaces
  portcullis lab run --in x/a -- ip addr   # run a command inside one of its pods
  portcullis doctor eth1                   # can this machine run it, and what to change?
  portcullis cleanup                       # take everything of ours off this machine",
    after_help = "Exit codes: 0 fine; 1 findings or a failed expectation; 2 usage or configuration; \
3 the system or the agent refuses."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// More messages (-v debug, -vv trace); RUST_LOG overrides.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    /// Only warnings and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Messages as JSON lines.
    #[arg(long, global = true)]
    pub log_json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enforce policy on this node: the agent.
    Run(RunArgs),
    /// Run tests of network policies: what they should allow, and what deny.
    Test(TestArgs),
    /// Is a connection allowed, and why?
    Explain(crate::explain::ExplainArgs),
    /// Who can talk to whom?
    Reach(crate::reach::ReachArgs),
    /// Verdicts of a running agent as they are given, with reasons and rules.
    Flows(crate::flows::FlowsArgs),
    /// How is the agent? Policy, ports, rings, workers, drops.
    Status(crate::status::StatusArgs),
    /// Like `status`, live: rates, rings and drops.
    Top(crate::top::TopArgs),
    /// A node with pods in network namespaces of this machine.
    #[command(subcommand)]
    Lab(LabCommand),
    /// Can this machine run it, and what to change?
    Doctor(crate::doctor::DoctorArgs),
    /// Remove everything of ours: pinned links, nftables table, mounts, state.
    Cleanup(CleanupArgs),
    /// Run nft for the agent that started this.
    #[command(hide = true)]
    Broker,
}

/// `portcullis run`.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  portcullis run --config /etc/portcullis/config.yaml
  portcullis run --config config.yaml --manifests manifests/ -v    # other manifests, more messages")]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    pub config: PathBuf,

    /// The folder of manifests; overrides the configuration.
    #[arg(long, env = "PORTCULLIS_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// For debugging only: a worker panics after this many seconds.
    #[arg(long, env = "PORTCULLIS_DEBUG_PANIC_AFTER", value_name = "SECONDS", hide = true)]
    pub debug_panic_after: Option<u64>,
}

/// `portcullis test`.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  portcullis test docs/examples/tests          # answered by the compiled table, in milliseconds
  portcullis test shop.yaml -o junit > report.xml
  portcullis test --lab shop.yaml              # the same, on real packets between pods in network namespaces")]
pub struct TestArgs {
    /// Test files, or folders of them.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t = TestOutput::Text)]
    pub output: TestOutput,

    /// On real packets, in a lab that is built for it. Needs root.
    #[arg(long)]
    pub lab: bool,

    /// The mode of the agent in the lab.
    #[arg(long, value_enum, default_value_t = Mode::Router, requires = "lab")]
    pub mode: Mode,

    /// The addresses at which pods are asked in the lab.
    #[arg(long, value_enum, default_value_t = By::Address, requires = "lab")]
    pub by: By,
}

/// At which address `portcullis test --lab` asks a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Its own.
    Address,
    /// That of a Service of its own, which the node translates as kube-proxy would; needs `--mode inline`.
    ClusterIp,
}

/// How `portcullis test` prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TestOutput {
    /// A line for each test, and more for those that fail.
    Text,
    /// JSON of the form `portcullis.test-report/v1`.
    Json,
    /// JUnit XML, for build servers.
    Junit,
}

/// The form of what a command says of this machine or of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// `portcullis lab ...`.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  portcullis lab up
  portcullis lab run -- ip link
  portcullis lab down")]
pub enum LabCommand {
    /// Build the lab: one network namespace for the node, one for each pod, one for the outside.
    #[command(before_help = "\
Examples:
  portcullis lab up                                  # nine pods
  portcullis lab up docs/examples/cluster.yaml       # the pods of these manifests
  portcullis lab up --name second")]
    Up {
        /// Manifests whose Pod objects become the pods (files or folders); nine pods without any.
        manifests: Vec<PathBuf>,
        /// Which lab.
        #[command(flatten)]
        lab: LabName,
    },
    /// Run a command inside the lab.
    #[command(before_help = "\
Examples:
  portcullis lab run -- ip link                      # in the node
  portcullis lab run --in x/a -- ping -c 1 10.244.1.12
  portcullis lab run --in outside -- sh")]
    Run {
        /// Which lab.
        #[command(flatten)]
        lab: LabName,
        /// Where: `node`, `outside`, or a pod as NAMESPACE/NAME.
        #[arg(long = "in", default_value = "node", value_name = "PLACE")]
        place: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Remove the lab and everything that runs in it.
    #[command(before_help = "\
Examples:
  portcullis lab down
  portcullis lab down --name second")]
    Down {
        /// Which lab.
        #[command(flatten)]
        lab: LabName,
    },
    /// See it work: every pair of pods probed without enforcement and with it, then a policy that changes
    /// under a running connection.
    #[command(before_help = "\
Examples:
  portcullis lab demo
  portcullis lab demo --mode inline")]
    Demo {
        /// The folder of the demonstration's manifests.
        #[arg(long, default_value = "docs/examples", value_name = "DIR")]
        examples: PathBuf,
        /// The mode of the agent.
        #[arg(long, value_enum, default_value_t = Mode::Router)]
        mode: Mode,
    },
}

/// Which lab.
#[derive(Debug, Args)]
pub struct LabName {
    /// The lab's name; several can stand at once.
    #[arg(long, default_value = "lab", value_name = "NAME")]
    pub name: String,
}

/// `portcullis cleanup`.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  portcullis cleanup
  portcullis cleanup veth-web                        # only what is on this interface
  portcullis cleanup --force                         # also while an agent runs")]
pub struct CleanupArgs {
    /// Only these interfaces; everything without any.
    pub interfaces: Vec<String>,

    /// The state directory of the agent.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", default_value = "/run/portcullis", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Also while an agent runs, which puts back within seconds what it can.
    #[arg(long)]
    pub force: bool,
}
