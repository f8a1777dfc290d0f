//! The agent seen from outside: HTTP over a unix socket in its state directory, for root and the agent's own user.
//!
//! ```text
//! status, top, flows ─ client ══ admin.sock ══ server ─ routes ─ Desk ──question──> the agent's task (run)
//!                                                                  └──<─look──────┘
//! ```
//!
//! Handlers own nothing of the agent. They put a [`Question`] to its task, which answers between two of its own
//! duties, with what it knows and without waiting for anybody.

pub mod client;
mod health;
pub mod look;
mod routes;
pub mod server;
pub mod snapshot;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub(crate) use routes::refusal;

/// The name of the socket in the state directory.
pub const SOCKET: &str = "admin.sock";
/// The socket while it is being made.
pub const SOCKET_NEW: &str = ".admin.sock.new";

/// How long the agent's task may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that may wait; who comes later waits to ask.
const WAITING: usize = 16;

/// What a handler wants to know of the agent.
#[derive(Debug)]
pub enum Question {
    /// How everything is.
    Status(oneshot::Sender<look::Look>),
}

/// Where handlers put their questions.
#[derive(Clone, Debug)]
pub struct Desk {
    questions: mpsc::Sender<Question>,
}

/// The agent's task has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent's own task does not answer")]
pub struct Silent;

impl Desk {
    /// A desk, and the end where the agent takes the questions.
    #[must_use]
    pub fn open() -> (Self, mpsc::Receiver<Question>) {
        let (questions, taken) = mpsc::channel(WAITING);
        (Self { questions }, taken)
    }

    /// How the agent is.
    ///
    /// # Errors
    ///
    /// When its task does not answer.
    pub async fn status(&self) -> Result<snapshot::Status, Silent> {
        Ok(self.ask(Question::Status).await?.settle().await)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Silent> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.questions.send(question(answer)).await.map_err(|_ended| Silent)?;
            answered.await.map_err(|_dropped| Silent)
        };
        tokio::time::timeout(PATIENCE, asked).await.map_err(|_elapsed| Silent)?
    }
}
