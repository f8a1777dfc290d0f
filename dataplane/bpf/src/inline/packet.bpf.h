// What of a packet decides about its way, whatever its shape.

#pragma once

#include "maps.bpf.h"

// A header may reach so far into its datagram (crates/packet: fragment.rs).
#define HEADERS 80
// Ethernet, IPv6, a fragment header and the fixed part of TCP.
#define LONGEST_HEADERS 82

// Ports in the order of the packet, and what its flags say.
struct layer4 {
	__be16 src_port, dst_port;
	bool opens;   // only who opens a connection sends it
	bool answers; // only who answers does: an echo reply
	bool ends;    // FIN or RST
};

// Addresses are in the IPv4-mapped form.
struct packet {
	struct address src, dst;
	struct layer4 layer4;
	__u8 protocol;
	bool cached; // it may be answered by an entry
	bool provisional; // and is to be judged once more
	bool first, later; // fragments
	bool extended; // IPv6 extension headers stand first
	__be32 id;
};

// False for a header that is not whole.
static __always_inline bool parse_tcp(struct layer4 *layer4, void *at, void *end)
{
	struct tcphdr *tcp = at;
	if ((void *)(tcp + 1) > end || tcp->doff < 5)
		return false;
	layer4->src_port = tcp->source;
	layer4->dst_port = tcp->dest;
	layer4->opens = tcp->syn && !tcp->ack;
	layer4->ends = tcp->fin || tcp->rst;
	return true;
}

static __always_inline bool parse_udp(struct layer4 *layer4, void *at, void *end)
{
	__be16 *ports = at;
	if (at + 8 > end)
		return false;
	layer4->src_port = ports[0];
	layer4->dst_port = ports[1];
	return true;
}

static __always_inline bool parse_sctp(struct layer4 *layer4, void *at, void *end)
{
	__be16 *ports = at;
	__u8 *chunk = at + 12;
	if (at + 16 > end)
		return false;
	layer4->src_port = ports[0];
	layer4->dst_port = ports[1];
	// RFC 9260, section 3.3: INIT opens; ABORT and SHUTDOWN COMPLETE end.
	layer4->opens = *chunk == 1;
	layer4->ends = *chunk == 6 || *chunk == 14;
	return true;
}

// Echo requests and replies have their identifier for ports. Nothing else of ICMP is answered by an entry.
static __always_inline bool parse_icmp(struct packet *packet, void *at, void *end)
{
	__u8 *type = at;
	__be16 *id = at + 4;
	if (at + 8 > end)
		return false;
	bool v6 = packet->protocol == IPPROTO_ICMPV6;
	packet->layer4.opens = *type == (v6 ? 128 : 8);
	packet->layer4.answers = *type == (v6 ? 129 : 0);
	packet->cached = packet->layer4.opens || packet->layer4.answers;
	if (packet->cached)
		packet->layer4.src_port = packet->layer4.dst_port = *id;
	return true;
}

static __always_inline bool parse_layer4(struct packet *packet, void *at, void *end)
{
	packet->cached = true;
	switch (packet->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(&packet->layer4, at, end);
	case IPPROTO_UDP:
		return parse_udp(&packet->layer4, at, end);
	case IPPROTO_SCTP:
		return parse_sctp(&packet->layer4, at, end);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return parse_icmp(packet, at, end);
	default:
		return true;
	}
}

// RFC 1858, section 3: a first fragment without the whole header, or one that writes over a header.
static __always_inline bool is_tiny(const struct packet *packet, __u32 begin, __u32 length)
{
	return packet->later ? begin < HEADERS : packet->first && length < HEADERS;
}

static __always_inline bool parse4(struct packet *packet, void *at, void *end)
{
	struct iphdr *ip = at;
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return false;
	packet->src = from_v4(&ip->saddr);
	packet->dst = from_v4(&ip->daddr);
	packet->protocol = ip->protocol;
	__u16 offset = bpf_ntohs(ip->frag_off);
	packet->id = ip->id;
	packet->later = offset & 0x1fff;
	packet->first = !packet->later && (offset & 0x2000);
	// Options are for the worker to look at, and so are tiny fragments.
	if (ip->ihl != 5 || is_tiny(packet, (offset & 0x1fff) * 8, bpf_ntohs(ip->tot_len) - sizeof(*ip)))
		return true;
	packet->cached = packet->later;
	return packet->later || parse_layer4(packet, ip + 1, end);
}

struct fragment_header {
	__u8 next, reserved;
	__be16 offset;
	__be32 id;
};

static __always_inline bool parse6(struct packet *packet, void *at, void *end)
{
	struct ipv6hdr *ip = at;
	if ((void *)(ip + 1) > end || ip->version != 6)
		return false;
	packet->src = from_v6(&ip->saddr);
	packet->dst = from_v6(&ip->daddr);
	// An IPv4-mapped address would speak for the other family here.
	if (is_mapped(&packet->src) || is_mapped(&packet->dst))
		return false;
	packet->protocol = ip->nexthdr;
	packet->extended = is_extension(ip->nexthdr);
	at = ip + 1;
	if (packet->protocol == NEXT_FRAGMENT) {
		struct fragment_header *header = at;
		if ((void *)(header + 1) > end)
			return false;
		packet->protocol = header->next;
		packet->id = header->id;
		packet->later = bpf_ntohs(header->offset) & 0xfff8;
		packet->first = !packet->later;
		if (is_tiny(packet, bpf_ntohs(header->offset) & 0xfff8, bpf_ntohs(ip->payload_len) - sizeof(*header)))
			return true;
		packet->cached = packet->later;
		if (packet->later)
			return true;
		at = header + 1;
	}
	// Other extension headers are for the worker to look at.
	if (is_extension(packet->protocol) || packet->protocol == 59)
		return true;
	return parse_layer4(packet, at, end);
}

// False for what is no whole IP packet.
static __always_inline bool parse(struct packet *packet, struct ethhdr *eth, void *end)
{
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
		return parse4(packet, eth + 1, end);
	case bpf_htons(ETH_P_IPV6):
		return parse6(packet, eth + 1, end);
	default:
		return false;
	}
}

// The headers in one piece. NULL for less than an Ethernet header.
static __always_inline struct ethhdr *headers(struct __sk_buff *skb, void **end)
{
	__u32 want = skb->len < LONGEST_HEADERS ? skb->len : LONGEST_HEADERS;
	if ((void *)(long)skb->data + want > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, want);
	struct ethhdr *eth = (void *)(long)skb->data;
	*end = (void *)(long)skb->data_end;
	return (void *)(eth + 1) > *end ? NULL : eth;
}
