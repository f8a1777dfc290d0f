//! Who answers what a test asks: the compiled table, or packets between pods of the lab.

use flow::Verdict;
use policy::Connection;
use policy::model::Cluster;

use crate::exit::Failure;

/// One connection that a test asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who opens it, as the test names them: `namespace/pod`, or an address.
    pub from: String,
    /// To whom.
    pub to: String,
    /// With addresses and port.
    pub connection: Connection,
}

/// What somebody says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is allowed or denied, and why.
    Verdict {
        /// Allowed or denied.
        verdict: Verdict,
        /// What decided, for people: one line for each side of the connection that had a say.
        because: Vec<String>,
    },
    /// This executor cannot try it, and why; the expectation counts as not tried.
    Untried(String),
}

/// Answers the questions of tests.
pub trait Executor {
    /// A test begins: the step that follows has no predecessor.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    fn begin(&mut self, test: &str) -> Result<(), Failure>;

    /// From now on this is the cluster. Within a test, the successor of the cluster of the step before.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    fn step(&mut self, cluster: &Cluster) -> Result<(), Failure>;

    /// Answers questions about the cluster of the step, one each, in their order.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, Failure>;
}
