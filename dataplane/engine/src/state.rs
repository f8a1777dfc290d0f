//! The state of one connection, as far as timeouts need it.

use packet::Kind;

/// Which end of a connection sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The end that opened it.
    Initiator,
    /// The other end.
    Responder,
}

/// The state of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// TCP or SCTP: opened, not answered.
    HalfOpen,
    /// TCP or SCTP: answered.
    Established,
    /// TCP: one end has sent its FIN.
    Closing(FinFrom),
    /// TCP: both ends have, or one has reset it.
    Over,
    /// A protocol without a handshake.
    Datagram,
    /// An ICMP echo.
    Echo,
    /// Allowed once, and denied by a later policy.
    Denied,
}

/// Which end has sent its FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FinFrom(Sender);

const SECOND: u64 = 1000;

impl State {
    /// The state of a connection that this packet opens.
    pub(crate) const fn opened_by(kind: Kind) -> Self {
        match kind {
            Kind::Tcp(flags) if flags.syn() => Self::HalfOpen,
            Kind::Sctp { init: true } => Self::HalfOpen,
            Kind::Tcp(_) | Kind::Sctp { .. } => Self::Established,
            Kind::IcmpEcho { .. } => Self::Echo,
            _ => Self::Datagram,
        }
    }

    /// The state after one more packet.
    pub(crate) fn after(self, kind: Kind, sender: Sender) -> Self {
        match (self, kind) {
            (Self::Over, Kind::Tcp(flags)) if flags.syn() && !flags.ack() => Self::HalfOpen,
            (Self::Over | Self::Denied, _) => self,
            (_, Kind::Tcp(flags)) if flags.rst() => Self::Over,
            (Self::Closing(FinFrom(first)), Kind::Tcp(flags)) if flags.fin() && first != sender => Self::Over,
            (Self::Closing(_), Kind::Tcp(_)) => self,
            (_, Kind::Tcp(flags)) if flags.fin() => Self::Closing(FinFrom(sender)),
            (Self::HalfOpen, Kind::Tcp(flags)) if sender == Sender::Responder && flags.ack() => {
                Self::Established
            }
            (Self::HalfOpen, Kind::Sctp { .. }) if sender == Sender::Responder => Self::Established,
            _ => self,
        }
    }

    /// After how many milliseconds without a packet the connection is forgotten.
    pub(crate) const fn timeout(self) -> u64 {
        match self {
            // Short, so that half-open connections cannot pile up.
            Self::HalfOpen => 30 * SECOND,
            // RFC 5382, REQ-5: the established idle-timeout "MUST NOT be less than 2 hours 4 minutes".
            Self::Established => 2 * 3600 * SECOND + 4 * 60 * SECOND,
            // RFC 5382, REQ-5: the transitory idle-timeout "MUST NOT be less than 4 minutes".
            Self::Closing(_) => 240 * SECOND,
            // Longer than any recovery window, in which its packets could open it from the other end.
            Self::Denied => 600 * SECOND,
            // Late segments of a closed connection still pass for a moment.
            Self::Over => 10 * SECOND,
            // RFC 4787, REQ-5: "MUST NOT expire in less than two minutes".
            Self::Datagram => 120 * SECOND,
            // RFC 5508, REQ-1: "MUST NOT expire in less than 60 seconds".
            Self::Echo => 60 * SECOND,
        }
    }

    /// Whether the connection has ended, so that its ports may be used by another.
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::Over | Self::Denied)
    }
}
