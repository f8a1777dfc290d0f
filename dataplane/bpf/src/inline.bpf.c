// Inline mode: the kernel carries the connections that userspace has judged.
//
//   pod_in       what a pod sends, at its side of the node: a known connection goes on, or is dropped; the rest
//                is punted to a worker, through the pair portcullis0 - portcullis1.
//   pod_out      what goes to a pod, after routing and address translation: the same.
//   uplink_out   what a pod sends to another node: judged where the address behind a service can be seen, also when
//                its own source no longer can.
//   steer        on portcullis1, hands punted frames to the worker's AF_XDP socket; where there is none, drops.
//   reinject     on portcullis0, takes back the frames that the worker has approved.
//
// A connection has one entry for each pod, from the pod's point of view (local, remote), which serves both
// directions. The entry is a cache of what the connection table in userspace knows: it counts only while its epoch
// is not older than its port's, and never for a packet that opens a connection the other way.
//
//   inline/maps.bpf.h       what is known
//   inline/packet.bpf.h     what of a packet matters
//   inline/verdicts.bpf.h   what is known about a packet
//   inline/quick.bpf.h      the short way of a known connection's common packet
//   inline/punt.bpf.h       to the worker and back
//
// The first three programs go the short way first, and the long one, in a function of its own, for the rest.

#include "inline/maps.bpf.h"
#include "inline/packet.bpf.h"
#include "inline/verdicts.bpf.h"
#include "inline/punt.bpf.h"
#include "inline/quick.bpf.h"

static __always_inline int judge(struct __sk_buff *skb, struct packet *packet, struct origin origin, __u16 id,
				 bool to_pod)
{
	switch (look_up(packet, origin, id, to_pod, false)) {
	case PASS:
		COUNT(id, hit);
		if (!to_pod)
			note_sender(skb, id, packet->provisional);
		return TC_ACT_UNSPEC;
	case STOP:
		COUNT(id, denied);
		return TC_ACT_SHOT;
	case STALE:
		COUNT(id, stale);
		break;
	default:
		COUNT(id, missed);
	}
	return punt(skb, id, to_pod);
}

// From the pod: speaks for itself to its node, or is judged.
static __noinline int pod_in_long(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct origin origin = origin_of(skb);
	struct tap *tap = tap_of(ifindex);
	if (!tap) {
		COUNT(0, unknown_port);
		return TC_ACT_SHOT;
	}
	__u16 id = tap->id;
	if (takes_mark(skb, id))
		return TC_ACT_UNSPEC;
	note_sender(skb, id, true);
	if (skb->vlan_present) {
		COUNT(id, tagged);
		return TC_ACT_SHOT;
	}
	void *end;
	struct ethhdr *eth = headers(skb, &end);
	if (!eth) {
		COUNT(id, malformed);
		return TC_ACT_SHOT;
	}
	// The pod's MAC is unknown or another one: the worker decides, and may learn it from this frame.
	if (!tap->mac_known || !same_mac(eth->h_source, tap->mac))
		return punt(skb, id, false);
	struct port self = { .mac_known = 1 };
	__builtin_memcpy(self.mac, tap->mac, 6);
	if (is_for_kernel(eth + 1, eth->h_proto, end, &self, ifindex)) {
		// The node may hand on what comes to a port of its own: that is judged where it goes.
		COUNT(id, own);
		return TC_ACT_UNSPEC;
	}
	// The worker has a name for what is wrong with it.
	struct packet packet = {};
	if (!parse(&packet, eth, end) || !same_mac(eth->h_dest, tap->gateway) || !owns(ifindex, &packet.src))
		return punt(skb, id, false);
	return judge(skb, &packet, origin, id, false);
}

SEC("classifier")
int pod_in(struct __sk_buff *skb)
{
	struct tap *tap = tap_of(skb->ifindex);
	switch (tap ? quick(skb, tap, false) : MISS) {
	case PASS:
		COUNT(tap->id, hit);
		return TC_ACT_UNSPEC;
	case STOP:
		COUNT(tap->id, denied);
		return TC_ACT_SHOT;
	default:
		return pod_in_long(skb);
	}
}

// Neighbour discovery that the node itself sends, or ARP.
static __always_inline bool is_neighbour_message(struct ethhdr *eth, void *end)
{
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return true;
	struct ipv6hdr *ip = (void *)(eth + 1);
	struct icmp6hdr *icmp = (void *)(ip + 1);
	return eth->h_proto == bpf_htons(ETH_P_IPV6) && (void *)(icmp + 1) <= end && ip->nexthdr == IPPROTO_ICMPV6 &&
	       ip->hop_limit == 255 && icmp->icmp6_type >= ROUTER_SOLICITATION && icmp->icmp6_type <= 137;
}

// Whether the node sends a packet itself. No interface brought it, but that also holds for some of those that it has
// put together and cut into IPv6 fragments anew: those belong to no socket here.
static __always_inline bool is_from_here(struct __sk_buff *skb, const struct packet *packet)
{
	return !skb->ingress_ifindex && (!packet->extended || skb->sk);
}

// Whether a packet under a local pod's address came by another interface than the pod's, or by none, from a process of
// the node (any may, over IPv6); or one under an address of the node from elsewhere: somebody pretends, and an answer
// would be let in as one that the pod had asked for.
static __always_inline bool is_spoofed(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 *owner = bpf_map_lookup_elem(&owners, &packet->src);
	if (owner)
		return *owner != skb->ingress_ifindex;
	return !skb->ingress_ifindex && !is_from_here(skb, packet) && is_node(&packet->src);
}

// To the pod: from the node itself, from the pod itself by way of a service, or judged.
static __noinline int pod_out_long(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct origin origin = origin_of(skb);
	struct tap *tap = tap_of(ifindex);
	if (!tap) {
		COUNT(0, unknown_port);
		return TC_ACT_SHOT;
	}
	__u16 id = tap->id;
	void *end;
	struct ethhdr *eth = headers(skb, &end);
	if (!eth) {
		COUNT(id, malformed);
		return TC_ACT_SHOT;
	}
	// Zero for what the node's own processes and its kernel send; nothing that is forwarded has it.
	if (!origin.ifindex && is_neighbour_message(eth, end)) {
		COUNT(id, own);
		return TC_ACT_UNSPEC;
	}
	struct packet packet = {};
	if (!parse(&packet, eth, end)) {
		COUNT(id, malformed);
		return TC_ACT_SHOT;
	}
	if (is_spoofed(skb, &packet)) {
		COUNT(id, spoofed);
		return TC_ACT_SHOT;
	}
	if (!owns(ifindex, &packet.dst))
		return punt(skb, id, true);
	// A pod always reaches itself, and its node always reaches it.
	if (origin.ifindex == ifindex || (!origin.ifindex && is_node(&packet.src))) {
		COUNT(id, own);
		return TC_ACT_UNSPEC;
	}
	return judge(skb, &packet, origin, id, true);
}

SEC("classifier")
int pod_out(struct __sk_buff *skb)
{
	struct tap *tap = tap_of(skb->ifindex);
	switch (tap ? quick(skb, tap, true) : MISS) {
	case PASS:
		COUNT(tap->id, hit);
		return TC_ACT_UNSPEC;
	case STOP:
		COUNT(tap->id, denied);
		return TC_ACT_SHOT;
	default:
		return pod_out_long(skb);
	}
}

// To other nodes: what a pod sends, seen as it leaves.
static __noinline int uplink_out_long(struct __sk_buff *skb)
{
	struct origin origin = origin_of(skb);
	void *end;
	struct ethhdr *eth = headers(skb, &end);
	if (!eth)
		return TC_ACT_UNSPEC;
	struct packet packet = {};
	bool whole = parse(&packet, eth, end);
	__u32 *owner = bpf_map_lookup_elem(&owners, &packet.src);
	// A pod's packet may have lost its source.
	__u16 sender = sender_of(skb);
	if (!owner && !is_open(skb, sender) && !is_marked(skb))
		return TC_ACT_UNSPEC;
	struct tap *uplink = tap_of(skb->ifindex), *tap = owner ? tap_of(*owner) : uplink;
	if (!tap || !uplink) {
		COUNT(0, unknown_port);
		return TC_ACT_SHOT;
	}
	__u16 id = tap->id;
	if (!whole) {
		COUNT(id, malformed);
		return TC_ACT_SHOT;
	}
	if (takes_mark(skb, id))
		return TC_ACT_UNSPEC;
	if (is_spoofed(skb, &packet)) {
		COUNT(id, spoofed);
		return TC_ACT_SHOT;
	}
	switch (look_up(&packet, origin, id, false, true)) {
	case PASS:
		return TC_ACT_UNSPEC;
	case STOP:
		COUNT(id, denied);
		return TC_ACT_SHOT;
	default:
		return punt_for(skb, uplink->id, true, sender ? sender : id, LEAVES);
	}
}

SEC("classifier")
int uplink_out(struct __sk_buff *skb)
{
	int answer = quick_out(skb) == PASS ? TC_ACT_UNSPEC : uplink_out_long(skb);
	// What an overlay wraps it in, is not judged by its note.
	if (answer == TC_ACT_UNSPEC && skb->tc_index & ONCE_MORE)
		skb->tc_index &= ~ONCE_MORE;
	return answer;
}

SEC("classifier")
int reinject(struct __sk_buff *skb)
{
	struct settings *set = first_of(&settings);
	__u32 tag = skb->vlan_tci, id = id_of(tag);
	__u32 *interface = bpf_map_lookup_elem(&interfaces, &id);
	__u32 target = interface ? *interface : 0;
	struct tap *tap = target ? tap_of(target) : NULL;
	if (!set || !takes_approval(skb, set) || !tap || bpf_skb_vlan_pop(skb)) {
		COUNT(0, forged);
		return TC_ACT_SHOT;
	}
	COUNT(id, reinjected);
	if ((tag & TO_POD) && !tap->uplink)
		// Past pod_out, straight into the pod.
		return bpf_redirect_peer(target, 0);
	skb->mark = set->mark;
	return bpf_redirect(target, tap->uplink ? 0 : BPF_F_INGRESS);
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	// Nothing that was punted: it says by which port it came.
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end || eth->h_proto != bpf_htons(ETH_P_8021Q)) {
		COUNT(0, forged);
		return XDP_DROP;
	}
	return bpf_redirect_map(&punts, ctx->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
