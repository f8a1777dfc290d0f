//! A node with pods in network namespaces of this machine, and probes between them.
//!
//! Tests, demonstration and benchmarks try the product on real packets here, and nothing else makes namespaces.
//! Needs root and iproute2. Everything lives inside the lab's own namespaces; the machine's interfaces, sysctls
//! and nftables are never touched, and no interface is ever made in the machine's own namespace.
//!
//! ```text
//!  pod x/a  (namespace pcl-NAME-x.a)        node  (pcl-NAME-node)                 outside  (pcl-NAME-outside)
//!  eth0 10.1.0.1/32, fd10:1::1/128 ──── NAME-p1  169.254.1.1, fe80::1
//!  default via 169.254.1.1, fe80::1          │ ip_forward=1, a route to each pod
//!  pod x/b                                   │
//!  eth0 ────────────────────────────── NAME-p2
//!                                       NAME-up  the node's addresses ───────── eth0  169.254.2.1, fe80::2
//!                                            default via 169.254.2.1, fe80::2        lo  the outside hosts
//! ```
//!
//! Without the product the node's kernel forwards everything between all of them: what a test does not see
//! arrive was stopped by the product. Offloads of the pods stay as they are, so that their TCP and UDP checksums
//! are partial, as those of real pods.
//!
//! [`Topology`] says who is there; [`Lab::up`] builds it; [`Servers`] answer, behind a [`Service`] as well;
//! [`probe_all`] asks; [`Stream`] and [`Flood`] send; [`RawPort`] forges; [`Matrix`] shows. [`Lab`] takes itself down
//! when it is dropped, and a lab whose process was killed is removed by the next one that comes up.

mod error;
mod netns;
mod state;
mod manifests;
mod topology;
mod links;
mod node;
mod sctp;
mod servers;
mod probe;
mod services;
mod stream;
mod flood;
mod raw;
mod matrix;

pub use error::Error;
pub use flood::{Flood, FloodReport};
pub use manifests::manifests;
pub use matrix::{Mark, Matrix};
pub use netns::{Namespace, namespace_path, namespaces};
pub use node::{Lab, LabPod};
pub use probe::{Connection, Outcome, Probe, Transport, probe, probe_all};
pub use raw::{RawPort, packet_socket};
pub use servers::Servers;
pub use services::{Masquerade, RulesOf, Service};
pub use stream::{Stream, StreamPlan, StreamReport};
pub use topology::{Family, Host, Place, Topology};
