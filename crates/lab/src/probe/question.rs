//! A question, and what may come of it.

use std::fmt;
use std::io;
use std::net::IpAddr;

use flow::Protocol;
use nix::errno::Errno;

use crate::topology::Place;

/// TCP, UDP or SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP: a connection, a question and its answer.
    Tcp,
    /// UDP: a datagram and its answer.
    Udp,
    /// SCTP: an INIT and its INIT ACK, made by hand; no association comes of it.
    Sctp,
}

impl Transport {
    /// All.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As policy and packets have it.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            Self::Udp => Protocol::UDP,
            Self::Sctp => Protocol::SCTP,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Who asks, from its own address of the family of `to`.
    pub from: Place,
    /// The address that is asked.
    pub to: IpAddr,
    /// The port that is asked.
    pub port: u16,
    /// How.
    pub transport: Transport,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The answer came, from the place of this name.
    Reached(String),
    /// Nothing came.
    TimedOut,
    /// Somebody said no: a TCP reset, an SCTP abort, or ICMP port or protocol unreachable.
    Refused,
    /// The network said no: no route, or ICMP host or network unreachable or prohibited.
    Unreachable,
}

impl Outcome {
    /// Whether it was this place that answered.
    #[must_use]
    pub fn reached(&self, place: &Place) -> bool {
        matches!(self, Self::Reached(identity) if *identity == place.to_string())
    }

    /// What an error of a socket means, `None` when it says nothing about the network.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error().map(Errno::from_raw)? {
            // The last two are ICMP's protocol unreachable and ICMPv6's unrecognized next header.
            Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EPIPE | Errno::ENOPROTOOPT | Errno::EPROTO => {
                Some(Self::Refused)
            }
            Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES | Errno::EPERM => {
                Some(Self::Unreachable)
            }
            Errno::ETIMEDOUT => Some(Self::TimedOut),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached(identity) => write!(f, "reached {identity}"),
            Self::TimedOut => f.pad("timed out"),
            Self::Refused => f.pad("refused"),
            Self::Unreachable => f.pad("unreachable"),
        }
    }
}
