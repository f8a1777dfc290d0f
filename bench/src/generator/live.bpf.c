// Writes a numbered frame over each frame that BPF_PROG_TEST_RUN makes, and sends it from the interface on which it is
// said to have come in (linux/Documentation/bpf/bpf_prog_run.rst).
//
// The kernel uses its pages again as they come back, so whatever may have been rewritten on the way is written anew:
// headers, number and stamp. What follows the record is zero and nobody's to change.

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum {
	ETHERNET = 14,
	V4 = 20,
	V6 = 40,
	UDP = 8,
	TCP = 20,
	RECORD = 24,
	LOOPBACK = 1, // LOOPBACK_IFINDEX of linux/netdevice.h
	LONGEST_HEAD = ETHERNET + V6 + TCP + RECORD,
};

// Values are in the machine's byte order, but for the template and the pair that says so.
struct span {
	__u32 first;
	__u32 count;
};

struct load {
	__u64 next; // the number of the next frame
	__u64 flows;
	__u64 stride;
	struct span sources; // the last 32 bits
	struct span destinations;
	struct span source_ports;
	struct span destination_ports;
	__u32 ip_sum; // of the template's IP header, in 16-bit words of network order
	__u32 l4_sum; // of the pseudo-header and what follows
	__u32 is_v6;
	__u32 is_tcp;
	__u8 template[LONGEST_HEAD]; // the rest is padding
	__u8 padding[6];
};

_Static_assert(sizeof(struct load) == 176, "the layout that live.rs writes");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct load);
} loads SEC(".maps");

static __always_inline __u32 pick(__u64 *left, const struct span *span)
{
	__u32 count = span->count;
	if (!count)
		return span->first;
	__u32 picked = *left % count;
	*left /= count;
	return span->first + picked;
}

static __always_inline __u32 halves(__u32 sum, __u32 word)
{
	return sum + (word >> 16) + (word & 0xffff);
}

static __always_inline __u16 checksum(__u32 sum)
{
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return ~sum;
}

static __always_inline void put16(void *to, __u16 value)
{
	*(__u16 *)to = __builtin_bswap16(value);
}

static __always_inline void put32(void *to, __u32 value)
{
	*(__u32 *)to = __builtin_bswap32(value);
}

static __always_inline void put64(void *to, __u64 value)
{
	*(__u64 *)to = __builtin_bswap64(value);
}

static __always_inline int send(struct xdp_md *ctx, struct load *load, __u32 ip, __u32 transport)
{
	__u32 head = ETHERNET + ip + transport + RECORD;
	__u8 *frame = (void *)(long)ctx->data;
	if (frame + head > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(frame, load->template, head);

	__u64 number = load->next++;
	__u64 flow = load->flows ? number * load->stride % load->flows : 0;
	__u16 source_port = pick(&flow, &load->source_ports);
	__u16 destination_port = pick(&flow, &load->destination_ports);
	__u32 source = pick(&flow, &load->sources);
	__u32 destination = pick(&flow, &load->destinations);
	__u64 now = bpf_ktime_get_ns();

	__u8 *l3 = frame + ETHERNET;
	__u32 addresses = halves(halves(0, source), destination);
	if (ip == V4) {
		put32(l3 + 12, source);
		put32(l3 + 16, destination);
		put16(l3 + 10, checksum(load->ip_sum + addresses));
	} else {
		put32(l3 + 20, source);
		put32(l3 + 36, destination);
	}

	__u8 *l4 = l3 + ip;
	put16(l4, source_port);
	put16(l4 + 2, destination_port);
	__u8 *record = l4 + transport;
	put64(record + 8, number);
	put64(record + 16, now);
	__u32 sum = load->l4_sum + addresses + source_port + destination_port;
	sum = halves(halves(sum, number >> 32), number);
	sum = halves(halves(sum, now >> 32), now);
	__u16 found = checksum(sum);
	if (transport == UDP)
		// RFC 768: zero means that there is none.
		put16(l4 + 6, found ? found : 0xffff);
	else
		put16(l4 + 16, found);
	return XDP_TX;
}

SEC("xdp")
int live_frame(struct xdp_md *ctx)
{
	__u32 only = 0;
	struct load *load = bpf_map_lookup_elem(&loads, &only);
	if (!load)
		return XDP_ABORTED;
	if (ctx->ingress_ifindex == LOOPBACK)
		return XDP_PASS;
	if (load->is_v6)
		return load->is_tcp ? send(ctx, load, V6, TCP) : send(ctx, load, V6, UDP);
	return load->is_tcp ? send(ctx, load, V4, TCP) : send(ctx, load, V4, UDP);
}

// No helper used here asks for it; the same as the product's programs.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
