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
 * drops, that is to within a tick of the kernel.
 *
 * What is dropped is not looked at any further: malformed or not, a worker would drop it too. What
 * is passed must be what a worker would pass, so all is checked that it checks.
 *
 * How fast packets are dropped decides how fast a node is that owns a small part. So the way there is short,
 * and one for each family: what it reads are variables and two arrays, whose lookup is a few instructions.
 * Most of what remains is the hash.
 *
 * Maps, as src/xdp/offload.rs uses them:
 *   .data.offload  struct offload
 *   table          ARRAY  0 -> struct table, which is also in the memory of who controls it
 *   sticky         ARRAY  n -> bit b: UDP port 64 n + b is tracked
 */

/* Buckets: dataplane/core/src/bucket.rs has the same number. */
#define BUCKETS 4096
#define PORTS 65536

/* Ways of a bucket: dataplane/core/src/offload.rs has the same numbers. */
enum way { WAY_TO_USER, WAY_DROP, WAY_PASS, WAY_REOPENED };

enum offloaded { NOT_OFFLOADED, OFFLOAD_DROPS, OFFLOAD_PASSES };

/*
 * SipHash under the cluster's key, as far as it goes before the first word: the halves of the first round
 * that no word goes into are done. v1_rotated is v1 after its last rotation of that round.
 */
struct sip_start {
	__u64 v0, v1, v1_rotated, v2, v3;
};

struct offload {
	struct sip_start start;
	/* The last word of the hash, but for address and port: the number of bytes before it, in its top. */
	__u64 last_v4, last_v6;
	/* The MAC addresses that the VIPs of each family resolve to, and the NIC's own: see mac_at. */
	__u64 shared_v4, shared_v6, own;
	/* Of frames that may be passed. */
	__u32 frame_len_max;
	/* All ones if the client's port goes into the hash, else 0. */
	__u16 port_mask;
	__u16 is_on;
};

/* What changes while the program runs. */
struct table {
	/* The last moment of the lease, CLOCK_MONOTONIC, nanoseconds. */
	__u64 lease_until;
	/* The tick in which the lease was seen to hold. The program's. */
	__u64 leased_tick;
	/* The way of each bucket. The program writes WAY_REOPENED. */
	__u8 way[BUCKETS];
};

struct offload offload SEC(".data.offload");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct table);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} table SEC(".maps");

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

/* The state after the first word: what of a round sip_start leaves to be done. */
static __always_inline struct sip sip_first_word(const struct sip_start *start, __u64 word)
{
	struct sip s = { .v0 = start->v0, .v2 = start->v2, .v3 = start->v3 ^ word };

	s.v2 += s.v3;
	s.v3 = rotated(s.v3, 16) ^ s.v2;
	s.v0 += s.v3;
	s.v3 = rotated(s.v3, 21) ^ s.v0;
	s.v2 += start->v1;
	s.v1 = start->v1_rotated ^ s.v2;
	s.v2 = rotated(s.v2, 32);
	s.v0 ^= word;
	return s;
}

static __always_inline __u32 sip_bucket(struct sip *s)
{
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return (s->v0 ^ s->v1 ^ s->v2 ^ s->v3) & (BUCKETS - 1);
}

/*
 * The bucket is SipHash-1-3 of the client as dataplane/core/src/hash.rs has it: the address, and the port
 * behind it if it counts; the number of these bytes goes into the top of the last word (Aumasson,
 * Bernstein: SipHash, 2012, section 2.2). Words are little-endian in there, like the machines that BPF
 * programs of this build are for.
 */
static __always_inline __u32 bucket_v4(const struct iphdr *ip, __be16 port)
{
	__u64 last = offload.last_v4 | (__u64)(port & offload.port_mask) << 32 | ip->saddr;
	struct sip s = sip_first_word(&offload.start, last);

	return sip_bucket(&s);
}

static __always_inline __u32 bucket_v6(const struct ipv6hdr *ip, __be16 port)
{
	const __u64 *source = (const void *)&ip->saddr;
	struct sip s = sip_first_word(&offload.start, source[0]);

	sip_word(&s, source[1]);
	sip_word(&s, offload.last_v6 | (port & offload.port_mask));
	return sip_bucket(&s);
}

/* A MAC address as a number: its first byte is the lowest. */
static __always_inline __u64 mac_at(const __u8 *mac)
{
	return *(const __u32 *)mac | (__u64) * (const __u16 *)(mac + 4) << 32;
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

static __always_inline int is_placed_v4(const struct packet *p, struct client *c)
{
	const struct iphdr *ip = p->network;
	void *transport = (void *)(ip + 1);
	__be16 fragment;

	if (transport > p->end || *(__u8 *)p->network != IPV4_WITHOUT_OPTIONS)
		return 0;
	fragment = ip->frag_off & bpf_htons(IPV4_IS_FRAGMENT);
	if (fragment && offload.port_mask)
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

	if (transport > p->end || *(__u8 *)p->network >> 4 != 6)
		return 0;
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
static __always_inline int is_passable(const struct packet *p, const struct client *c)
{
	const struct ethhdr *ethernet = p->data;
	const struct iphdr *v4 = p->network;
	const struct ipv6hdr *v6 = p->network;
	const struct udphdr *udp = c->udp;
	__u32 len = p->end - p->data;
	__u32 length;

	if (!udp || (void *)(ethernet + 1) != p->network || len > offload.frame_len_max ||
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

static __always_inline int is_leased(const struct table *t)
{
	return bpf_ktime_get_ns() <= t->lease_until;
}

/*
 * Whether the lease held at some moment of this tick: a moment late is as good for a drop, since a worker
 * would drop the packet too, and to read the clock takes 30 ns.
 */
static __always_inline int is_leased_in_tick(struct table *t)
{
	__u64 tick = bpf_jiffies64();

	if (tick == t->leased_tick)
		return 1;
	if (!is_leased(t))
		return 0;
	t->leased_tick = tick;
	return 1;
}

/*
 * A member forwards what it is granting us, so a flow may begin here: whoever is about to close the bucket
 * is to see that, and what follows is not dropped.
 */
static __always_inline void reopen(__u8 *way)
{
	if (*way == WAY_DROP || *way == WAY_TO_USER)
		*way = WAY_REOPENED;
}

/* Whether a packet to this MAC address can be one that is decided about here. */
static __always_inline int is_for_offload(__u64 to, __u64 shared)
{
	return offload.is_on && (to == shared || to == offload.own);
}

/* Decides about a packet that is placed, and addresses it to the NIC if the kernel is to have it. */
static __always_inline enum offloaded offloaded(const struct packet *p, const struct client *c,
						__u32 bucket, __u64 to)
{
	struct ethhdr *ethernet = p->data;
	__u32 key = 0;
	struct table *t = bpf_map_lookup_elem(&table, &key);
	__u8 *way;

	if (!t)
		return NOT_OFFLOADED;
	way = &t->way[bucket & (BUCKETS - 1)];
	if (to == offload.own) {
		reopen(way);
		return NOT_OFFLOADED;
	}
	if (*way == WAY_DROP)
		return is_leased_in_tick(t) ? OFFLOAD_DROPS : NOT_OFFLOADED;
	if (*way != WAY_PASS || !is_passable(p, c) || !is_leased(t))
		return NOT_OFFLOADED;
	__builtin_memcpy(ethernet->h_dest, &offload.own, ETH_ALEN);
	return OFFLOAD_PASSES;
}

/* The same about a packet to a VIP, of each family. */
static __always_inline enum offloaded offloaded_v4(const struct packet *p)
{
	const struct ethhdr *ethernet = p->data;
	struct client client = {};
	__u64 to = mac_at(ethernet->h_dest);

	if (!is_for_offload(to, offload.shared_v4) || !is_placed_v4(p, &client))
		return NOT_OFFLOADED;
	return offloaded(p, &client, bucket_v4(p->network, client.port), to);
}

static __always_inline enum offloaded offloaded_v6(const struct packet *p)
{
	const struct ethhdr *ethernet = p->data;
	struct client client = {};
	__u64 to = mac_at(ethernet->h_dest);

	if (!is_for_offload(to, offload.shared_v6) || !is_placed_v6(p, &client))
		return NOT_OFFLOADED;
	return offloaded(p, &client, bucket_v6(p->network, client.port), to);
}
