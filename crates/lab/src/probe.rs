//! Questions to [`Servers`](crate::Servers) over real sockets: who, if anybody, answers?

mod question;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

pub use self::question::{Outcome, Probe, Transport};
use crate::error::Error;
use crate::node::Lab;
use crate::sctp::{self, Answer, Knock};
use crate::servers::allow_many_sockets;
use crate::topology::{Family, Place};

/// A question is asked this many times over UDP and SCTP within its timeout: a lost datagram is no denial.
const TRIES: u32 = 3;

/// Asks one question and waits for the answer, at most `timeout`.
///
/// # Errors
/// When the place is not in the lab, has no address of the family, or sockets run out.
pub fn probe(
    lab: &Lab,
    from: &Place,
    to: IpAddr,
    port: u16,
    transport: Transport,
    timeout: Duration,
) -> Result<Outcome, Error> {
    let mut attempts = start(lab, &[Probe { from: from.clone(), to, port, transport }])?;
    finish(&mut attempts, timeout)?;
    Ok(attempts.swap_remove(0).outcome())
}

/// Asks all questions at once and waits for all answers, at most `timeout`. The outcomes are in the order of
/// the questions.
///
/// # Errors
/// As [`probe`].
pub fn probe_all(lab: &Lab, probes: &[Probe], timeout: Duration) -> Result<Vec<Outcome>, Error> {
    let mut attempts = start(lab, probes)?;
    finish(&mut attempts, timeout)?;
    Ok(attempts.into_iter().map(Attempt::outcome).collect())
}

/// A TCP connection to a server that stays open, to see what becomes of it when policies change.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects, and has one question answered.
    ///
    /// # Errors
    /// As [`probe`], and when nobody answers.
    pub fn open(lab: &Lab, from: &Place, to: IpAddr, port: u16, timeout: Duration) -> Result<Self, Error> {
        let mut attempts = start(lab, &[Probe { from: from.clone(), to, port, transport: Transport::Tcp }])?;
        finish(&mut attempts, timeout)?;
        let Attempt { socket, outcome, .. } = attempts.swap_remove(0);
        match (outcome, socket) {
            (Some(Outcome::Reached(_)), Some(Socket::Tcp(socket))) => {
                socket.set_nonblocking(false).map_err(Error::io("making a socket blocking"))?;
                Ok(Self { socket, received: Vec::new() })
            }
            (outcome, _) => {
                let outcome = outcome.unwrap_or(Outcome::TimedOut);
                Err(Error::NoConnection { from: from.clone(), to: SocketAddr::new(to, port), outcome })
            }
        }
    }

    /// Asks another question on the open connection. After an outcome other than [`Outcome::Reached`], late
    /// answers to earlier questions are passed over.
    pub fn exchange(&mut self, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        let question = question();
        if let Err(error) = self.socket.set_write_timeout(Some(timeout)).and_then(|()| {
            let socket = &mut self.socket;
            socket.write_all(&question)
        }) {
            return Outcome::of(&error).unwrap_or(Outcome::TimedOut);
        }
        let mut buffer = [0; 512];
        loop {
            if let Some(identity) = answer(&self.received, &question) {
                self.received.clear();
                return Outcome::Reached(identity);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.socket.set_read_timeout(Some(left)).is_err() {
                return Outcome::TimedOut;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Outcome::Refused,
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Outcome::of(&error).unwrap_or(Outcome::TimedOut),
            }
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
    Sctp(UdpSocket, Knock),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) | Self::Sctp(socket, _) => socket.as_fd(),
        }
    }
}

/// A question on its way. Done once it has an outcome.
#[derive(Debug)]
struct Attempt {
    socket: Option<Socket>,
    question: [u8; 16],
    received: Vec<u8>,
    asked: bool,
    outcome: Option<Outcome>,
}

impl Attempt {
    fn outcome(self) -> Outcome {
        self.outcome.unwrap_or(Outcome::TimedOut)
    }

    fn ask(&mut self) -> io::Result<()> {
        match &mut self.socket {
            Some(Socket::Tcp(socket)) => socket.write_all(&self.question),
            Some(Socket::Udp(socket)) => socket.send(&self.question).map(drop),
            Some(Socket::Sctp(socket, knock)) => socket.send(&knock.packet()).map(drop),
            None => Ok(()),
        }
    }

    /// Goes on until there is nothing to do but wait.
    fn advance(&mut self) {
        let error = match self.try_advance() {
            Ok(()) => return,
            Err(error) => error,
        };
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected) {
            self.outcome = Some(Outcome::of(&error).unwrap_or(Outcome::Unreachable));
        }
    }

    fn try_advance(&mut self) -> io::Result<()> {
        if let Some(Socket::Tcp(socket)) = &self.socket
            && !self.asked
        {
            socket.take_error()?.map_or(Ok(()), Err)?;
            socket.peer_addr()?;
            self.ask()?;
            self.asked = true;
        }
        let mut buffer = [0; 512];
        loop {
            let length = match &mut self.socket {
                Some(Socket::Tcp(socket)) => socket.read(&mut buffer)?,
                Some(Socket::Udp(socket)) => {
                    self.received.clear();
                    socket.recv(&mut buffer)?
                }
                Some(Socket::Sctp(socket, knock)) => {
                    let length = socket.recv(&mut buffer)?;
                    let over_ipv4 = socket.local_addr()?.is_ipv4();
                    match knock.answer(&buffer[..length], over_ipv4) {
                        Some(Answer::Accepted(identity)) => self.outcome = Some(Outcome::Reached(identity)),
                        Some(Answer::Refused) => self.outcome = Some(Outcome::Refused),
                        // Another's: a raw socket sees all that comes from its peer.
                        None => continue,
                    }
                    return Ok(());
                }
                None => return Ok(()),
            };
            self.received.extend_from_slice(&buffer[..length]);
            if let Some(identity) = answer(&self.received, &self.question) {
                self.outcome = Some(Outcome::Reached(identity));
                return Ok(());
            }
            if length == 0 {
                return Err(Errno::ECONNRESET.into());
            }
        }
    }
}

/// Sixteen characters that no other question of this process has.
fn question() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut text = [0; 16];
    for (byte, digit) in text.iter_mut().zip(format!("{number:016x}").bytes()) {
        *byte = digit;
    }
    text
}

/// The identity in the answer to this question, once it is complete.
fn answer(received: &[u8], question: &[u8]) -> Option<String> {
    let start = received.windows(question.len()).position(|window| window == question)?;
    let rest = received[start + question.len()..].strip_prefix(b" ")?;
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

/// Makes the sockets, a thread for each namespace, and sends the first packets.
fn start(lab: &Lab, probes: &[Probe]) -> Result<Vec<Attempt>, Error> {
    allow_many_sockets();
    let mut by_namespace: BTreeMap<&str, Vec<(usize, &Probe, IpAddr)>> = BTreeMap::new();
    for (index, probe) in probes.iter().enumerate() {
        let source = lab.address(&probe.from, Family::of(&probe.to))?;
        let namespace = lab.namespace(&probe.from)?.name();
        by_namespace.entry(namespace).or_default().push((index, probe, source));
    }
    let mut attempts: Vec<Option<Attempt>> = probes.iter().map(|_| None).collect();
    for group in by_namespace.into_values() {
        let started = lab.namespace(&group[0].1.from)?.run(|| {
            let start = |(index, probe, source): &(usize, &Probe, IpAddr)| {
                start_one(probe, *source).map(|attempt| (*index, attempt))
            };
            group.iter().map(start).collect::<io::Result<Vec<_>>>()
        })?;
        for (index, attempt) in started.map_err(Error::io("making the socket of a probe"))? {
            attempts[index] = Some(attempt);
        }
    }
    Ok(attempts.into_iter().flatten().collect())
}

fn start_one(probe: &Probe, source: IpAddr) -> io::Result<Attempt> {
    let mut attempt =
        Attempt { socket: None, question: question(), received: Vec::new(), asked: false, outcome: None };
    let asked = match probe.transport {
        Transport::Sctp => {
            let socket = sctp::raw_socket(source)?;
            let connected = socket.connect(SocketAddr::new(probe.to, 0));
            attempt.socket = Some(Socket::Sctp(socket, Knock::at(probe.port)));
            connected.and_then(|()| attempt.ask())
        }
        Transport::Tcp | Transport::Udp => {
            let (socket, connected) = connect_from(probe, source)?;
            attempt.socket = Some(socket);
            match (probe.transport, connected) {
                (_, Err(Errno::EINPROGRESS)) | (Transport::Tcp, Ok(())) => Ok(()),
                (_, Ok(())) => attempt.ask(),
                (_, Err(error)) => Err(error.into()),
            }
        }
    };
    if let Err(error) = asked {
        attempt.outcome = Some(Outcome::of(&error).ok_or(error)?);
    }
    Ok(attempt)
}

/// A TCP or UDP socket at its source, and what came of connecting it.
fn connect_from(probe: &Probe, source: IpAddr) -> io::Result<(Socket, Result<(), Errno>)> {
    let family = if probe.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match probe.transport {
        Transport::Tcp => SockType::Stream,
        _ => SockType::Datagram,
    };
    let fd: OwnedFd = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    if probe.transport == Transport::Tcp {
        // Closed by a reset: no TIME_WAIT, and an unanswered SYN is not tried again.
        setsockopt(&fd, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    // Otherwise a socket keeps quiet about ICMP errors that may pass (ip(7), ipv6(7)).
    match family {
        AddressFamily::Inet => setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?,
        _ => setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?,
    }
    let connected = connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(probe.to, probe.port)));
    let socket = match probe.transport {
        Transport::Tcp => Socket::Tcp(fd.into()),
        _ => Socket::Udp(fd.into()),
    };
    Ok((socket, connected))
}

/// Waits until all have an outcome or the time is up.
fn finish(attempts: &mut [Attempt], timeout: Duration) -> Result<(), Error> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::sys("making an epoll"))?;
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    for (index, attempt) in attempts.iter().enumerate() {
        if let (Some(socket), None) = (&attempt.socket, &attempt.outcome) {
            epoll
                .add(socket, EpollEvent::new(flags, index as u64))
                .map_err(Error::sys("adding a socket to an epoll"))?;
        }
    }
    let begin = Instant::now();
    let mut tries = 1;
    let mut events = [EpollEvent::empty(); 256];
    let mut open = attempts.iter().filter(|attempt| attempt.outcome.is_none()).count();
    while open > 0 && begin.elapsed() < timeout {
        let next_try = timeout * tries / TRIES;
        if begin.elapsed() >= next_try {
            tries += 1;
            for attempt in attempts.iter_mut().filter(|attempt| attempt.outcome.is_none()) {
                if let Some(Socket::Udp(_) | Socket::Sctp(..)) = attempt.socket
                    && let Err(error) = attempt.ask()
                {
                    // A full queue is no answer; a refusal of the first try is.
                    attempt.outcome = Outcome::of(&error);
                }
            }
        } else {
            // Rounded up: a wait of nothing would spin through the last millisecond.
            let wait = (next_try - begin.elapsed().min(next_try)).as_millis() + 1;
            let wait = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX);
            let ready = match epoll.wait(&mut events, wait) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(Error::sys("waiting for answers")(error)),
            };
            for event in &events[..ready] {
                let attempt = &mut attempts[event.data() as usize];
                if attempt.outcome.is_none() {
                    attempt.advance();
                }
            }
        }
        open = attempts.iter().filter(|attempt| attempt.outcome.is_none()).count();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_answer_to_the_same_question_counts() {
        let mine = question();
        let other = question();
        assert_ne!(mine, other);
        let reply = |question: &[u8]| [question, b" x/a\n"].concat();
        assert_eq!(answer(&reply(&mine), &mine).as_deref(), Some("x/a"));
        assert_eq!(answer(&[reply(&other), reply(&mine)].concat(), &mine).as_deref(), Some("x/a"));
        assert_eq!(answer(&reply(&other), &mine), None);
        assert_eq!(answer(&reply(&mine)[..19], &mine), None);
        assert_eq!(answer(&mine, &mine), None);
    }

    #[test]
    fn errors_of_the_network_are_outcomes_and_others_are_not() {
        let of = |errno: Errno| Outcome::of(&errno.into());
        assert_eq!(of(Errno::ECONNREFUSED), Some(Outcome::Refused));
        assert_eq!(of(Errno::EHOSTUNREACH), Some(Outcome::Unreachable));
        assert_eq!(of(Errno::EMFILE), None);
    }
}
