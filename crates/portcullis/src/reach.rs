//! `portcullis reach`: who can talk to whom.
//!
//! ```text
//! Plan ─ sources x destinations x ports ──> PolicyTable::why ──> rows.rs: one row in some format
//!    └─ one source after the other on each core, written in order
//! ```

mod rows;

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use flow::Address;
use indicatif::{ProgressBar, ProgressStyle};
use policy::model::{Labels, ObjectName};

use crate::exit::{self, Failure, usage};
use crate::offline::{self, Endpoint, Families, Offline, PortSpec};

/// Sources that one core may be ahead of the writer.
const AHEAD: usize = 4;
/// More cores than this wait for the writer.
const MAX_WORKERS: usize = 8;

/// `portcullis reach`.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  portcullis reach -f manifests/
  portcullis reach -f manifests/ -o matrix --ports 80/TCP,53/UDP
  portcullis reach -f manifests/ --from shop --to app=web
  portcullis reach -f manifests/ --external 198.51.100.10 --family both -o json --output-file reach.json
  kubectl get namespaces,pods,nodes,networkpolicies -A -o yaml | portcullis reach -f -")]
pub struct ReachArgs {
    /// Kubernetes objects: files, folders, or `-` for standard input. May be repeated.
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Only connections from these: a namespace (`shop`), a pod (`shop/web`), labels of pods (`app=web,tier=front`),
    /// or an address. May be repeated.
    #[arg(long, value_name = "SEL")]
    pub from: Vec<String>,

    /// Only connections to these; written like --from.
    #[arg(long, value_name = "SEL")]
    pub to: Vec<String>,

    /// The destination ports.
    #[arg(long, value_delimiter = ',', default_value = "80/TCP", value_name = "PORTS")]
    pub ports: Vec<PortSpec>,

    /// Also these addresses outside the cluster: as sources unless --from, as destinations unless --to is given.
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub external: Vec<std::net::IpAddr>,

    /// The address family; by default that of the source's first address.
    #[arg(long, value_name = "FAMILY")]
    pub family: Option<Families>,

    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Where the output goes; standard output without it.
    #[arg(long, value_name = "PATH")]
    pub output_file: Option<PathBuf>,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    Table,
    /// One matrix for each port: `.` allowed, `X` denied, `-` no connection.
    Matrix,
    /// One JSON object, schema portcullis.reach/v1.
    Json,
    /// One JSON object on each line.
    Jsonl,
    /// Comma-separated values (RFC 4180).
    Csv,
    /// A Markdown table.
    Md,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    offline: &'a Offline,
    /// By name, addresses outside last.
    sources: Vec<End>,
    destinations: Vec<End>,
    /// Sorted.
    ports: Vec<PortSpec>,
    families: Option<Families>,
}

/// An endpoint that has addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    endpoint: Endpoint,
    name: String,
    addresses: Vec<Address>,
}

/// Answers; the exit code.
///
/// # Errors
///
/// Input or usage that is wrong (exit code 2), or output that cannot be written (3).
pub fn run(args: &ReachArgs, quiet: bool) -> Result<u8, Failure> {
    let offline = Offline::load(&args.files)?;
    let plan = Plan::new(&offline, args)?;
    let progress = progress(&plan, args, quiet);
    let written = match &args.output_file {
        Some(path) => File::create(path)
            .and_then(|file| {
                let mut out = BufWriter::with_capacity(1 << 16, file);
                plan.write(&mut out, args.output, &progress)?;
                out.flush()
            })
            .with_context(|| format!("cannot write {}", path.display())),
        None => {
            let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
            match plan.write(&mut out, args.output, &progress).and_then(|()| out.flush()) {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written.context("cannot write to standard output"),
            }
        }
    };
    progress.finish_and_clear();
    written.map_err(exit::system)?;
    Ok(exit::OK)
}

/// The answer as text, whatever the terminal.
///
/// # Errors
///
/// Usage that is wrong (exit code 2).
pub fn answer(offline: &Offline, args: &ReachArgs) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let plan = Plan::new(offline, args)?;
    plan.write(&mut out, args.output, &ProgressBar::hidden()).map_err(exit::system)?;
    Ok(out)
}

fn progress(plan: &Plan<'_>, args: &ReachArgs, quiet: bool) -> ProgressBar {
    let rows_on_screen = args.output_file.is_none() && io::stdout().is_terminal();
    if quiet || rows_on_screen || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} sources, {eta} left");
    ProgressBar::new(plan.sources.len() as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl<'a> Plan<'a> {
    fn new(offline: &'a Offline, args: &ReachArgs) -> Result<Self, Failure> {
        let mut externals = Vec::new();
        for ip in &args.external {
            match offline.endpoint(&ip.to_string())? {
                Endpoint::Pod(pod) => {
                    return Err(usage(anyhow!("--external {ip}: it is the address of pod {pod}")));
                }
                external @ Endpoint::External(_) => externals.push(external),
            }
        }
        let mut ports = args.ports.clone();
        ports.sort_unstable();
        ports.dedup();
        let plan = Self {
            offline,
            sources: ends(offline, "--from", &args.from, &externals)?,
            destinations: ends(offline, "--to", &args.to, &externals)?,
            ports,
            families: args.family,
        };
        let nowhere: Vec<String> = offline
            .pods()
            .filter(|(_, addresses)| addresses.is_empty())
            .map(|(name, _)| name.to_string())
            .collect();
        if !nowhere.is_empty() {
            tracing::warn!("left out, having no address: {}", nowhere.join(", "));
        }
        Ok(plan)
    }

    /// The connections from one source to all destinations, in the order of the output.
    fn connections<'s>(
        &'s self,
        from: &'s End,
    ) -> impl Iterator<Item = (&'s End, (Address, Address), PortSpec)> {
        let others = self.destinations.iter().filter(move |to| from.is_asked_about_to(to));
        others.flat_map(move |to| {
            let routes = offline::routes(&from.addresses, &to.addresses, self.families);
            let each = routes.into_iter().flat_map(|route| self.ports.iter().map(move |port| (route, *port)));
            each.map(move |(route, port)| (to, route, port))
        })
    }

    fn write(&self, out: &mut impl Write, format: Format, progress: &ProgressBar) -> io::Result<()> {
        if format == Format::Matrix {
            return self.write_matrices(out, progress);
        }
        let rows = rows::Rows::new(self, format);
        out.write_all(rows.head().as_bytes())?;
        let mut separated = rows.separator().is_empty();
        self.each_source(
            progress,
            |from, buffer| rows.of(from, buffer),
            |buffer| {
                // Each row begins with the separator; the first one has nothing to be separated from.
                let skip = if separated || buffer.is_empty() { 0 } else { rows.separator().len() };
                separated |= !buffer.is_empty();
                out.write_all(&buffer[skip..])
            },
        )?;
        out.write_all(rows.foot().as_bytes())
    }

    fn write_matrices(&self, out: &mut impl Write, progress: &ProgressBar) -> io::Result<()> {
        let families = match self.families {
            Some(Families::Both) => vec![Some(Families::V4), Some(Families::V6)],
            other => vec![other],
        };
        let mut first = true;
        for &port in &self.ports {
            for &family in &families {
                let gap = if std::mem::take(&mut first) { "" } else { "\n" };
                let title = match family {
                    None => format!("{gap}{port}\n"),
                    Some(Families::V6) => format!("{gap}{port} IPv6\n"),
                    Some(_) => format!("{gap}{port} IPv4\n"),
                };
                out.write_all(title.as_bytes())?;
                let rows = rows::Matrix::new(self, port, family);
                out.write_all(rows.head().as_bytes())?;
                self.each_source(progress, |from, buffer| rows.of(from, buffer), |line| out.write_all(line))?;
            }
        }
        Ok(())
    }

    /// Fills a buffer for each source, on all cores, and hands them over in order.
    fn each_source(
        &self,
        progress: &ProgressBar,
        fill: impl Fn(&End, &mut Vec<u8>) + Sync,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers = cores.min(MAX_WORKERS).min(self.sources.len()).max(1);
        let fill = &fill;
        let sources: &[End] = &self.sources;
        thread::scope(|scope| {
            let mut filled = Vec::new();
            for worker in 0..workers {
                let (send, receive) = sync_channel::<Vec<u8>>(AHEAD);
                scope.spawn(move || {
                    let mut size = 0;
                    for from in sources.iter().skip(worker).step_by(workers) {
                        let mut buffer = Vec::with_capacity(size);
                        fill(from, &mut buffer);
                        size = buffer.len();
                        // The writer has failed: nobody wants the rest.
                        if send.send(buffer).is_err() {
                            return;
                        }
                    }
                });
                filled.push(receive);
            }
            for turn in 0..sources.len() {
                let buffer = filled[turn % workers].recv().map_err(io::Error::other)?;
                take(&buffer)?;
                progress.inc(1);
            }
            Ok(())
        })
    }
}

impl End {
    /// Whether this is a connection between two, one a pod at least.
    fn is_asked_about_to(&self, to: &Self) -> bool {
        let external = |end: &Self| matches!(end.endpoint, Endpoint::External(_));
        self.endpoint != to.endpoint && !(external(self) && external(to))
    }
}

/// The endpoints that selections name, or all; those without an address are left out.
fn ends(
    offline: &Offline,
    option: &str,
    selections: &[String],
    externals: &[Endpoint],
) -> Result<Vec<End>, Failure> {
    let mut found: Vec<Endpoint> = Vec::new();
    if selections.is_empty() {
        found.extend(offline.pods().map(|(name, _)| Endpoint::Pod(name.clone())));
        found.extend_from_slice(externals);
    }
    for selection in selections {
        found.extend(select(offline, option, selection)?);
    }
    let mut ends: Vec<End> = found
        .into_iter()
        .map(|endpoint| End { name: endpoint.to_string(), addresses: offline.addresses(&endpoint), endpoint })
        .filter(|end| !end.addresses.is_empty())
        .collect();
    ends.sort();
    ends.dedup();
    Ok(ends)
}

fn select(offline: &Offline, option: &str, selection: &str) -> Result<Vec<Endpoint>, Failure> {
    let one = selection.contains('/') && !selection.contains('=');
    if one || selection.parse::<std::net::IpAddr>().is_ok() {
        return offline.endpoint(selection).map(|endpoint| vec![endpoint]);
    }
    let mut wanted = Labels::new();
    for pair in selection.split(',').filter(|_| selection.contains('=')) {
        let Some((key, value)) =
            pair.split_once('=').filter(|(key, _)| !key.is_empty() && !key.ends_with('!'))
        else {
            return Err(usage(anyhow!("{option} {selection}: `{pair}` is not a label, KEY=VALUE")));
        };
        wanted.insert(key.to_owned(), value.strip_prefix('=').unwrap_or(value).to_owned());
    }
    let pods = offline.cluster().pods.iter().filter(|pod| {
        if wanted.is_empty() {
            pod.name.namespace == selection
        } else {
            wanted.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        }
    });
    let found: Vec<Endpoint> = pods.map(|pod| Endpoint::Pod(pod.name.clone())).collect();
    if found.is_empty() {
        let mut known: Vec<&str> =
            offline.pods().map(|(ObjectName { namespace, .. }, _)| namespace.as_str()).collect();
        known.dedup();
        let hint = match manifest::closest(selection, &known) {
            Some(meant) => format!(": did you mean {meant}?"),
            None => ": a namespace, namespace/pod, KEY=VALUE or an address is wanted".to_owned(),
        };
        return Err(usage(anyhow!("{option} {selection}: no pod is selected{hint}")));
    }
    Ok(found)
}
