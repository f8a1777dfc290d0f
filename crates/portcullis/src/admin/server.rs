//! Connections: who may, how many, and for how long without moving. No client, stuck or hostile, costs the agent
//! more than its place.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::Uid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info, warn};

use super::routes::{self, refusal};
use super::{Desk, SOCKET, SOCKET_NEW};
use crate::config::Config;

/// Connections at a time of one listener; others wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants.
const ASKING: Duration = Duration::from_secs(2);
/// How long a client may leave the answer unread.
const READING: Duration = Duration::from_secs(10);
/// After an error that accepting met, most likely too few file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How often an address is tried that somebody else has.
const RETRY: Duration = Duration::from_secs(1);

/// The agent's unix socket, gone from the state directory when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
}

impl AdminSocket {
    /// Listens in `state_dir`, in place of whatever an agent of before has left there, and answers by `router` in a
    /// task of its own. For whoever holds the state directory's lock.
    ///
    /// # Errors
    ///
    /// The socket cannot be made: most likely, the directory's name is too long for one.
    pub fn open(state_dir: &Path, router: Router) -> io::Result<Self> {
        let (path, new) = (state_dir.join(SOCKET), state_dir.join(SOCKET_NEW));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // It gets its name once nobody else can open it.
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, &path)?;
        tokio::spawn(accept(listener, router));
        Ok(Self { path })
    }
}

/// Lets the agent be asked: by its socket, which answers `more` as well, and over TCP where the configuration says so.
///
/// # Errors
///
/// An address or a name that cannot be had, in words that name its setting. An address that somebody else has is waited
/// for: any process of the node may take it, and none may keep the agent from its work.
pub async fn listen(config: &Config, desk: &Desk, more: Router) -> Result<AdminSocket> {
    if let Some(address) = config.metrics_listen {
        let router = routes::open(desk.clone());
        match TcpListener::bind(address).await {
            Ok(listener) => drop(tokio::spawn(accept_tcp(listener, router))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                warn!(
                    "{address} is taken: no figures and no probes there until it is free, or `metrics.listen` another"
                );
                tokio::spawn(accept_later(address, router));
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("cannot listen on {address}: choose another `metrics.listen`, or `none`")
                });
            }
        }
    }
    AdminSocket::open(&config.state_dir, routes::router(desk.clone()).merge(more))
        .with_context(|| format!("cannot listen on {SOCKET} in {}", config.state_dir.display()))
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(fs::remove_file(&self.path));
    }
}

async fn accept(listener: UnixListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let uid = stream.peer_cred().map(|peer| Uid::from_raw(peer.uid()));
                let router = match uid {
                    Ok(uid) if uid.is_root() || uid == Uid::effective() => router.clone(),
                    uid => stranger(uid.ok()),
                };
                tokio::spawn(converse(stream, router, place));
            }
            Err(error) => failed(&error).await,
        }
    }
}

/// Answers by `router` whoever connects to `address`, once nobody else listens there.
async fn accept_later(address: SocketAddr, router: Router) {
    let listener = loop {
        tokio::time::sleep(RETRY).await;
        if let Ok(listener) = TcpListener::bind(address).await {
            break listener;
        }
    };
    info!("figures and probes are on {address} now");
    accept_tcp(listener, router).await;
}

/// Answers by `router` whoever connects to `listener`.
async fn accept_tcp(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, router.clone(), place));
            }
            Err(error) => failed(&error).await,
        }
    }
}

async fn failed(error: &io::Error) {
    warn!(%error, "cannot accept a connection");
    tokio::time::sleep(PAUSE).await;
}

/// One request and its answer, which may be a stream.
async fn converse<S>(stream: S, router: Router, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(READING));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKING)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%error, "a client has gone");
    }
    drop(place);
}

/// What somebody hears who may not ask.
fn stranger(uid: Option<Uid>) -> Router {
    let who = uid.map_or_else(|| "of unknown uid".to_owned(), |uid| format!("uid {uid}"));
    let why = format!("you are {who}: the agent answers root and uid {}, its own", Uid::effective());
    Router::new().fallback(async move || refusal(StatusCode::FORBIDDEN, &why))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::admin::client::{self, ClientError};

    /// Answers `/small` at once, and `/large` with more than a socket holds.
    fn answering() -> Router {
        Router::new()
            .route("/small", get(async || "\"here\""))
            .route("/large", get(async || vec![b' '; 16 << 20]))
    }

    async fn small(dir: &Path) -> Result<String, ClientError> {
        client::read(dir, "/small").await
    }

    #[tokio::test]
    async fn a_hundred_clients_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = AdminSocket::open(dir.path(), answering()).unwrap();
        let clients = (0..100).map(|_| small(dir.path()));
        for answer in futures_util::future::join_all(clients).await {
            assert_eq!(answer.unwrap(), "here");
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_ours_is_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(small(dir.path()).await, Err(ClientError::NoAgent { .. })));
        for left in [SOCKET, SOCKET_NEW] {
            drop(std::os::unix::net::UnixListener::bind(dir.path().join(left)).unwrap());
        }
        assert!(matches!(small(dir.path()).await, Err(ClientError::Ended { .. })));
        let socket = AdminSocket::open(dir.path(), answering()).unwrap();
        assert_eq!(small(dir.path()).await.unwrap(), "here");
        let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// Time runs as fast as nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn clients_that_do_not_move_lose_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = AdminSocket::open(dir.path(), answering()).unwrap();
        let (mut mute, mut deaf) = (Vec::new(), Vec::new());
        for place in 0..CONNECTIONS {
            let mut stream = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
            if place % 2 == 0 {
                mute.push(stream);
            } else {
                stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                deaf.push(stream);
            }
        }
        tokio::time::sleep(READING * 2).await;
        assert_eq!(small(dir.path()).await.unwrap(), "here");
        for mut stream in mute {
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, b"");
        }
        for mut stream in deaf {
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            assert!(said.starts_with(b"HTTP/1.1 200") && said.len() < 16 << 20, "{} bytes", said.len());
        }
    }

    #[tokio::test]
    async fn a_stranger_is_told_why() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = AdminSocket::open(dir.path(), stranger(Some(Uid::from_raw(65534)))).unwrap();
        let error = small(dir.path()).await.unwrap_err().to_string();
        assert!(error.contains("you are uid 65534: the agent answers root and uid"), "{error}");
    }
}
