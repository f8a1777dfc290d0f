// What the programs of inline mode know: ports, verdicts, whose addresses those are, and what they count.

#pragma once

#define PINNING __uint(pinning, 1)
#include "../pods.bpf.h"

#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#define MAX_FLOWS 262144
#define MAX_FRAGMENTS 8192
#define MAX_IDS 1024
#define MAX_QUEUES 64
#define SLOTS 4096
#define SECOND 1000000000ULL

enum { ALLOW = 1, DENY = 2 };

// Whose punts those are, of each port: what its pod sends, what comes to it from elsewhere, and what its pod has sent and
// is judged once more, where it goes to another pod or leaves the node. None of them takes from another.
enum bucket_of { SENDS, RECEIVES, LEAVES, BUCKETS };

// Flags of a flow: who opened it, a FIN or RST was seen, the other end has spoken, it is to be judged once more where
// the address behind a service can be seen, and who is behind an address of the node, connection tracking alone knows.
enum { POD_OPENED = 1, ENDING = 2, ANSWERED = 4, PROVISIONAL = 8, HIDDEN = 16 };

// Connection tracking forgets nothing sooner than after three seconds without a packet (SCTP, before it is open), so
// that an address and port of the node cannot become somebody else's while packets are no further apart than this.
#define HIDDEN_FOR (2 * SECOND)

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
	__u16 other; // the port of the pod at the other end, where its epoch counts as well; or 0
	__u64 last_seen; // of the coarse monotonic clock, in nanoseconds
	// The generation of addresses for which both ends were found to be who they say, and from bit 32 on the interface
	// by which the remote end came then, or 0. The programs write it themselves, in one piece.
	__u64 checked;
	__u32 other_epoch;
	__u32 beat; // of which last_seen is
};

// Key of `fragments`: a datagram whose first fragment has a verdict.
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
	__u32 punt_ifindex; // portcullis0
	__u32 punt_rate;    // a second and bucket
	__u32 punt_burst;
	__u64 open_after; // fallback: open, when this moment has passed and nobody has moved it on; 0: never
	__u32 longest;      // frame that the punt pair carries
	__u32 unused;
};

struct approvals {
	__u64 last; // number
};

#define COUNTED(f)                                                                                                \
	f(hit) f(denied) f(missed) f(stale) f(punted) f(limited) f(reinjected) f(approved) f(forged) f(own) f(tagged) \
		f(malformed) f(unknown_port) f(fragment_hit) f(spoofed) f(too_long)

struct counts {
#define FIELD(name) __u64 name;
	COUNTED(FIELD)
#undef FIELD
};

MAP(flows4, BPF_MAP_TYPE_HASH, MAX_FLOWS, struct flow4, struct verdict);
MAP(flows6, BPF_MAP_TYPE_HASH, MAX_FLOWS, struct flow6, struct verdict);
MAP(fragments, BPF_MAP_TYPE_LRU_HASH, MAX_FRAGMENTS, struct fragment, struct verdict);
// By interface index.
MAP(taps, BPF_MAP_TYPE_HASH, MAX_PORTS, __u32, struct tap);
// The same by the last bits of the index, for most ports: found without a call.
MAP(slots, BPF_MAP_TYPE_ARRAY, SLOTS, __u32, struct tap);
// By port id.
MAP(epochs, BPF_MAP_TYPE_ARRAY, MAX_IDS, __u32, __u32);
// By port id: the interface.
MAP(interfaces, BPF_MAP_TYPE_ARRAY, MAX_IDS, __u32, __u32);
// By port id and bucket.
MAP(buckets, BPF_MAP_TYPE_ARRAY, MAX_IDS * BUCKETS, __u32, struct bucket);
// The interface of a local pod's address.
MAP(owners, BPF_MAP_TYPE_HASH, MAX_ADDRESSES, struct address, __u32);
// How often the addresses of pods and of the node have changed.
MAP(generation, BPF_MAP_TYPE_ARRAY, 1, __u32, __u32);
MAP(settings, BPF_MAP_TYPE_ARRAY, 1, __u32, struct settings);
// By queue of portcullis1.
MAP(approvals, BPF_MAP_TYPE_ARRAY, MAX_QUEUES, __u32, struct approvals);
MAP(punts, BPF_MAP_TYPE_XSKMAP, MAX_QUEUES, __u32, __u32);
// By port id; those of unknown ports, and of reinject, at 0, which no port has.
MAP(counted, BPF_MAP_TYPE_PERCPU_ARRAY, MAX_IDS, __u32, struct counts);

#define COUNT(id, name)                                                            \
	({                                                                         \
		__u32 at_id = id;                                                  \
		struct counts *counts = bpf_map_lookup_elem(&counted, &at_id);     \
		if (counts)                                                        \
			counts->name++;                                            \
	})

// The one element of a map.
static __always_inline void *first_of(void *map)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(map, &zero);
}

static __always_inline __u32 *epoch_of(__u32 id)
{
	return bpf_map_lookup_elem(&epochs, &id);
}

static __always_inline struct tap *tap_of(__u32 ifindex)
{
	__u32 slot = ifindex % SLOTS;
	struct tap *tap = bpf_map_lookup_elem(&slots, &slot);
	return tap && tap->ifindex == ifindex ? tap : bpf_map_lookup_elem(&taps, &ifindex);
}
