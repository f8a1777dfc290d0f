//! The objects of all files as one cluster.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use manifest::{Diagnostic, Item, Object, Parsed};
use policy::model::{Cluster, Origin};

use crate::files::{self, Listing, MAX_TOTAL, Source};

/// Most objects of one set.
const MAX_OBJECTS: usize = 1 << 17;
/// Most YAML nodes of one set, those that aliases repeat included.
const MAX_NODES: usize = 8 << 20;

/// Most files of one set that are refused before the rest is left unread.
const MAX_REFUSED: usize = 100;
/// Most diagnostics of one set.
const MAX_TOLD: usize = 1000;

/// What a set of manifests says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The objects of all of them.
    pub cluster: Cluster,
    /// What was accepted but deserves a word.
    pub warnings: Vec<Diagnostic>,
}

/// What has been read, before it is parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The files, in the order in which they were asked for.
    pub sources: Vec<Source>,
    /// What was left unread and deserves a word.
    pub warnings: Vec<Diagnostic>,
}

/// Reads files, and folders as [`Control`](crate::Control) would, into one cluster.
///
/// # Errors
///
/// Everything that is wrong with any of them, and where they hold no object.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, Vec<Diagnostic>> {
    let Files { sources, warnings } = read(paths)?;
    let mut loaded = assemble(&sources)?;
    if loaded.cluster == Cluster::default() {
        let name = paths.first().map_or_else(|| "the manifests".into(), |path| path.display().to_string());
        return Err(vec![no_objects(&name)]);
    }
    loaded.warnings.splice(..0, warnings);
    Ok(loaded)
}

/// Reads files, and those of folders.
///
/// # Errors
///
/// Names the paths that cannot be read, or too much of them, and folders without a file that counts.
pub fn read(paths: &[PathBuf]) -> Result<Files, Vec<Diagnostic>> {
    let mut read = Files::default();
    for path in paths {
        if path.is_dir() {
            let (sources, listing) = files::read_folder(path)?;
            if sources.is_empty() {
                return Err(vec![no_files(path, &listing)]);
            }
            read.sources.extend(sources);
            read.warnings.extend(listing.warnings());
        } else {
            read.sources.extend(files::read_all(std::iter::once(path.as_path()))?);
        }
        within_total(&read.sources)?;
    }
    Ok(read)
}

fn no_files(folder: &Path, listing: &Listing) -> Diagnostic {
    let name = Arc::from(folder.display().to_string());
    let refused = Diagnostic::error(name, "no-files", "the folder holds no *.yaml, *.yml or *.json");
    match listing.warnings().first() {
        Some(unread) => refused.suggest(format!("those of {} are not read: move them up", unread.source)),
        None => refused,
    }
}

/// The refusal of a set without an object: a folder that is just being filled, or a volume that came up empty, must
/// not open everything.
#[must_use]
pub fn no_objects(name: &str) -> Diagnostic {
    Diagnostic::error(Arc::from(name), "no-objects", "no file holds an object that policy looks at")
        .suggest("put Node, Namespace, Pod and NetworkPolicy objects into *.yaml files here")
}

/// One cluster of texts that have been read already: a set, bounded as a whole.
///
/// # Errors
///
/// Everything that is wrong with any of them.
pub fn assemble(sources: &[Source]) -> Result<Loaded, Vec<Diagnostic>> {
    within_total(sources)?;
    let (mut items, mut warnings, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let mut budget = Budget::default();
    for Source { name, bytes } in sources {
        match manifest::parse_bytes(name, bytes) {
            Ok(parsed) => {
                budget.spend(name, &parsed).map_err(|error| vec![error])?;
                items.extend(parsed.objects);
                warnings.extend(parsed.warnings);
            }
            Err(found) => {
                let left = budget.refuse(name, &found).err();
                errors.extend(found);
                if let Some(left) = left {
                    errors.push(left);
                    break;
                }
            }
        }
    }
    if errors.is_empty() {
        Ok(Loaded { cluster: cluster(items.iter())?, warnings: told(warnings) })
    } else {
        Err(told(errors))
    }
}

/// At most as many diagnostics as anybody reads. Errors come before warnings where some are left out.
pub(crate) fn told(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let more = diagnostics.len().saturating_sub(MAX_TOLD);
    if more > 0 {
        diagnostics.sort_by_key(|diagnostic| Reverse(diagnostic.severity));
        let severity = diagnostics[MAX_TOLD].severity;
        diagnostics.truncate(MAX_TOLD);
        let last = Diagnostic::warning(Arc::from("the manifests"), "too-many", format!("and {more} more"));
        diagnostics.push(Diagnostic { severity, ..last });
    }
    diagnostics
}

fn within_total(sources: &[Source]) -> Result<(), Vec<Diagnostic>> {
    let mut total = 0;
    for Source { name, bytes } in sources {
        total += bytes.len() as u64;
        if total > MAX_TOTAL {
            let message = format!("the files together exceed {MAX_TOTAL} bytes");
            return Err(vec![Diagnostic::error(Arc::from(name.as_str()), "too-large", message)]);
        }
    }
    Ok(())
}

/// What one set may still hold.
pub(crate) struct Budget {
    objects: usize,
    nodes: usize,
    refused: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { objects: MAX_OBJECTS, nodes: MAX_NODES, refused: MAX_REFUSED }
    }
}

impl Budget {
    /// Takes what a text holds from what the set may hold.
    ///
    /// # Errors
    ///
    /// At the text that goes beyond.
    pub(crate) fn spend(&mut self, name: &str, parsed: &Parsed) -> Result<(), Diagnostic> {
        let refuse = |message| Diagnostic::error(Arc::from(name), "too-large", message);
        self.objects = self
            .objects
            .checked_sub(parsed.objects.len())
            .ok_or_else(|| refuse(format!("the files together hold more than {MAX_OBJECTS} objects")))?;
        self.nodes = self
            .nodes
            .checked_sub(parsed.nodes)
            .ok_or_else(|| refuse(format!("the files together hold more than {MAX_NODES} YAML nodes")))?;
        Ok(())
    }

    /// Counts a text that is refused with these errors. Finding out may have cost as much as taking it.
    ///
    /// # Errors
    ///
    /// Where it is time to leave the rest unread.
    pub(crate) fn refuse(&mut self, name: &str, errors: &[Diagnostic]) -> Result<(), Diagnostic> {
        self.refused -= 1;
        if self.refused == 0 || errors.iter().any(|error| error.code == "too-large") {
            let message = "the files after this one have not been read";
            return Err(Diagnostic::error(Arc::from(name), "too-many", message));
        }
        Ok(())
    }
}

/// One cluster of all objects.
///
/// # Errors
///
/// Names the places of objects that are there twice: which of them is meant, nobody could say.
pub(crate) fn cluster<'i>(items: impl Iterator<Item = &'i Item>) -> Result<Cluster, Vec<Diagnostic>> {
    let mut cluster = Cluster::default();
    let mut seen: HashMap<(&'static str, String), &Origin> = HashMap::new();
    let mut errors = Vec::new();
    for Item { object, origin } in items {
        match seen.entry((object.kind(), object.name())) {
            Entry::Occupied(first) => {
                let message = format!("{} {} is also in {}", object.kind(), object.name(), first.get());
                errors.push(
                    Diagnostic::error(Arc::clone(&origin.source), "duplicate-object", message)
                        .at(origin.line.into(), origin.column.into())
                        .suggest("remove one of them"),
                );
            }
            Entry::Vacant(free) => {
                free.insert(origin);
                match object.clone() {
                    Object::Namespace(namespace) => cluster.namespaces.push(namespace),
                    Object::Pod(pod) => cluster.pods.push(pod),
                    Object::Node(node) => cluster.nodes.push(node),
                    Object::NetworkPolicy(policy) => cluster.policies.push(policy),
                }
            }
        }
    }
    if errors.is_empty() { Ok(cluster) } else { Err(told(errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(source: &str, text: &str) -> Vec<Item> {
        manifest::parse(source, text).unwrap().objects
    }

    #[test]
    fn the_same_name_of_another_kind_or_namespace_is_another_object() {
        let items = items(
            "a.yaml",
            "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}}\n---\n{apiVersion: v1, kind: Pod, \
             metadata: {name: a, namespace: z}}\n---\n{apiVersion: v1, kind: Node, metadata: {name: a}}\n",
        );
        let cluster = cluster(items.iter()).unwrap();
        assert_eq!((cluster.pods.len(), cluster.nodes.len()), (2, 1));
    }

    #[test]
    fn an_annotated_namespace_is_isolated_in_the_oracle_and_the_table() {
        let text = "apiVersion: v1
kind: Namespace
metadata:
  name: old
  annotations:
    net.beta.kubernetes.io/network-policy: '{\"ingress\":{\"isolation\":\"DefaultDeny\"}}'
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: old}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: new}, status: {podIP: 10.0.0.2}}
";
        let source = Source { name: "old.yaml".into(), bytes: text.into() };
        let cluster = assemble(&[source]).unwrap().cluster;
        let table = compiler::compile(&cluster, &compiler::Scope::AllPods).unwrap();
        let [a, b] = [flow::Address::v4([10, 0, 0, 1]), flow::Address::v4([10, 0, 0, 2])];
        for (src, dst, verdict) in [(b, a, flow::Verdict::Deny), (a, b, flow::Verdict::Allow)] {
            let protocol = flow::Protocol::TCP;
            let connection = policy::Connection { src, dst, protocol, port: 80 };
            assert_eq!(policy::evaluate(&cluster, &connection).verdict(), verdict);
            let why = table.why(&flow::FlowKey::new(protocol, (src, 1), (dst, 80)));
            assert_eq!(why.verdict(), verdict);
            if let table::Side::Isolated(policies) = why.ingress {
                let policy = table.policy(policies[0]);
                assert_eq!(policy.name.to_string(), "old/net.beta.kubernetes.io/network-policy");
                assert_eq!(policy.origin, "old.yaml:6");
            }
        }
    }

    #[test]
    fn what_a_set_may_hold_is_spent_and_ends() {
        let parsed = |objects: usize, nodes: usize| Parsed {
            objects: vec![
                items("a.yaml", "{apiVersion: v1, kind: Node, metadata: {name: a}}")[0].clone();
                objects
            ],
            nodes,
            ..Parsed::default()
        };
        let mut budget = Budget::default();
        budget.spend("a", &parsed(1, MAX_NODES / 2)).unwrap();
        budget.spend("b", &parsed(MAX_OBJECTS - 1, MAX_NODES / 2)).unwrap();
        for more in [parsed(1, 0), parsed(0, 1)] {
            let error = budget.spend("c", &more).unwrap_err();
            assert_eq!((&*error.source, error.code), ("c", "too-large"));
        }
    }

    #[test]
    fn the_rest_of_many_refused_texts_is_left_unread() {
        let bad = |name: usize| Source { name: format!("{name}.yaml"), bytes: b"kind: Pod\n".to_vec() };
        let errors = assemble(&(0..MAX_REFUSED * 2).map(bad).collect::<Vec<_>>()).unwrap_err();
        assert_eq!(errors.len(), MAX_REFUSED + 1);
        assert_eq!(errors[MAX_REFUSED].code, "too-many");
        // Finding out that one is too large may have cost the most that one can cost.
        let bomb = Source { name: "bomb".into(), bytes: "---\na: 1\n".repeat(70_000).into_bytes() };
        let errors = assemble(&[bad(0), bomb, bad(1)]).unwrap_err();
        assert_eq!(
            errors.iter().map(|e| e.code).collect::<Vec<_>>(),
            ["missing-field", "too-large", "too-many"]
        );
    }

    #[test]
    fn both_places_of_a_duplicate_are_named() {
        let mut all = items("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n");
        all.extend(items("b.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: x}}\n"));
        let errors = cluster(all.iter()).unwrap_err();
        assert_eq!(
            errors[0].to_string(),
            "b.yaml:1:52: error[duplicate-object]: Namespace x is also in a.yaml:4: remove one of them"
        );
    }
}
