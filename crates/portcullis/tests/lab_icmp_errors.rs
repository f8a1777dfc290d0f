//! What the node says to pods whose packets it cannot forward, as their own kernels understand it. Needs root.

mod scene;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use lab::{Family, Place};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, setsockopt, sockopt,
};
use scene::*;

const PATIENCE: Duration = Duration::from_secs(30);
const NARROW: u32 = 1300;

/// An error as a pod's kernel tells it (ip(7), `IP_RECVERR`).
#[derive(Debug, PartialEq, Eq)]
struct Told {
    errno: Errno,
    kind: u8,
    code: u8,
    info: u32,
    offender: Option<IpAddr>,
}

/// A connected UDP socket in a pod that is told of ICMP errors.
struct Sender(UdpSocket);

impl Sender {
    fn new(scene: &Scene, from: &str, to: &str, family: Family, port: u16) -> Self {
        let (src, dst) = (scene.address(&pod(from), family), scene.address(&pod(to), family));
        let namespace = scene.lab.namespace(&pod(from)).expect("a pod");
        let socket = namespace.run(|| UdpSocket::bind((src, 0)).expect("a socket")).expect("root");
        socket.connect((dst, port)).expect("a route");
        socket.set_nonblocking(true).expect("a socket");
        match family {
            Family::V4 => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
            Family::V6 => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
        }
        .expect("errors are told");
        Self(socket)
    }

    fn hops(&self, hops: u32) {
        match self.0.local_addr().expect("an address") {
            SocketAddr::V4(_) => self.0.set_ttl(hops).expect("a TTL"),
            SocketAddr::V6(_) => {
                setsockopt(&self.0, sockopt::Ipv6Ttl, &(hops as libc::c_int)).expect("a hop limit");
            }
        }
    }

    /// What the kernel was told within `patience`.
    fn told(&self, patience: Duration) -> Option<Told> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(told) = self.error() {
                return Some(told);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn error(&self) -> Option<Told> {
        let mut room = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let (mut data, fd) = ([0; 64], self.0.as_raw_fd());
        let mut slices = [std::io::IoSliceMut::new(&mut data)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut room), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return None,
            Err(error) => panic!("{error}"),
        };
        message.cmsgs().expect("all of them").find_map(|message| {
            let (error, offender) = match message {
                ControlMessageOwned::Ipv4RecvErr(error, from) => {
                    (error, from.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes())))
                }
                ControlMessageOwned::Ipv6RecvErr(error, from) => {
                    (error, from.map(|from| IpAddr::from(from.sin6_addr.s6_addr)))
                }
                _ => return None,
            };
            let errno = Errno::from_raw(error.ee_errno as i32);
            Some(Told { errno, kind: error.ee_type, code: error.ee_code, info: error.ee_info, offender })
        })
    }

    /// Sends until an answer comes.
    fn is_answered(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            drop(self.0.send(b"anybody there?"));
            std::thread::sleep(Duration::from_millis(20));
            match self.0.recv(&mut [0; 64]) {
                Ok(_) => return true,
                Err(error) => assert!(error.kind() == ErrorKind::WouldBlock, "{error}"),
            }
        }
        false
    }
}

#[test]
fn a_traceroute_sees_the_node() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let mut agent = scene.agent();
    for family in Family::ALL {
        let sender = Sender::new(&scene, "x/b", "y/a", family, 80);
        sender.hops(1);
        sender.0.send(b"how far").expect("sent");
        let (kind, offender) = match family {
            Family::V4 => (11, scene.address(&Place::Node, family)),
            Family::V6 => (3, scene.address(&Place::Node, family)),
        };
        let expected = Told { errno: Errno::EHOSTUNREACH, kind, code: 0, info: 0, offender: Some(offender) };
        assert_eq!(sender.told(PATIENCE), Some(expected), "{family}");
        sender.hops(2);
        assert!(sender.is_answered(), "{family}: one hop more is enough");

        let denied = Sender::new(&scene, "z/b", "y/a", family, 80);
        denied.hops(1);
        denied.0.send(b"how far").expect("sent");
        assert_eq!(denied.told(TIMEOUT), None, "{family}: who is denied learns nothing");
    }
    let two = |figures: &std::collections::HashMap<String, u64>| {
        figures.get("portcullis_icmp_errors_total") == Some(&2)
            && figures.get("portcullis_icmp_errors_withheld_total") == Some(&0)
    };
    agent.wait_until("has not made two errors", two).expect("figures");
}

#[test]
fn a_path_mtu_is_discovered() {
    let scene = Scene::new("");
    let narrow =
        scene.lab.pods().iter().find(|link| Place::Pod(link.name.clone()) == pod("y/a")).expect("a pod");
    let set = format!("ip link set {} mtu {NARROW}", narrow.interface);
    assert!(scene.node(&set).status.success());
    let inside = narrow.namespace.command("ip").args(["link", "set", "eth0", "mtu", "1300"]).status();
    assert!(inside.expect("ip runs").success());
    let _servers = scene.servers();
    let mut agent = scene.agent();
    for family in Family::ALL {
        let node = scene.address(&Place::Node, family);
        let (kind, code) = if family == Family::V4 { (3, 4) } else { (2, 0) };
        let sender = Sender::new(&scene, "x/b", "y/a", family, 80);
        assert!(sender.is_answered(), "{family}: what fits passes");
        sender.0.send(&[7; 1400 - 28]).expect("the pod's own link takes it");
        let expected = Told { errno: Errno::EMSGSIZE, kind, code, info: NARROW, offender: Some(node) };
        assert_eq!(sender.told(PATIENCE), Some(expected), "{family}");
        if family == Family::V4 {
            let learnt = getsockopt(&sender.0, sockopt::IpMtu).expect("an MTU");
            assert_eq!(learnt, NARROW as i32, "the pod's kernel has learnt it");
        }
        // From now on the pod's kernel sends what fits, in fragments, and the datagram arrives whole.
        sender.0.send(&[7; 1400 - 28]).expect("sent");
        assert_eq!(sender.told(TIMEOUT), None, "{family}");
        assert!(sender.is_answered(), "{family}");
    }
    let dropped = |figures: &std::collections::HashMap<String, u64>| {
        figures.get("portcullis_drops_total{reason=\"too_big\"}") == Some(&2)
    };
    agent.wait_until("has not dropped just two", dropped).expect("figures");
}
