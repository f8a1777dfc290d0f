//! Services on the lab's node: the translation that kube-proxy would make the node's kernel do.
//!
//! The rules have the layout of kube-proxy's, so that packets meet hooks, priorities and marks as on a real node.
//! Its mark of what is to be masqueraded is 0x4000, in both forms.

mod iptables;
mod nftables;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use crate::error::Error;
use crate::links;
use crate::netns::Namespace;
use crate::node::Lab;
use crate::probe::Transport;
use crate::topology::{Family, Place};

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its cluster IP.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
    /// Addresses of pods, of the family of the cluster IP, and the ports that they serve. A connection gets one of
    /// them at random.
    pub backends: Vec<SocketAddr>,
    /// The port at which the node's own addresses stand for the Service, if they do. What comes by it is masqueraded,
    /// as with `externalTrafficPolicy: Cluster`.
    pub node_port: Option<u16>,
}

/// Which kube-proxy would have written the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesOf {
    /// That of mode `nftables`: tables `ip kube-proxy` and `ip6 kube-proxy`. Needs nft.
    Nftables,
    /// That of mode `iptables`. Needs iptables-nft-restore and ip6tables-nft-restore.
    Iptables,
}

impl RulesOf {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];
}

/// Which connections to a cluster IP go on under an address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Those that come back to the pod that opened them: it would not know the answers otherwise.
    Hairpins,
    /// All (`--masquerade-all`).
    All,
}

/// A line of a ruleset.
macro_rules! rule {
    ($rules:expr, $($words:tt)*) => {{
        let _infallible = writeln!($rules, $($words)*);
    }};
}
use rule;

impl Lab {
    /// Has the node translate connections to these Services, and to no others from before. The outside reaches their
    /// addresses by the node.
    ///
    /// # Errors
    /// Without the tools that write the rules, or when the kernel refuses them.
    pub fn serve(&self, services: &[Service], rules: RulesOf, masquerade: Masquerade) -> Result<(), Error> {
        for family in Family::ALL {
            let of_family = |service: &&Service| Family::of(&service.address) == family;
            let services: Vec<_> = services.iter().filter(of_family).collect();
            match rules {
                RulesOf::Nftables => {
                    feed(self.node(), "nft", &["-f", "-"], &nftables::rules(family, &services, masquerade))?;
                }
                RulesOf::Iptables => {
                    let program = match family {
                        Family::V4 => "iptables-nft-restore",
                        Family::V6 => "ip6tables-nft-restore",
                    };
                    feed(self.node(), program, &[], &iptables::rules(&services, masquerade))?;
                }
            }
        }
        let addresses: BTreeSet<IpAddr> = services.iter().map(|service| service.address).collect();
        let node = self.topology().addresses(&Place::Node);
        links::ip(self.outside(), &links::by_the_node(&Vec::from_iter(addresses), &node))
    }
}

/// Runs a program in a namespace, with a text as its input.
fn feed(namespace: &Namespace, program: &str, arguments: &[&str], text: &str) -> Result<(), Error> {
    let what = || format!("running {program} in {}", namespace.name());
    let run = || {
        let mut command = namespace.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()))?;
        child.wait_with_output()
    };
    let output = run().map_err(Error::io(what()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::Rules { what: what(), message })
        }
    }
}

/// The protocol as rules name it.
const fn protocol(service: &Service) -> &'static str {
    match service.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Sctp => "sctp",
    }
}
