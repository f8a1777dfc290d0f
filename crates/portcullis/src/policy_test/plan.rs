//! From what is written to what is done: manifests loaded, names read, tables taken apart into cells.

mod words;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::{Files, Source};
use flow::{Address, Verdict};
use manifest::{Diagnostic, Item, Object};
use policy::model::{Cluster, ObjectName};
use policy::selector::Selector;
use serde_saphyr::{Location, Spanned};

use self::words::{gather, key, who};
use super::format::{self, Document, Expectation, Family, LabelChange, Manifest, Matrix, Party};
use super::read::{self, place};
use super::state::Change;
use crate::offline::PortSpec;

/// Most bytes of manifests that the tests of one run may load, those loaded again for other tests included.
const MAX_LOADED: u64 = 512 << 20;
/// Most cells of the tables of one run.
const MAX_CELLS: usize = 4 << 20;

/// A test that is ready to run.
#[derive(Debug)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: Arc<str>,
    /// The line of its name.
    pub line: u64,
    pub(super) base: Arc<Cluster>,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: Option<String>,
    pub(super) changes: Vec<Change>,
    pub(super) expected: Vec<Expected>,
}

/// What is expected of every connection from any to any of the given.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) at: (u64, u64),
    pub(super) from: Arc<[Who]>,
    pub(super) to: Arc<[Who]>,
    pub(super) services: Arc<[PortSpec]>,
    pub(super) family: Option<Family>,
    pub(super) verdict: Verdict,
}

/// Somebody.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// A pod.
    Pod(ObjectName),
    /// An address, of whomever.
    Address(Address),
    /// All pods that match.
    Pods { namespace: Option<String>, namespaces: Option<Selector>, pods: Option<Selector> },
}

/// Reads test files and what they name.
#[derive(Debug, Default)]
pub(super) struct Planner {
    clusters: HashMap<Vec<PathBuf>, Arc<Cluster>>,
    items: HashMap<PathBuf, Arc<Vec<Item>>>,
    loaded: u64,
    cells: usize,
    /// What is accepted but deserves a word.
    pub(super) warnings: Vec<Diagnostic>,
}

type Errors = Vec<Diagnostic>;

impl Planner {
    /// The tests of a file.
    pub(super) fn file(&mut self, source: &Source) -> Result<Vec<Test>, Errors> {
        let name: Arc<str> = Arc::from(source.name.as_str());
        let (documents, text) = read::documents(&name, &source.bytes)?;
        let folder = Path::new(&source.name).parent().unwrap_or_else(|| Path::new(""));
        let mut tests = Vec::new();
        let mut errors = Vec::new();
        for document in documents {
            let mut file = File { source: &name, text, folder, planner: self };
            match file.test(document) {
                Ok(test) => tests.push(test),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Ok(tests) } else { Err(errors) }
    }

    fn read(&mut self, paths: &[PathBuf]) -> Result<Vec<Source>, Errors> {
        let Files { sources, warnings } = control::read(paths)?;
        self.warn(warnings);
        self.loaded += sources.iter().map(|source| source.bytes.len() as u64).sum::<u64>();
        if self.loaded > MAX_LOADED {
            let name = Arc::from(paths.first().map_or_else(String::new, |path| path.display().to_string()));
            let message = format!("the tests together load more than {MAX_LOADED} bytes of manifests");
            return Err(vec![Diagnostic::error(name, "too-large", message)]);
        }
        Ok(sources)
    }

    /// The cluster of some files and folders.
    fn cluster(&mut self, paths: Vec<PathBuf>) -> Result<Arc<Cluster>, Errors> {
        if let Some(cluster) = self.clusters.get(&paths) {
            return Ok(Arc::clone(cluster));
        }
        let sources = self.read(&paths)?;
        let loaded = control::assemble(&sources)?;
        self.warn(loaded.warnings);
        let cluster = Arc::new(loaded.cluster);
        self.clusters.insert(paths, Arc::clone(&cluster));
        Ok(cluster)
    }

    /// The objects of a file or folder.
    fn objects(&mut self, path: PathBuf) -> Result<Arc<Vec<Item>>, Errors> {
        if let Some(items) = self.items.get(&path) {
            return Ok(Arc::clone(items));
        }
        let sources = self.read(std::slice::from_ref(&path))?;
        // Twice the same object in one folder is as wrong here as anywhere.
        drop(control::assemble(&sources)?);
        let mut items = Vec::new();
        for source in &sources {
            let parsed = manifest::parse_bytes(&source.name, &source.bytes)?;
            self.warn(parsed.warnings);
            items.extend(parsed.objects);
        }
        let items = Arc::new(items);
        self.items.insert(path, Arc::clone(&items));
        Ok(items)
    }

    /// Many tests may read one file; what it deserves is said once.
    pub(super) fn warn(&mut self, warnings: Vec<Diagnostic>) {
        for warning in warnings {
            if self.warnings.len() < 100 && !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}

/// One file while it is read.
struct File<'a> {
    source: &'a Arc<str>,
    text: &'a str,
    folder: &'a Path,
    planner: &'a mut Planner,
}

impl File<'_> {
    fn error(&self, at: Location, code: &'static str, message: impl Into<String>) -> Errors {
        vec![place(self.source, at, code, message)]
    }

    fn test(&mut self, document: Document) -> Result<Test, Errors> {
        let paths: Vec<PathBuf> =
            document.manifests.iter().map(|path| self.folder.join(&path.value)).collect();
        for (path, written) in paths.iter().zip(&document.manifests) {
            self.exists(path, written.referenced)?;
        }
        let base = self.planner.cluster(paths)?;
        let direct = !document.expect.is_empty() || !document.matrices.is_empty();
        let steps = match (direct, document.steps.is_empty()) {
            (true, true) => {
                let expected = self.expected(&document.expect, &document.matrices)?;
                vec![Step { name: None, changes: Vec::new(), expected }]
            }
            (false, false) => {
                document.steps.into_iter().map(|step| self.step(step)).collect::<Result<Vec<_>, _>>()?
            }
            (true, false) => {
                let message = "a test has either `steps`, or `expect` and `matrices` of its own";
                return Err(self.error(document.name.referenced, "both-forms", message));
            }
            (false, true) => {
                let message = "this test expects nothing: `expect`, `matrices` or `steps` is missing";
                return Err(self.error(document.name.referenced, "missing-field", message));
            }
        };
        if steps.iter().all(|step| step.expected.is_empty()) {
            return Err(self.error(document.name.referenced, "missing-field", "no step expects anything"));
        }
        let line = document.name.referenced.line();
        Ok(Test { name: document.name.value, file: Arc::clone(self.source), line, base, steps })
    }

    /// What is not there is told where it is named.
    fn exists(&self, path: &Path, at: Location) -> Result<(), Errors> {
        match std::fs::metadata(path) {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = format!("{} cannot be read: {error}", path.display());
                Err(self.error(at, "unreadable", message))
            }
        }
    }

    fn step(&mut self, Spanned { value: step, .. }: Spanned<format::Step>) -> Result<Step, Errors> {
        let mut changes = Vec::new();
        if let Some(written) = step.policies {
            let mut policies = Vec::new();
            let mut names = HashMap::new();
            for Item { object, origin } in self.manifests(written)? {
                let Object::NetworkPolicy(policy) = object else {
                    let message =
                        format!("{} {} is no NetworkPolicy: use `apply`", object.kind(), object.name());
                    let error = Diagnostic::error(Arc::clone(&origin.source), "unsupported-value", message);
                    return Err(vec![error.at(origin.line.into(), origin.column.into())]);
                };
                if let Some(first) = names.insert(policy.name.clone(), origin.clone()) {
                    let message = format!("NetworkPolicy {} is also in {first}", policy.name);
                    let error = Diagnostic::error(Arc::clone(&origin.source), "duplicate-object", message);
                    return Err(vec![error.at(origin.line.into(), origin.column.into())]);
                }
                policies.push(policy);
            }
            changes.push(Change::Policies(policies));
        }
        let applied = self.manifests(step.apply)?;
        changes.extend(applied.into_iter().map(|item| Change::Put(Box::new(item.object))));
        for written in &step.delete {
            let at = place(self.source, written.referenced, "", "");
            let object = key(&written.value)
                .map_err(|message| self.error(written.referenced, "invalid-name", message))?;
            changes.push(Change::Delete { at, object });
        }
        for change in step.label {
            changes.push(self.label(change)?);
        }
        Ok(Step { name: step.name, changes, expected: self.expected(&step.expect, &step.matrices)? })
    }

    fn manifests(&mut self, written: Vec<Manifest>) -> Result<Vec<Item>, Errors> {
        let mut items = Vec::new();
        for Manifest(embedded) in written {
            if let Some(path) = embedded.as_text() {
                let path = self.folder.join(path);
                if let Err(error) = std::fs::metadata(&path) {
                    let (line, column) = embedded.position();
                    let message = format!("{} cannot be read: {error}", path.display());
                    let error = Diagnostic::error(Arc::clone(self.source), "unreadable", message);
                    return Err(vec![error.at(line, column)]);
                }
                items.extend(self.planner.objects(path)?.iter().cloned());
            } else {
                let parsed = embedded.read(self.source, self.text)?;
                self.planner.warn(parsed.warnings);
                items.extend(parsed.objects);
            }
        }
        Ok(items)
    }

    fn label(
        &self,
        Spanned { value: change, referenced: at, .. }: Spanned<LabelChange>,
    ) -> Result<Change, Errors> {
        let object = match (change.pod, change.namespace) {
            (Some(pod), None) => ("Pod", pod),
            (None, Some(namespace)) => ("Namespace", namespace),
            _ => {
                return Err(self.error(
                    at,
                    "missing-field",
                    "either `pod` or `namespace` says whose labels change",
                ));
            }
        };
        if change.set.is_empty() && change.remove.is_empty() {
            return Err(self.error(at, "missing-field", "no label changes: `set` or `remove` is missing"));
        }
        if let Some(key) = change.remove.iter().find(|key| change.set.contains_key(*key)) {
            return Err(self.error(at, "both-forms", format!("the label `{key}` is both set and removed")));
        }
        let at = place(self.source, at, "", "");
        Ok(Change::Label { at, object, set: change.set, remove: change.remove })
    }

    fn expected(
        &mut self,
        expect: &[Spanned<Expectation>],
        matrices: &[Spanned<Matrix>],
    ) -> Result<Vec<Expected>, Errors> {
        let mut expected = Vec::new();
        for Spanned { value: one, referenced: at, .. } in expect {
            expected.push(Expected {
                at: (at.line(), at.column()),
                from: self.party(&one.from)?,
                to: self.party(&one.to)?,
                services: self.services(&one.ports)?,
                family: one.family,
                verdict: match one.verdict {
                    format::Verdict::Allow => Verdict::Allow,
                    format::Verdict::Deny => Verdict::Deny,
                },
            });
        }
        for matrix in matrices {
            self.cells(matrix, &mut expected)?;
        }
        Ok(expected)
    }

    fn cells(&mut self, matrix: &Spanned<Matrix>, expected: &mut Vec<Expected>) -> Result<(), Errors> {
        let one = |file: &Self, text: &str, at| -> Result<Arc<[Who]>, Errors> {
            Ok(Arc::from([who(text).map_err(|message| file.error(at, "invalid-name", message))?]))
        };
        let Matrix { ports, family, columns, rows } = &matrix.value;
        if columns.is_empty() || rows.is_empty() {
            return Err(self.error(matrix.referenced, "missing-field", "a matrix has columns and rows"));
        }
        let services = self.services(ports)?;
        let columns: Vec<_> = columns
            .iter()
            .map(|column| one(self, &column.value, column.referenced))
            .collect::<Result<_, _>>()?;
        for (row, cells) in rows {
            let at = cells.referenced;
            let from = one(self, row, at)?;
            let marks: Vec<char> = cells.value.chars().filter(|c| !c.is_whitespace()).collect();
            if marks.len() != columns.len() {
                let message = format!("row {row} has {} cells for {} columns", marks.len(), columns.len());
                return Err(self.error(at, "wrong-length", message));
            }
            self.planner.cells += marks.len();
            if self.planner.cells > MAX_CELLS {
                return Err(self.error(at, "too-large", format!("more than {MAX_CELLS} cells")));
            }
            for (mark, to) in marks.into_iter().zip(&columns) {
                let verdict = match mark {
                    '.' => Verdict::Allow,
                    'X' => Verdict::Deny,
                    '?' => continue,
                    other => {
                        let message =
                            format!("a cell is `.`, `X` or `?`, and not `{}`", other.escape_debug());
                        return Err(self.error(at, "unsupported-value", message));
                    }
                };
                expected.push(Expected {
                    at: (at.line(), at.column()),
                    from: Arc::clone(&from),
                    to: Arc::clone(to),
                    services: Arc::clone(&services),
                    family: *family,
                    verdict,
                });
            }
        }
        Ok(())
    }

    fn services(&self, ports: &Spanned<format::Ports>) -> Result<Arc<[PortSpec]>, Errors> {
        let services: Result<Vec<PortSpec>, String> = ports.value.0.iter().map(|port| port.parse()).collect();
        match services {
            Ok(services) if services.is_empty() => {
                Err(self.error(ports.referenced, "missing-field", "no port is given"))
            }
            Ok(services) => Ok(services.into()),
            Err(message) => Err(self.error(ports.referenced, "invalid-port", message)),
        }
    }

    fn party(&self, party: &Spanned<Party>) -> Result<Arc<[Who]>, Errors> {
        let mut all = Vec::new();
        gather(&party.value, &mut all)
            .map_err(|message| self.error(party.referenced, "invalid-name", message))?;
        if all.is_empty() {
            return Err(self.error(party.referenced, "missing-field", "nobody is given"));
        }
        Ok(all.into())
    }
}
