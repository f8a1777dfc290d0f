//! Who answers what a test asks: the compiled table, or packets between pods of the lab.

use std::sync::Arc;

use flow::Verdict;
use policy::Connection;
use policy::model::Cluster;

use crate::exit::Failure;

/// One connection that a test asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who opens it: `namespace/pod`, or an address.
    pub from: Arc<str>,
    /// To whom.
    pub to: Arc<str>,
    /// The same with addresses, protocol and port.
    pub connection: Connection,
}

/// What an executor says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is allowed or denied.
    Verdict {
        /// Which of them.
        verdict: Verdict,
        /// What was seen, where somebody looked; empty where a table was asked. Why the table decides as it does
        /// is added by the runner.
        seen: String,
    },
    /// This executor cannot try it, for this reason. The connection is listed, and fails nothing.
    Untried(String),
}

/// Answers the questions of tests, one step after the other.
pub trait Executor {
    /// A test begins: the next step has no predecessor.
    ///
    /// # Errors
    ///
    /// When the system refuses: the run ends.
    fn begin(&mut self, test: &str) -> Result<(), Failure>;

    /// From now on this is the cluster: within a test, the successor of that of the step before.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn step(&mut self, cluster: &Cluster) -> Result<(), Failure>;

    /// Answers questions about the cluster of the step, one each, in their order.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, Failure>;
}
