// Inline mode: the kernel carries the connections that userspace has judged.
//
//   pod_in       what a pod sends, at its side of the node: a known connection goes on, or is dropped; the rest
//                is punted to a worker, through the pair punt0 - punt1.
//   pod_out      what goes to a pod, after routing and address translation: the same.
//   uplink_out   what a pod sends to another node: judged where the address behind a service can be seen.
//   steer        on punt1, hands punted frames to the worker's AF_XDP socket; where there is none, drops.
//   reinject     on punt0, takes back the frames that the worker has approved.
//
// A connection has one entry for each pod, from the pod's point of view (local, remote), which serves both
// directions. The entry is a cache of what the connection table in userspace knows: it counts only while its epoch
// is not older than its port's, and never for a packet that opens a connection the other way.

#define PINNING __uint(pinning, 1)
#include "pods.bpf.h"

#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#define MAX_FLOWS 262144
#define MAX_FRAGMENTS 8192
#define MAX_IDS 1024
// A header may reach so far into its datagram (crates/packet: fragment.rs).
#define HEADERS 80
// The longest headers of a segment: Ethernet, IPv6 and TCP with its options.
#define SEGMENT_HEADERS (14 + 40 + 60)
#define SECOND 1000000000ULL

// The tag of a punted frame: the port's id, and in bit 0 which way it goes.
#define TO_POD 1

enum { ALLOW = 1, DENY = 2 };

// Whose punts those are, of each port: what its pod sends, what goes to it, and what its pod sends out of the node. None
// of them takes from another.
enum bucket_of { SENDS, RECEIVES, LEAVES, BUCKETS };

// Flags of a flow: who opened it, a FIN or RST was seen, the other end has spoken, and it is to be judged once more
// where the address behind a service can be seen.
enum { POD_OPENED = 1, ENDING = 2, ANSWERED = 4, PROVISIONAL = 8 };

struct flow4 {
	__be32 local, remote;
	__be16 local_port, remote_port;
	__u16 port;
	__u8 protocol, pad;
};

struct flow6 {
	__u8 local[16], remote[16];
	__be16 local_port, remote_port;
	__u16 port;
	__u8 protocol, pad;
};

struct verdict {
	__u32 epoch;
	__u8 verdict, flags;
	__u16 pad;
	__u64 last_seen; // of the coarse monotonic clock, in nanoseconds
};

// The first fragment of a datagram was answered so.
struct fragment {
	__u8 src[16], dst[16];
	__be32 id;
	__u16 port;
	__u8 protocol, to_pod;
};

struct tap {
	__u32 ifindex;
	__u8 mac[6];     // the pod's
	__u8 gateway[6]; // our side's
	__u16 id;
	__u8 mac_known, uplink;
};

struct bucket {
	__u64 filled; // when
	__u64 punts;  // that may still go
};

// One for all ports.
struct settings {
	__u64 key[2];       // of the worker's approvals
	__u32 mark;         // of an approved packet, for the moment between reinject and pod_in
	__u32 punt_ifindex; // punt0
	__u32 punt_rate;    // a second and bucket
	__u32 punt_burst;
	__u64 open_after; // fallback: open, when this moment has passed and nobody has moved it on; 0: never
	__u32 longest;	  // frame that the punt pair carries
	__u32 unused;
};

struct approvals {
	__u32 last; // sequence number
};

#define COUNTED(f)                                                                                              \
	f(hit) f(denied) f(missed) f(stale) f(punted) f(limited) f(reinjected) f(approved) f(forged) f(own) f(tagged) f(malformed) \
		f(unknown_port) f(fragment_hit) f(spoofed) f(too_long)

struct counts {
#define FIELD(name) __u64 name;
	COUNTED(FIELD)
#undef FIELD
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow4);
	__type(value, struct verdict);
	PINNING;
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow6);
	__type(value, struct verdict);
	PINNING;
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTS);
	__type(key, struct fragment);
	__type(value, struct verdict);
	PINNING;
} fragments SEC(".maps");

// By interface index.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct tap);
	PINNING;
} taps SEC(".maps");

// By port id.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_IDS);
	__type(key, __u32);
	__type(value, __u32);
	PINNING;
} epochs SEC(".maps");

// By port id: the interface.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_IDS);
	__type(key, __u32);
	__type(value, __u32);
	PINNING;
} interfaces SEC(".maps");

// By port id and bucket.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_IDS * BUCKETS);
	__type(key, __u32);
	__type(value, struct bucket);
	PINNING;
} buckets SEC(".maps");

// The interface of a local pod's address, for uplinks.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRESSES);
	__type(key, struct address);
	__type(value, __u32);
	PINNING;
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
	PINNING;
} settings SEC(".maps");

// By queue of punt1.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct approvals);
	PINNING;
} approvals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
	PINNING;
} punts SEC(".maps");

// By port id; those of unknown ports, and of reinject, at 0, which no port has.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_IDS);
	__type(key, __u32);
	__type(value, struct counts);
	PINNING;
} counted SEC(".maps");

#define COUNT(id, name)                                                            \
	({                                                                         \
		__u32 at = id;                                                     \
		struct counts *counts = bpf_map_lookup_elem(&counted, &at);        \
		if (counts)                                                        \
			counts->name++;                                            \
	})

// What of a packet decides about its way. Addresses are in the IPv4-mapped form.
struct packet {
	struct address src, dst;
	__be16 src_port, dst_port;
	__u8 protocol;
	bool opens;  // only who opens a connection sends it
	bool answers; // only who answers does: an echo reply
	bool ends;   // FIN or RST
	bool cached; // it may be answered by an entry
	bool first, later; // fragments
	bool extended; // IPv6 extension headers stand first
	__be32 id;
};

static __always_inline struct settings *the_settings(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&settings, &zero);
}

// Ports and flags of a layer-4 header that is whole. False for one that is not.
static __always_inline bool parse_ports(struct packet *packet, void *at, void *end)
{
	switch (packet->protocol) {
	case IPPROTO_TCP: {
		struct tcphdr *tcp = at;
		if ((void *)(tcp + 1) > end || tcp->doff < 5)
			return false;
		packet->src_port = tcp->source;
		packet->dst_port = tcp->dest;
		packet->opens = tcp->syn && !tcp->ack;
		packet->ends = tcp->fin || tcp->rst;
		packet->cached = true;
		return true;
	}
	case IPPROTO_UDP: {
		__be16 *ports = at;
		if (at + 8 > end)
			return false;
		packet->src_port = ports[0];
		packet->dst_port = ports[1];
		packet->cached = true;
		return true;
	}
	case IPPROTO_SCTP: {
		__be16 *ports = at;
		__u8 *chunk = at + 12;
		if (at + 16 > end)
			return false;
		packet->src_port = ports[0];
		packet->dst_port = ports[1];
		// RFC 9260, section 3.3: INIT opens; ABORT and SHUTDOWN COMPLETE end.
		packet->opens = *chunk == 1;
		packet->ends = *chunk == 6 || *chunk == 14;
		packet->cached = true;
		return true;
	}
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6: {
		__u8 *icmp = at;
		if (at + 8 > end)
			return false;
		bool v6 = packet->protocol == IPPROTO_ICMPV6;
		bool request = icmp[0] == (v6 ? 128 : 8), reply = icmp[0] == (v6 ? 129 : 0);
		if (request || reply) {
			__be16 *id = at + 4;
			packet->src_port = packet->dst_port = *id;
			packet->opens = request;
			packet->answers = reply;
			packet->cached = true;
		}
		return true;
	}
	default:
		packet->cached = true;
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
	return packet->later || parse_ports(packet, ip + 1, end);
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
	return parse_ports(packet, at, end);
}

// The headers in one piece: eth, IPv6, a fragment header and TCP at most.
static __always_inline void linear(struct __sk_buff *skb)
{
	__u32 want = skb->len < 82 ? skb->len : 82;
	if ((void *)(long)skb->data + want > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, want);
}

enum answer { MISS, STALE, PASS, STOP };

static __always_inline enum answer ask(struct verdict *known, const struct packet *packet, __u32 epoch, bool to_pod)
{
	if (!known)
		return MISS;
	// Entries are renewed before the epoch is: those are ahead of it for a moment.
	if ((__s32)(known->epoch - epoch) < 0)
		return STALE;
	bool by_opener = to_pod != !!(known->flags & POD_OPENED);
	if (by_opener ? packet->answers : packet->opens || known->verdict == DENY)
		return MISS;
	__u64 now = bpf_ktime_get_coarse_ns();
	if (now - known->last_seen > SECOND)
		known->last_seen = now;
	__u8 flags = known->flags | (packet->ends ? ENDING : 0) | (by_opener ? 0 : ANSWERED);
	if (flags != known->flags)
		known->flags = flags;
	return known->verdict == ALLOW ? PASS : STOP;
}

static __always_inline struct verdict *entry_of(const struct packet *packet, __u16 id, bool to_pod)
{
	const struct address *local = to_pod ? &packet->dst : &packet->src;
	const struct address *remote = to_pod ? &packet->src : &packet->dst;
	__be16 local_port = to_pod ? packet->dst_port : packet->src_port;
	__be16 remote_port = to_pod ? packet->src_port : packet->dst_port;
	if (is_mapped(local)) {
		struct flow4 key = { .local_port = local_port, .remote_port = remote_port, .port = id,
				     .protocol = packet->protocol };
		__builtin_memcpy(&key.local, local->octets + 12, 4);
		__builtin_memcpy(&key.remote, remote->octets + 12, 4);
		return bpf_map_lookup_elem(&flows4, &key);
	}
	struct flow6 key = { .local_port = local_port, .remote_port = remote_port, .port = id,
			     .protocol = packet->protocol };
	__builtin_memcpy(key.local, local->octets, 16);
	__builtin_memcpy(key.remote, remote->octets, 16);
	return bpf_map_lookup_elem(&flows6, &key);
}

static __always_inline struct fragment fragment_of(const struct packet *packet, __u16 id, bool to_pod)
{
	struct fragment key = { .id = packet->id, .port = id, .protocol = packet->protocol, .to_pod = to_pod };
	__builtin_memcpy(key.src, packet->src.octets, 16);
	__builtin_memcpy(key.dst, packet->dst.octets, 16);
	return key;
}

// A bucket of punts: refilled by the time that has passed. Several processors may take the same token: it bounds,
// it does not account.
static __always_inline bool may_punt(__u16 id, enum bucket_of which, const struct settings *set)
{
	__u32 at = id * BUCKETS + which;
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &at);
	if (!bucket)
		return false;
	__u64 now = bpf_ktime_get_ns(), since = now - bucket->filled;
	if (since > SECOND)
		since = SECOND;
	__u64 more = since * set->punt_rate / SECOND;
	if (more) {
		__u64 punts = bucket->punts + more;
		bucket->punts = punts < set->punt_burst ? punts : set->punt_burst;
		bucket->filled = now;
	}
	if (!bucket->punts)
		return false;
	bucket->punts--;
	return true;
}

// To the worker, with the port and the direction in a tag. `payer` is the port of whose bucket that is taken.
static __always_inline int punt_for(struct __sk_buff *skb, __u16 id, bool to_pod, __u16 payer, enum bucket_of which)
{
	struct settings *set = the_settings();
	if (set && set->open_after && bpf_ktime_get_coarse_ns() > set->open_after)
		return TC_ACT_UNSPEC;
	if (!set || !may_punt(payer, which, set)) {
		COUNT(payer, limited);
		return TC_ACT_SHOT;
	}
	// The pair would drop it, and count it where nobody looks.
	if ((skb->gso_size ? skb->gso_size + SEGMENT_HEADERS : skb->len) > set->longest) {
		COUNT(payer, too_long);
		return TC_ACT_SHOT;
	}
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), id << 1 | (to_pod ? TO_POD : 0)))
		return TC_ACT_SHOT;
	COUNT(id, punted);
	return bpf_redirect(set->punt_ifindex, 0);
}

static __always_inline int punt(struct __sk_buff *skb, __u16 id, bool to_pod)
{
	return punt_for(skb, id, to_pod, id, to_pod ? RECEIVES : SENDS);
}

// What is known about a packet. Where it leaves for good, what is provisional does not count.
static __always_inline enum answer look_up(const struct packet *packet, __u16 id, bool to_pod, bool leaves)
{
	__u32 at = id;
	__u32 *epoch = bpf_map_lookup_elem(&epochs, &at);
	if (!epoch || !packet->cached)
		return MISS;
	struct verdict *known;
	struct fragment key;
	if (packet->later || packet->first)
		key = fragment_of(packet, id, to_pod);
	known = packet->later ? bpf_map_lookup_elem(&fragments, &key) : entry_of(packet, id, to_pod);
	if (leaves && known && known->flags & PROVISIONAL)
		return MISS;
	enum answer answer = ask(known, packet, *epoch, to_pod);
	if (known && packet->first && (answer == PASS || answer == STOP)) {
		// Later fragments go the way of this one: the way that they go themselves.
		struct verdict value = *known;
		value.flags = (value.flags & PROVISIONAL) | (to_pod ? 0 : POD_OPENED);
		bpf_map_update_elem(&fragments, &key, &value, BPF_ANY);
	}
	if (answer == PASS && packet->later)
		COUNT(id, fragment_hit);
	return answer;
}

static __always_inline int judge(struct __sk_buff *skb, const struct packet *packet, __u16 id, bool to_pod)
{
	switch (look_up(packet, id, to_pod, false)) {
	case PASS:
		COUNT(id, hit);
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
SEC("classifier")
int pod_in(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct tap *tap = bpf_map_lookup_elem(&taps, &ifindex);
	struct settings *set = the_settings();
	if (!tap || !set) {
		COUNT(0, unknown_port);
		return TC_ACT_SHOT;
	}
	__u16 id = tap->id;
	// A mark does not cross from one network namespace to another: only reinject can have set it.
	if (set->mark && skb->mark == set->mark) {
		skb->mark = 0;
		COUNT(id, approved);
		return TC_ACT_UNSPEC;
	}
	if (skb->vlan_present) {
		COUNT(id, tagged);
		return TC_ACT_SHOT;
	}
	linear(skb);
	void *at = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = at;
	if ((void *)(eth + 1) > end) {
		COUNT(id, malformed);
		return TC_ACT_SHOT;
	}
	// Who the pod is, it may first have to say: the worker learns from what it is shown.
	if (!tap->mac_known || !same_mac(eth->h_source, tap->mac))
		return punt(skb, id, false);
	struct port self = { .mac_known = 1 };
	__builtin_memcpy(self.mac, tap->mac, 6);
	if (is_for_kernel(eth + 1, eth->h_proto, end, &self, ifindex)) {
		COUNT(id, own);
		return TC_ACT_UNSPEC;
	}
	struct packet packet = {};
	at = eth + 1;
	bool whole = eth->h_proto == bpf_htons(ETH_P_IP)   ? parse4(&packet, at, end)
		     : eth->h_proto == bpf_htons(ETH_P_IPV6) ? parse6(&packet, at, end)
							     : false;
	// The worker has a name for what is wrong with it. The source is in the key: another's address has no entry.
	if (!whole || !same_mac(eth->h_dest, tap->gateway))
		return punt(skb, id, false);
	return judge(skb, &packet, id, false);
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

// Whether a packet under a local pod's address came by another interface than the pod's, or one under an address of the
// node from elsewhere: somebody pretends, and an answer would be let in as one that the pod had asked for.
static __always_inline bool is_spoofed(struct __sk_buff *skb, const struct packet *packet)
{
	if (is_from_here(skb, packet))
		return false;
	__u32 *owner = bpf_map_lookup_elem(&owners, &packet->src);
	if (owner)
		return *owner != skb->ingress_ifindex;
	return !skb->ingress_ifindex && is_node(&packet->src);
}

// To the pod: from the node itself, from the pod itself by way of a service, or judged.
SEC("classifier")
int pod_out(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, from = skb->ingress_ifindex;
	struct tap *tap = bpf_map_lookup_elem(&taps, &ifindex);
	if (!tap) {
		COUNT(0, unknown_port);
		return TC_ACT_SHOT;
	}
	__u16 id = tap->id;
	linear(skb);
	void *at = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = at;
	if ((void *)(eth + 1) > end) {
		COUNT(id, malformed);
		return TC_ACT_SHOT;
	}
	// Zero for what the node's own processes and its kernel send; nothing that is forwarded has it.
	if (!from && is_neighbour_message(eth, end)) {
		COUNT(id, own);
		return TC_ACT_UNSPEC;
	}
	struct packet packet = {};
	at = eth + 1;
	bool whole = eth->h_proto == bpf_htons(ETH_P_IP)   ? parse4(&packet, at, end)
		     : eth->h_proto == bpf_htons(ETH_P_IPV6) ? parse6(&packet, at, end)
							     : false;
	if (!whole) {
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
	if (from == ifindex || (!from && is_node(&packet.src))) {
		COUNT(id, own);
		return TC_ACT_UNSPEC;
	}
	return judge(skb, &packet, id, true);
}

// To other nodes: what a pod sends, seen as it leaves.
SEC("classifier")
int uplink_out(struct __sk_buff *skb)
{
	linear(skb);
	void *at = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = at;
	struct packet packet = {};
	if ((void *)(eth + 1) > end)
		return TC_ACT_UNSPEC;
	at = eth + 1;
	bool whole = eth->h_proto == bpf_htons(ETH_P_IP)   ? parse4(&packet, at, end)
		     : eth->h_proto == bpf_htons(ETH_P_IPV6) ? parse6(&packet, at, end)
							     : false;
	__u32 *owner = bpf_map_lookup_elem(&owners, &packet.src);
	if (!owner)
		return TC_ACT_UNSPEC;
	struct tap *tap = bpf_map_lookup_elem(&taps, owner);
	__u32 here = skb->ifindex;
	struct tap *uplink = bpf_map_lookup_elem(&taps, &here);
	struct settings *set = the_settings();
	if (!tap || !uplink || !set || !whole)
		return TC_ACT_SHOT;
	__u16 id = tap->id;
	if (set->mark && skb->mark == set->mark) {
		skb->mark = 0;
		COUNT(id, approved);
		return TC_ACT_UNSPEC;
	}
	if (is_spoofed(skb, &packet)) {
		COUNT(id, spoofed);
		return TC_ACT_SHOT;
	}
	switch (look_up(&packet, id, false, true)) {
	case PASS:
		return TC_ACT_UNSPEC;
	case STOP:
		COUNT(id, denied);
		return TC_ACT_SHOT;
	default:
		return punt_for(skb, uplink->id, true, id, LEAVES);
	}
}

// SipHash-2-4 (Aumasson and Bernstein, 2012) of eight bytes: what the worker shows for a frame to be approved.
#define ROTATE(x, by) ((x) << (by) | (x) >> (64 - (by)))
#define ROUND                                                                                     \
	do {                                                                                      \
		a += b; b = ROTATE(b, 13); b ^= a; a = ROTATE(a, 32);                             \
		c += d; d = ROTATE(d, 16); d ^= c;                                                \
		a += d; d = ROTATE(d, 21); d ^= a;                                                \
		c += b; b = ROTATE(b, 17); b ^= c; c = ROTATE(c, 32);                             \
	} while (0)

static __always_inline __u64 siphash(const __u64 *key, __u64 word)
{
	__u64 a = key[0] ^ 0x736f6d6570736575ULL, b = key[1] ^ 0x646f72616e646f6dULL;
	__u64 c = key[0] ^ 0x6c7967656e657261ULL, d = key[1] ^ 0x7465646279746573ULL;
	d ^= word;
	ROUND;
	ROUND;
	a ^= word;
	// The last block holds the length alone.
	d ^= 8ULL << 56;
	ROUND;
	ROUND;
	a ^= 8ULL << 56;
	c ^= 0xff;
	ROUND;
	ROUND;
	ROUND;
	ROUND;
	return a ^ b ^ c ^ d;
}

// The end of every frame that the worker gives back: it approved just this one, and nobody can show that again.
struct approval {
	__u32 sequence;
	__u32 tag;
	__u64 proof;
};

SEC("classifier")
int reinject(struct __sk_buff *skb)
{
	struct settings *set = the_settings();
	__u32 queue = 0, length = skb->len;
	struct approvals *seen = bpf_map_lookup_elem(&approvals, &queue);
	struct approval shown;
	if (!set || !seen || length < sizeof(struct ethhdr) + sizeof(shown) || !skb->vlan_present)
		goto forged;
	if (bpf_skb_load_bytes(skb, length - sizeof(shown), &shown, sizeof(shown)))
		goto forged;
	__u32 tag = skb->vlan_tci;
	if (shown.tag != tag || (__s32)(shown.sequence - seen->last) <= 0)
		goto forged;
	if (shown.proof != siphash(set->key, (__u64)shown.tag << 32 | shown.sequence))
		goto forged;
	seen->last = shown.sequence;

	__u32 id = tag >> 1;
	__u32 *interface = bpf_map_lookup_elem(&interfaces, &id);
	if (!interface || !*interface)
		goto forged;
	__u32 target = *interface;
	struct tap *tap = bpf_map_lookup_elem(&taps, &target);
	if (!tap || bpf_skb_change_tail(skb, length - sizeof(shown), 0) || bpf_skb_vlan_pop(skb))
		goto forged;
	COUNT(id, reinjected);
	if ((tag & TO_POD) && !tap->uplink)
		// Past pod_out, straight into the pod.
		return bpf_redirect_peer(target, 0);
	skb->mark = set->mark;
	return bpf_redirect(target, tap->uplink ? 0 : BPF_F_INGRESS);
forged:
	COUNT(0, forged);
	return TC_ACT_SHOT;
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
