//! The state of one connection, as far as timeouts need it.

use flow::Protocol;
use packet::Kind;

use crate::clock::Span;

/// Which end of a connection sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The end that opened it.
    Initiator,
    /// The other end.
    Responder,
}

/// The state of one connection.
///
/// ```text
/// TCP   HalfOpen ── SYN+ACK ── Answered ── ACK ── Established ── FIN ── FinFrom… ── FIN ── TimeWait
///                                                      └──── RST ── ResetBy…
/// SCTP  HalfOpen ── answer ─── Answered ─── any ── Association
/// UDP   Unreplied ─ answer ─── Replied              (and every protocol without ports)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// TCP: the initiator's SYN has been seen. SCTP: its INIT.
    HalfOpen,
    /// The responder has answered; that the initiator is who it says is not known yet.
    Answered,
    /// TCP: opened by both ends, or met in mid-stream.
    Established,
    /// SCTP: the same.
    Association,
    /// TCP: the initiator has sent its FIN.
    FinFromInitiator,
    /// TCP: the responder has.
    FinFromResponder,
    /// TCP: both have.
    TimeWait,
    /// TCP: the initiator has reset it.
    ResetByInitiator,
    /// TCP: the responder has.
    ResetByResponder,
    /// A protocol without a handshake: only the initiator has spoken.
    Unreplied,
    /// The same: both ends have.
    Replied,
    /// An ICMP echo.
    Echo,
    /// Allowed once, and denied by a later policy.
    Denied,
}

/// How far a connection has come that the kernel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Nobody has answered yet.
    Opened,
    /// Both ends have spoken.
    Answered,
    /// One end has said that it ends, by FIN, RST or their like.
    Ending,
}

/// What a TCP segment is believed to say, besides its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standpoint {
    /// Its sequence number is where its sender must be by now, as far as is known.
    Plausible,
    /// It is not: whoever sent this does not follow the connection.
    Implausible,
}

impl State {
    /// Every state, at the index of its number.
    const ALL: [Self; 13] = [
        Self::HalfOpen,
        Self::Answered,
        Self::Established,
        Self::Association,
        Self::FinFromInitiator,
        Self::FinFromResponder,
        Self::TimeWait,
        Self::ResetByInitiator,
        Self::ResetByResponder,
        Self::Unreplied,
        Self::Replied,
        Self::Echo,
        Self::Denied,
    ];

    /// The state with this number (`state as u8`); `None` for a number of none.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The state of a connection that this packet opens.
    #[must_use]
    pub const fn opened_by(kind: Kind) -> Self {
        match kind {
            Kind::Tcp(flags) if flags.syn() && flags.ack() => Self::Answered,
            Kind::Tcp(flags) if flags.syn() => Self::HalfOpen,
            Kind::Tcp(_) => Self::Established,
            Kind::Sctp { init: true } => Self::HalfOpen,
            Kind::Sctp { .. } => Self::Association,
            Kind::IcmpEcho { .. } => Self::Echo,
            _ => Self::Unreplied,
        }
    }

    /// The state of a connection that the kernel carries, from the little that it tells.
    #[must_use]
    pub const fn carried(protocol: Protocol, course: Course) -> Self {
        match (protocol, course) {
            (Protocol::ICMP | Protocol::ICMPV6, _) => Self::Echo,
            (Protocol::TCP, Course::Ending) => Self::TimeWait,
            (Protocol::TCP, Course::Answered) => Self::Established,
            (Protocol::SCTP, Course::Answered) => Self::Association,
            (Protocol::TCP | Protocol::SCTP, _) => Self::HalfOpen,
            (_, Course::Opened) => Self::Unreplied,
            _ => Self::Replied,
        }
    }

    /// The state after one more packet.
    ///
    /// A FIN or RST that is not plausible changes nothing. A reset is not believed for ever either: who sent it
    /// truly has forgotten the connection, so when that end goes on with it, another has spoken in its name.
    #[must_use]
    pub const fn after(self, kind: Kind, sender: Sender, standpoint: Standpoint) -> Self {
        use Sender::{Initiator, Responder};
        let flags = match kind {
            Kind::Tcp(flags) => flags,
            Kind::Sctp { .. } => {
                return match (self, sender) {
                    (Self::HalfOpen, Responder) => Self::Answered,
                    (Self::Answered, Initiator) => Self::Association,
                    _ => self,
                };
            }
            _ => {
                return match (self, sender) {
                    (Self::Unreplied, Responder) => Self::Replied,
                    _ => self,
                };
            }
        };
        let believed = matches!(standpoint, Standpoint::Plausible);
        match (self, sender) {
            (Self::Denied, _) => self,
            (Self::TimeWait | Self::ResetByInitiator | Self::ResetByResponder, _) if flags.opens() => {
                Self::HalfOpen
            }
            (Self::TimeWait, _) => self,
            (_, Initiator) if flags.rst() && believed => Self::ResetByInitiator,
            (_, Responder) if flags.rst() && believed => Self::ResetByResponder,
            _ if flags.rst() => self,
            (Self::ResetByInitiator, Initiator) => Self::FinFromInitiator,
            (Self::ResetByResponder, Responder) => Self::FinFromResponder,
            (Self::ResetByInitiator | Self::ResetByResponder, _) => self,
            (Self::FinFromInitiator, Responder) | (Self::FinFromResponder, Initiator)
                if flags.fin() && believed =>
            {
                Self::TimeWait
            }
            (Self::FinFromInitiator | Self::FinFromResponder, _) => self,
            (_, Initiator) if flags.fin() && believed => Self::FinFromInitiator,
            (_, Responder) if flags.fin() && believed => Self::FinFromResponder,
            (Self::HalfOpen, Responder) if flags.ack() => Self::Answered,
            (Self::Answered, Initiator) if flags.ack() => Self::Established,
            _ => self,
        }
    }

    /// The queue in which the connection waits for its end.
    #[must_use]
    pub const fn queue(self) -> Queue {
        match self {
            Self::ResetByInitiator | Self::ResetByResponder => Queue::Reset,
            Self::TimeWait => Queue::TimeWait,
            Self::HalfOpen | Self::Answered => Queue::HalfOpen,
            Self::Unreplied => Queue::Unreplied,
            Self::Echo => Queue::Echo,
            Self::Replied => Queue::Replied,
            Self::FinFromInitiator | Self::FinFromResponder => Queue::Closing,
            Self::Association => Queue::Association,
            Self::Denied => Queue::Denied,
            Self::Established => Queue::Established,
        }
    }

    /// After what time without a packet the connection is forgotten.
    #[must_use]
    pub const fn timeout(self) -> Span {
        self.queue().timeout()
    }

    /// Whether the connection has ended, so that its ports may be used by another.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::ResetByInitiator | Self::ResetByResponder | Self::Denied)
    }
}

/// Connections with one timeout. The order is the order in which they are given up when there is no room: what
/// is over, then what nobody has answered; what comes behind [`Echo`](Self::Echo) is never given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Queue {
    /// Reset.
    Reset,
    /// Closed by both ends.
    TimeWait,
    /// Opened, not by both ends.
    HalfOpen,
    /// A datagram without an answer.
    Unreplied,
    /// An ICMP echo.
    Echo,
    /// Datagrams both ways.
    Replied,
    /// Closed by one end.
    Closing,
    /// SCTP.
    Association,
    /// Cut by policy.
    Denied,
    /// TCP, opened by both ends.
    Established,
}

impl Queue {
    /// All queues, in order.
    pub const ALL: [Self; 10] = [
        Self::Reset,
        Self::TimeWait,
        Self::HalfOpen,
        Self::Unreplied,
        Self::Echo,
        Self::Replied,
        Self::Closing,
        Self::Association,
        Self::Denied,
        Self::Established,
    ];

    /// The queues whose connections are given up when there is no room.
    pub const EXPENDABLE: &[Self] =
        &[Self::Reset, Self::TimeWait, Self::HalfOpen, Self::Unreplied, Self::Echo];

    /// After what time without a packet its connections are forgotten.
    #[must_use]
    pub const fn timeout(self) -> Span {
        match self {
            // Late segments still pass for a moment.
            Self::Reset => Span::seconds(10),
            // RFC 9293, section 3.6.1: two maximum segment lifetimes, of one minute each here.
            Self::TimeWait => Span::seconds(120),
            // Short, so that nobody fills the table with what nobody answers.
            Self::HalfOpen | Self::Unreplied => Span::seconds(30),
            // RFC 5508, REQ-1: "MUST NOT expire in less than 60 seconds".
            Self::Echo => Span::seconds(60),
            // RFC 4787, REQ-5: "MUST NOT expire in less than two minutes".
            Self::Replied => Span::seconds(120),
            // RFC 5382, REQ-5: the transitory idle-timeout "MUST NOT be less than 4 minutes".
            Self::Closing => Span::seconds(240),
            // An idle association sends a HEARTBEAT every 30 seconds and a retransmission timeout (RFC 9260,
            // section 8.3), which is one minute at most.
            Self::Association => Span::seconds(300),
            // Longer than any recovery window, in which its packets could open it from the other end.
            Self::Denied => Span::seconds(600),
            // RFC 5382, REQ-5: the established idle-timeout "MUST NOT be less than 2 hours 4 minutes".
            Self::Established => Span::seconds(2 * 3600 + 4 * 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use packet::TcpFlags;

    use super::Sender::{Initiator, Responder};
    use super::Standpoint::{Implausible, Plausible};
    use super::*;

    const SYN: u8 = TcpFlags::SYN;
    const ACK: u8 = TcpFlags::ACK;
    const FIN: u8 = TcpFlags::FIN;
    const RST: u8 = TcpFlags::RST;

    #[test]
    fn numbers_are_indexes() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            assert_eq!(State::from_number(number as u8), Some(state));
        }
        assert_eq!(State::from_number(State::ALL.len() as u8), None);
        for (number, queue) in Queue::ALL.into_iter().enumerate() {
            assert_eq!(queue as usize, number);
        }
        assert_eq!(Queue::EXPENDABLE, &Queue::ALL[..Queue::EXPENDABLE.len()]);
    }

    #[test]
    fn a_tcp_connection_from_its_opening_to_its_end() {
        use State::*;
        for (from, sender, flags, standpoint, to) in [
            (HalfOpen, Initiator, SYN, Plausible, HalfOpen),
            (HalfOpen, Initiator, ACK, Plausible, HalfOpen),
            (HalfOpen, Responder, SYN | ACK, Plausible, Answered),
            (Answered, Responder, ACK, Plausible, Answered),
            (Answered, Initiator, SYN, Plausible, Answered),
            (Answered, Initiator, ACK, Plausible, Established),
            (Established, Initiator, SYN, Plausible, Established),
            (Established, Initiator, FIN | ACK, Plausible, FinFromInitiator),
            (Established, Responder, FIN | ACK, Plausible, FinFromResponder),
            (Established, Responder, FIN | ACK, Implausible, Established),
            (FinFromInitiator, Initiator, FIN | ACK, Plausible, FinFromInitiator),
            (FinFromInitiator, Responder, ACK, Plausible, FinFromInitiator),
            (FinFromInitiator, Responder, FIN | ACK, Plausible, TimeWait),
            (FinFromInitiator, Responder, FIN | ACK, Implausible, FinFromInitiator),
            (FinFromResponder, Initiator, FIN | ACK, Plausible, TimeWait),
            (TimeWait, Responder, FIN | ACK, Plausible, TimeWait),
            (TimeWait, Initiator, RST, Plausible, TimeWait),
            (TimeWait, Initiator, SYN, Plausible, HalfOpen),
            (Established, Initiator, RST, Plausible, ResetByInitiator),
            (Established, Responder, RST | ACK, Plausible, ResetByResponder),
            (Established, Responder, RST, Implausible, Established),
            (HalfOpen, Responder, RST | ACK, Plausible, ResetByResponder),
            (FinFromInitiator, Responder, RST, Plausible, ResetByResponder),
            (ResetByResponder, Initiator, ACK, Plausible, ResetByResponder),
            (ResetByResponder, Responder, RST, Plausible, ResetByResponder),
            (ResetByResponder, Responder, ACK, Plausible, FinFromResponder),
            (ResetByInitiator, Initiator, ACK, Plausible, FinFromInitiator),
            (ResetByInitiator, Initiator, SYN, Plausible, HalfOpen),
            (Denied, Initiator, SYN, Plausible, Denied),
            (Denied, Responder, RST, Plausible, Denied),
        ] {
            let got = from.after(Kind::Tcp(TcpFlags(flags)), sender, standpoint);
            assert_eq!(got, to, "{from:?} {sender:?} {flags:#x} {standpoint:?}");
        }
    }

    #[test]
    fn the_others_have_been_answered_or_not() {
        use State::*;
        let after = |state: State, kind, sender| state.after(kind, sender, Plausible);
        assert_eq!(after(Unreplied, Kind::Udp, Initiator), Unreplied);
        assert_eq!(after(Unreplied, Kind::Udp, Responder), Replied);
        assert_eq!(after(Replied, Kind::Udp, Initiator), Replied);
        assert_eq!(after(Unreplied, Kind::Other, Responder), Replied);
        let sctp = |init| Kind::Sctp { init };
        assert_eq!(after(HalfOpen, sctp(true), Initiator), HalfOpen);
        assert_eq!(after(HalfOpen, sctp(false), Responder), Answered);
        assert_eq!(after(Answered, sctp(false), Responder), Answered);
        assert_eq!(after(Answered, sctp(false), Initiator), Association);
        assert_eq!(after(Echo, Kind::IcmpEcho { request: false }, Responder), Echo);
    }
}
