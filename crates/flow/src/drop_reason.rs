//! Why a frame went no further.

use core::fmt;

macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $sentence:literal, $hint:literal;)*) => {
        /// Why a frame went no further. Closed: every dropped frame counts under exactly one of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $sentence] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of the packet's path.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The stable name: a metric label, a JSON value, a word in the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, in one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What an operator can do about it.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }
    };
}

drop_reasons! {
    // parse
    Truncated, "truncated",
        "The frame ends before the headers that it announces.",
        "A sender or a driver cuts frames; capture on the port and compare lengths.";
    VlanTagged, "vlan_tagged",
        "The frame carries a VLAN tag.",
        "A tag could hide a packet from policy; if only priority tags (VLAN 0) are meant, `vlan: strip0` takes them off.";
    UnknownEthertype, "unknown_ethertype",
        "The frame is neither IPv4 nor IPv6 (802.3 length frames count here too).",
        "Only IP and the ARP of a port's own pod pass.";
    IpInvalid, "ip_invalid",
        "The IP header contradicts itself or the frame, has a wrong checksum, or asks for what is never forwarded.",
        "Source routes and IPv4-mapped addresses count here too; look for the process that sends them.";
    Ipv6ExtInvalid, "ipv6_ext_invalid",
        "The chain of IPv6 extension headers is too long, out of order, truncated or unknown.",
        "A rule is never evaluated on a header that is not proven to be layer 4; jumbograms count here too.";
    FragmentInvalid, "fragment_invalid",
        "The fragment contradicts itself, or is of a packet that nobody fragments.",
        "Ends beyond 65,535 bytes, lengths that are no multiple of eight, fragmented ICMP errors and neighbour discovery.";
    FragmentTiny, "fragment_tiny",
        "The first fragment is shorter than 80 bytes, or a later one begins before byte 80: where headers are.",
        "No network has so small an MTU: somebody tries to hide or to rewrite a layer-4 header.";
    L4Truncated, "l4_truncated",
        "The layer-4 header is not complete in the frame.",
        "No correct sender splits a layer-4 header.";
    // port guard
    MacUnknown, "mac_unknown",
        "The pod's MAC address is not known yet; its first valid ARP or neighbour discovery pins it.",
        "Name the MAC in the configuration if the pod sends before it resolves its gateway.";
    SpoofedSource, "spoofed_source",
        "The source address or source MAC is not one that may enter through this port.",
        "A pod sends under an address that is not its own, or an uplink delivers a local address.";
    NeighbourSpoofed, "neighbour_spoofed",
        "An ARP or neighbour discovery message speaks for somebody else, or is one that pods may not send.",
        "A pod claims another's address or plays router; look at what runs in it.";
    NotForUs, "not_for_us",
        "The destination MAC is not that of the port by which the frame came.",
        "The pod's neighbour entry for its gateway is wrong.";
    Multicast, "multicast",
        "The destination is a multicast or broadcast address.",
        "Only unicast is forwarded.";
    // first fragments
    FragmentUnmatched, "fragment_unmatched",
        "A later fragment whose first one has not come, was not allowed, or came too long ago.",
        "Only the first fragment has ports: look why it was dropped, or whether the network reorders.";
    FragmentOverlap, "fragment_overlap",
        "The fragment overlaps others of its datagram, contradicts its length, or leaves too many gaps.",
        "No correct sender does that; the rest of the datagram is dropped with it.";
    // flow table and policy table
    NoTable, "no_table",
        "No policy table, or no wiring made from it, has been published yet.",
        "The manifests have not been loaded without an error; see the log for file, line and column.";
    UnknownPod, "unknown_pod",
        "The port's pod is not in the manifests, or owns no address.",
        "Compare `ports[].pod` with the Pod objects: name, namespace, phase and podIPs.";
    NoFlow, "no_flow",
        "A packet in mid-stream (a TCP segment, an echo reply) belongs to no known connection.",
        "The connection outlived its timeout or a restart; the application will open a new one.";
    IcmpUnrelated, "icmp_unrelated",
        "An ICMP error quotes no allowed connection, or does not come from and go to its ends.",
        "Harmless alone; many of them mean that somebody probes.";
    MasqueradedSource, "masqueraded_source",
        "The packet goes under another address than its sender's, by translation, and the node's connection tracking does not know who sent it.",
        "Let connection tracking see what translates it, as it does with kube-proxy, or keep the client's address (`externalTrafficPolicy: Local`).";
    ServiceUntranslated, "service_untranslated",
        "A packet for a service is about to leave under the service's own address.",
        "Nothing on this node translates it: the service has no endpoints, or kube-proxy does not run.";
    DefaultDeny, "default_deny",
        "A policy isolates the pod, and no rule allows the connection.",
        "Compare the policies that select the pods of both ends with the connection.";
    FlowTableFull, "flow_table_full",
        "The flow table has no room for a new connection.",
        "Raise `flows.capacity`, or find who opens so many connections.";
    FlowQuota, "flow_quota",
        "The port has opened half of the connections that the flow table has room for, and none of them is over.",
        "Look what the pod behind it does; other ports go on opening connections.";
    // forward
    TtlExpired, "ttl_expired",
        "The TTL or hop limit would reach zero here.",
        "A routing loop, or a traceroute; the sender is told (ICMP time exceeded).";
    NoRoute, "no_route",
        "No port and no route leads to the destination.",
        "Compare the node's routes with the configured uplinks.";
    NoNeighbour, "no_neighbour",
        "The next hop's MAC address is not known yet.",
        "The first packets to a silent neighbour; persistent, it does not answer ARP.";
    TooBig, "too_big",
        "The packet is larger than the MTU of the port it would leave by.",
        "The sender is told the MTU by ICMP; if it does not heed it, give all ports of the node the same MTU.";
    TxRingFull, "tx_ring_full",
        "The port's share of transmit frames is used up, or its interface is down.",
        "The receiver is slower than its senders; or `ip link` shows the port down.";
    HandoffFull, "handoff_full",
        "The queue to the worker that owns the destination's port is full.",
        "That worker is overloaded; spread the ports over more workers.";
    NoFrame, "no_frame",
        "No free frame of packet memory was left.",
        "Raise `xsk.frames`.";
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_metric_labels() {
        for (i, a) in DropReason::ALL.iter().enumerate() {
            assert!(
                a.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{a}"
            );
            assert!(DropReason::ALL[..i].iter().all(|b| a.name() != b.name()), "{a} twice");
            assert_eq!(*a as usize, i, "{a} is not at its own index");
        }
    }

    #[test]
    fn every_reason_has_a_sentence_and_a_hint() {
        for reason in DropReason::ALL {
            assert!(reason.sentence().ends_with('.'), "{reason}");
            assert!(reason.hint().ends_with('.'), "{reason}");
        }
    }
}
