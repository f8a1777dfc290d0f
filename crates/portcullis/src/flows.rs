//! `portcullis flows`: verdicts as they are given, with their reasons and rules.
//!
//! ```text
//!  worker ─ Records (a ring that loses) ─ witness ─ Hub ══ /v1/flows ══ command ─ print │ pcapng
//!  worker ─ Records ─────────────────────┘  names   │ remembers the latest     filter
//!                                                   └ waits for no listener
//! ```
//!
//! A record tells of a connection that was judged or of a frame that was dropped; what follows an allowed connection
//! is told of by nobody. At no place on the way does anybody wait: what does not fit is lost, and counted.

pub mod record;
pub mod filter;
pub mod stream;
pub mod witness;
pub mod pcapng;
pub mod print;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until};

use crate::admin::client;
use crate::config;
use crate::exit::{self, Failure, system, usage};
use filter::{Filter, Query};
use pcapng::Capture;
use print::{Format, Printer};
use record::Line;

/// `portcullis flows`.
#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  portcullis flows                                  # what the agent remembers
  portcullis flows --follow --dropped-only          # what is dropped from now on, and why
  portcullis flows --follow --pod shop/web --port 80/TCP
  portcullis flows --follow --to 10.0.0.0/8 --reason default_deny,spoofed_source -o jsonl
  portcullis flows --follow --from shop/web --count 1 --timeout 30s    # wait for one
  portcullis flows --follow --dropped-only --pcapng drops.pcapng       # for Wireshark, with comments",
    after_help = "Told of are connections that were judged and frames that were dropped, not the packets of allowed \
connections. Every condition must hold.\n\n\
Exit codes: 0 fine; 2 usage; 3 there is no agent, or it has gone; 5 --count was not reached within --timeout; \
130 interrupted."
)]
pub struct FlowsArgs {
    /// Go on with what comes, instead of ending with what the agent remembers.
    #[arg(long)]
    pub follow: bool,

    /// Either end: namespace/pod.
    #[arg(long, value_name = "NS/POD")]
    pub pod: Option<String>,

    /// The source: namespace/pod, an address or a network.
    #[arg(long, value_name = "WHO")]
    pub from: Option<String>,

    /// The destination: namespace/pod, an address or a network.
    #[arg(long, value_name = "WHO")]
    pub to: Option<String>,

    /// Either end: an address or a network.
    #[arg(long, value_name = "IP|CIDR")]
    pub address: Option<String>,

    /// The port of either end: 80 or 80/TCP.
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,

    /// TCP, UDP, SCTP, ICMP, ICMPv6 or a number.
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,

    /// allow or deny.
    #[arg(long, value_name = "VERDICT")]
    pub verdict: Option<String>,

    /// Any of these drop reasons. May be repeated.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub reason: Vec<String>,

    /// Short for --verdict deny.
    #[arg(long, conflicts_with = "verdict")]
    pub dropped_only: bool,

    /// Only so many of those that the agent remembers, the latest; with --follow, none unless this says so.
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,

    /// End after so many.
    #[arg(long, value_name = "N", requires = "follow")]
    pub count: Option<u64>,

    /// End after this time: 500ms, 30s, 10m, 1h.
    #[arg(long, value_name = "TIME", requires = "follow", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Write the first bytes of the frames to a file as well, with verdict, reason and policies as comments.
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,

    /// The state directory of the agent.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", default_value = "/run/portcullis", value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// How listening came to its end.
enum End {
    /// The agent has said everything.
    All,
    Counted,
    TimedOut,
    Interrupted,
    /// Nobody reads what we print.
    Unread,
}

/// Shows flows; the exit code.
///
/// # Errors
///
/// Wrong usage (exit code 2), or no agent, or one that ends while it is listened to (3).
pub fn run(args: &FlowsArgs, quiet: bool) -> Result<u8, Failure> {
    let query = args.query();
    Filter::try_from(&query).map_err(usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    runtime.block_on(listen(args, &query, quiet))
}

impl FlowsArgs {
    fn query(&self) -> Query {
        Query {
            pod: self.pod.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            address: self.address.clone(),
            port: self.port.clone(),
            protocol: self.protocol.clone(),
            verdict: if self.dropped_only { Some("deny".to_owned()) } else { self.verdict.clone() },
            reason: (!self.reason.is_empty()).then(|| self.reason.join(",")),
            last: self.last,
            follow: self.follow,
            packets: self.pcapng.is_some(),
        }
    }
}

async fn listen(args: &FlowsArgs, query: &Query, quiet: bool) -> Result<u8, Failure> {
    let query = serde_urlencoded::to_string(query).map_err(usage)?;
    let answer = client::get(&args.state_dir, &format!("/v1/flows?{query}")).await.map_err(system)?;
    let mut show = Show::new(args)?;
    let mut body = answer.into_body();
    let until = args.timeout.map(|timeout| Instant::now() + timeout);
    let end = loop {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(system)?;
                break End::Interrupted;
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break End::TimedOut,
            frame = body.frame() => match frame {
                None => break End::All,
                Some(Err(error)) => return Err(system(anyhow!(error).context("the agent has gone"))),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    match show.more(&data) {
                        Ok(None) => {}
                        Ok(Some(end)) => break end,
                        Err(error) => return Err(error),
                    }
                }
            },
        }
    };
    show.capture_ends()?;
    show.summarise(args, quiet);
    match end {
        End::All if args.follow => Err(system(anyhow!("the agent has ended, or waited too long for us"))),
        End::TimedOut if args.count.is_some() => Ok(exit::TIMEOUT),
        End::Interrupted => Ok(exit::INTERRUPTED),
        End::All | End::Counted | End::TimedOut | End::Unread => Ok(exit::OK),
    }
}

/// Where flows go that have arrived.
struct Show {
    printer: Printer<io::StdoutLock<'static>>,
    capture: Option<Capture<BufWriter<File>>>,
    count: Option<u64>,
    /// The beginning of a line that has not come whole.
    rest: Vec<u8>,
}

impl Show {
    fn new(args: &FlowsArgs) -> Result<Self, Failure> {
        let open = |path: &PathBuf| {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()));
            Capture::begin(BufWriter::new(file.map_err(usage)?)).map_err(system)
        };
        let capture = args.pcapng.as_ref().map(open).transpose()?;
        let printer = Printer::new(io::stdout().lock(), args.output);
        Ok(Self { printer, capture, count: args.count, rest: Vec::new() })
    }

    /// Shows what has arrived, line by line.
    fn more(&mut self, data: &[u8]) -> Result<Option<End>, Failure> {
        self.rest.extend_from_slice(data);
        let arrived = std::mem::take(&mut self.rest);
        let mut lines = arrived.split_inclusive(|byte| *byte == b'\n');
        for text in &mut lines {
            let Some(text) = text.strip_suffix(b"\n") else {
                self.rest = text.to_vec();
                break;
            };
            let mut line: Line =
                serde_json::from_slice(text).context("the agent is of another version").map_err(system)?;
            if let (Line::Flow(flow), Some(capture)) = (&mut line, &mut self.capture) {
                capture.add(flow).map_err(system)?;
            }
            match self.printer.line(&line, text) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Some(End::Unread)),
                printed => printed.map_err(system)?,
            }
            if self.count.is_some_and(|count| self.printer.summary.shown >= count) {
                return Ok(Some(End::Counted));
            }
        }
        self.printer.flush().map_err(system)?;
        Ok(None)
    }

    fn capture_ends(&mut self) -> Result<(), Failure> {
        self.capture.as_mut().map_or(Ok(()), |capture| capture.get_mut().flush()).map_err(system)
    }

    fn summarise(&self, args: &FlowsArgs, quiet: bool) {
        let print::Summary { seen, shown, lost } = self.printer.summary;
        // A line comes before the count of those that were looked at.
        let seen = seen.max(shown);
        if !quiet && (args.follow || lost > 0 || seen == 0) {
            // Nobody may read it.
            drop(writeln!(io::stderr(), "{seen} seen, {shown} shown, {lost} lost"));
        }
    }
}

/// A time as people write it.
fn duration(text: &str) -> Result<Duration, &'static str> {
    config::duration(text).ok_or("write 500ms, 30s, 10m or 1h")
}
