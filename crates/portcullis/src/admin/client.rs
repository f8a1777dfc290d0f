//! The other end of the socket, for the commands that ask a running agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::SOCKET;

/// How long the agent may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("no agent runs with the state directory {}: start one (`portcullis run --config FILE`), or name its \
        `state_dir` with --state-dir", .state_dir.display())]
    NoAgent {
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// There is a socket that nobody listens on.
    #[error("the agent of {} has ended without cleaning up: start it again (`portcullis run --config FILE`)",
        .state_dir.display())]
    Ended {
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// We may not ask.
    #[error("only root and the agent's own user may ask it: {why}")]
    NotPermitted {
        /// In the system's words or the agent's.
        why: String,
    },
    /// It is there and says nothing.
    #[error("the agent does not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// It has answered that it will not.
    #[error("the agent refuses: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// The connection broke.
    #[error("cannot talk to the agent: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came is not what was asked for.
    #[error("the agent's answer cannot be read, is it of another version? {0}")]
    Unreadable(#[source] serde_json::Error),
}

/// Asks the agent of `state_dir` for `path`, and gives the answer when it has begun: a stream may have no end.
///
/// # Errors
///
/// When there is no agent, or it gives no answer of success.
pub async fn get(state_dir: &Path, path: &str) -> Result<Response<Incoming>, ClientError> {
    let answer = tokio::time::timeout(PATIENCE, ask(state_dir, path))
        .await
        .map_err(|_elapsed| ClientError::Silent)??;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        code => {
            let why = whole(answer).await.map_or_else(|_| code.to_string(), |body| reason(&body, code));
            Err(if code == StatusCode::FORBIDDEN {
                ClientError::NotPermitted { why }
            } else {
                ClientError::Refused { why }
            })
        }
    }
}

/// Asks the agent of `state_dir` for `path`, and waits for the whole answer.
///
/// # Errors
///
/// When there is no agent, or it gives no such answer.
pub async fn read<T: DeserializeOwned>(state_dir: &Path, path: &str) -> Result<T, ClientError> {
    let answer = get(state_dir, path).await?;
    let body =
        tokio::time::timeout(PATIENCE, whole(answer)).await.map_err(|_elapsed| ClientError::Silent)??;
    serde_json::from_slice(&body).map_err(ClientError::Unreadable)
}

async fn ask(state_dir: &Path, path: &str) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(state_dir.join(SOCKET)).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ClientError::NoAgent { state_dir: state_dir.to_owned() },
        io::ErrorKind::ConnectionRefused => ClientError::Ended { state_dir: state_dir.to_owned() },
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted { why: error.to_string() },
        _ => ClientError::Broken(error.into()),
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // What goes wrong on it is told to whoever waits for the answer.
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "portcullis").body(Empty::<Bytes>::new());
    sender.send_request(request.map_err(|error| ClientError::Broken(error.into()))?).await.map_err(broken)
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, ClientError> {
    Ok(answer.into_body().collect().await.map_err(broken)?.to_bytes())
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.into())
}

/// What a refusal says.
fn reason(body: &[u8], code: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    serde_json::from_slice::<Refusal>(body).map_or_else(|_| code.to_string(), |refusal| refusal.error)
}
