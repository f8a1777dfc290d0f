//! The numbers of a TCP segment, and what they say for its flags.

use flow::Address;
use packet::{Kind, Packet};

use crate::connections::{Entry, Epochs};
use crate::state::{Sender, Standpoint, State};
use crate::wiring::PortId;

/// Sequence and acknowledgment number of a TCP segment (RFC 9293, section 3.1); zeros for anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
}

/// What is known of a packet beside what parsing it has told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The port by which it came.
    pub(crate) port: PortId,
    /// Where in its connection it stands.
    pub(crate) numbers: Numbers,
    /// Who opened the connection, where the packet does not say: its source is the node's, by translation.
    pub(crate) opener: Option<Address>,
}

impl Arrival {
    #[inline]
    pub(crate) fn of(port: PortId, frame: &[u8], packet: &Packet) -> Self {
        Self { port, numbers: Numbers::of(frame, packet), opener: None }
    }

    /// The same of a packet whose connection this address has opened.
    pub(crate) const fn opened_by(self, opener: Option<Address>) -> Self {
        Self { opener, ..self }
    }
}

/// How far ahead of what was last seen acknowledged a FIN or RST may be: what was sent since, which is looked at
/// once in a tick at least, and what is on its way.
const AHEAD: u32 = 1 << 26;
/// How far behind: segments overtake each other.
const BEHIND: u32 = 1 << 16;

impl Numbers {
    /// The numbers of the packet in `frame`.
    #[inline]
    pub(crate) fn of(frame: &[u8], packet: &Packet) -> Self {
        let offset = usize::from(packet.l4_offset);
        match (packet.kind, frame.get(offset + 4..).and_then(|numbers| numbers.first_chunk())) {
            (Kind::Tcp(_), Some(&[s0, s1, s2, s3, a0, a1, a2, a3])) => Self {
                sequence: u32::from_be_bytes([s0, s1, s2, s3]),
                acknowledgment: u32::from_be_bytes([a0, a1, a2, a3]),
            },
            _ => Self::default(),
        }
    }

    /// What the sender of this segment has acknowledged, if it says so.
    #[inline]
    pub(crate) const fn acknowledged(&self, kind: Kind) -> Option<u32> {
        match kind {
            Kind::Tcp(flags) if flags.ack() => Some(self.acknowledgment),
            _ => None,
        }
    }

    /// The connection after one more packet, which has these numbers.
    pub(crate) const fn follow(&self, entry: &Entry, kind: Kind, sender: Sender) -> Entry {
        let standpoint = self.standpoint(entry, kind, sender);
        let state = entry.state.after(kind, sender, standpoint);
        let mut after = Entry { state, ..*entry };
        match (self.acknowledged(kind), standpoint, state) {
            (Some(number), Standpoint::Plausible, _) => after.acknowledged[sender as usize] = number,
            (None, _, State::HalfOpen) => after.acknowledged = self.after_a_syn(),
            _ => {}
        }
        after
    }

    /// A connection that this packet opens, sent by one of its ends.
    pub(crate) const fn open(&self, kind: Kind, sender: Sender, epochs: Epochs, opener: u16) -> Entry {
        let mut acknowledged = self.after_a_syn();
        if let Some(number) = self.acknowledged(kind) {
            acknowledged = [0; 2];
            acknowledged[sender as usize] = number;
        }
        Entry { state: State::opened_by(kind), epochs, acknowledged, opener }
    }

    /// What the answer to a SYN with these numbers will acknowledge (RFC 9293, section 3.5).
    const fn after_a_syn(&self) -> [u32; 2] {
        let mut acknowledged = [0; 2];
        acknowledged[Sender::Responder as usize] = self.sequence.wrapping_add(1);
        acknowledged
    }

    /// Whether a FIN or RST comes from where its sender must be: near what the other end has acknowledged last
    /// (RFC 9293, section 3.10.7.4; RFC 5961, section 3.2). The end itself decides exactly; here it is only to
    /// be prevented that a stranger ends a connection for us that lives on for its ends.
    const fn standpoint(&self, entry: &Entry, kind: Kind, sender: Sender) -> Standpoint {
        let Kind::Tcp(flags) = kind else { return Standpoint::Plausible };
        if !(flags.rst() || flags.fin()) {
            return Standpoint::Plausible;
        }
        let expected = match sender {
            Sender::Initiator => entry.acknowledged[Sender::Responder as usize],
            Sender::Responder => entry.acknowledged[Sender::Initiator as usize],
        };
        let plausible = match (entry.state, sender) {
            // It answers the SYN or nothing: "the reset is valid if its ACK field acknowledges the SYN".
            (State::HalfOpen, Sender::Responder) => {
                flags.ack() && self.acknowledgment == entry.acknowledged[Sender::Responder as usize]
            }
            _ => expected == 0 || self.sequence.wrapping_sub(expected).wrapping_add(BEHIND) < AHEAD + BEHIND,
        };
        if plausible { Standpoint::Plausible } else { Standpoint::Implausible }
    }
}
