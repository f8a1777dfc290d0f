// To the worker and back: which frames are given to it, and which it has approved.

#pragma once

#include "maps.bpf.h"

// The tag of a punted frame: in bit 0 which way it goes, then the port's id, and in bit 11 whether a pod of this node has
// sent it, where it does not come from its port's own.
#define TO_POD 1
#define SENT_HERE 0x800

static __always_inline __u16 id_of(__u16 tag)
{
	return tag >> 1 & (MAX_IDS - 1);
}

// From pod_in on, tc_index says by which pod's port a packet has come, and whether it is to be judged once more, over
// whatever the pod has written there. That outlives routing and translation, which may take its source from it. NOTE
// tells it from small numbers, which other programs write.
#define ONCE_MORE 0x8000
#define NOTE 0x5400

static __always_inline void note_sender(struct __sk_buff *skb, __u16 id, bool once_more)
{
	skb->tc_index = id | NOTE | (once_more ? ONCE_MORE : 0);
}

// The port of the pod that has sent a packet, whatever its source is by now; 0 if none has. What the node has put
// together and cut into IPv6 fragments anew comes by no interface, but with the note.
static __always_inline __u16 sender_of(const struct __sk_buff *skb)
{
	__u32 note = skb->tc_index & ~ONCE_MORE;
	if (!skb->ingress_ifindex)
		return (note & ~(MAX_IDS - 1)) == NOTE ? note & (MAX_IDS - 1) : 0;
	struct tap *tap = tap_of(skb->ingress_ifindex);
	return tap && !tap->uplink ? tap->id : 0;
}

// Whether what this pod has sent is still to be judged. So is what nobody says of that it is not: another program of the
// node may have written over the note.
static __always_inline bool is_open(const struct __sk_buff *skb, __u16 sender)
{
	if (!sender)
		return false;
	return skb->ingress_ifindex ? skb->tc_index != (sender | NOTE) : skb->tc_index & ONCE_MORE;
}

// The longest headers of a segment: Ethernet, IPv6 and TCP with its options.
#define SEGMENT_HEADERS (14 + 40 + 60)

// How many frames the pair makes of it.
static __always_inline __u32 frames_of(const struct __sk_buff *skb)
{
	return skb->gso_size ? skb->len / skb->gso_size + 1 : 1;
}

// A bucket of punts: refilled by the time that has passed. Several processors may take the same token: it bounds,
// it does not account.
static __always_inline bool may_punt(__u16 id, enum bucket_of which, __u32 frames, const struct settings *set)
{
	__u32 at = id * BUCKETS + which;
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &at);
	if (!bucket)
		return false;
	__u64 now = bpf_ktime_get_ns(), since = now - bucket->filled;
	if (since > SECOND)
		since = SECOND;
	__u64 more = since * set->punt_rate / SECOND, punts = bucket->punts + more;
	if (punts > set->punt_burst)
		punts = set->punt_burst;
	if (more)
		bucket->filled = now;
	bool may = punts >= frames;
	bucket->punts = may ? punts - frames : punts;
	return may;
}

// To the worker, with the port and the direction in a tag. `payer` is the port of whose bucket that is taken.
static __always_inline int punt_for(struct __sk_buff *skb, __u16 id, bool to_pod, __u16 payer, enum bucket_of which)
{
	struct settings *set = first_of(&settings);
	if (set && set->open_after && bpf_ktime_get_coarse_ns() > set->open_after)
		return TC_ACT_UNSPEC;
	if (!set || !may_punt(payer, which, frames_of(skb), set)) {
		COUNT(payer, limited);
		return TC_ACT_SHOT;
	}
	__u16 way = !to_pod ? 0 : sender_of(skb) ? TO_POD | SENT_HERE : TO_POD;
	// The pair would drop it, and count it where nobody looks.
	if ((skb->gso_size ? skb->gso_size + SEGMENT_HEADERS : skb->len) > set->longest ||
	    bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), id << 1 | way)) {
		COUNT(payer, too_long);
		return TC_ACT_SHOT;
	}
	COUNT(id, punted);
	return bpf_redirect(set->punt_ifindex, 0);
}

// By the port of a pod: what another pod of this node has sent is paid for by that one.
static __always_inline int punt(struct __sk_buff *skb, __u16 id, bool to_pod)
{
	__u16 sender = to_pod ? sender_of(skb) : 0;
	if (sender)
		return punt_for(skb, id, to_pod, sender, LEAVES);
	return punt_for(skb, id, to_pod, id, to_pod ? RECEIVES : SENDS);
}

// A mark does not cross from one network namespace to another: only reinject can have set it.
static __always_inline bool is_marked(const struct __sk_buff *skb)
{
	struct settings *set = skb->mark ? first_of(&settings) : NULL;
	return set && skb->mark == set->mark;
}

// Whether this frame was approved on its way here, which counts once.
static __always_inline bool takes_mark(struct __sk_buff *skb, __u16 id)
{
	if (!is_marked(skb))
		return false;
	skb->mark = 0;
	COUNT(id, approved);
	return true;
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

// The end of every frame that the worker gives back: it approved just this one, and nobody can show that again. From the
// highest bit: the frame's tag (16), whether it is judged once more, and the number of the approval, which does not come
// twice within years.
struct approval {
	__u64 what;
	__u64 proof;
};

#define NUMBER_BITS 47

// Takes the approval off a frame's end: its tag is then good.
static __always_inline bool takes_approval(struct __sk_buff *skb, const struct settings *set)
{
	__u32 length = skb->len;
	struct approvals *seen = first_of(&approvals);
	struct approval shown;
	if (!seen || length < sizeof(struct ethhdr) + sizeof(shown) || !skb->vlan_present)
		return false;
	if (bpf_skb_load_bytes(skb, length - sizeof(shown), &shown, sizeof(shown)))
		return false;
	__u64 number = shown.what & ((1ULL << NUMBER_BITS) - 1);
	if (shown.what >> (NUMBER_BITS + 1) != skb->vlan_tci || number <= seen->last)
		return false;
	if (shown.proof != siphash(set->key, shown.what))
		return false;
	seen->last = number;
	if (!(skb->vlan_tci & TO_POD))
		note_sender(skb, id_of(skb->vlan_tci), shown.what >> NUMBER_BITS & 1);
	return !bpf_skb_change_tail(skb, length - sizeof(shown), 0);
}
