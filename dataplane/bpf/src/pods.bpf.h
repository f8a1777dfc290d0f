// What a pod may say to its node's kernel, whoever asks: its own ARP, neighbour discovery and MLD, and packets to
// the node's addresses. Shared by the programs of all modes.

#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_PORTS 1024
#define MAX_ADDRESSES 8192
#define MAX_ND_OPTIONS 4

// Whether the maps outlive the process: said before this file is included.
#ifndef PINNING
#define PINNING __uint(pinning, 0)
#endif

#define MAP(name, kind, entries, key_type, value_type) \
	struct {                                       \
		__uint(type, kind);                    \
		__uint(max_entries, entries);          \
		__type(key, key_type);                 \
		__type(value, value_type);             \
		PINNING;                               \
	} name SEC(".maps")

// IPv4 addresses are kept in their IPv4-mapped form (RFC 4291, section 2.5.5.2).
struct address {
	__u8 octets[16];
};

struct pod_address {
	__u32 ifindex;
	struct address address;
};

struct port {
	__u32 base;   // where its queues start in the socket map
	__u32 queues; // how many it has there
	__u8 mac[6];  // the pod's
	__u8 mac_known;
	__u8 fallback; // XDP_DROP or XDP_PASS
	__u8 strips_priority_tags;
	__u8 unused[3];
};

MAP(pod_addresses, BPF_MAP_TYPE_HASH, MAX_ADDRESSES, struct pod_address, __u8);
MAP(node_addresses, BPF_MAP_TYPE_HASH, MAX_ADDRESSES, struct address, __u8);

// RFC 826, for Ethernet and IPv4.
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

// RFC 4861, sections 4.3 and 4.4.
struct neighbour_message {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	struct in6_addr target;
};

// RFC 4861, section 4.6.1.
struct nd_option {
	__u8 type;
	__u8 length; // in units of eight octets
	__u8 mac[6];
};

// RFC 8200, section 4.3: the shortest one, which is the one that MLD carries.
struct hop_by_hop {
	__u8 next;
	__u8 length;
	__u8 options[6];
};

enum {
	ND_SOURCE_MAC = 1,
	ND_TARGET_MAC = 2,
	ROUTER_SOLICITATION = 133,
	NEIGHBOUR_SOLICITATION = 135,
	NEIGHBOUR_ADVERTISEMENT = 136,
	MLD2_REPORT = 143,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	NEXT_FRAGMENT = 44,
};

// Both at even addresses, as in all headers.
static __always_inline bool same_mac(const void *a, const void *b)
{
	const __u16 *one = a, *other = b;
	return !((one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]));
}

static __always_inline struct address from_v4(const void *octets)
{
	struct address a;
	__builtin_memset(a.octets, 0, 10);
	a.octets[10] = a.octets[11] = 0xff;
	__builtin_memcpy(a.octets + 12, octets, 4);
	return a;
}

static __always_inline struct address from_v6(const void *octets)
{
	struct address a;
	__builtin_memcpy(a.octets, octets, 16);
	return a;
}

// The octets from `at` on as one number: one comparison, where each octet's own would be a path of its own to verify.
static __always_inline __u32 word_of(const struct address *a, int at)
{
	__u32 word;
	__builtin_memcpy(&word, a->octets + at, sizeof(word));
	return word;
}

// IPv4-mapped addresses never travel on a wire; here they would stand for an IPv4 address.
static __always_inline bool is_mapped(const struct address *a)
{
	return !(word_of(a, 0) | word_of(a, 4) | (word_of(a, 8) ^ bpf_htonl(0xffff)));
}

static __always_inline bool is_link_local(const struct address *a)
{
	return a->octets[0] == 0xfe && (a->octets[1] & 0xc0) == 0x80;
}

static __always_inline bool is_link_local_multicast(const struct address *a)
{
	return a->octets[0] == 0xff && (a->octets[1] & 0x0f) == 0x02;
}

static __always_inline bool is_unspecified(const struct address *a)
{
	return !(word_of(a, 0) | word_of(a, 4) | word_of(a, 8) | word_of(a, 12));
}

static __always_inline bool owns(__u32 ifindex, const struct address *a)
{
	struct pod_address key = { .ifindex = ifindex, .address = *a };
	return bpf_map_lookup_elem(&pod_addresses, &key);
}

static __always_inline bool is_node(const struct address *a)
{
	return bpf_map_lookup_elem(&node_addresses, a);
}

static __always_inline bool arp_is_own(void *at, void *end, const struct port *port, __u32 ifindex)
{
	struct arp_packet *arp = at;
	if ((void *)(arp + 1) > end)
		return false;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_length != 6 ||
	    arp->protocol_length != 4)
		return false;
	if (arp->operation != bpf_htons(ARP_REQUEST) && arp->operation != bpf_htons(ARP_REPLY))
		return false;
	if (!same_mac(arp->sender_mac, port->mac))
		return false;
	struct address sender = from_v4(arp->sender);
	if (owns(ifindex, &sender))
		return true;
	// RFC 5227, section 2.1.1: a probe has an all-zero sender address and asks for one's own.
	bool probe = !(arp->sender[0] | arp->sender[1] | arp->sender[2] | arp->sender[3]) &&
		     arp->operation == bpf_htons(ARP_REQUEST);
	struct address target = from_v4(arp->target);
	return probe && owns(ifindex, &target);
}

// The options up to the end of the packet: link-layer addresses in them are the pod's own.
static __always_inline bool nd_options_are_own(void *at, void *packet_end, void *end, const struct port *port)
{
	for (int i = 0; i < MAX_ND_OPTIONS; i++) {
		if (at == packet_end)
			return true;
		struct nd_option *option = at;
		if ((void *)(option + 1) > end || option->length == 0)
			return false;
		if (option->type == ND_SOURCE_MAC || option->type == ND_TARGET_MAC)
			if (option->length != 1 || !same_mac(option->mac, port->mac))
				return false;
		at += (__u32)option->length * 8;
		if (at > packet_end)
			return false;
	}
	return at == packet_end;
}

// The destination is checked as well: the kernel would forward what is addressed further away.
static __always_inline bool nd_is_own(struct ipv6hdr *ip, void *end, const struct port *port, __u32 ifindex)
{
	struct icmp6hdr *icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end || ip->hop_limit != 255 || icmp->icmp6_code != 0)
		return false;
	struct address src = from_v6(&ip->saddr), dst = from_v6(&ip->daddr);
	bool probe = is_unspecified(&src);
	if (!probe && !is_link_local(&src) && !owns(ifindex, &src))
		return false;
	if (!is_link_local_multicast(&dst) && !is_link_local(&dst) && !is_node(&dst))
		return false;

	// Clamped for the verifier; a longer packet ends elsewhere and is not passed.
	__u32 length = bpf_ntohs(ip->payload_len);
	if (length > 4096)
		return false;
	void *packet_end = (void *)icmp + length;
	if (packet_end > end)
		return false;

	if (icmp->icmp6_type == ROUTER_SOLICITATION)
		return nd_options_are_own(icmp + 1, packet_end, end, port);
	if (icmp->icmp6_type != NEIGHBOUR_SOLICITATION && icmp->icmp6_type != NEIGHBOUR_ADVERTISEMENT)
		return false;
	struct neighbour_message *message = (void *)icmp;
	if ((void *)(message + 1) > end)
		return false;
	if (probe || icmp->icmp6_type == NEIGHBOUR_ADVERTISEMENT) {
		struct address target = from_v6(&message->target);
		if (!is_link_local(&target) && !owns(ifindex, &target))
			return false;
	}
	return nd_options_are_own(message + 1, packet_end, end, port);
}

// RFC 2710 and RFC 3810: from a link-local or no address, to a link-local group, behind a router alert.
static __always_inline bool mld_is_own(struct ipv6hdr *ip, void *end)
{
	struct hop_by_hop *options = (void *)(ip + 1);
	struct icmp6hdr *icmp = (void *)(options + 1);
	if ((void *)(icmp + 1) > end || options->next != IPPROTO_ICMPV6 || options->length != 0)
		return false;
	struct address src = from_v6(&ip->saddr), dst = from_v6(&ip->daddr);
	if (!is_link_local(&src) && !is_unspecified(&src))
		return false;
	if (!is_link_local_multicast(&dst))
		return false;
	__u8 type = icmp->icmp6_type;
	return (type >= ICMPV6_MGM_QUERY && type <= ICMPV6_MGM_REDUCTION) || type == MLD2_REPORT;
}

// Headers that can send a packet on from here, or hide another that can.
static __always_inline bool is_extension(__u8 next)
{
	switch (next) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case NEXT_FRAGMENT:
	case IPPROTO_DSTOPTS:
	case 135: // mobility
	case 139: // host identity
	case 140: // shim6
		return true;
	default:
		return false;
	}
}

// What the node's kernel would unwrap and send on as traffic of its own.
static __always_inline bool is_tunnel(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
	case IPPROTO_GRE:
	case IPPROTO_MPLS:
	case 97: // Ethernet within IP
		return true;
	default:
		return false;
	}
}

static __always_inline bool v4_is_to_node(void *at, void *end, __u32 ifindex)
{
	struct iphdr *ip = at;
	// Options are not passed: a source route would lead on from the node.
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || is_tunnel(ip->protocol))
		return false;
	struct address src = from_v4(&ip->saddr), dst = from_v4(&ip->daddr);
	return owns(ifindex, &src) && is_node(&dst);
}

static __always_inline bool v6_is_to_node(struct ipv6hdr *ip, void *end, __u32 ifindex)
{
	__u8 next = ip->nexthdr;
	if (next == NEXT_FRAGMENT) {
		__u8 *fragment = (void *)(ip + 1);
		if (fragment + 8 > (__u8 *)end)
			return false;
		next = *fragment;
		// RFC 6980, section 5: neighbour discovery is never fragmented, and here it could hide.
		if (next == IPPROTO_ICMPV6)
			return false;
	}
	if (is_extension(next) || is_tunnel(next))
		return false;
	struct address src = from_v6(&ip->saddr), dst = from_v6(&ip->daddr);
	return !is_mapped(&src) && !is_mapped(&dst) && owns(ifindex, &src) && is_node(&dst);
}

// Whether what a pod sends, under its own MAC address, is for the kernel of its node.
static __always_inline bool is_for_kernel(void *at, __be16 ethertype, void *end, const struct port *port, __u32 ifindex)
{
	if (ethertype == bpf_htons(ETH_P_ARP))
		return arp_is_own(at, end, port, ifindex);
	if (ethertype == bpf_htons(ETH_P_IP))
		return v4_is_to_node(at, end, ifindex);
	struct ipv6hdr *ip = at;
	if (ethertype != bpf_htons(ETH_P_IPV6) || (void *)(ip + 1) > end || ip->version != 6)
		return false;
	// Neighbour discovery and router messages are judged as such, also those to the node.
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		struct icmp6hdr *icmp = (void *)(ip + 1);
		if ((void *)(icmp + 1) > end)
			return false;
		if (icmp->icmp6_type >= ROUTER_SOLICITATION && icmp->icmp6_type <= 137)
			return nd_is_own(ip, end, port, ifindex);
	}
	if (ip->nexthdr == IPPROTO_HOPOPTS && mld_is_own(ip, end))
		return true;
	return v6_is_to_node(ip, end, ifindex);
}
