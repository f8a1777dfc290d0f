//! A TCP stream between two namespaces, as fast as it goes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::Namespace;

use super::load::Stop;
use crate::machine;

/// Bytes of one call.
const PIECE: usize = 1 << 17;
/// How long a connection may take to be established.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an end that stands still looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// A stream that runs. It stops when dropped.
#[derive(Debug)]
pub struct Bulk {
    stop: Stop,
    received: Arc<AtomicU64>,
    writer: Option<JoinHandle<Result<()>>>,
    reader: Option<JoinHandle<Result<Option<Instant>>>>,
}

impl Bulk {
    /// From one namespace to an address of another, on these cores, if it is to be on some.
    ///
    /// # Errors
    ///
    /// When nobody may connect there.
    pub fn start(
        from: &Namespace,
        to: &Namespace,
        address: SocketAddr,
        cores: Option<(usize, usize)>,
    ) -> Result<Self> {
        let listener = to.run(|| TcpListener::bind(address))??;
        let stream = from.run(|| TcpStream::connect_timeout(&address, PATIENCE))??;
        let (peer, _) = listener.accept()?;
        stream.set_write_timeout(Some(LOOK))?;
        peer.set_read_timeout(Some(LOOK))?;
        let (stop, received) = (Stop::default(), Arc::new(AtomicU64::new(0)));
        let (until, counted) = (stop.clone(), Arc::clone(&received));
        let reader = thread::spawn(move || {
            cores.map_or(Ok(()), |(_, core)| machine::pin(core))?;
            read(peer, &counted, &until)
        });
        let until = stop.clone();
        let writer = thread::spawn(move || {
            cores.map_or(Ok(()), |(core, _)| machine::pin(core))?;
            write(stream, &until)
        });
        Ok(Self { stop, received, writer: Some(writer), reader: Some(reader) })
    }

    /// Bytes that were read so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends it; tells when the last of it was read.
    ///
    /// # Errors
    ///
    /// When the connection broke before.
    pub fn finish(mut self) -> Result<Option<Instant>> {
        self.stop.now();
        if let Some(writer) = self.writer.take() {
            joined(writer)?;
        }
        self.reader.take().map_or(Ok(None), joined)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.stop.now();
    }
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn read(mut stream: TcpStream, received: &AtomicU64, stop: &Stop) -> Result<Option<Instant>> {
    let mut last = None;
    let mut buffer = vec![0; PIECE];
    while !stop.is_due() {
        if let Some(count @ 1..) = some(stream.read(&mut buffer))? {
            last = Some(Instant::now());
            received.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
    Ok(last)
}

fn write(mut stream: TcpStream, stop: &Stop) -> Result<()> {
    let buffer = vec![0; PIECE];
    while !stop.is_due() {
        some(stream.write(&buffer))?;
    }
    Ok(())
}

/// `None` when nothing went within the time for it.
fn some(went: std::io::Result<usize>) -> Result<Option<usize>> {
    match went {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
