//! Servers at every address of the lab that say who they are, all on one thread.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::Error;
use crate::node::Lab;
use crate::sctp;
use crate::topology::Place;

/// TCP, UDP and SCTP servers. To whatever they receive over TCP and UDP they answer with the same bytes, a space,
/// the name of the [`Place`] that serves, and a line end; to an SCTP INIT with an INIT ACK whose cookie is that
/// name. They stop when dropped.
#[derive(Debug)]
pub struct Servers {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Serves these ports at every address of every pod, of every host outside and of the node.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(lab: &Lab, ports: &[u16]) -> Result<Self, Error> {
        Self::start_at(lab, &lab.places(), ports)
    }

    /// Serves these ports at every address of some places only.
    ///
    /// # Errors
    /// When a port is taken, or a place is not in the lab.
    pub fn start_at(lab: &Lab, places: &[Place], ports: &[u16]) -> Result<Self, Error> {
        allow_many_sockets();
        let mut loops = Loop::new()?;
        for place in places {
            let identity: Arc<str> = place.to_string().into();
            let addresses = lab.topology().addresses(place);
            let sockets = lab.namespace(place)?.run(|| bind(&addresses, ports))?;
            for socket in sockets.map_err(Error::io(format!("binding a server of {place}")))? {
                loops.add(socket, Arc::clone(&identity))?;
            }
        }
        let (stop, stopped) = UnixStream::pair().map_err(Error::io("making a socket pair"))?;
        loops.add(Socket::Stop(stopped), "".into())?;
        let thread = thread::Builder::new()
            .name("lab-servers".to_owned())
            .spawn(move || loops.run())
            .map_err(Error::io("starting the servers' thread"))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _gone = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Raises this process's limit of open files to what it may have: a lab has more sockets than the usual 1024.
pub(crate) fn allow_many_sockets() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it is refused, the sockets that follow say so.
        let _refused = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn bind(addresses: &[IpAddr], ports: &[u16]) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for &address in addresses {
        for &port in ports {
            // Bound to the one address, so that answers leave from where the question went.
            let tcp = TcpListener::bind((address, port))?;
            tcp.set_nonblocking(true)?;
            let udp = UdpSocket::bind((address, port))?;
            udp.set_nonblocking(true)?;
            sockets.extend([Socket::Listener(tcp), Socket::Udp(udp)]);
        }
        // One for all ports: a raw socket has none. What it takes, the kernel does not answer by ICMP.
        sockets.push(Socket::Sctp(sctp::raw_socket(address)?, ports.into()));
    }
    Ok(sockets)
}

#[derive(Debug)]
enum Socket {
    Listener(TcpListener),
    Connection(TcpStream),
    Udp(UdpSocket),
    Sctp(UdpSocket, Arc<[u16]>),
    Stop(UnixStream),
}

/// What is left of a socket after an event.
enum Next {
    Keep,
    Close,
    Accepted(Vec<TcpStream>),
    Stop,
}

struct Loop {
    epoll: Epoll,
    sockets: Vec<Option<(Socket, Arc<str>)>>,
    free: Vec<usize>,
}

impl Loop {
    fn new() -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::sys("making an epoll"))?;
        Ok(Self { epoll, sockets: Vec::new(), free: Vec::new() })
    }

    fn add(&mut self, socket: Socket, identity: Arc<str>) -> Result<(), Error> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        let fd = match &socket {
            Socket::Listener(socket) => socket.as_fd(),
            Socket::Connection(socket) => socket.as_fd(),
            Socket::Udp(socket) | Socket::Sctp(socket, _) => socket.as_fd(),
            Socket::Stop(socket) => socket.as_fd(),
        };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        self.epoll.add(fd, event).map_err(Error::sys("adding a socket to an epoll"))?;
        self.sockets[index] = Some((socket, identity));
        Ok(())
    }

    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 128];
        let mut buffer = [0; 2048];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            for event in &events[..ready] {
                let index = event.data() as usize;
                // Closed earlier in this round.
                let Some((socket, identity)) = &mut self.sockets[index] else { continue };
                match serve(socket, identity, &mut buffer) {
                    Next::Keep => {}
                    Next::Stop => return,
                    Next::Close => {
                        self.sockets[index] = None;
                        self.free.push(index);
                    }
                    Next::Accepted(connections) => {
                        let identity = Arc::clone(identity);
                        for connection in connections {
                            // Not taken in, it is closed, and its client sees that.
                            let _full = self.add(Socket::Connection(connection), Arc::clone(&identity));
                        }
                    }
                }
            }
        }
    }
}

fn serve(socket: &mut Socket, identity: &str, buffer: &mut [u8]) -> Next {
    let answer = |question: &[u8]| [question, b" ", identity.as_bytes(), b"\n"].concat();
    match socket {
        Socket::Stop(_) => Next::Stop,
        Socket::Listener(listener) => Next::Accepted(
            std::iter::from_fn(|| listener.accept().ok())
                .filter(|(connection, _)| connection.set_nonblocking(true).is_ok())
                .map(|(connection, _)| connection)
                .collect(),
        ),
        Socket::Connection(connection) => match connection.read(buffer) {
            Ok(0) => Next::Close,
            Ok(length) => match connection.write_all(&answer(&buffer[..length])) {
                Ok(()) => Next::Keep,
                Err(_) => Next::Close,
            },
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Next::Keep
            }
            Err(_) => Next::Close,
        },
        Socket::Udp(socket) => {
            // Errors of earlier answers come up here (ICMP); reading on clears them. A bound keeps it fair.
            for _ in 0..64 {
                match socket.recv_from(buffer) {
                    Ok((length, client)) => {
                        let _unanswerable = socket.send_to(&answer(&buffer[..length]), client);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
            Next::Keep
        }
        Socket::Sctp(socket, ports) => {
            let over_ipv4 = socket.local_addr().is_ok_and(|address| address.is_ipv4());
            for _ in 0..64 {
                match socket.recv_from(buffer) {
                    Ok((length, client)) => {
                        if let Some(reply) = sctp::reply(&buffer[..length], over_ipv4, ports, identity) {
                            let _unanswerable = socket.send_to(&reply, SocketAddr::new(client.ip(), 0));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
            Next::Keep
        }
    }
}
