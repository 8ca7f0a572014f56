// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What an interface can do at best: the rows xdp-drop and xdp-pass of the comparison. Neither looks at the
 * frame; what they did stands in the interface's own counters.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual Apache-2.0/GPL";
