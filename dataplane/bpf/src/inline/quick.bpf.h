// The short way of a known connection's common packet: TCP or UDP right behind IPv4 without options, or behind IPv6,
// and no fragment. Two look-ups in hash maps, the port's and the entry's; what the long way has found out about the
// addresses, the entry says. Whatever is not common, not known or not yet checked, takes the long way.

#pragma once

#include "punt.bpf.h"
#include "verdicts.bpf.h"

// The key of the entry that a common packet has, but for the port.
struct common {
	bool v4;
	struct layer4 layer4;
	union {
		struct flow4 four;
		struct flow6 six;
	};
};

static __always_inline bool parse_common_layer4(struct layer4 *layer4, __u8 protocol, void *at, void *end)
{
	layer4->opens = layer4->answers = layer4->ends = false;
	switch (protocol) {
	case IPPROTO_TCP:
		return parse_tcp(layer4, at, end);
	case IPPROTO_UDP:
		return parse_udp(layer4, at, end);
	default:
		return false;
	}
}

static __always_inline bool parse_common4(struct common *common, struct iphdr *ip, void *end, bool to_pod)
{
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff) ||
	    !parse_common_layer4(&common->layer4, ip->protocol, ip + 1, end))
		return false;
	common->v4 = true;
	common->four = (struct flow4){
		.local = to_pod ? ip->daddr : ip->saddr,
		.remote = to_pod ? ip->saddr : ip->daddr,
		.local_port = to_pod ? common->layer4.dst_port : common->layer4.src_port,
		.remote_port = to_pod ? common->layer4.src_port : common->layer4.dst_port,
		.protocol = ip->protocol,
	};
	return true;
}

static __always_inline bool parse_common6(struct common *common, struct ipv6hdr *ip, void *end, bool to_pod)
{
	if ((void *)(ip + 1) > end || ip->version != 6 ||
	    !parse_common_layer4(&common->layer4, ip->nexthdr, ip + 1, end))
		return false;
	common->v4 = false;
	common->six = (struct flow6){
		.local_port = to_pod ? common->layer4.dst_port : common->layer4.src_port,
		.remote_port = to_pod ? common->layer4.src_port : common->layer4.dst_port,
		.protocol = ip->nexthdr,
	};
	__builtin_memcpy(common->six.local, to_pod ? &ip->daddr : &ip->saddr, 16);
	__builtin_memcpy(common->six.remote, to_pod ? &ip->saddr : &ip->daddr, 16);
	return true;
}

static __always_inline bool parse_common(struct common *common, struct ethhdr *eth, void *end, bool to_pod)
{
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
		return parse_common4(common, (void *)(eth + 1), end, to_pod);
	case bpf_htons(ETH_P_IPV6):
		return parse_common6(common, (void *)(eth + 1), end, to_pod);
	default:
		return false;
	}
}

static __always_inline struct verdict *common_entry(struct common *common, __u16 id)
{
	if (common->v4) {
		common->four.port = id;
		struct verdict *known = bpf_map_lookup_elem(&flows4, &common->four);
		// Two calls, of a map each: where the map is known, the kernel calls it directly.
		barrier();
		return known;
	}
	common->six.port = id;
	return bpf_map_lookup_elem(&flows6, &common->six);
}

// PASS or STOP; anything else takes the long way.
static __always_inline enum answer quick(struct __sk_buff *skb, const struct tap *tap, bool to_pod)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct common common;
	if ((void *)(eth + 1) > end || skb->vlan_present)
		return MISS;
	if (!to_pod && (skb->mark || !tap->mac_known || !same_mac(eth->h_source, tap->mac) ||
			!same_mac(eth->h_dest, tap->gateway)))
		return MISS;
	if (!parse_common(&common, eth, end, to_pod))
		return MISS;
	struct verdict *known = common_entry(&common, tap->id);
	__u32 *epoch = epoch_of(tap->id);
	if (!known || !epoch || !is_checked(known, origin_of(skb), to_pod))
		return MISS;
	enum answer answer = ask(known, &common.layer4, *epoch, to_pod, to_pod);
	if (!to_pod && answer == PASS)
		note_sender(skb, tap->id, known->flags & PROVISIONAL);
	return answer;
}

// The same at an uplink, where the port is found by the packet's source address. PASS also for packets that no pod sent.
static __always_inline enum answer quick_out(struct __sk_buff *skb)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct common common;
	if ((void *)(eth + 1) > end || skb->vlan_present || is_marked(skb) ||
	    !parse_common(&common, eth, end, false))
		return MISS;
	struct address src = common.v4 ? from_v4(&common.four.local) : from_v6(common.six.local);
	__u32 *owner = bpf_map_lookup_elem(&owners, &src);
	if (!owner)
		return is_open(skb, sender_of(skb)) ? MISS : PASS;
	struct tap *tap = tap_of(*owner);
	if (!tap || *owner != skb->ingress_ifindex)
		return MISS;
	struct verdict *known = common_entry(&common, tap->id);
	__u32 *epoch = epoch_of(tap->id);
	if (!known || !epoch || known->flags & PROVISIONAL)
		return MISS;
	// What is denied is counted on the long way.
	return ask(known, &common.layer4, *epoch, false, true) == PASS ? PASS : MISS;
}
