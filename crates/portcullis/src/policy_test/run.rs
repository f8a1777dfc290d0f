//! Runs tests: checks them all first, then asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flow::Verdict;
use manifest::Diagnostic;
use policy::model::Cluster;
use table::{PolicyTable, Side};

use super::executor::{Answer, Executor, Question};
use super::expand::{MAX_QUESTIONS, Places};
use super::plan::{Expected, Test};
use super::state::State;
use crate::exit::{Failure, system};
use crate::offline::{Offline, PortSpec, key};

/// Most connections of one run.
const MAX_ASKED: usize = 20_000_000;
/// Most objects of all clusters of one run, step by step.
const MAX_OBJECTS: usize = 2_000_000;
/// Faults that are told; after the last of them nothing more is looked at.
const MAX_FAULTS: usize = 100;
/// Failures of one test that are kept with all that is known of them; more are counted.
const MAX_FAILURES: usize = 100;
/// Untried connections of one test that are kept.
const MAX_UNTRIED: usize = 100;

/// What became of one test.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: Arc<str>,
    /// The line of its name.
    pub line: u64,
    /// How long it took.
    pub took: Duration,
    /// How many expectations it has; each graded cell of a matrix is one.
    pub expectations: usize,
    /// How many connections they speak of.
    pub connections: usize,
    /// How many of them had another verdict than expected.
    pub failed: usize,
    /// Of these, the first.
    pub failures: Vec<Unmet>,
    /// How many connections the executor could not try.
    pub not_tried: usize,
    /// Of these, the first, with the reason.
    pub untried: Vec<(Question, String)>,
}

/// A connection with another verdict than expected.
#[derive(Debug)]
pub struct Unmet {
    /// The file of the expectation.
    pub file: Arc<str>,
    /// Its line.
    pub line: u64,
    /// Its column.
    pub column: u64,
    /// The step: its number from one, and its name. `None` in a test without steps.
    pub step: Option<(usize, Option<String>)>,
    /// The connection.
    pub question: Question,
    /// What was expected.
    pub expected: Verdict,
    /// What it is.
    pub verdict: Verdict,
    /// What was seen on the wire; empty where the table answered.
    pub seen: String,
    /// What the source's side of the compiled table says.
    pub egress: Decided,
    /// What the destination's side says.
    pub ingress: Decided,
}

/// What one side of a connection says, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// Nothing isolates it.
    Open,
    /// The other side is its own node, or itself.
    Exempt,
    /// This rule allows it: `namespace/name ingress[0] (file:line)`.
    AllowedBy(String),
    /// These policies isolate it, and none allows it: `namespace/name (file:line)`.
    Isolated(Vec<String>),
}

impl Outcome {
    /// Whether everything was as expected.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.failed == 0
    }
}

/// Makes every step of every test, and says what does not fit: pods that are not there, labels that cannot be
/// removed, families that do not meet, too much of anything.
pub(super) fn check(tests: &[Test]) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let mut objects: usize = 0;
    let mut asked: usize = 0;
    for test in tests {
        let whole = |message: String| {
            let place = Diagnostic::error(Arc::clone(&test.file), "too-large", message).at(test.line, 1);
            Stop::Fault(Box::new(place))
        };
        let outcome = walk(test, |_, _, offline, expected| {
            let Cluster { namespaces, pods, nodes, policies } = offline.cluster();
            objects += namespaces.len() + pods.len() + nodes.len() + policies.len();
            if objects > MAX_OBJECTS {
                return Err(whole(format!(
                    "the steps of all tests go through more than {MAX_OBJECTS} objects"
                )));
            }
            let places = Places::new(offline);
            let mut step = 0;
            for one in expected {
                match places.questions(&test.file, one) {
                    Ok(questions) => step += questions.len(),
                    Err(fault) if errors.len() < MAX_FAULTS => errors.push(fault),
                    Err(fault) => return Err(Stop::Fault(Box::new(fault))),
                }
                if step > MAX_QUESTIONS || asked + step > MAX_ASKED {
                    return Err(whole(format!(
                        "a step asks about more than {MAX_QUESTIONS} connections, or all of them about more than \
                         {MAX_ASKED}"
                    )));
                }
            }
            asked += step;
            Ok(())
        });
        if let Err(Stop::Fault(fault)) = outcome {
            let last = fault.code == "too-large" || errors.len() >= MAX_FAULTS;
            errors.push(*fault);
            if last {
                break;
            }
        }
    }
    errors
}

/// Runs one test. It must have passed [`check`].
pub(super) fn run(test: &Test, executor: &mut dyn Executor) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let mut outcome = Outcome {
        name: test.name.clone(),
        file: Arc::clone(&test.file),
        line: test.line,
        took: Duration::ZERO,
        expectations: 0,
        connections: 0,
        failed: 0,
        failures: Vec::new(),
        not_tried: 0,
        untried: Vec::new(),
    };
    executor.begin(&test.name)?;
    let walked = walk(test, |number, name, offline, expected| {
        executor.step(offline.cluster()).map_err(Stop::Failure)?;
        let places = Places::new(offline);
        // All questions of a step at once: on the wire they wait together.
        let mut asked = Vec::new();
        let mut of = Vec::new();
        for one in expected {
            let questions =
                places.questions(&test.file, one).map_err(|fault| Stop::Fault(Box::new(fault)))?;
            of.extend(std::iter::repeat_n(one, questions.len()));
            asked.extend(questions);
        }
        let answers = executor.ask(&asked).map_err(Stop::Failure)?;
        if answers.len() != asked.len() {
            let error = anyhow::anyhow!("{} answers to {} questions", answers.len(), asked.len());
            return Err(Stop::Failure(system(error)));
        }
        outcome.expectations += expected.len();
        outcome.connections += asked.len();
        for ((question, answer), one) in asked.into_iter().zip(answers).zip(of) {
            match answer {
                Answer::Verdict { verdict, .. } if verdict == one.verdict => {}
                Answer::Verdict { verdict, seen } => {
                    outcome.failed += 1;
                    if outcome.failures.len() < MAX_FAILURES {
                        let asked = &question.connection;
                        let service = PortSpec { protocol: asked.protocol, port: asked.port };
                        let why = offline.table().why(&key((asked.src, asked.dst), service));
                        outcome.failures.push(Unmet {
                            file: Arc::clone(&test.file),
                            line: one.at.0,
                            column: one.at.1,
                            step: (!test.single()).then(|| (number, name.map(str::to_owned))),
                            question,
                            expected: one.verdict,
                            verdict,
                            seen,
                            egress: decided(offline.table(), why.egress),
                            ingress: decided(offline.table(), why.ingress),
                        });
                    }
                }
                Answer::Untried(why) => {
                    outcome.not_tried += 1;
                    if outcome.untried.len() < MAX_UNTRIED {
                        outcome.untried.push((question, why));
                    }
                }
            }
        }
        Ok(())
    });
    match walked {
        Ok(()) => {}
        Err(Stop::Failure(failure)) => return Err(failure),
        Err(Stop::Fault(fault)) => return Err(system(anyhow::anyhow!("{fault}"))),
    }
    outcome.took = start.elapsed();
    Ok(outcome)
}

/// Why a walk ends before its end.
enum Stop {
    /// Something in the test's file.
    Fault(Box<Diagnostic>),
    /// Something else.
    Failure(Failure),
}

/// Goes through the steps of a test, each with its number, its name, its cluster and what is expected of it. A
/// step that neither changes nor expects anything is passed over.
fn walk(
    test: &Test,
    mut visit: impl FnMut(usize, Option<&str>, &Offline, &[Expected]) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut state = State::new(Arc::clone(&test.base));
    let mut offline = None;
    for (number, step) in (1..).zip(&test.steps) {
        state.change(&step.changes).map_err(|fault| Stop::Fault(Box::new(fault)))?;
        if !step.changes.is_empty() {
            offline = None;
        } else if step.expected.is_empty() {
            continue;
        }
        let here = match offline.take() {
            Some(known) => known,
            None => Offline::new(state.cluster().clone()).map_err(Stop::Failure)?,
        };
        visit(number, step.name.as_deref(), offline.insert(here), &step.expected)?;
    }
    Ok(())
}

fn decided(table: &PolicyTable, side: Side) -> Decided {
    match side {
        Side::Open => Decided::Open,
        Side::Exempt => Decided::Exempt,
        Side::AllowedBy(rule) => Decided::AllowedBy(table.describe(rule).to_string()),
        Side::Isolated(policies) => Decided::Isolated(
            policies
                .iter()
                .map(|policy| {
                    let info = table.policy(*policy);
                    format!("{} ({})", info.name, info.origin)
                })
                .collect(),
        ),
    }
}

impl Test {
    /// Whether it has no steps of its own, but one of everything.
    fn single(&self) -> bool {
        self.steps.len() == 1 && self.steps[0].name.is_none()
    }
}
