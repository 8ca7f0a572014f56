// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Which frames reach vipdp, and which the kernel.
 *
 *                        +--> xsks[rx queue] bound:     AF_XDP socket of that queue
 *     VIP frame ---------+
 *                        +--> nothing bound:            kernel
 *     any other frame ----------------------------------> kernel
 *
 * A VIP frame is, untagged or behind one 802.1Q tag:
 *   - an IPv4 or IPv6 packet to a VIP, of any protocol, later fragments too;
 *   - an ARP packet (RFC 826) for IPv4 over Ethernet with a VIP as sender or target protocol
 *     address: requests to answer, and claims by others;
 *   - a neighbour solicitation or advertisement (RFC 4861, sections 4.3, 4.4) whose target is a
 *     VIP, whatever it is addressed to: mostly a solicited-node group.
 * Judging is left to user space: nothing is validated here beyond what tells where a frame goes.
 *
 * The tag is seen only where it stands in the frame: a NIC that strips it on receipt (ethtool
 * rx-vlan-offload) must be told not to.
 *
 * Maps, as src/xdp.rs uses them:
 *   xsks      XSKMAP          rx queue -> socket
 *   vips_v4   HASH            IPv4 address, network order -> unused byte
 *   vips_v6   HASH            IPv6 address, network order -> unused byte
 *   frames    PERCPU_ARRAY    0: sent to a socket, 1: left to the kernel -> how many
 *
 * Every helper used is open to any licence.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Queues that can have a socket: no NIC known to us offers more. */
#define QUEUES_MAX 256
/* Addresses of one family: src/xdp.rs has the same number. */
#define VIPS_MAX 1024

enum { REDIRECTED, PASSED, COUNTERS };

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

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, QUEUES_MAX);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __be32);
	__type(value, __u8);
	__uint(max_entries, VIPS_MAX);
} vips_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct in6_addr);
	__type(value, __u8);
	__uint(max_entries, VIPS_MAX);
} vips_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTERS);
} frames SEC(".maps");

static __always_inline int is_vip_v4(__be32 address)
{
	return bpf_map_lookup_elem(&vips_v4, &address) != 0;
}

static __always_inline int is_vip_v6(const struct in6_addr *address)
{
	struct in6_addr key = *address;

	return bpf_map_lookup_elem(&vips_v6, &key) != 0;
}

static __always_inline int arp_names_vip(void *at, void *end)
{
	struct arp_packet *arp = at;

	if ((void *)(arp + 1) > end)
		return 0;
	if (arp->hardware != bpf_htons(ARP_HARDWARE_ETHERNET) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != ETH_ALEN || arp->protocol_len != sizeof(__be32))
		return 0;
	return is_vip_v4(arp->target_ip) || is_vip_v4(arp->sender_ip);
}

static __always_inline int ipv4_names_vip(void *at, void *end)
{
	struct iphdr *ip = at;

	if ((void *)(ip + 1) > end)
		return 0;
	return is_vip_v4(ip->daddr);
}

/*
 * Of a packet to other than a VIP only the first next header is looked at: neighbour discovery
 * comes without extension headers (RFC 6980 forbids fragments; no option is defined for it).
 */
static __always_inline int ipv6_names_vip(void *at, void *end)
{
	struct ipv6hdr *ip = at;
	struct neighbor_message *message = (void *)(ip + 1);

	if ((void *)(ip + 1) > end)
		return 0;
	if (is_vip_v6(&ip->daddr))
		return 1;
	if (ip->nexthdr != IPPROTO_ICMPV6 || (void *)(message + 1) > end)
		return 0;
	if (message->type != NEIGHBOR_SOLICITATION && message->type != NEIGHBOR_ADVERTISEMENT)
		return 0;
	return is_vip_v6(&message->target);
}

static __always_inline int names_vip(void *at, void *end)
{
	struct ethhdr *ethernet = at;
	struct vlan_tag *tag = (void *)(ethernet + 1);
	void *network = tag;
	__be16 protocol;

	if ((void *)(ethernet + 1) > end)
		return 0;
	protocol = ethernet->h_proto;
	if (protocol == bpf_htons(ETH_P_8021Q)) {
		if ((void *)(tag + 1) > end)
			return 0;
		protocol = tag->protocol;
		network = tag + 1;
	}

	switch (protocol) {
	case bpf_htons(ETH_P_IP):
		return ipv4_names_vip(network, end);
	case bpf_htons(ETH_P_IPV6):
		return ipv6_names_vip(network, end);
	case bpf_htons(ETH_P_ARP):
		return arp_names_vip(network, end);
	default:
		return 0;
	}
}

SEC("xdp")
int vipdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	int action = XDP_PASS;
	__u32 key;
	__u64 *count;

	if (names_vip(data, end))
		action = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);

	key = action == XDP_REDIRECT ? REDIRECTED : PASSED;
	count = bpf_map_lookup_elem(&frames, &key);
	if (count)
		*count += 1;
	return action;
}

char LICENSE[] SEC("license") = "Dual Apache-2.0/GPL";
