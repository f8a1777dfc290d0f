//! A pod that sends whatever frames it likes, and what another pod's link and sockets see of them.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use lab::{Family, LabPod, Place, RawPort};
use packet::{Kind, Packet};
use portcullis::lab_agent::LabAgent;
use testkit::frames::{FrameBuilder, frame};

use crate::scene::{Scene, TIMEOUT, pod};

/// The port that the victim's policy lets the namespace x reach, and one that nobody may.
pub(crate) const OPEN: u16 = 80;
pub(crate) const CLOSED: u16 = 81;

const PATIENCE: Duration = Duration::from_secs(15);
/// Frames that are sent before the victim's link is looked at, fewer than its socket holds.
const BURST: usize = 64;

/// Attacker and victim, and a bystander who shows when the attacker's frames have been handled.
pub(crate) struct Duel<'s> {
    pub(crate) scene: &'s Scene,
    pub(crate) attacker: &'s LabPod,
    pub(crate) victim: &'s LabPod,
    bystander: &'s LabPod,
    raw: RawPort,
    link: RawPort,
    mark: RawPort,
    closed: Vec<UdpSocket>,
    open: Vec<UdpSocket>,
    /// Nobody reads them: they only keep a kernel from answering that nobody is there.
    _aside: Vec<UdpSocket>,
}

/// What came of some frames.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Frames that left the attacker.
    pub(crate) sent: u64,
    /// Those that the victim's link saw.
    pub(crate) frames: Vec<Vec<u8>>,
    /// Datagrams that a socket at the closed port got.
    pub(crate) at_closed: u64,
}

impl<'s> Duel<'s> {
    /// `attacker` and `victim` are pods; y/b stands by, and nothing keeps anybody from it.
    pub(crate) fn new(scene: &'s Scene, attacker: &str, victim: &str) -> Self {
        let [attacker, victim, bystander] = [attacker, victim, "y/b"].map(|name| find(scene, name));
        let open = |pod: &LabPod| RawPort::open(&pod.namespace, "eth0").expect("a raw socket");
        let sockets = |pod: &LabPod, port: u16| -> Vec<UdpSocket> {
            let bind = |address| {
                let socket = pod.namespace.run(|| UdpSocket::bind((address, port)).expect("a socket"));
                let socket = socket.expect("root");
                socket.set_nonblocking(true).expect("a socket");
                socket
            };
            pod.addresses.iter().map(|address| bind(*address)).collect()
        };
        Self {
            scene,
            attacker,
            victim,
            bystander,
            raw: open(attacker),
            link: open(victim),
            mark: open(bystander),
            closed: sockets(victim, CLOSED),
            open: sockets(victim, OPEN),
            _aside: sockets(bystander, OPEN),
        }
    }

    /// Any pod.
    pub(crate) fn pod(&self, name: &str) -> &'s LabPod {
        find(self.scene, name)
    }

    /// A frame as the attacker's kernel would begin it, to the victim.
    pub(crate) fn ip(&self, family: Family) -> FrameBuilder {
        self.ip_as(&address(self.attacker, family), family)
    }

    /// The same under another source address.
    pub(crate) fn ip_as(&self, source: &str, family: Family) -> FrameBuilder {
        self.link_layer().ip(source, &address(self.victim, family))
    }

    /// From the attacker to its gateway.
    pub(crate) fn link_layer(&self) -> FrameBuilder {
        frame().from(self.attacker.pod_mac).to(self.attacker.host_mac)
    }

    /// Sends frames, and waits until whoever carries them has seen them all.
    pub(crate) fn storm(&self, frames: &[Vec<u8>]) -> Seen {
        let mut seen = Seen::default();
        for (number, burst) in (0..).zip(frames.chunks(BURST)) {
            // The kernel takes no frame that is shorter than its Ethernet header.
            seen.sent += burst.iter().filter(|frame| self.raw.send(frame).is_ok()).count() as u64;
            self.wait_for_mark(number);
            self.look(&mut seen, Duration::ZERO);
        }
        self.look(&mut seen, Duration::from_millis(50));
        seen
    }

    fn wait_for_mark(&self, number: u32) {
        let mark = number.to_be_bytes();
        let ends = (address(self.attacker, Family::V4), address(self.bystander, Family::V4));
        let sentinel = self.link_layer().ip(&ends.0, &ends.1).udp(7, OPEN).payload(&mark).build();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            self.raw.send(&sentinel).expect("the link is up");
            let seen = self.mark.receive_where(Duration::from_millis(500), |frame| frame.ends_with(&mark));
            if seen.expect("a link").is_some() {
                return;
            }
        }
        panic!("the attacker's frames are not carried");
    }

    fn look(&self, seen: &mut Seen, patience: Duration) {
        while let Some(frame) =
            self.link.receive_where(patience, |frame| self.is_foreign(frame)).expect("a link")
        {
            seen.frames.push(frame);
        }
        let mut room = [0; 2048];
        let got = |socket: &UdpSocket, room: &mut [u8]| socket.recv(room).is_ok();
        for socket in &self.closed {
            while got(socket, &mut room) {
                seen.at_closed += 1;
            }
        }
    }

    /// Whether the frame is none of those by which the node looks after its link to the victim: ARP, neighbour
    /// discovery and MLD.
    fn is_foreign(&self, frame: &[u8]) -> bool {
        let packet = match Packet::parse(frame) {
            Ok(packet) => packet,
            Err(_) => return frame.get(12..14) != Some(&[0x08, 0x06]),
        };
        let discovery = packet.kind == Kind::NeighbourDiscovery && packet.ttl == 255;
        !(packet.eth_src == self.victim.host_mac && (discovery || packet.key.dst.address.is_multicast()))
    }

    /// Has the victim send a datagram from its closed port to a port of the attacker.
    pub(crate) fn victim_asks(&self, family: Family, port: u16) {
        self.victim_asks_of(self.attacker, family, port);
    }

    /// The same to a port of another pod.
    pub(crate) fn victim_asks_of(&self, pod: &LabPod, family: Family, port: u16) {
        let to: IpAddr = address(pod, family).parse().expect("an address");
        self.of(&self.closed, family).send_to(b"asked", (to, port)).expect("sent");
    }

    fn of<'a>(&self, sockets: &'a [UdpSocket], family: Family) -> &'a UdpSocket {
        let found = sockets
            .iter()
            .find(|socket| Family::of(&socket.local_addr().expect("an address").ip()) == family);
        found.expect("a socket")
    }

    /// Whether a datagram of so many bytes reaches the victim's open port, and one like it comes back.
    pub(crate) fn exchange(&self, family: Family, length: usize) -> bool {
        let server = self.of(&self.open, family);
        let mut room = vec![0; 1 << 16];
        while server.recv(&mut room).is_ok() {}
        let source = address(self.attacker, family).parse::<IpAddr>().expect("an address");
        let client = self.attacker.namespace.run(|| UdpSocket::bind((source, 0)).expect("a socket"));
        let client = client.expect("root");
        client.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        client.send_to(&vec![7; length], server.local_addr().expect("an address")).expect("sent");
        let start = Instant::now();
        while start.elapsed() < TIMEOUT {
            if let Ok((got, from)) = server.recv_from(&mut room) {
                assert_eq!(got, length);
                server.send_to(&room[..got], from).expect("sent");
                return client.recv(&mut room).is_ok_and(|got| got == length);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// What the agent has dropped of what came from the attacker.
    pub(crate) fn dropped(&self, figures: &HashMap<String, u64>) -> u64 {
        let name = format!("portcullis_port_drops_total{{iface=\"{}\"}}", self.attacker.interface);
        *figures.get(&name).unwrap_or_else(|| panic!("{name} in {figures:?}"))
    }

    /// Sends frames while an agent enforces, and has it account for each: seen by the victim, or dropped for a
    /// reason.
    pub(crate) fn accounted(&self, agent: &mut LabAgent, frames: &[Vec<u8>]) -> Seen {
        let reasons = |figures: &HashMap<String, u64>| -> u64 {
            let drops = figures.iter().filter(|(name, _)| name.starts_with("portcullis_drops_total"));
            drops.map(|(_, value)| value).sum()
        };
        let before = agent.figures().expect("figures");
        let seen = self.storm(frames);
        let dropped = seen.sent - seen.frames.len() as u64;
        let said = agent.wait_until(&format!("has not dropped {dropped} frames"), |now| {
            self.dropped(now) - self.dropped(&before) == dropped && reasons(now) - reasons(&before) == dropped
        });
        said.unwrap_or_else(|error| panic!("{} had been dropped before: {error}", self.dropped(&before)));
        seen
    }
}

fn find<'s>(scene: &'s Scene, name: &str) -> &'s LabPod {
    let found = scene.lab.pods().iter().find(|link| Place::Pod(link.name.clone()) == pod(name));
    found.expect("a pod")
}

/// A pod's address of a family, as text.
pub(crate) fn address(pod: &LabPod, family: Family) -> String {
    let found = pod.addresses.iter().find(|address| Family::of(address) == family);
    found.expect("an address").to_string()
}

/// Whether a whole packet of what the victim's policy allows is in this frame.
pub(crate) fn is_allowed(frame: &[u8]) -> bool {
    Packet::parse(frame)
        .is_ok_and(|packet| matches!(packet.kind, Kind::Tcp(_) | Kind::Udp) && packet.key.dst.port == OPEN)
}

impl Seen {
    /// Nothing that is denied has arrived.
    #[track_caller]
    pub(crate) fn holds_only_what_is_allowed(&self) {
        assert_eq!(self.at_closed, 0, "datagrams arrived at the closed port");
        let leak = self.frames.iter().find(|frame| !is_allowed(frame));
        assert_eq!(leak, None, "of {} frames {} arrived", self.sent, self.frames.len());
    }
}
