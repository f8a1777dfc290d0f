//! Frames of every kind on each of the ways that inline mode judges: what arrives, and what is counted.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use flow::MacAddr;
use lab::{Family, LabPod, Namespace, Place, RawPort};
use nix::ifaddrs::getifaddrs;
use portcullis::lab_agent::LabAgent;
use testkit::frames::{FrameBuilder, frame};

use crate::inline_kernel::Kernel;
use crate::scene::*;

/// What every frame under test carries, wherever it is cut.
pub(crate) const MARK: &[u8; 8] = b"this one";
/// What the frame carries that shows that those before it are through.
const SENTINEL: &[u8; 8] = b"the last";

/// The port that policy lets through, and one that it does not.
pub(crate) const OPEN: u16 = 80;
pub(crate) const CLOSED: u16 = 81;

const PATIENCE: Duration = Duration::from_secs(20);
/// A kind that a verdict answers is sent so often, and may be punted so often all the same.
pub(crate) const ROUNDS: u16 = 10;
pub(crate) const STRAY: u64 = 5;
/// Of [`flows.capacity`](Kernel::of).
const CAPACITY: u32 = 262_144;

/// What becomes of a kind of frame at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// A verdict that is known counts; what has none is punted, judged, and known from then on.
    Verdict,
    /// Every packet is punted and judged; what is not allowed drops for this reason.
    Asked(&'static str),
    /// Punted, and dropped by the worker for this reason.
    Refused(&'static str),
    /// Dropped by the program, which counts it so.
    Dropped(&'static str),
    /// Passes: it is between a pod and its node.
    Own,
    /// The node's kernel drops it before.
    Unseen,
    /// There is no such thing here.
    Never,
}

impl Cell {
    /// As the table in the documentation has it.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Verdict => "verdict".to_owned(),
            Self::Asked("default_deny") => "asked".to_owned(),
            Self::Asked(reason) => format!("asked (`{reason}`)"),
            Self::Refused(reason) => format!("refused: `{reason}`"),
            Self::Dropped(count) => format!("dropped: `{count}`"),
            Self::Own => "own".to_owned(),
            Self::Unseen => "not seen".to_owned(),
            Self::Never => "-".to_owned(),
        }
    }

    /// Whether the worker sees it, and whether it gives any back.
    pub(crate) const fn is_punted(self) -> (bool, bool) {
        match self {
            Self::Verdict | Self::Asked(_) => (true, true),
            Self::Refused(_) => (true, false),
            _ => (false, false),
        }
    }
}

/// Ways that frames go, by the hook that judges them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From a pod to a pod: `pod_in`.
    FromPod,
    /// From outside to a pod: `pod_out`.
    ToPod,
    /// From a pod to a service of the outside: `uplink_out`.
    Out,
    /// From outside, and back there.
    Through,
}

/// Whom a frame is from, and whom it is for.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    pub(crate) way: Way,
    pub(crate) family: Family,
    pub(crate) from: MacAddr,
    pub(crate) to: MacAddr,
    pub(crate) src: String,
    pub(crate) dst: String,
    pub(crate) port: u16,
    /// Another for each connection, and for each datagram.
    pub(crate) number: u16,
}

impl Aim {
    pub(crate) fn link(&self) -> FrameBuilder {
        frame().from(self.from).to(self.to)
    }

    pub(crate) fn ip(&self) -> FrameBuilder {
        self.link().ip(&self.src, &self.dst)
    }

    /// A datagram of so many times the mark.
    pub(crate) fn udp(&self, marks: usize) -> FrameBuilder {
        self.ip().udp(self.number, self.port).payload(&MARK.repeat(marks))
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.family == Family::V4
    }
}

/// A lab with an agent, and a socket on every link that matters.
pub(crate) struct Bench {
    pub(crate) agent: LabAgent,
    pub(crate) kernel: Kernel,
    pub(crate) scene: Scene,
    links: Vec<(&'static str, RawPort)>,
    outside: RawPort,
    /// Nobody reads them: they only keep a kernel from answering that nobody is there.
    sockets: Vec<(Place, UdpSocket)>,
    macs: [MacAddr; 2],
    next: std::cell::Cell<u16>,
}

/// Frames of the tests are up to this long.
const MTU: u32 = 9000;

pub(crate) fn pod_of<'s>(scene: &'s Scene, name: &str) -> &'s LabPod {
    let found = scene.lab.pods().iter().find(|link| Place::Pod(link.name.clone()) == pod(name));
    found.expect("a pod")
}

fn run(namespace: &Namespace, line: &str) -> String {
    let output = namespace.command("sh").args(["-ec", line]).output().expect("sh runs");
    assert!(output.status.success(), "{line}: {}", text(&output));
    text(&output)
}

fn mac(namespace: &Namespace, interface: &str) -> MacAddr {
    let links = namespace.run(|| getifaddrs().expect("links").collect::<Vec<_>>()).expect("a namespace");
    let found = links.into_iter().filter(|link| link.interface_name == interface);
    let octets = found.filter_map(|link| link.address?.as_link_addr()?.addr()).next();
    MacAddr(octets.expect("a MAC address"))
}

impl Bench {
    pub(crate) fn new() -> Self {
        let scene = Scene::new("mode: inline\nservices: [10.96.0.0/12, \"fd96::/112\"]\n");
        let [one, two] = ["outside-1", "outside-2"].map(Place::outside);
        let blocks = |place: &Place| {
            let address =
                |family, bits| format!("{{ipBlock: {{cidr: \"{}/{bits}\"}}}}", scene.address(place, family));
            format!("{}, {}", address(Family::V4, 32), address(Family::V6, 128))
        };
        let ports = "ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]";
        let policy = |name: &str, namespace: &str, pod: &str, way: &str, rules: &str| {
            format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: {name}, namespace: \"{namespace}\"}}\n\
                 spec: {{podSelector: {{matchLabels: {{pod: {pod}}}}}, policyTypes: [{way}], {rules}}}\n"
            )
        };
        let from_x = "{namespaceSelector: {matchLabels: {ns: x}}}";
        let ingress = format!("ingress: [{{from: [{from_x}, {}], {ports}}}]", blocks(&one));
        let egress = format!("egress: [{{to: [{}], {ports}}}, {{to: [{}]}}]", blocks(&one), blocks(&two));
        let policies =
            [policy("in", "y", "a", "Ingress", &ingress), policy("out", "x", "c", "Egress", &egress)];
        scene.home.apply("policy.yaml", &policies.join("---\n")).expect("a manifest");

        let lab = &scene.lab;
        for pod in lab.pods() {
            run(lab.node(), &format!("ip link set {} mtu {MTU}", pod.interface));
            run(&pod.namespace, &format!("ip link set eth0 mtu {MTU}; {SILENCE}"));
        }
        run(lab.node(), &format!("ip link set {} mtu {MTU}", lab.uplink()));
        run(lab.outside(), &format!("ip link set eth0 mtu {MTU}; {SILENCE}"));
        let names = ["x/a", "x/c", "y/a", "y/c"];
        let open = |name: &'static str| {
            (name, RawPort::open(&pod_of(&scene, name).namespace, "eth0").expect("a raw socket"))
        };
        let mut sockets = Vec::new();
        for place in [pod("y/a"), one] {
            for (family, port) in
                Family::ALL.into_iter().flat_map(|family| [(family, OPEN), (family, CLOSED)])
            {
                let address = SocketAddr::new(scene.address(&place, family), port);
                let namespace = lab.namespace(&place).expect("somebody");
                let socket = namespace.run(|| UdpSocket::bind(address)).expect("root").expect("a socket");
                socket.set_nonblocking(true).expect("a socket");
                sockets.push((place.clone(), socket));
            }
        }
        let agent = scene.agent();
        Self {
            kernel: Kernel::of(&scene, CAPACITY),
            links: names.map(open).into(),
            outside: RawPort::open(lab.outside(), "eth0").expect("a raw socket"),
            sockets,
            macs: [mac(lab.outside(), "eth0"), mac(lab.node(), lab.uplink())],
            next: std::cell::Cell::new(2000),
            agent,
            scene,
        }
    }

    /// Has the node translate services, as kube-proxy would; from then on it tracks connections.
    pub(crate) fn translate(&self) {
        let mut rules = "add table inet svc; \
                         add chain inet svc pre { type nat hook prerouting priority -100; }; "
            .to_owned();
        for (number, name) in [(1, "outside-1"), (2, "outside-2")] {
            let [v4, v6] = Family::ALL.map(|family| self.scene.address(&Place::outside(name), family));
            rules += &format!(
                "add rule inet svc pre ip daddr 10.96.0.{number} dnat ip to {v4}; \
                 add rule inet svc pre ip6 daddr fd96::{number} dnat ip6 to {v6}; "
            );
        }
        let output = self.scene.lab.node().command("nft").arg(rules).output().expect("nft");
        assert!(output.status.success(), "{}", text(&output));
    }

    pub(crate) fn raw(&self, name: &str) -> &RawPort {
        &self.links.iter().find(|(known, _)| *known == name).expect("a link that is open").1
    }

    /// From whom to whom frames go. Where ports do not tell what is allowed, addresses do.
    pub(crate) fn aim(&self, way: Way, family: Family, port: u16, portless: bool) -> Aim {
        let address = |place: Place| self.scene.address(&place, family).to_string();
        let anybody = portless && port == OPEN;
        let service = |number| {
            if family == Family::V4 { format!("10.96.0.{number}") } else { format!("fd96::{number}") }
        };
        let victim = if anybody { "y/c" } else { "y/a" };
        let (x_a, x_c) = (pod_of(&self.scene, "x/a"), pod_of(&self.scene, "x/c"));
        let [outside, uplink] = self.macs;
        let ((from, to), src, dst) = match way {
            Way::FromPod => ((x_a.pod_mac, x_a.host_mac), address(pod("x/a")), address(pod(victim))),
            Way::ToPod => ((outside, uplink), address(Place::outside("outside-1")), address(pod(victim))),
            Way::Out => ((x_c.pod_mac, x_c.host_mac), address(pod("x/c")), service(1 + u8::from(anybody))),
            Way::Through => {
                let [src, dst] = ["outside-1", "outside-2"].map(|name| address(Place::outside(name)));
                ((outside, uplink), src, dst)
            }
        };
        self.next.set(self.next.get() + 1);
        Aim { way, family, from, to, src, dst, port, number: self.next.get() }
    }

    pub(crate) fn sender(&self, way: Way) -> &RawPort {
        match way {
            Way::FromPod => self.raw("x/a"),
            Way::Out => self.raw("x/c"),
            Way::ToPod | Way::Through => &self.outside,
        }
    }

    fn receivers(&self, way: Way) -> Vec<&RawPort> {
        match way {
            Way::FromPod | Way::ToPod => vec![self.raw("y/a"), self.raw("y/c")],
            Way::Out | Way::Through => vec![&self.outside],
        }
    }

    /// Sends frames, and tells how many have arrived once those that are wanted have, or can no more.
    pub(crate) fn arrive(&self, way: Way, frames: &[Vec<u8>], wanted: usize) -> usize {
        // What others have sent since.
        self.look(way);
        for burst in frames.chunks(64) {
            burst.iter().for_each(|frame| self.sender(way).send(frame).expect("the link is up"));
            // A burst is less than what any queue on the way holds.
            std::thread::sleep(Duration::from_millis(2));
        }
        let last_way = if way == Way::Through { Way::ToPod } else { way };
        let mut aim = self.aim(last_way, Family::V4, OPEN, false);
        if way == Way::Out {
            // Before services are translated too.
            aim.dst = self.scene.address(&Place::outside("outside-1"), Family::V4).to_string();
        }
        let sentinel = aim.ip().udp(aim.number, OPEN).payload(SENTINEL).build();
        let (start, mut last, mut arrived, mut through) = (Instant::now(), None::<Instant>, 0, false);
        while !through || arrived < wanted {
            if start.elapsed() > PATIENCE {
                assert!(through, "nothing is carried on the way {way:?}");
                break;
            }
            if !through && last.is_none_or(|last| last.elapsed() > Duration::from_millis(500)) {
                self.sender(last_way).send(&sentinel).expect("the link is up");
                last = Some(Instant::now());
            }
            let seen = self.look(way);
            arrived += seen.0;
            through |= seen.1 || (last_way != way && self.look(last_way).1);
            std::thread::sleep(Duration::from_millis(1));
        }
        // What took another way through the kernel, and is late.
        std::thread::sleep(Duration::from_millis(20));
        arrived + self.look(way).0
    }

    /// How many frames under test there are at the receivers, and whether the sentinel is.
    fn look(&self, way: Way) -> (usize, bool) {
        let (mut count, mut last) = (0, false);
        for receiver in self.receivers(way) {
            while let Some(frame) = receiver.receive(Duration::ZERO).expect("a link") {
                let holds = |mark: &[u8]| frame.windows(mark.len()).any(|bytes| bytes == mark);
                count += usize::from(holds(MARK));
                last |= holds(SENTINEL);
            }
        }
        (count, last)
    }

    /// Punts by the ports that judge frames on this way.
    pub(crate) fn punted(&self, way: Way) -> u64 {
        let of = |name| self.kernel.of_pod(&self.scene, name).punted;
        match way {
            Way::FromPod => of("x/a"),
            Way::ToPod => of("y/a") + of("y/c"),
            Way::Out | Way::Through => self.kernel.of_uplink().punted,
        }
    }

    /// A figure of the programs, over all ports.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        self.kernel.sum(|counted| {
            counted.each().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no count {name}")).1
        })
    }

    /// How many frames the worker has dropped for a reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let figures = self.agent.figures().expect("figures");
        let name = format!("portcullis_drops_total{{reason=\"{reason}\"}}");
        figures.get(&name).copied().unwrap_or_else(|| panic!("{name} in {figures:?}"))
    }

    /// Waits until a figure has grown by what was dropped.
    #[track_caller]
    pub(crate) fn grows(&self, what: &str, before: u64, by: usize, figure: impl Fn() -> u64) {
        eventually(&format!("{what} grows by {by} from {before}"), PATIENCE, || {
            figure() >= before + by as u64
        });
    }

    /// The socket of a receiver.
    pub(crate) fn socket(&self, place: &Place, family: Family, port: u16) -> &UdpSocket {
        let address = SocketAddr::new(self.scene.address(place, family), port);
        let mut found = self.sockets.iter().map(|(_, socket)| socket);
        found.find(|socket| socket.local_addr().expect("an address") == address).expect("a receiver")
    }

    /// Runs a line of shell in the node.
    pub(crate) fn node(&self, line: &str) -> String {
        run(self.scene.lab.node(), line)
    }

    /// The namespace and the address of who sends on a way.
    pub(crate) fn source(&self, way: Way, family: Family) -> (&Namespace, IpAddr) {
        let place = match way {
            Way::FromPod => pod("x/a"),
            Way::Out => pod("x/c"),
            Way::ToPod | Way::Through => Place::outside("outside-1"),
        };
        let namespace = self.scene.lab.namespace(&place).expect("somebody");
        (namespace, self.scene.address(&place, family))
    }
}

/// Nobody answers, so that there are no other frames than those of the test.
const SILENCE: &str = "nft 'add table inet silent; \
    add chain inet silent in { type filter hook input priority 0; policy drop; }; \
    add rule inet silent in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; \
    add rule inet silent in udp dport { 80, 81 } accept'";
