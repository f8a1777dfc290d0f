//! A node of one pod with the programs of inline mode, and entries for what policy would allow.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::veth::frames::{IPV4, Mac, ethernet, ipv4, udp};
use crate::veth::{Pins, Tap, ip, veth_named};
use bpf::inline::{Attach, CachedFlow, Counted, Hook, Inline, Settings, Tap as PortOf};
use flow::{FlowKey, MacAddr, Protocol, Verdict};
use nix::net::if_::if_nametoindex;

pub const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);
pub const OURS: Mac = [2, 0, 0, 0, 0, 0x20];
pub const THEIRS: Mac = [2, 0, 0, 0, 0, 0x66];
pub const UDP: u8 = 17;
const TCP: u8 = 6;
/// The numbers of two ports.
pub const POD_PORT: u16 = 1;
pub const UPLINK: u16 = 2;

const PATIENCE: Duration = Duration::from_secs(30);

/// Nothing is punted, and nobody approves.
pub const SETTINGS: Settings = Settings {
    key: [1, 2],
    mark: 7,
    punt_ifindex: 0,
    punt_rate: 0,
    punt_burst: 0,
    open_after: 0,
    longest: 1514,
};

/// A connection of the pod that is allowed, over the ports of [`udp`].
pub fn flow(remote: Ipv4Addr, pod_opened: bool) -> CachedFlow {
    CachedFlow {
        port: POD_PORT,
        key: match pod_opened {
            true => FlowKey::new(Protocol::UDP, (POD, 0x1000), (remote, 0x2000)),
            false => FlowKey::new(Protocol::UDP, (POD, 0x2000), (remote, 0x1000)),
        },
        verdict: Verdict::Allow,
        pod_opened,
        ending: false,
        answered: false,
        provisional: false,
        hidden: false,
        epoch: 0,
        other: None,
        last_seen: 0,
    }
}

/// A pod, its friend and the outside, each behind a link of the node, which forwards.
pub struct Node {
    pub programs: Inline,
    pub pod: Tap,
    pub friend: Tap,
    pub outside: Tap,
    sent: u32,
    pub pins: Pins,
}

impl Node {
    pub fn new() -> Self {
        Self::attached(Attach::Auto)
    }

    pub fn attached(how: Attach) -> Self {
        for interface in ["pod", "friend", "uplink"] {
            veth_named(interface, &format!("{interface}-far"));
            ip(&format!("link set {interface} address 02:00:00:00:00:20"));
        }
        for file in ["ip_forward", "conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/ipv4/{file}"), "1").unwrap();
        }
        for interface in ["all", "default", "pod", "friend", "uplink"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
        }
        for (address, interface) in [(POD, "pod"), (FRIEND, "friend"), (ELSEWHERE, "uplink")] {
            ip(&format!("route add {address}/32 dev {interface}"));
        }
        let pins = Pins::new();
        let mut programs = Inline::load(pins.dir(), 64).unwrap();
        programs.attach_by(how);
        programs.set_settings(&SETTINGS).unwrap();
        let index = |name| if_nametoindex(name).unwrap();
        let gateway = MacAddr(OURS);
        for (id, name, uplink) in [(POD_PORT, "pod", false), (UPLINK, "uplink", true)] {
            programs.set_tap(index(name), &PortOf { id, mac: None, gateway, uplink }).unwrap();
        }
        programs.set_pod_addresses(index("pod"), &[POD.into()]).unwrap();
        programs.set_pod_addresses(index("friend"), &[FRIEND.into()]).unwrap();
        programs.attach("pod", Hook::PodOut).unwrap();
        programs.attach("uplink", Hook::UplinkOut).unwrap();
        // What policy allows: the friend to the pod, and the pod to anywhere.
        let mut cache = programs.cache().unwrap();
        assert_eq!(cache.enter(&[flow(FRIEND, false), flow(ELSEWHERE, true)]), 0);
        let [pod, friend, outside] = ["pod-far", "friend-far", "uplink-far"].map(Tap::open);
        Self { programs, pod, friend, outside, sent: 0, pins }
    }

    /// A node that punts what its pod sends, too: so often at once for each way of a port.
    pub fn punting(burst: u32) -> Self {
        let mut node = Self::new();
        veth_named("punt0", "punt1");
        node.set_punts(burst, burst, SETTINGS.longest);
        let mac = Some(MacAddr(THEIRS));
        let tap = PortOf { id: POD_PORT, mac, gateway: MacAddr(OURS), uplink: false };
        node.programs.set_tap(if_nametoindex("pod").unwrap(), &tap).unwrap();
        node.programs.attach("pod", Hook::PodIn).unwrap();
        node
    }

    /// Bounds what is punted. A bucket that nobody has used is filled with what the time since the machine's start
    /// gives, a second's at most.
    pub fn set_punts(&mut self, punt_rate: u32, punt_burst: u32, longest: u32) {
        let punt_ifindex = if_nametoindex("punt0").unwrap();
        let settings = Settings { punt_ifindex, punt_rate, punt_burst, longest, ..SETTINGS };
        self.programs.set_settings(&settings).unwrap();
    }

    /// Waits until a figure of a port is as wanted.
    #[track_caller]
    pub fn counts(&self, port: u16, what: &str, wanted: impl Fn(&Counted) -> bool) -> Counted {
        let start = Instant::now();
        loop {
            let counted = self.programs.counted(port).unwrap();
            if wanted(&counted) {
                return counted;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {counted:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a datagram, and tells whether the node forwards it.
    pub fn forwards(
        &mut self,
        by: fn(&Self) -> &Tap,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        to: fn(&Self) -> &Tap,
    ) -> bool {
        let datagram = self.send(by, src, dst);
        arrives(to(self), &datagram)
    }

    /// Sends a segment of the connection of [`flow`] that the other end has opened, and tells whether the pod gets it.
    pub fn forwards_segment(&mut self, src: Ipv4Addr, flags: u8) -> bool {
        self.sent += 1;
        let mut segment = vec![0x10, 0, 0x20, 0];
        segment.extend(self.sent.to_be_bytes());
        segment.extend([0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.outside.send(&ethernet(THEIRS, OURS, IPV4, &ipv4(src, POD, TCP, &segment)));
        arrives(&self.pod, &segment)
    }

    /// Sends datagrams, and tells how many the node has forwarded of these and those before.
    pub fn forwarded(
        &mut self,
        by: fn(&Self) -> &Tap,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        to: fn(&Self) -> &Tap,
        count: usize,
    ) -> usize {
        for _ in 0..count {
            self.send(by, src, dst);
        }
        let patience = Duration::from_millis(20);
        let seen = std::iter::from_fn(|| to(self).receive(patience));
        seen.take(2 * count).filter(|frame| is_forwarded(frame)).count()
    }

    /// Sends a datagram that no other is like.
    fn send(&mut self, by: fn(&Self) -> &Tap, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        self.sent += 1;
        let datagram = udp(self.sent);
        by(self).send(&ethernet(THEIRS, OURS, IPV4, &ipv4(src, dst, UDP, &datagram)));
        datagram
    }
}

fn arrives(at: &Tap, payload: &[u8]) -> bool {
    let end = Instant::now() + Duration::from_millis(500);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        match at.receive(left) {
            Some(frame) if is_forwarded(&frame) && frame.ends_with(payload) => return true,
            _ => {}
        }
    }
    false
}

/// With one hop less: a raw socket sees what is sent as well.
fn is_forwarded(frame: &[u8]) -> bool {
    frame.get(22) == Some(&63)
}
