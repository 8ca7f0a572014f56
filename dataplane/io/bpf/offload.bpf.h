/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What of the verdict on packets to a VIP needs no worker, in the shared-mac mode: the offload.
 *
 *     to the shared MAC, and placed   way of the bucket   becomes
 *     TCP, UDP, echo request          DROP                dropped
 *     whole UDP, well formed,         PASS                the kernel's, addressed to the NIC
 *       port not sticky, untagged
 *     to the NIC's own MAC, placed    DROP                REOPENED: a member has forwarded it
 *     everything else, always                             the worker's
 *
 * Placed is a packet whose bucket the hash tells without anything but the packet: IPv4 without
 * options or IPv6 without extension headers, of these protocols. A fragment of IPv4 is placed
 * where the hash takes the address alone.
 *
 * Nothing of it holds beyond the lease: when the control thread stands still, all is the worker's. For
 * drops, that is to within a tick of the kernel's clock.
 *
 * What is dropped is not looked at any further: malformed or not, a worker would drop it too. What
 * is passed must be what a worker would pass, so all is checked that it checks.
 *
 * Maps, as src/xdp/offload.rs uses them:
 *   offload  ARRAY         0 -> struct offload
 *   lease    PERCPU_ARRAY  0 -> the last moment, CLOCK_MONOTONIC, nanoseconds, the same on all CPUs:
 *                          the words of such a map are written whole
 *   ways     ARRAY         0 -> the way of each bucket, a byte each
 *   sticky   ARRAY         n -> bit b: UDP port 64 n + b is tracked
 */

/* Buckets: dataplane/core/src/bucket.rs has the same number. */
#define BUCKETS 4096
#define PORTS 65536

/* Ways of a bucket: dataplane/core/src/offload.rs has the same numbers. */
enum way { WAY_TO_USER, WAY_DROP, WAY_PASS, WAY_REOPENED };

enum offloaded { NOT_OFFLOADED, OFFLOAD_DROPS, OFFLOAD_PASSES };

struct offload {
	/* Of SipHash, read as little-endian words. */
	__u64 key[2];
	/* Of frames that may be passed. */
	__u32 frame_len_max;
	/* The MAC addresses that the VIPs of each family resolve to, and the NIC's own. */
	__u8 shared_v4[ETH_ALEN];
	__u8 shared_v6[ETH_ALEN];
	__u8 own[ETH_ALEN];
	__u8 is_on;
	/* Whether the client's port goes into the hash. */
	__u8 hashes_port;
};

struct ways {
	__u8 of[BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct offload);
	__uint(max_entries, 1);
} offload SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} lease SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct ways);
	__uint(max_entries, 1);
} ways SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, PORTS / 64);
} sticky SEC(".maps");

/* A frame whose network header is known, with a packet to a VIP. */
struct packet {
	void *data;
	void *end;
	void *network;
	__be16 protocol;
};

/* Who sent a packet, as far as the hash takes it in, and what kind of packet it is. */
struct client {
	/* The address in two words and the number of its bytes; of IPv4 in the first. */
	__u64 address[2];
	__u64 address_len;
	/* In network byte order; 0 of packets without ports. */
	__be16 port;
	/* The header of a whole UDP datagram; 0 of others. */
	struct udphdr *udp;
};

static __always_inline __u64 rotated(__u64 word, int bits)
{
	return word << bits | word >> (64 - bits);
}

struct sip {
	__u64 v0, v1, v2, v3;
};

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotated(s->v1, 13) ^ s->v0;
	s->v0 = rotated(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotated(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotated(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotated(s->v1, 17) ^ s->v2;
	s->v2 = rotated(s->v2, 32);
}

static __always_inline void sip_word(struct sip *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

/*
 * SipHash-1-3 of the client as dataplane/core/src/hash.rs has it: the address, and the port behind it
 * if it counts; the number of these bytes goes into the top of the last word (Aumasson, Bernstein:
 * SipHash, 2012, section 2.2). Words are little-endian in there, like the machines that BPF programs
 * of this build are for.
 */
static __always_inline __u32 bucket_of(const struct offload *o, const struct client *c)
{
	struct sip s = {
		.v0 = o->key[0] ^ 0x736f6d6570736575ULL,
		.v1 = o->key[1] ^ 0x646f72616e646f6dULL,
		.v2 = o->key[0] ^ 0x6c7967656e657261ULL,
		.v3 = o->key[1] ^ 0x7465646279746573ULL,
	};
	__u64 length = c->address_len + (o->hashes_port ? sizeof(c->port) : 0);
	__u64 port = o->hashes_port ? c->port : 0;
	__u64 last;

	if (c->address_len == sizeof(struct in6_addr)) {
		sip_word(&s, c->address[0]);
		sip_word(&s, c->address[1]);
		last = port;
	} else {
		last = c->address[0] | port << 32;
	}
	sip_word(&s, last | length << 56);
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return (s.v0 ^ s.v1 ^ s.v2 ^ s.v3) & (BUCKETS - 1);
}

static __always_inline int is_same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const void *)a, *y = (const void *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

/* Takes the client's port of a TCP segment or a UDP datagram, from its whole or first piece. */
static __always_inline int has_port(struct client *c, const void *transport, const void *end)
{
	const struct udphdr *ports = transport;

	if ((const void *)(ports + 1) > end)
		return 0;
	c->port = ports->source;
	return 1;
}

static __always_inline int is_placed_v4(const struct offload *o, const struct packet *p,
					struct client *c)
{
	const struct iphdr *ip = p->network;
	void *transport = (void *)(ip + 1);
	__be16 fragment;

	if (transport > p->end || *(__u8 *)p->network != IPV4_WITHOUT_OPTIONS)
		return 0;
	c->address[0] = ip->saddr;
	c->address_len = sizeof(ip->saddr);
	fragment = ip->frag_off & bpf_htons(IPV4_IS_FRAGMENT);
	if (fragment && o->hashes_port)
		return 0;

	switch (ip->protocol) {
	case IPPROTO_UDP:
		if (fragment)
			return 1;
		c->udp = transport;
		return has_port(c, transport, p->end);
	case IPPROTO_TCP:
		return fragment || has_port(c, transport, p->end);
	case IPPROTO_ICMP:
		/* An error is about the client of the packet that it quotes; later pieces are not read. */
		if (fragment & bpf_htons(IPV4_OFFSET))
			return 1;
		return transport + 1 <= p->end && *(__u8 *)transport == ICMP_ECHO_REQUEST;
	default:
		return 0;
	}
}

static __always_inline int is_placed_v6(const struct packet *p, struct client *c)
{
	const struct ipv6hdr *ip = p->network;
	void *transport = (void *)(ip + 1);
	const __u32 *source;

	if (transport > p->end || *(__u8 *)p->network >> 4 != 6)
		return 0;
	source = ip->saddr.s6_addr32;
	c->address[0] = source[0] | (__u64)source[1] << 32;
	c->address[1] = source[2] | (__u64)source[3] << 32;
	c->address_len = sizeof(ip->saddr);

	switch (ip->nexthdr) {
	case IPPROTO_UDP:
		c->udp = transport;
		return has_port(c, transport, p->end);
	case IPPROTO_TCP:
		return has_port(c, transport, p->end);
	case IPPROTO_ICMPV6:
		return transport + 1 <= p->end && *(__u8 *)transport == ICMPV6_ECHO_REQUEST;
	default:
		return 0;
	}
}

/* Whether a worker would take the header for intact: the sum of all its words is all ones. */
static __always_inline int is_intact_v4(const struct iphdr *ip)
{
	const __u32 *word = (const void *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* Whether an address can be that of a sender: no group, not the host itself, not nobody. */
static __always_inline int is_sender_v4(__be32 address)
{
	__u32 number = bpf_ntohl(address);
	__u32 first = number >> 24;

	return number != 0 && number != 0xffffffff && first != 127 && (first & 0xf0) != 0xe0;
}

static __always_inline int is_sender_v6(const struct in6_addr *address)
{
	const __be32 *word = address->s6_addr32;

	if (address->s6_addr[0] == 0xff)
		return 0;
	if (word[0] || word[1])
		return 1;
	/* The unspecified address and the host itself; addresses of IPv4 (RFC 4291, section 2.5). */
	if (!word[2])
		return bpf_ntohl(word[3]) > 1;
	return word[2] != bpf_htonl(0xffff);
}

/* Whether `rest` bytes that begin with the datagram are all of it, and a little more at the most. */
static __always_inline int is_whole_udp(const struct udphdr *udp, __u32 rest)
{
	__u32 length = bpf_ntohs(udp->len);

	return length >= sizeof(*udp) && length <= rest;
}

static __always_inline int is_tracked(const struct udphdr *udp)
{
	__u32 port = bpf_ntohs(udp->dest);
	__u32 key = port / 64;
	__u64 *ports = bpf_map_lookup_elem(&sticky, &key);

	return !ports || *ports >> port % 64 & 1;
}

/* Whether a worker would pass the UDP datagram of an owned bucket to the host as it is. */
static __always_inline int is_passable(const struct offload *o, const struct packet *p,
				       const struct client *c)
{
	const struct ethhdr *ethernet = p->data;
	const struct iphdr *v4 = p->network;
	const struct ipv6hdr *v6 = p->network;
	const struct udphdr *udp = c->udp;
	__u32 len = p->end - p->data;
	__u32 length;

	if (!udp || (void *)(ethernet + 1) != p->network || len > o->frame_len_max ||
	    ethernet->h_source[0] & 1)
		return 0;
	len -= sizeof(*ethernet);
	if (p->protocol == bpf_htons(ETH_P_IP)) {
		length = bpf_ntohs(v4->tot_len);
		if (length > len || length < sizeof(*v4) + sizeof(*udp) ||
		    !is_whole_udp(udp, length - sizeof(*v4)) || !is_sender_v4(v4->saddr) ||
		    !is_intact_v4(v4))
			return 0;
	} else {
		length = bpf_ntohs(v6->payload_len);
		if (length + sizeof(*v6) > len || length < sizeof(*udp) ||
		    !is_whole_udp(udp, length) || !is_sender_v6(&v6->saddr))
			return 0;
	}
	return !is_tracked(udp);
}

static __always_inline int is_leased_at(__u64 now)
{
	__u32 key = 0;
	__u64 *until = bpf_map_lookup_elem(&lease, &key);

	return until && now <= *until;
}

/* Decides about a packet to a VIP, and addresses it to the NIC if the kernel is to have it. */
static __always_inline enum offloaded offloaded(const struct packet *p)
{
	struct ethhdr *ethernet = p->data;
	struct client client = {};
	int is_v4 = p->protocol == bpf_htons(ETH_P_IP);
	struct offload *o;
	struct ways *table;
	__u32 key = 0, bucket;
	int is_to_own;
	__u8 way;

	o = bpf_map_lookup_elem(&offload, &key);
	table = bpf_map_lookup_elem(&ways, &key);
	if (!o || !table || !o->is_on || (void *)(ethernet + 1) > p->end)
		return NOT_OFFLOADED;
	is_to_own = is_same_mac(ethernet->h_dest, o->own);
	if (!is_to_own && !is_same_mac(ethernet->h_dest, is_v4 ? o->shared_v4 : o->shared_v6))
		return NOT_OFFLOADED;
	if (!(is_v4 ? is_placed_v4(o, p, &client) : is_placed_v6(p, &client)))
		return NOT_OFFLOADED;

	bucket = bucket_of(o, &client);
	way = table->of[bucket & (BUCKETS - 1)];
	if (is_to_own) {
		if (way == WAY_DROP)
			table->of[bucket & (BUCKETS - 1)] = WAY_REOPENED;
		return NOT_OFFLOADED;
	}
	/* A moment late is as good, since a worker would drop it too; to read the clock takes 30 ns. */
	if (way == WAY_DROP)
		return is_leased_at(bpf_ktime_get_coarse_ns()) ? OFFLOAD_DROPS : NOT_OFFLOADED;
	if (way != WAY_PASS || !is_passable(o, p, &client) || !is_leased_at(bpf_ktime_get_ns()))
		return NOT_OFFLOADED;
	__builtin_memcpy(ethernet->h_dest, o->own, ETH_ALEN);
	return OFFLOAD_PASSES;
}
