// Which frames go to the engine's AF_XDP sockets and which to the kernel.
//
//   pod_port      ARP and neighbour discovery that speak for the pod itself, and the pod's packets to its
//                 own node, go to the kernel; all else goes to the socket.
//   uplink_port   what is from or to a local pod goes to the socket; all else to the kernel.
//
// Tags that a device keeps beside the frame are not seen here: such a frame is sorted, judged and sent on as what is
// in it, and the kernel, for which it is another VLAN's, does not take it.
//
// A frame for a socket that is not there gets the fallback action of its port. Every check that fails sends
// the frame to the socket, where the engine drops it under a name: nothing is passed because it is odd.

#include "pods.bpf.h"

#define MAX_PRIORITY_TAGS 4
#define MAX_SOCKETS 8192

struct counters {
	__u64 passed;
	__u64 redirected;
	__u64 dropped;
};

MAP(ports, BPF_MAP_TYPE_HASH, MAX_PORTS, __u32, struct port);
MAP(local_addresses, BPF_MAP_TYPE_HASH, MAX_ADDRESSES, struct address, __u8);
MAP(xsks, BPF_MAP_TYPE_XSKMAP, MAX_SOCKETS, __u32, __u32);
// At the base of each port.
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, MAX_SOCKETS, __u32, struct counters);

// IEEE 802.1Q, behind the ethertype that announces it.
struct vlan_tag {
	__be16 control;
	__be16 ethertype;
};

static __always_inline bool is_tag(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

// One that names no VLAN. The kernel takes it off and goes on with what is behind it.
static __always_inline bool is_priority_tag(const struct vlan_tag *tag, const void *end)
{
	return (const void *)(tag + 1) <= end && !(tag->control & bpf_htons(0x0fff));
}

static __always_inline bool is_local(const struct address *a)
{
	return bpf_map_lookup_elem(&local_addresses, a);
}

static __always_inline struct counters *counters_of(const struct port *port)
{
	__u32 base = port->base;
	return bpf_map_lookup_elem(&counters, &base);
}

static __always_inline int to_kernel(const struct port *port)
{
	struct counters *count = counters_of(port);
	if (count)
		count->passed++;
	return XDP_PASS;
}

static __always_inline int to_socket(struct xdp_md *ctx, const struct port *port)
{
	int fallback = port->fallback == XDP_PASS ? XDP_PASS : XDP_DROP;
	int action = fallback;
	// Beyond the port's own queues lie those of the next port.
	if (ctx->rx_queue_index < port->queues)
		action = bpf_redirect_map(&xsks, port->base + ctx->rx_queue_index, fallback);
	struct counters *count = counters_of(port);
	if (count) {
		if (action == XDP_REDIRECT)
			count->redirected++;
		else if (action == XDP_PASS)
			count->passed++;
		else
			count->dropped++;
	}
	return action;
}

static __always_inline int from_pod(struct xdp_md *ctx)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 ifindex = ctx->ingress_ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return XDP_DROP;

	struct ethhdr *eth = at;
	if (!port->mac_known || (void *)(eth + 1) > end || !same_mac(eth->h_source, port->mac))
		return to_socket(ctx, port);

	at = eth + 1;
	__be16 ethertype = eth->h_proto;
	if (port->strips_priority_tags && ethertype == bpf_htons(ETH_P_8021Q)) {
		struct vlan_tag *tag = at;
		if (!is_priority_tag(tag, end))
			return to_socket(ctx, port);
		at = tag + 1;
		ethertype = tag->ethertype;
	}
	bool own = is_for_kernel(at, ethertype, end, port, ifindex);
	return own ? to_kernel(port) : to_socket(ctx, port);
}

static __always_inline int from_uplink(struct xdp_md *ctx)
{
	void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct address src, dst;
	struct ethhdr *eth = at;
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	at = eth + 1;
	__u32 ifindex = ctx->ingress_ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	__be16 ethertype = eth->h_proto;
	// Behind priority tags the kernel would find the pod's packet: they hide nothing here either, nor do more of
	// them than anybody sends. One with a VLAN is the kernel's, and the interlock's if it comes to forwarding.
	for (int i = 0; is_tag(ethertype); i++) {
		if (i == MAX_PRIORITY_TAGS)
			return port ? to_socket(ctx, port) : XDP_DROP;
		struct vlan_tag *tag = at;
		if (!is_priority_tag(tag, end))
			return XDP_PASS;
		at = tag + 1;
		ethertype = tag->ethertype;
	}
	if (ethertype == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = at;
		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		src = from_v4(&ip->saddr);
		dst = from_v4(&ip->daddr);
	} else if (ethertype == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;
		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		src = from_v6(&ip->saddr);
		dst = from_v6(&ip->daddr);
	} else {
		return XDP_PASS;
	}

	// A pod's address as source comes from nowhere but its own port: the engine drops and counts it.
	bool of_pod = is_local(&dst) || is_local(&src);
	if (!port)
		return of_pod ? XDP_DROP : XDP_PASS;
	return of_pod ? to_socket(ctx, port) : to_kernel(port);
}

// Each twice. veth runs a program on queues that came after it only once it is given another one.

SEC("xdp")
int pod_port(struct xdp_md *ctx)
{
	return from_pod(ctx);
}

SEC("xdp")
int pod_port_2(struct xdp_md *ctx)
{
	return from_pod(ctx);
}

SEC("xdp")
int uplink_port(struct xdp_md *ctx)
{
	return from_uplink(ctx);
}

SEC("xdp")
int uplink_port_2(struct xdp_md *ctx)
{
	return from_uplink(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
