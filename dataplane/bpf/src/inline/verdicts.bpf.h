// What is known about a packet.

#pragma once

#include "packet.bpf.h"

enum answer { MISS, STALE, PASS, STOP };

// What an entry says about a packet of its connection. `tracked`: connection tracking has seen the packet already.
static __always_inline enum answer ask(struct verdict *known, const struct layer4 *layer4, __u32 epoch, bool to_pod,
				       bool tracked)
{
	// Entries are renewed before the epoch is: those are ahead of it for a moment.
	if ((__s32)(known->epoch - epoch) < 0)
		return STALE;
	if (known->other) {
		__u32 *newest = epoch_of(known->other);
		if (!newest || (__s32)(known->other_epoch - *newest) < 0)
			return STALE;
	}
	bool by_opener = to_pod != !!(known->flags & POD_OPENED);
	if (by_opener ? layer4->answers : layer4->opens || known->verdict == DENY)
		return MISS;
	bool hidden = known->flags & HIDDEN;
	if (hidden && (layer4->opens || bpf_ktime_get_coarse_ns() - known->last_seen > HIDDEN_FOR))
		return MISS;
	// Between a quarter of a second and two and a half, as the kernel was built; read without a call.
	__u32 beat = bpf_jiffies64() >> 8;
	// What has yet to be translated may be none of the connection that it claims.
	if (known->beat != beat && (tracked || !hidden)) {
		known->beat = beat;
		known->last_seen = bpf_ktime_get_coarse_ns();
	}
	// One that opens anew on the same ports begins again.
	__u8 flags = layer4->opens ? known->flags & ~(ENDING | ANSWERED) : known->flags;
	flags |= (layer4->ends ? ENDING : 0) | (by_opener ? 0 : ANSWERED);
	if (flags != known->flags)
		known->flags = flags;
	return known->verdict == ALLOW ? PASS : STOP;
}

// Where a packet comes from, and which addresses are whose meanwhile: to be read before those are looked up.
struct origin {
	__u32 ifindex, generation;
};

static __always_inline struct origin origin_of(const struct __sk_buff *skb)
{
	__u32 *generation_now = first_of(&generation);
	return (struct origin){ .ifindex = skb->ingress_ifindex, .generation = generation_now ? *generation_now : 0 };
}

// Whether the addresses of this entry were found to be true for this origin: those of a pod by its key, that of the
// other end by the interface by which it came. What came by none is looked at each time.
static __always_inline bool is_checked(const struct verdict *known, struct origin origin, bool to_pod)
{
	__u64 checked = known->checked;
	return (__u32)checked == origin.generation &&
	       (!to_pod || (origin.ifindex && checked >> 32 == origin.ifindex));
}

static __always_inline void set_checked(struct verdict *known, struct origin origin, bool to_pod)
{
	__u64 before = known->checked, from = 0;
	if (to_pod)
		from = origin.ifindex;
	else if ((__u32)before == origin.generation)
		from = before >> 32;
	__u64 checked = from << 32 | origin.generation;
	if (checked != before)
		known->checked = checked;
}

static __always_inline struct verdict *entry_of(const struct packet *packet, __u16 id, bool to_pod)
{
	const struct address *local = to_pod ? &packet->dst : &packet->src;
	const struct address *remote = to_pod ? &packet->src : &packet->dst;
	__be16 local_port = to_pod ? packet->layer4.dst_port : packet->layer4.src_port;
	__be16 remote_port = to_pod ? packet->layer4.src_port : packet->layer4.dst_port;
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

// What is known about a packet of any shape, whose addresses are true. Where it leaves for good, what is provisional
// does not count.
static __always_inline enum answer look_up(struct packet *packet, struct origin origin, __u16 id, bool to_pod,
					   bool leaves)
{
	__u32 *epoch = epoch_of(id);
	if (!epoch || !packet->cached)
		return MISS;
	struct fragment key;
	if (packet->later || packet->first)
		key = fragment_of(packet, id, to_pod);
	struct verdict *known =
		packet->later ? bpf_map_lookup_elem(&fragments, &key) : entry_of(packet, id, to_pod);
	if (!known || (leaves && known->flags & PROVISIONAL))
		return MISS;
	enum answer answer = ask(known, &packet->layer4, *epoch, to_pod, to_pod || leaves);
	if (answer != PASS && answer != STOP)
		return answer;
	packet->provisional = known->flags & PROVISIONAL;
	if (packet->later) {
		if (answer == PASS)
			COUNT(id, fragment_hit);
		return answer;
	}
	if (!leaves)
		set_checked(known, origin, to_pod);
	if (packet->first) {
		// Later fragments travel in this packet's direction, so the entry is turned to it.
		struct verdict value = *known;
		value.flags = (value.flags & PROVISIONAL) | (to_pod ? 0 : POD_OPENED);
		bpf_map_update_elem(&fragments, &key, &value, BPF_ANY);
	}
	return answer;
}
