//! From files to a published table, over and over.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compiler::{Compiler, OverBudget, Scope};
use manifest::{Diagnostic, Parsed};
use policy::model::{Cluster, NetworkPolicy};
use table::{PolicyTable, Publisher};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::files::{self, Listing, Source};
use crate::index::{self, Budget};
use crate::watch::Watch;

/// How often the folder is looked at without an event, and old tables are freed.
const LOOK: Duration = Duration::from_secs(1);
/// How often all files are read again although nothing seems to have changed.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// Most diagnostics of one report: each looks for its line.
const MAX_REPORTED: usize = 50;
/// Events that may wait for their receiver. They are rare.
const EVENTS: usize = 64;

/// What happened to the policy in force.
#[derive(Clone, Debug)]
pub enum Event {
    /// A table is in force. Workers may see it already.
    Published {
        /// The table.
        table: Arc<PolicyTable>,
        /// What it was compiled from.
        cluster: Arc<Cluster>,
        /// The table's own generation.
        generation: u64,
        /// From the first notice of the change to the publication.
        took: Duration,
        /// What was accepted but deserves a word.
        warnings: Vec<Diagnostic>,
    },
    /// The files are refused as they are now; the last table, if there was one, stays in force.
    Refused {
        /// Everything that is wrong, warnings included.
        diagnostics: Vec<Diagnostic>,
        /// The same for people, with the lines that are meant.
        report: String,
    },
    /// The files had been refused and now say again what is in force.
    Mended {
        /// What was accepted but deserves a word.
        warnings: Vec<Diagnostic>,
    },
    /// The files say what is in force, and something else in them deserves a word.
    Warned {
        /// All that does.
        warnings: Vec<Diagnostic>,
    },
}

/// Keeps the published table true to a folder of manifests.
pub struct Control {
    folder: PathBuf,
    compiler: Compiler,
    publisher: Publisher<PolicyTable>,
    events: mpsc::Sender<Event>,
    /// What each file said when it was last parsed: most changes touch one file of many.
    parsed: HashMap<String, Remembered>,
    cluster: Option<Arc<Cluster>>,
    /// What was warned of last, to say it once.
    warned: Vec<Diagnostic>,
    /// What was refused last, to say it once.
    refused: Option<Vec<Diagnostic>>,
    /// The cluster that was refused last because its table would be too large, to find that out once.
    too_large: Option<Cluster>,
    /// The folder at the last reading, and when that was.
    read: Option<(Listing, Instant)>,
}

/// A file's bytes and what they said.
struct Remembered {
    bytes: Vec<u8>,
    said: Result<Parsed, Vec<Diagnostic>>,
}

impl Control {
    /// For the manifests in `folder`, which need not exist yet. Nothing is read before [`run`](Self::run).
    ///
    /// Events must be received: with 64 of them waiting, control waits too.
    #[must_use]
    pub fn new(
        folder: impl Into<PathBuf>,
        scope: Scope,
        publisher: Publisher<PolicyTable>,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let control = Self {
            folder: folder.into(),
            compiler: Compiler::new(scope, compiler::Budget::default()),
            publisher,
            events,
            parsed: HashMap::new(),
            cluster: None,
            warned: Vec::new(),
            refused: None,
            too_large: None,
            read: None,
        };
        (control, receiver)
    }

    /// Reads, publishes and watches until `shutdown` is ready. Needs a tokio runtime with time; files are read
    /// and tables compiled on the calling thread, so give it one.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut watch = Watch::new(&self.folder);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let noticed = tokio::select! {
                biased;
                () = &mut shutdown => return,
                noticed = watch.settled() => noticed,
                _ = look.tick() => {
                    self.publisher.collect();
                    watch.arm();
                    if watch.is_being_written() || !self.looks_different() {
                        continue;
                    }
                    Instant::now()
                }
            };
            watch.arm();
            if let Some(event) = self.update(noticed) {
                tokio::select! {
                    biased;
                    () = &mut shutdown => return,
                    // Nobody listens any more: enforcement goes on.
                    _ = self.events.send(event) => {}
                }
            }
        }
    }

    /// Whether the folder differs from what was read last, or that was long ago.
    fn looks_different(&self) -> bool {
        match &self.read {
            Some((listing, when)) => {
                when.elapsed() >= READ_AGAIN || files::list(&self.folder).as_ref() != Ok(listing)
            }
            None => true,
        }
    }

    /// Reads the folder and publishes what it says, if that is new. `noticed`: since when it may be new.
    fn update(&mut self, noticed: Instant) -> Option<Event> {
        match self.read_cluster() {
            Ok((cluster, warnings)) => {
                if self.cluster.as_deref() == Some(&cluster) {
                    self.too_large = None;
                    return self.unchanged(warnings);
                }
                if self.too_large.as_ref() == Some(&cluster) {
                    return None;
                }
                let table = match self.compiler.update(&cluster) {
                    Ok(table) => table,
                    Err(refusal) => {
                        let diagnostics = vec![self.over_budget(&cluster, &refusal)];
                        let refused = self.refuse(diagnostics);
                        self.too_large = Some(cluster);
                        return refused;
                    }
                };
                (self.refused, self.too_large) = (None, None);
                self.warned.clone_from(&warnings);
                let table = self.publisher.publish(table);
                let cluster = Arc::new(cluster);
                self.cluster = Some(Arc::clone(&cluster));
                let generation = table.generation();
                Some(Event::Published { table, cluster, generation, took: noticed.elapsed(), warnings })
            }
            Err(diagnostics) => self.refuse(diagnostics),
        }
    }

    /// Tells what the files say besides the policy in force, unless it has just been told.
    fn unchanged(&mut self, warnings: Vec<Diagnostic>) -> Option<Event> {
        let warned = std::mem::replace(&mut self.warned, warnings.clone());
        if self.refused.take().is_some() {
            return Some(Event::Mended { warnings });
        }
        (!warnings.is_empty() && warnings != warned).then_some(Event::Warned { warnings })
    }

    /// Tells what is refused, unless it has just been told.
    fn refuse(&mut self, diagnostics: Vec<Diagnostic>) -> Option<Event> {
        self.too_large = None;
        if self.refused.as_ref() == Some(&diagnostics) {
            return None;
        }
        let report = self.report(&diagnostics);
        self.refused = Some(diagnostics.clone());
        Some(Event::Refused { diagnostics, report })
    }

    /// What to say of a cluster whose table would be too large: at the policy that made it so, if one did.
    fn over_budget(&self, cluster: &Cluster, refusal: &OverBudget) -> Diagnostic {
        let named = |policy: &&NetworkPolicy| Some(&policy.name) == refusal.policy.as_ref();
        let place = cluster.policies.iter().find(named).map(|policy| &policy.origin);
        let source =
            place.map_or_else(|| self.folder.display().to_string().into(), |at| Arc::clone(&at.source));
        let diagnostic = Diagnostic::error(source, "over-budget", refusal.to_string())
            .suggest("fewer label values, address blocks or exceptions make it smaller");
        match place {
            Some(place) => diagnostic.at(place.line.into(), place.column.into()),
            None => diagnostic,
        }
    }

    fn read_cluster(&mut self) -> Result<(Cluster, Vec<Diagnostic>), Vec<Diagnostic>> {
        // Not known until read: a folder that cannot be read looks different each time.
        self.read = None;
        let (sources, listing) = files::read_folder(&self.folder)?;
        let mut warnings = listing.warnings();
        self.read = Some((listing, Instant::now()));
        self.remember(sources).map_err(|error| vec![error])?;
        let (mut items, mut errors) = (Vec::new(), Vec::new());
        let mut names: Vec<&String> = self.parsed.keys().collect();
        names.sort();
        for name in names {
            match &self.parsed[name].said {
                Ok(parsed) => {
                    items.extend(&parsed.objects);
                    warnings.extend_from_slice(&parsed.warnings);
                }
                Err(found) => errors.extend_from_slice(found),
            }
        }
        if items.is_empty() && errors.is_empty() {
            errors.push(index::no_objects(&self.folder.display().to_string()));
            // Often, they are all a folder deeper.
            errors.append(&mut warnings);
        }
        if !errors.is_empty() {
            return Err(index::told(errors));
        }
        Ok((index::cluster(items.into_iter())?, index::told(warnings)))
    }

    /// Parses what is new, and forgets files that are gone. Ends at the file with which the set becomes too large.
    fn remember(&mut self, sources: Vec<Source>) -> Result<(), Diagnostic> {
        let mut before = std::mem::take(&mut self.parsed);
        let mut budget = Budget::default();
        for Source { name, bytes } in sources {
            let known = before.remove(&name).filter(|known| known.bytes == bytes);
            let remembered = known.unwrap_or_else(|| {
                let said = manifest::parse_bytes(&name, &bytes);
                Remembered { bytes, said }
            });
            match &remembered.said {
                Ok(parsed) => budget.spend(&name, parsed)?,
                // What was read is told; the folder is read again when it changes.
                Err(errors) if budget.refuse(&name, errors).is_err() => {
                    self.parsed.insert(name, remembered);
                    break;
                }
                Err(_) => {}
            }
            self.parsed.insert(name, remembered);
        }
        Ok(())
    }

    fn report(&self, diagnostics: &[Diagnostic]) -> String {
        let rendered = diagnostics.iter().take(MAX_REPORTED).map(|diagnostic| {
            let bytes = self.parsed.get(&*diagnostic.source).map_or(&[][..], |known| &known.bytes);
            diagnostic.render(&String::from_utf8_lossy(bytes))
        });
        let mut report = rendered.collect::<Vec<_>>().join("\n");
        if let Some(more) = diagnostics.len().checked_sub(MAX_REPORTED).filter(|more| *more > 0) {
            report.push_str(&format!("\nand {more} more\n"));
        }
        report
    }
}
