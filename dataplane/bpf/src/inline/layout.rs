//! What the programs of inline mode know and count, in the byte layout of the C program.

use flow::{Address, FlowKey, MacAddr, Protocol, Verdict};

/// One port as the tc programs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Its number in keys and tags; not 0.
    pub id: u16,
    /// The MAC address of the pod behind it, once it is known.
    pub mac: Option<MacAddr>,
    /// The MAC address of our side, which the pod sends to.
    pub gateway: MacAddr,
    /// Whether it leads to the rest of the network.
    pub uplink: bool,
}

pub(crate) const TAP_BYTES: usize = 20;

impl Tap {
    /// `struct tap` of this interface.
    pub(crate) fn to_bytes(self, ifindex: u32) -> [u8; TAP_BYTES] {
        let mut bytes = [0; TAP_BYTES];
        bytes[0..4].copy_from_slice(&ifindex.to_ne_bytes());
        bytes[4..10].copy_from_slice(&self.mac.unwrap_or(MacAddr([0; 6])).0);
        bytes[10..16].copy_from_slice(&self.gateway.0);
        bytes[16..18].copy_from_slice(&self.id.to_ne_bytes());
        bytes[18] = u8::from(self.mac.is_some());
        bytes[19] = u8::from(self.uplink);
        bytes
    }

    pub(crate) fn of(bytes: &[u8; TAP_BYTES]) -> Self {
        let mac = |at: usize| MacAddr(std::array::from_fn(|i| bytes[at + i]));
        Self {
            id: u16::from_ne_bytes([bytes[16], bytes[17]]),
            mac: (bytes[18] != 0).then(|| mac(4)),
            gateway: mac(10),
            uplink: bytes[19] != 0,
        }
    }
}

/// What holds for all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The secret that approvals are made with.
    pub key: [u64; 2],
    /// The mark of an approved packet on its way back into a port; not 0.
    pub mark: u32,
    /// The index of the punt pair's near end.
    pub punt_ifindex: u32,
    /// Punts in a second: of what a port's pod sends, of what goes to it, and of what its pod sends out of the node.
    pub punt_rate: u32,
    /// The same at once.
    pub punt_burst: u32,
    /// When it has passed, on the coarse monotonic clock in nanoseconds, what would be punted passes; 0: never.
    pub open_after: u64,
    /// The longest frame that the punt pair carries, with its Ethernet header.
    pub longest: u32,
}

pub(crate) const SETTINGS_BYTES: usize = 48;

impl Settings {
    pub(crate) fn to_bytes(self) -> [u8; SETTINGS_BYTES] {
        let mut bytes = [0; SETTINGS_BYTES];
        bytes[0..8].copy_from_slice(&self.key[0].to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.key[1].to_ne_bytes());
        for (at, word) in [
            (16, self.mark),
            (20, self.punt_ifindex),
            (24, self.punt_rate),
            (28, self.punt_burst),
            (40, self.longest),
        ] {
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes[32..40].copy_from_slice(&self.open_after.to_ne_bytes());
        bytes
    }
}

/// What the end of a frame shows, that `reinject` may take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approval {
    /// One more than that of the frame before.
    pub number: u64,
    /// The frame's VLAN tag: port and direction.
    pub tag: u16,
    /// Whether it is judged once more where the address behind a service can be seen.
    pub provisional: bool,
}

impl Approval {
    /// How long it is, in bytes.
    pub const BYTES: usize = 16;
    const NUMBER_BITS: u32 = 47;

    /// `struct approval`, proven with the secret of the [`Settings`].
    #[must_use]
    pub fn to_bytes(self, key: [u64; 2]) -> [u8; Self::BYTES] {
        let what = u64::from(self.tag) << (Self::NUMBER_BITS + 1)
            | u64::from(self.provisional) << Self::NUMBER_BITS
            | self.number & ((1 << Self::NUMBER_BITS) - 1);
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&what.to_ne_bytes());
        bytes[8..].copy_from_slice(&siphash(key, what).to_ne_bytes());
        bytes
    }
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of eight bytes, as in the C program.
const fn siphash(key: [u64; 2], word: u64) -> u64 {
    const LENGTH: u64 = 8 << 56;
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573 ^ word,
    ];
    state = round(round(state));
    state[0] ^= word;
    state[3] ^= LENGTH;
    state = round(round(state));
    state[0] ^= LENGTH;
    state[2] ^= 0xff;
    state = round(round(round(round(state))));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

/// One connection as the kernel knows it, for one of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedFlow {
    /// The number of the pod's port.
    pub port: u16,
    /// From the pod to the other end, whoever opened it.
    pub key: FlowKey,
    /// What becomes of its packets.
    pub verdict: Verdict,
    /// Whether the pod has opened it.
    pub pod_opened: bool,
    /// Whether a FIN or RST was seen.
    pub ending: bool,
    /// Whether the end that did not open it has spoken.
    pub answered: bool,
    /// Whether it is judged once more where the address behind a service can be seen.
    pub provisional: bool,
    /// Whether an address of the node hides who is behind it: it counts only while connection tracking cannot have
    /// forgotten, and for nothing that opens a connection.
    pub hidden: bool,
    /// The port's epoch under which it was judged.
    pub epoch: u32,
    /// The port of the pod at the other end and its epoch, where that counts as well.
    pub other: Option<(u16, u32)>,
    /// When a packet was seen last, to a second: nanoseconds of the coarse monotonic clock.
    pub last_seen: u64,
}

pub(crate) const KEY4_BYTES: usize = 16;
pub(crate) const KEY6_BYTES: usize = 40;
pub(crate) const VERDICT_BYTES: usize = 32;

const ALLOW: u8 = 1;
const DENY: u8 = 2;
const POD_OPENED: u8 = 1;
const ENDING: u8 = 2;
const ANSWERED: u8 = 4;
const PROVISIONAL: u8 = 8;
const HIDDEN: u8 = 16;

impl CachedFlow {
    /// Whether its addresses are IPv4 addresses.
    pub(crate) const fn is_v4(&self) -> bool {
        self.key.src.address.is_v4()
    }

    /// `struct flow4` or `struct flow6`, appended.
    pub(crate) fn append_key(&self, bytes: &mut Vec<u8>) {
        let skipped = if self.is_v4() { 12 } else { 0 };
        for end in [self.key.src, self.key.dst] {
            bytes.extend_from_slice(&end.address.octets()[skipped..]);
        }
        for end in [self.key.src, self.key.dst] {
            bytes.extend_from_slice(&end.port.to_be_bytes());
        }
        bytes.extend_from_slice(&self.port.to_ne_bytes());
        bytes.extend_from_slice(&[self.key.protocol.0, 0]);
    }

    /// `struct verdict`, appended.
    pub(crate) fn append_verdict(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.epoch.to_ne_bytes());
        bytes.push(if self.verdict == Verdict::Allow { ALLOW } else { DENY });
        let flags = [
            (self.pod_opened, POD_OPENED),
            (self.ending, ENDING),
            (self.answered, ANSWERED),
            (self.provisional, PROVISIONAL),
            (self.hidden, HIDDEN),
        ];
        bytes.push(flags.iter().filter(|(holds, _)| *holds).map(|(_, flag)| flag).sum());
        let (other, other_epoch) = self.other.unwrap_or_default();
        bytes.extend_from_slice(&other.to_ne_bytes());
        bytes.extend_from_slice(&self.last_seen.to_ne_bytes());
        // Whether its addresses are true, the programs find out.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&other_epoch.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }

    /// Reads an entry back; `None` for bytes of other lengths.
    pub(crate) fn read(key: &[u8], value: &[u8]) -> Option<Self> {
        let long = match key.len() {
            KEY4_BYTES => 4,
            KEY6_BYTES => 16,
            _ => return None,
        };
        let address = |at: usize| -> Option<Address> {
            match long {
                4 => Some(Address::v4(key[at..at + 4].try_into().ok()?)),
                _ => Some(Address::v6(key[at..at + 16].try_into().ok()?)),
            }
        };
        let rest = &key[2 * long..];
        let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        let value: &[u8; VERDICT_BYTES] = value.try_into().ok()?;
        let other = u16::from_ne_bytes([value[6], value[7]]);
        let other_epoch = u32::from_ne_bytes(value[24..28].try_into().ok()?);
        Some(Self {
            port: u16::from_ne_bytes([rest[4], rest[5]]),
            key: FlowKey::new(Protocol(rest[6]), (address(0)?, port(0)), (address(long)?, port(2))),
            verdict: if value[4] == ALLOW { Verdict::Allow } else { Verdict::Deny },
            pod_opened: value[5] & POD_OPENED != 0,
            ending: value[5] & ENDING != 0,
            answered: value[5] & ANSWERED != 0,
            provisional: value[5] & PROVISIONAL != 0,
            hidden: value[5] & HIDDEN != 0,
            epoch: u32::from_ne_bytes(value[0..4].try_into().ok()?),
            other: (other != 0).then_some((other, other_epoch)),
            last_seen: u64::from_ne_bytes(value[8..16].try_into().ok()?),
        })
    }
}

/// Declares the counters once, in the order of the C program.
macro_rules! counted {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// How many packets a port's programs met, by what became of them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counted {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counted {
            /// The name of each, and what is counted there.
            pub const MEANINGS: [(&'static str, &'static str); COUNTED] =
                [$((stringify!($name), concat!($($doc),*).trim_ascii())),*];

            const fn of(words: [u64; COUNTED]) -> Self {
                let [$($name),*] = words;
                Self { $($name),* }
            }

            /// Each with its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                let Self { $($name),* } = *self;
                Self::MEANINGS.map(|(name, _)| name).into_iter().zip([$($name),*])
            }
        }
    };
}

counted! {
    /// Passed by a verdict.
    hit,
    /// Dropped by a verdict.
    denied,
    /// Without a verdict.
    missed,
    /// Whose verdict was older than the port's epoch.
    stale,
    /// Given to the worker.
    punted,
    /// Dropped, because the port has punted too much.
    limited,
    /// That the worker gave back.
    reinjected,
    /// That came back into their port.
    approved,
    /// On the punt pair, without a port's tag or the worker's approval, dropped.
    forged,
    /// Between a pod and its node, or itself.
    own,
    /// With a VLAN tag, dropped.
    tagged,
    /// Without whole headers, dropped.
    malformed,
    /// By a port that nobody has declared, dropped.
    unknown_port,
    /// Later fragments that went the way of their first.
    fragment_hit,
    /// Under a local pod's address, but not by that pod's port, dropped.
    spoofed,
    /// Longer than the punt pair carries, or without room for its tag, and without a verdict, dropped.
    too_long,
}

const COUNTED: usize = 16;
pub(crate) const COUNTED_BYTES: usize = 8 * COUNTED;

impl Counted {
    /// Packets that the programs dropped, whatever the reason.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        let Self { denied, limited, forged, tagged, malformed, unknown_port, spoofed, too_long, .. } = *self;
        denied + limited + forged + tagged + malformed + unknown_port + spoofed + too_long
    }

    /// The sum over all CPUs of `struct counts`.
    pub(crate) fn sum<'a>(cpus: impl IntoIterator<Item = &'a [u8; COUNTED_BYTES]>) -> Self {
        let mut words = [0; COUNTED];
        for cpu in cpus {
            for (word, bytes) in words.iter_mut().zip(cpu.as_chunks::<8>().0) {
                *word += u64::from_ne_bytes(*bytes);
            }
        }
        Self::of(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(local: &str, remote: &str) -> CachedFlow {
        let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
        CachedFlow {
            port: 7,
            key: FlowKey::new(Protocol::TCP, (ip(local), 4000), (ip(remote), 80)),
            verdict: Verdict::Allow,
            pod_opened: true,
            ending: false,
            answered: true,
            provisional: false,
            hidden: false,
            epoch: 0xfffffff0,
            other: Some((9, 0xfffffff1)),
            last_seen: 1 << 40,
        }
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        for (local, remote, long) in
            [("10.0.0.1", "10.0.0.2", KEY4_BYTES), ("fd00::1", "2001:db8::2", KEY6_BYTES)]
        {
            for flow in [
                flow(local, remote),
                CachedFlow {
                    verdict: Verdict::Deny,
                    pod_opened: false,
                    ending: true,
                    hidden: true,
                    other: None,
                    ..flow(local, remote)
                },
            ] {
                let (mut key, mut value) = (Vec::new(), Vec::new());
                flow.append_key(&mut key);
                flow.append_verdict(&mut value);
                assert_eq!((key.len(), value.len()), (long, VERDICT_BYTES));
                assert_eq!(CachedFlow::read(&key, &value), Some(flow));
            }
        }
        assert_eq!(CachedFlow::read(&[0; 17], &[0; VERDICT_BYTES]), None);
    }

    #[test]
    fn a_tap_is_read_as_it_was_written() {
        let tap =
            Tap { id: 513, mac: Some(MacAddr([2, 0, 0, 0, 0, 1])), gateway: MacAddr([2; 6]), uplink: false };
        assert_eq!(Tap::of(&tap.to_bytes(3)), tap);
        let unknown = Tap { mac: None, uplink: true, ..tap };
        assert_eq!(Tap::of(&unknown.to_bytes(3)), unknown);
    }

    #[test]
    fn siphash_is_the_reference() {
        // Of the authors' vectors: the key 00 01 .. 0f, the message 00 .. 07.
        let key = [0x0706050403020100, 0x0f0e0d0c0b0a0908];
        assert_eq!(siphash(key, 0x0706050403020100), 0x93f5f5799a932462);
    }

    #[test]
    fn counters_are_summed_over_cpus() {
        let mut cpu = [0; COUNTED_BYTES];
        cpu[0..8].copy_from_slice(&1_u64.to_ne_bytes());
        cpu[104..112].copy_from_slice(&20_u64.to_ne_bytes());
        let sum = Counted::sum([&cpu, &cpu]);
        assert_eq!((sum.hit, sum.fragment_hit), (2, 40));
        assert_eq!(sum.each().last(), Some(("too_long", 0)));
    }
}
