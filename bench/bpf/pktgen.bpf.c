// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * pktgen's two programs.
 *
 * transmit, run by BPF_PROG_TEST_RUN with live frames: makes a packet of a template and the next
 * flow, and sends it out of the interface that the run names. The kernel calls it again and again
 * with frames of a small pool, which still hold what an earlier call left in them: so whatever
 * differs between packets is written in each call, and checksums are worked out from what of a
 * packet never changes (`constant`) and what was written, not from what stood there before.
 *
 * It keeps the rate itself: a call that comes before its packet is due waits for it, and gives its frame back
 * where that takes long, or where it comes after the last one. Frames that are given back go through the lock of
 * the pool that they are from, by which the receiver's core gives back its own: so they are to be few.
 *
 * receive, on the same interface: counts what comes back to the flows' addresses, and drops it,
 * so that no stack answers it. It also makes a veth pair hand frames over by NAPI.
 *
 * Maps, as src/pktgen/live.rs uses them:
 *   settings   ARRAY          0 -> struct settings
 *   templates  ARRAY          number -> struct template
 *   draws      ARRAY          turn -> number of a flow, where flows are drawn
 *   progress   ARRAY          0 -> struct progress; one thread sends, whichever core it is on
 *   received   PERCPU_ARRAY   enum kind -> struct tally
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* src/pktgen/live.rs has the same numbers. */
#define TEMPLATES_MAX 8
#define HEADERS_MAX 96
#define DRAWS (1 << 20)
/* How far behind its schedule a run may be and still catch up, packets: a burst of AF_XDP. */
#define CATCH_UP_MAX 64
/* How long a call waits for its packet, and how often it looks meanwhile, so that the verifier sees an end. */
#define WAIT_NS 2000
#define LOOKS_MAX 256

struct settings {
	__u64 interval_ns; /* between packets; 0: none */
	__u64 packets; /* in all */
	__u32 templates;
	__u32 addresses; /* of sources, from each template's on */
	__u32 ports; /* of sources, from each template's on; 1: no other */
	__u32 is_drawn; /* flows as `draws` says, else in turn */
	__u32 stamp_every; /* so many packets, one says when it was sent; 0: none does */
	__u32 udp_at; /* offset of the UDP header, where there are stamps */
	__u32 port; /* destination port of packets without a stamp; with one, the next */
	__u32 run_len; /* packets of a flow that follow each other */
};

struct template {
	__u8 headers[HEADERS_MAX];
	__u32 len; /* of the frame */
	__u32 first_v4; /* the first source, in the machine's order */
	__u64 first_v6_upper;
	__u64 first_v6_lower;
	__u16 source_at; /* offsets into the frame; 0: there is none */
	__u16 is_v6;
	__u16 port_at;
	__u16 port_first;
	__u16 ip_checksum_at;
	__u16 checksum_at;
	__u32 ip_constant;
	__u32 constant;
};

struct progress {
	__u64 sent;
	__u64 start_ns; /* when the first packet was due; 0 at the start of a run */
	__u64 first_ns; /* of this run, as is last_ns */
	__u64 last_ns;
	__u64 given_up; /* calls that could make no packet: a fault of ours */
};

enum kind { UDP, TCP_SYN_ACK, TCP_RESET, TCP_OTHER, ICMP, ARP, NEIGHBOR, OTHER, KINDS };

struct tally {
	__u64 frames;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct settings);
	__uint(max_entries, 1);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct template);
	__uint(max_entries, TEMPLATES_MAX);
} templates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, DRAWS);
} draws SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct progress);
	__uint(max_entries, 1);
} progress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct tally);
	__uint(max_entries, KINDS);
} received SEC(".maps");

/* Whether the next packet is due, at once or within WAIT_NS; a run that is far behind forgets what it owes. */
static __always_inline int becomes_due(struct progress *at, __u64 interval_ns, __u64 now_ns)
{
	__u64 due_ns = at->start_ns + at->sent * interval_ns;
	__u64 until_ns = now_ns + WAIT_NS;

	for (int looks = 0; looks < LOOKS_MAX && now_ns < due_ns && now_ns < until_ns; looks++)
		now_ns = bpf_ktime_get_ns();
	if (now_ns < due_ns)
		return 0;
	if (now_ns - due_ns > CATCH_UP_MAX * interval_ns)
		at->start_ns = now_ns - at->sent * interval_ns;
	return 1;
}

/* One's complement sum of a number's 16-bit words (RFC 1071), folded. */
static __always_inline __u32 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline int put16(void *data, void *end, __u16 at, __u16 value)
{
	__be16 *field;

	if (at > HEADERS_MAX)
		return -1;
	field = data + at;
	if ((void *)(field + 1) > end)
		return -1;
	*field = bpf_htons(value);
	return 0;
}

/* Writes the source, and returns the sum of its words; negative if it does not fit. */
static __always_inline __s64 put_source(void *data, void *end, const struct template *from,
					__u32 number)
{
	__be32 *field;

	if (from->source_at > HEADERS_MAX)
		return -1;
	field = data + from->source_at;
	if (!from->is_v6) {
		__u32 address = from->first_v4 + number;

		if ((void *)(field + 1) > end)
			return -1;
		*field = bpf_htonl(address);
		return (address >> 16) + (address & 0xffff);
	} else {
		__u64 upper = from->first_v6_upper, lower = from->first_v6_lower + number;

		if ((void *)(field + 4) > end)
			return -1;
		field[0] = bpf_htonl(upper >> 32);
		field[1] = bpf_htonl(upper);
		field[2] = bpf_htonl(lower >> 32);
		field[3] = bpf_htonl(lower);
		return (__s64)folded(upper) + folded(lower);
	}
}

static __always_inline int fill(void *data, void *end, const struct template *from, __u32 address,
				__u32 port)
{
	__s64 sum = put_source(data, end, from, address);
	struct ethhdr *ethernet = data;
	__u16 value;

	/* Who received the frame before may have addressed it to somebody else. */
	if ((void *)(ethernet + 1) > end)
		return -1;
	__builtin_memcpy(ethernet, from->headers, 2 * ETH_ALEN);
	if (sum < 0)
		return -1;
	if (from->ip_checksum_at) {
		value = ~folded(from->ip_constant + sum);
		if (put16(data, end, from->ip_checksum_at, value))
			return -1;
	}
	if (from->port_at) {
		if (put16(data, end, from->port_at, port))
			return -1;
		sum += port;
	}
	if (from->checksum_at) {
		value = ~folded(from->constant + sum);
		/* Zero would say that there is none (RFC 768); to TCP and ICMPv6 the two are one. */
		if (put16(data, end, from->checksum_at, value ? value : 0xffff))
			return -1;
	}
	return 0;
}

/* Over IPv4 a UDP checksum may be missing (RFC 768), so that a stamp leaves the rest as it is. */
static __always_inline int stamp(void *data, void *end, const struct settings *set, int is_stamped)
{
	struct udphdr *udp;
	__be64 *stamp;

	if (set->udp_at > HEADERS_MAX)
		return -1;
	udp = data + set->udp_at;
	stamp = (void *)(udp + 1);
	if ((void *)(stamp + 1) > end)
		return -1;
	if (is_stamped) {
		udp->dest = bpf_htons(set->port + 1);
		udp->check = 0;
		*stamp = bpf_cpu_to_be64(bpf_ktime_get_ns());
	} else {
		udp->dest = bpf_htons(set->port);
		*stamp = 0;
	}
	return 0;
}

static __always_inline int given_up(struct progress *at)
{
	at->given_up += 1;
	return XDP_ABORTED;
}

SEC("xdp")
int transmit(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, which, flow;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	struct progress *at = bpf_map_lookup_elem(&progress, &zero);
	struct template *from;
	__u64 now_ns;

	if (!set || !at)
		return XDP_ABORTED;
	if (!set->templates || !set->addresses || !set->ports || !set->run_len)
		return given_up(at);
	if (at->sent >= set->packets)
		return XDP_DROP;
	if (set->interval_ns) {
		now_ns = bpf_ktime_get_ns();
		if (!at->start_ns)
			at->start_ns = now_ns - at->sent * set->interval_ns;
		if (!becomes_due(at, set->interval_ns, now_ns))
			return XDP_DROP;
	}

	which = at->sent % set->templates;
	from = bpf_map_lookup_elem(&templates, &which);
	if (!from)
		return given_up(at);
	/* Who joined the run before as one (GRO) has written its lengths into the frame. */
	if (set->templates > 1 || set->run_len > 1) {
		__u32 len = from->len < HEADERS_MAX ? from->len : HEADERS_MAX;

		if (!len || bpf_xdp_store_bytes(ctx, 0, from->headers, len))
			return given_up(at);
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
	}
	flow = at->sent / set->templates / set->run_len;
	if (set->is_drawn) {
		__u32 turn = flow & (DRAWS - 1);
		__u32 *drawn = bpf_map_lookup_elem(&draws, &turn);

		if (!drawn)
			return given_up(at);
		flow = *drawn;
	}
	if (fill(data, end, from, flow % set->addresses,
		 from->port_first + flow / set->addresses % set->ports))
		return given_up(at);
	if (set->stamp_every && stamp(data, end, set, at->sent % set->stamp_every == 0))
		return given_up(at);
	at->sent += 1;
	/* Of the first and of every 64th alone: reading the clock costs as much as the rest. */
	if (!at->first_ns || (at->sent & 63) == 1 || set->interval_ns) {
		at->last_ns = bpf_ktime_get_ns();
		if (!at->first_ns)
			at->first_ns = at->last_ns;
	}
	return XDP_TX;
}

static __always_inline enum kind kind_of_tcp(struct tcphdr *tcp, void *end)
{
	if ((void *)(tcp + 1) > end)
		return OTHER;
	if (tcp->rst)
		return TCP_RESET;
	return tcp->syn && tcp->ack ? TCP_SYN_ACK : TCP_OTHER;
}

static __always_inline enum kind kind_of_ipv4(struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end)
		return OTHER;
	switch (ip->protocol) {
	case IPPROTO_UDP:
		return UDP;
	case IPPROTO_TCP:
		return ip->ihl == 5 ? kind_of_tcp((void *)(ip + 1), end) : TCP_OTHER;
	case IPPROTO_ICMP:
		return ICMP;
	default:
		return OTHER;
	}
}

static __always_inline enum kind kind_of_ipv6(struct ipv6hdr *ip, void *end)
{
	__u8 *type = (void *)(ip + 1);

	if ((void *)(ip + 1) > end)
		return OTHER;
	switch (ip->nexthdr) {
	case IPPROTO_UDP:
		return UDP;
	case IPPROTO_TCP:
		return kind_of_tcp((void *)(ip + 1), end);
	case IPPROTO_ICMPV6:
		if ((void *)(type + 1) > end)
			return OTHER;
		/* RFC 4861: router and neighbour solicitations and advertisements, redirects */
		return *type >= 133 && *type <= 137 ? NEIGHBOR : ICMP;
	default:
		return OTHER;
	}
}

SEC("xdp")
int receive(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct tally *tally;
	__u32 kind = OTHER;

	if ((void *)(ethernet + 1) > end)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		kind = kind_of_ipv4((void *)(ethernet + 1), end);
	else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		kind = kind_of_ipv6((void *)(ethernet + 1), end);
	else if (ethernet->h_proto == bpf_htons(ETH_P_ARP))
		kind = ARP;
	tally = bpf_map_lookup_elem(&received, &kind);
	if (tally) {
		tally->frames += 1;
		tally->bytes += end - data;
	}
	/* Whoever asks for our MAC address is answered by the kernel. */
	return kind == ARP || kind == NEIGHBOR || kind == OTHER ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual Apache-2.0/GPL";
