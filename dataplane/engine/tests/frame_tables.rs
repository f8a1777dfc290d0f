//! Tables of frames and what becomes of each: the port guard and everything before it.

mod bed;

use bed::*;
use flow::{DropReason, MacAddr};
use testkit::frames::{FrameBuilder, arp_request, neighbour_advertisement};

struct Row {
    what: &'static str,
    port: usize,
    frame: FrameBuilder,
    fate: Result<usize, DropReason>,
}

const fn row(what: &'static str, port: usize, frame: FrameBuilder, fate: Result<usize, DropReason>) -> Row {
    Row { what, port, frame, fate }
}

#[test]
fn frames_and_their_fates() {
    use DropReason::*;
    let b = from_pod(0).ip(A, B).udp(1, 80);
    let rows = [
        row("the pod's own packet", 0, from_pod(0).ip(A, B).udp(1, 80), Ok(1)),
        row("with Ethernet padding", 0, from_pod(0).ip(A, B).udp(1, 80).padding(12), Ok(1)),
        row("with IPv4 options", 0, from_pod(0).ip(A, B).options(&[1, 1, 1, 0]).udp(1, 80), Ok(1)),
        row("another's IPv4 address", 0, from_pod(0).ip(C, B).udp(1, 80), Err(SpoofedSource)),
        row("another's IPv6 address", 0, from_pod(0).ip(B6, A6).udp(1, 80), Err(SpoofedSource)),
        row("the node's address", 0, from_pod(0).ip(NODE, B).udp(1, 80), Err(SpoofedSource)),
        row("a loopback source", 0, from_pod(0).ip("127.0.0.1", B).udp(1, 80), Err(SpoofedSource)),
        row("another's MAC", 0, from_pod(1).to(port_mac(0)).ip(A, B).udp(1, 80), Err(SpoofedSource)),
        row("a pod's address from outside", UPLINK, from_outside().ip(A, B).udp(1, 80), Err(SpoofedSource)),
        row("the node's from outside", UPLINK, from_outside().ip(NODE, B).udp(1, 80), Err(SpoofedSource)),
        row("loopback from outside", UPLINK, from_outside().ip("::1", B6).udp(1, 80), Err(SpoofedSource)),
        row("to a multicast address", 0, from_pod(0).ip(A, "224.0.0.251").udp(1, 80), Err(Multicast)),
        row("to everybody", 0, from_pod(0).to(MacAddr([0xff; 6])).ip(A, B).udp(1, 80), Err(Multicast)),
        row("a VLAN tag", 0, from_pod(0).vlan(0).ip(A, B).udp(1, 80), Err(VlanTagged)),
        row("two VLAN tags", 0, from_pod(0).tag(0x88a8, 5).vlan(5).ip(A, B).udp(1, 80), Err(VlanTagged)),
        row("a tiny first fragment", 0, from_pod(0).ip(A, B).fragment(0, true).udp(1, 80), Err(FragmentTiny)),
        row(
            "a later fragment",
            0,
            from_pod(0).ip(A, B).fragment(185, false).udp(1, 80),
            Err(FragmentUnmatched),
        ),
        row("the last hop", 0, from_pod(0).ip(A, B).ttl(1).udp(1, 80), Err(TtlExpired)),
        row("no hop at all", 0, from_pod(0).ip(A6, B6).ttl(0).udp(1, 80), Err(TtlExpired)),
        row("too big for the port", 0, from_pod(0).ip(A, B).udp(1, 80).payload(&[0; 1473]), Err(TooBig)),
        row("as big as may be", 0, from_pod(0).ip(A, B).udp(1, 80).payload(&[0; 1472]), Ok(1)),
        row("nowhere", 0, from_pod(0).ip(A6, "2001:db8::1").udp(1, 80), Err(NoRoute)),
        row(
            "an error about nothing",
            0,
            from_pod(0).ip(A, B).icmp_error(3, 3, &b.build()),
            Err(IcmpUnrelated),
        ),
    ];
    for Row { what, port, frame, fate } in rows {
        let mut bed = Bed::new();
        let got = match bed.fate(port, &frame.build()) {
            Fate::Sent { port, .. } => Ok(port),
            Fate::Dropped(reason) => Err(reason),
        };
        assert_eq!(got, fate, "{what}");
        let state = usize::from(fate.is_ok() || matches!(fate, Err(TtlExpired | TooBig | NoRoute)));
        assert_eq!(bed.shared.flows.len(), state, "{what}: only what policy allowed makes state");
    }
}

#[test]
fn neighbour_messages_that_xdp_did_not_pass_are_forged() {
    let mut bed = Bed::new();
    for frame in
        [arp_request(pod_mac(0), B, A), neighbour_advertisement(pod_mac(0), B6, port_mac(0), "fe80::1")]
    {
        assert_eq!(bed.fate(0, &frame), Fate::Dropped(DropReason::NeighbourSpoofed));
    }
}

#[test]
fn no_truncation_of_an_allowed_frame_passes() {
    let whole = from_pod(0).ip(A, B).tcp(4000, 80).syn().build();
    for length in 0..whole.len() {
        let mut bed = Bed::new();
        assert!(matches!(bed.fate(0, &whole[..length]), Fate::Dropped(_)), "{length} bytes pass");
    }
}
