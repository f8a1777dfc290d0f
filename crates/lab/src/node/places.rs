//! Where everything of a lab is, and how it is joined.

use std::thread;

use flow::MacAddr;
use policy::model::Pod;

use super::LabPod;
use crate::error::Error;
use crate::links::{self, HOST_SYSCTLS, NODE_SYSCTLS, PodLink};
use crate::netns::{Namespace, PREFIX};
use crate::topology::{Place, Topology};

/// The namespaces of a lab. Names, interfaces and MAC addresses follow from the topology alone.
pub(super) struct Places {
    pub(super) node: Namespace,
    pub(super) outside: Namespace,
    pub(super) pods: Vec<LabPod>,
}

impl Places {
    pub(super) fn with(
        topology: &Topology,
        get: &mut dyn FnMut(&str) -> Result<Namespace, Error>,
    ) -> Result<Self, Error> {
        let lab = &topology.name;
        let node = get(&format!("{PREFIX}{lab}-node"))?;
        let outside = get(&format!("{PREFIX}{lab}-outside"))?;
        let mut pods = Vec::new();
        for (number, pod) in (1_u16..).zip(local(topology)) {
            let [high, low] = number.to_be_bytes();
            pods.push(LabPod {
                // Kubernetes namespaces have no dots, so this can be read back.
                namespace: get(&format!("{PREFIX}{lab}-{}.{}", pod.name.namespace, pod.name.name))?,
                name: pod.name.clone(),
                interface: format!("{lab}-p{number}"),
                pod_mac: MacAddr([0x02, 0x70, 0x6f, 0x64, high, low]),
                host_mac: MacAddr([0x02, 0x68, 0x6f, 0x73, high, low]),
                addresses: pod.addresses.iter().map(|address| address.ip()).collect(),
            });
        }
        Ok(Self { node, outside, pods })
    }

    /// Makes links, addresses and routes.
    pub(super) fn join(&self, topology: &Topology) -> Result<(), Error> {
        let node_addresses = topology.addresses(&Place::Node);
        let outside_addresses: Vec<_> = topology
            .places()
            .iter()
            .filter(|place| match place {
                Place::Pod(name) => !self.pods.iter().any(|pod| pod.name == *name),
                Place::Outside(_) => true,
                Place::Node => false,
            })
            .flat_map(|place| topology.addresses(place))
            .collect();
        let pod_addresses: Vec<_> = self.pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        let pod_links: Vec<_> =
            (1..).zip(&self.pods).map(|(number, pod)| PodLink { number, ..pod.link() }).collect();

        links::sysctls(&self.node, NODE_SYSCTLS)?;
        links::sysctls(&self.outside, HOST_SYSCTLS)?;
        for pod in &self.pods {
            links::sysctls(&pod.namespace, HOST_SYSCTLS)?;
        }
        let uplink = uplink_name(topology);
        links::ip(&self.node, &links::node(&uplink, self.outside.name(), &node_addresses, &pod_links))?;
        links::ip(&self.outside, &links::outside(&outside_addresses, &node_addresses, &pod_addresses))?;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let share = self.pods.len().div_ceil(threads).max(1);
            let workers: Vec<_> = self
                .pods
                .chunks(share)
                .map(|pods| {
                    scope.spawn(move || {
                        pods.iter().try_for_each(|pod| links::ip(&pod.namespace, &links::pod(&pod.addresses)))
                    })
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let pods = self.pods.iter().map(|pod| &pod.namespace);
        pods.chain([&self.outside, &self.node]).try_for_each(links::wait_until_ready)
    }
}

pub(super) fn local(topology: &Topology) -> impl Iterator<Item = &Pod> {
    topology.pods.iter().filter(|pod| topology.is_local(pod))
}

pub(super) fn uplink_name(topology: &Topology) -> String {
    format!("{}-up", topology.name)
}
