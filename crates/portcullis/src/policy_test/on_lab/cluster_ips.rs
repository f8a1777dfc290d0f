//! A Service for each pod of a lab: connections to the pod go to its cluster IP, and the node translates them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use ipnet::{Ipv4Net, Ipv6Net};
use lab::{Lab, Masquerade, RulesOf, Service, Topology, Transport};

/// The networks of cluster IPs.
const V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
const V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0), 112);

/// The Services of a lab.
#[derive(Debug)]
pub(super) struct ClusterIps {
    rules: RulesOf,
    /// By the pods' addresses.
    addresses: BTreeMap<IpAddr, IpAddr>,
    /// Addresses and ports of pods whose Services the node knows.
    served: BTreeSet<(SocketAddr, Transport)>,
}

impl ClusterIps {
    /// One for each address of each pod; connections are translated once they are [served](Self::serve).
    pub(super) fn new(rules: RulesOf, topology: &Topology) -> Self {
        let pods = topology.pods.iter().flat_map(|pod| &pod.addresses).map(|address| address.ip());
        let addresses = pods.zip(1..).map(|(pod, number)| (pod, cluster_ip(pod, number))).collect();
        Self { rules, addresses, served: BTreeSet::new() }
    }

    /// What the agent has to know of them: lines of its configuration.
    pub(super) fn settings() -> String {
        format!("services: [{V4}, \"{V6}\"]\n")
    }

    /// Whether an address may be that of a Service, and so is nobody's own.
    pub(super) fn take(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => V4.contains(&address),
            IpAddr::V6(address) => V6.contains(&address),
        }
    }

    /// Where connections to this address go: to the Service of the pod that has it.
    pub(super) fn stand_for(&self, address: IpAddr) -> IpAddr {
        self.addresses.get(&address).copied().unwrap_or(address)
    }

    /// Has the node translate connections to these addresses of pods, besides those of before.
    pub(super) fn serve(
        &mut self,
        lab: &Lab,
        asked: impl Iterator<Item = (SocketAddr, Transport)>,
    ) -> Result<()> {
        let before = self.served.len();
        self.served.extend(asked.filter(|(backend, _)| self.addresses.contains_key(&backend.ip())));
        if self.served.len() == before {
            return Ok(());
        }
        let services = self.served.iter().map(|&(backend, transport)| Service {
            address: self.stand_for(backend.ip()),
            port: backend.port(),
            transport,
            backends: vec![backend],
            node_port: None,
        });
        Ok(lab.serve(&services.collect::<Vec<_>>(), self.rules, Masquerade::Hairpins)?)
    }
}

/// The cluster IP with this number, of the family of `pod`.
fn cluster_ip(pod: IpAddr, number: u16) -> IpAddr {
    match pod {
        IpAddr::V4(_) => Ipv4Addr::from_bits(V4.network().to_bits() | u32::from(number)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(V6.network().to_bits() | u128::from(number)).into(),
    }
}
