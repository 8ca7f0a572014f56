// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What an interface can do at best: the rows xdp-drop, xdp-look-drop, xdp-pass and xdp-quarter of the comparison.
 * What they did stands in the counters of the interface and of IP. Only the second and the last look at the frame.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

/* The header of an IPv4 packet, if the frame has room for one. */
static __always_inline struct iphdr *header(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);

	return (void *)(ip + 1) > end ? (void *)0 : ip;
}

/* What decides by the addresses has to read them, from the cache of the core that wrote them. */
SEC("xdp")
int look(struct xdp_md *ctx)
{
	struct iphdr *ip = header(ctx);

	if (!ip)
		return XDP_DROP;
	/* No client has this address; the compiler does not know. */
	return ip->saddr == bpf_htonl(INADDR_BROADCAST) ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

/* The least that does the work of a node of four: no hash, no members, no lease, and what is accepted stays in the kernel. */
SEC("xdp")
int quarter(struct xdp_md *ctx)
{
	struct iphdr *ip = header(ctx);

	if (!ip)
		return XDP_DROP;
	return (ip->saddr & bpf_htonl(3)) == 0 ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual Apache-2.0/GPL";
