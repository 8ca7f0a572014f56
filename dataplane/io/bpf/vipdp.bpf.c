// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Which frames reach vipdp, and which the kernel.
 *
 *                      socket on the rx queue      no socket there
 *     packet, tunnel   to the socket               dropped
 *     question         to the socket               to the kernel
 *     any other frame  to the kernel               to the kernel
 *
 * Untagged or behind one 802.1Q tag,
 *   - a packet is an IPv4 or IPv6 packet to a VIP, of any protocol, later fragments too;
 *   - a question is an ARP packet (RFC 826) for IPv4 over Ethernet with a VIP or a next hop as
 *     sender or target protocol address, or a neighbour solicitation or advertisement (RFC 4861,
 *     sections 4.3, 4.4) whose target is one, whatever it is addressed to: mostly a solicited-node
 *     group. So claims by others are among them.
 *   - a tunnel is a UDP datagram over IPv4 without options or IPv6 without extension headers, and
 *     no fragment, to this node's end of the tunnels between members, if there is one. All else to
 *     that address is the kernel's.
 * With the offload on, some of the packets to a VIP are dropped or passed before they would go to the
 * socket, if there is one or not: offload.bpf.h says which.
 *
 * A VIP is an address of one of the prefixes in the tries; a few single addresses are compared before one
 * looks there, which takes 10 ns. A next hop is one of the addresses
 * that a router sends VIP packets by in tiered mode; nobody is to send IP packets to it, and those
 * that come are the kernel's.
 *
 * Judging is left to user space: nothing is validated here beyond what tells where a frame goes,
 * and the destination MAC address is not looked at. A packet without a socket is dropped, since
 * the VIPs may be addresses of the host already, or still: its stack would answer a segment of a
 * flow that another node has by a reset.
 *
 * The tag is seen only where it stands in the frame: a NIC that strips it on receipt (ethtool
 * rx-vlan-offload) must be told not to.
 *
 * Maps, as src/xdp uses them:
 *   .data.hosts               struct hosts
 *   xsks      XSKMAP          rx queue -> socket
 *   vips_v4   LPM_TRIE        IPv4 prefix -> unused byte
 *   vips_v6   LPM_TRIE        IPv6 prefix -> unused byte
 *   next_hops ARRAY           0 -> struct next_hops
 *   tunnels   ARRAY           0 -> struct tunnel_end
 *   frames    PERCPU_ARRAY    0: sent to a socket, 1: left to the kernel, 2: dropped, 3: dropped by the
 *                             offload, 4: passed by it -> how many
 * and those of offload.bpf.h.
 *
 * Every helper used is open to any licence.
 */
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Queues that can have a socket: no NIC known to us offers more. */
#define QUEUES_MAX 256
/* Prefixes of one family: src/xdp.rs has the same number. */
#define VIPS_MAX 256

enum { REDIRECTED, PASSED, DROPPED, OFFLOAD_DROPPED, OFFLOAD_PASSED, COUNTERS };

/* Single addresses that are compared before the tries are: src/xdp/addresses.rs has the same number. */
#define HOSTS_MAX 4

struct prefix_v4 {
	__u32 length;
	__be32 address;
};

struct prefix_v6 {
	__u32 length;
	struct in6_addr address;
};

/*
 * The first VIPs of each family that are single addresses, and whether there are others, in the tries.
 */
struct hosts {
	struct in6_addr v6[HOSTS_MAX];
	__be32 v4[HOSTS_MAX];
	__u16 count_v6, count_v4;
	__u16 has_more_v6, has_more_v4;
};

/*
 * The next hops: `count` addresses that follow each other, of each family. Numbers in the
 * machine's order. The IPv6 ones have their upper 64 bits in common.
 */
struct next_hops {
	__u64 first_v6_upper;
	__u64 first_v6_lower;
	__u32 first_v4;
	__u32 count_v4;
	__u32 count_v6;
	__u32 unused;
};

/* This node's end of the tunnels, in network byte order: at most one address of each family. */
struct tunnel_end {
	struct in6_addr v6;
	__be32 v4;
	__be16 port;
	__u8 has_v4;
	__u8 has_v6;
};

/* Of the IPv4 header: more fragments, or not the first one (linux/ip.h has no names). */
#define IPV4_IS_FRAGMENT 0x3fff
/* And where in its datagram it stands. */
#define IPV4_OFFSET 0x1fff
#define IPV4_WORDS_WITHOUT_OPTIONS 5
/* Version and header length of IPv4 without options: the first byte. */
#define IPV4_WITHOUT_OPTIONS 0x45

/* Types of echo requests (RFC 792; RFC 4443, section 4.1). */
enum { ICMP_ECHO_REQUEST = 8, ICMPV6_ECHO_REQUEST = 128 };

/* ICMPv6 types of neighbour discovery, and where its target stands (RFC 4861, section 4.3). */
enum { NEIGHBOR_SOLICITATION = 135, NEIGHBOR_ADVERTISEMENT = 136 };

struct neighbor_message {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	struct in6_addr target;
};

/* 802.1Q: what follows the EtherType 0x8100. */
struct vlan_tag {
	__be16 control;
	__be16 protocol;
};

/* Hardware type of Ethernet (RFC 826; linux/if_arp.h, which does not compile for BPF). */
#define ARP_HARDWARE_ETHERNET 1

/* RFC 826 with the lengths of IPv4 over Ethernet. */
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender_ip;
	__u8 target_mac[ETH_ALEN];
	__be32 target_ip;
} __attribute__((packed));

#include "offload.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, QUEUES_MAX);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_v4);
	__type(value, __u8);
	__uint(max_entries, VIPS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} vips_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_v6);
	__type(value, __u8);
	__uint(max_entries, VIPS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} vips_v6 SEC(".maps");

struct hosts hosts SEC(".data.hosts");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct next_hops);
	__uint(max_entries, 1);
} next_hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct tunnel_end);
	__uint(max_entries, 1);
} tunnels SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTERS);
} frames SEC(".maps");

static __always_inline int is_vip_v4(__be32 address)
{
	struct prefix_v4 key = { .length = 32, .address = address };

#pragma unroll
	for (int i = 0; i < HOSTS_MAX; i++)
		if (i < hosts.count_v4 && hosts.v4[i] == address)
			return 1;
	return hosts.has_more_v4 && bpf_map_lookup_elem(&vips_v4, &key) != 0;
}

static __always_inline int is_same_v6(const struct in6_addr *a, const struct in6_addr *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int is_vip_v6(const struct in6_addr *address)
{
	struct prefix_v6 key = { .length = 128, .address = *address };

#pragma unroll
	for (int i = 0; i < HOSTS_MAX; i++)
		if (i < hosts.count_v6 && is_same_v6(&hosts.v6[i], address))
			return 1;
	return hosts.has_more_v6 && bpf_map_lookup_elem(&vips_v6, &key) != 0;
}

static __always_inline int is_next_hop_v4(__be32 address)
{
	__u32 key = 0;
	struct next_hops *hops = bpf_map_lookup_elem(&next_hops, &key);

	return hops && bpf_ntohl(address) - hops->first_v4 < hops->count_v4;
}

static __always_inline int is_next_hop_v6(const struct in6_addr *address)
{
	__u32 key = 0;
	struct next_hops *hops = bpf_map_lookup_elem(&next_hops, &key);
	const __be32 *word = address->s6_addr32;
	__u64 upper = (__u64)bpf_ntohl(word[0]) << 32 | bpf_ntohl(word[1]);
	__u64 lower = (__u64)bpf_ntohl(word[2]) << 32 | bpf_ntohl(word[3]);

	return hops && upper == hops->first_v6_upper &&
	       lower - hops->first_v6_lower < hops->count_v6;
}

static __always_inline int is_asked_for_v4(__be32 address)
{
	return is_next_hop_v4(address) || is_vip_v4(address);
}

static __always_inline int is_question_v4(const struct arp_packet *arp, void *end)
{
	if ((void *)(arp + 1) > end || arp->hardware != bpf_htons(ARP_HARDWARE_ETHERNET) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != ETH_ALEN ||
	    arp->protocol_len != sizeof(__be32))
		return 0;
	return is_asked_for_v4(arp->target_ip) || is_asked_for_v4(arp->sender_ip);
}

static __always_inline const struct tunnel_end *own_tunnel_end(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&tunnels, &key);
}

static __always_inline int is_tunnel_v4(const struct iphdr *ip, void *end)
{
	const struct tunnel_end *own = own_tunnel_end();
	const struct udphdr *udp = (const void *)(ip + 1);

	return own && own->has_v4 && ip->daddr == own->v4 && ip->protocol == IPPROTO_UDP &&
	       ip->ihl == IPV4_WORDS_WITHOUT_OPTIONS &&
	       !(ip->frag_off & bpf_htons(IPV4_IS_FRAGMENT)) && (void *)(udp + 1) <= end &&
	       udp->dest == own->port;
}

static __always_inline int is_tunnel_v6(const struct ipv6hdr *ip, void *end)
{
	const struct tunnel_end *own = own_tunnel_end();
	const struct udphdr *udp = (const void *)(ip + 1);

	return own && own->has_v6 && ip->nexthdr == IPPROTO_UDP && is_same_v6(&ip->daddr, &own->v6) &&
	       (void *)(udp + 1) <= end && udp->dest == own->port;
}

/* Finds the network header, untagged or behind one tag. */
static __always_inline int has_network(struct packet *p)
{
	struct ethhdr *ethernet = p->data;
	struct vlan_tag *tag = (void *)(ethernet + 1);

	p->network = tag;
	if ((void *)(ethernet + 1) > p->end)
		return 0;
	/* Not by the field of the structure, which is packed: the compiler would read it by bytes. */
	p->protocol = *(const __be16 *)(p->data + offsetof(struct ethhdr, h_proto));
	if (p->protocol == bpf_htons(ETH_P_8021Q)) {
		if ((void *)(tag + 1) > p->end)
			return 0;
		p->protocol = tag->protocol;
		p->network = tag + 1;
	}
	return 1;
}

static __always_inline int counted(__u32 counter, int action)
{
	__u64 *count = bpf_map_lookup_elem(&frames, &counter);

	if (count)
		*count += 1;
	return action;
}

static __always_inline int to_kernel(void)
{
	return counted(PASSED, XDP_PASS);
}

static __always_inline int to_socket(__u32 queue, int otherwise)
{
	int action = bpf_redirect_map(&xsks, queue, otherwise);

	return counted(action == XDP_REDIRECT ? REDIRECTED :
		       action == XDP_DROP     ? DROPPED :
						PASSED,
		       action);
}

/* What becomes of a packet that the offload has seen. */
static __always_inline int after_offload(__u32 queue, enum offloaded offloaded)
{
	switch (offloaded) {
	case OFFLOAD_DROPS:
		return counted(OFFLOAD_DROPPED, XDP_DROP);
	case OFFLOAD_PASSES:
		return counted(OFFLOAD_PASSED, XDP_PASS);
	default:
		return to_socket(queue, XDP_DROP);
	}
}

static __always_inline int take_ipv4(const struct packet *p, __u32 queue)
{
	const struct iphdr *ip = p->network;

	if ((void *)(ip + 1) > p->end)
		return to_kernel();
	if (is_vip_v4(ip->daddr))
		return after_offload(queue, offloaded_v4(p));
	return is_tunnel_v4(ip, p->end) ? to_socket(queue, XDP_DROP) : to_kernel();
}

/*
 * Only the first next header is looked at: neighbour discovery comes without extension headers
 * (RFC 6980 forbids fragments; no option is defined for it). A solicitation to a VIP itself, as
 * neighbours send to confirm what they know, is a question too.
 */
static __always_inline int is_question_v6(const struct ipv6hdr *ip, void *end)
{
	const struct neighbor_message *message = (const void *)(ip + 1);

	return ip->nexthdr == IPPROTO_ICMPV6 && (void *)(message + 1) <= end &&
	       (message->type == NEIGHBOR_SOLICITATION || message->type == NEIGHBOR_ADVERTISEMENT) &&
	       (is_next_hop_v6(&message->target) || is_vip_v6(&message->target));
}

static __always_inline int take_ipv6(const struct packet *p, __u32 queue)
{
	const struct ipv6hdr *ip = p->network;

	if ((void *)(ip + 1) > p->end)
		return to_kernel();
	if (is_question_v6(ip, p->end))
		return to_socket(queue, XDP_PASS);
	if (is_vip_v6(&ip->daddr))
		return after_offload(queue, offloaded_v6(p));
	return is_tunnel_v6(ip, p->end) ? to_socket(queue, XDP_DROP) : to_kernel();
}

SEC("xdp")
int vipdp(struct xdp_md *ctx)
{
	struct packet packet = {
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};

	if (!has_network(&packet))
		return to_kernel();
	switch (packet.protocol) {
	case bpf_htons(ETH_P_IP):
		return take_ipv4(&packet, ctx->rx_queue_index);
	case bpf_htons(ETH_P_IPV6):
		return take_ipv6(&packet, ctx->rx_queue_index);
	case bpf_htons(ETH_P_ARP):
		return is_question_v4(packet.network, packet.end) ?
			       to_socket(ctx->rx_queue_index, XDP_PASS) :
			       to_kernel();
	default:
		return to_kernel();
	}
}

char LICENSE[] SEC("license") = "Dual Apache-2.0/GPL";
