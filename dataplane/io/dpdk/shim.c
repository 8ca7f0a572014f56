/*
 * What vipdp uses of DPDK, as functions that Rust can call: most of DPDK's data path is inline, and the
 * layouts of its structures change from release to release. `src/dpdk/shim.rs` declares the same.
 *
 * Only stable API, so that every release from 22.11 on will do. Functions that may fail return 0 or a
 * negative errno.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Frames that are received or transmitted in one call of the driver. */
#define BURST 64

/* Bytes that a frame may have: so much room is in each mbuf behind its headroom. */
#define DATA_ROOM 2048

/* A frame: one mbuf of one segment, of the port's pool, by its bytes. */
struct vipdp_frame {
	uint8_t *data;
	/* Bytes in use from `data` on. */
	uint16_t len;
	/* Bytes of the buffer before `data`. */
	uint16_t headroom;
	/* The port's number; and CHANGED if the mbuf says otherwise of `len` and `headroom`. */
	uint32_t owner;
};

#define CHANGED (UINT32_C(1) << 16)

/* Where all mbufs of a pool have their buffers: so many bytes behind themselves, and so long. */
struct vipdp_buffers {
	uint32_t offset;
	uint32_t len;
};

/* Frames that were received and are not handed on. */
struct vipdp_rx_drops {
	/* In several segments, without room for the tag that the NIC took off, or for a copy of what was not in a buffer
	 * of the pool. */
	uint64_t unusable;
	/* The NIC says that the checksum of the IPv4 header, of TCP or of UDP is wrong. */
	uint64_t bad_checksum;
};

struct vipdp_device_info {
	char driver[64];
	uint8_t mac[6];
	uint16_t rx_queues_max;
	uint16_t tx_queues_max;
	uint32_t mtu_max;
	/* The kernel's interface below the device; 0 where there is none. */
	uint32_t interface;
	int socket;
};

struct vipdp_link {
	int is_up;
	/* Megabits per second; UINT32_MAX where it is not known. */
	uint32_t speed_mbps;
};

struct vipdp_statistics {
	uint64_t received;
	uint64_t transmitted;
	uint64_t missed;
	uint64_t errors;
	uint64_t no_mbuf;
	uint64_t tx_errors;
};

static int negative(int result)
{
	return result < 0 ? result : 0;
}

/* The EAL. */

int vipdp_dpdk_init(int argc, char **argv)
{
	return rte_eal_init(argc, argv) < 0 ? -(rte_errno ? rte_errno : EINVAL) : 0;
}

void vipdp_dpdk_cleanup(void)
{
	rte_eal_cleanup();
}

/* Made by the EAL whether there is anything for it or not, and never removed by it. */
const char *vipdp_dpdk_runtime_directory(void)
{
	return rte_eal_get_runtime_dir();
}

const char *vipdp_dpdk_version(void)
{
	return rte_version();
}

/* Of an errno, those of DPDK's own included. Not for two threads at once. */
const char *vipdp_dpdk_error(int error)
{
	return rte_strerror(error);
}

int vipdp_dpdk_enter_thread(void)
{
	if (rte_lcore_id() != LCORE_ID_ANY)
		return 0;
	return rte_thread_register() < 0 ? -(rte_errno ? rte_errno : EINVAL) : 0;
}

void vipdp_dpdk_leave_thread(void)
{
	rte_thread_unregister();
}

/* The device. */

/* How many devices there are; the first in `device`. */
int vipdp_dpdk_devices(uint16_t *device)
{
	uint16_t found = rte_eth_find_next(0);

	if (found < RTE_MAX_ETHPORTS)
		*device = found;
	return rte_eth_dev_count_avail();
}

int vipdp_dpdk_info(uint16_t device, struct vipdp_device_info *out)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	int result = rte_eth_dev_info_get(device, &info);

	if (result == 0)
		result = rte_eth_macaddr_get(device, &mac);
	if (result < 0)
		return result;
	memset(out, 0, sizeof(*out));
	strncpy(out->driver, info.driver_name, sizeof(out->driver) - 1);
	memcpy(out->mac, mac.addr_bytes, sizeof(out->mac));
	out->rx_queues_max = info.max_rx_queues;
	out->tx_queues_max = info.max_tx_queues;
	out->mtu_max = info.max_mtu;
	out->interface = info.if_index;
	out->socket = rte_eth_dev_socket_id(device);
	return 0;
}

static int is_virtio(const struct rte_eth_dev_info *info)
{
	static const char name[] = "net_virtio";

	return strncmp(info->driver_name, name, sizeof(name) - 1) == 0;
}

/*
 * What the NIC does to frames that it receives: checks checksums. virtio-net does not say which ones are wrong,
 * but would hand over what its host's stack has left to whoever sends it on, with a part of the checksum in its
 * place; and it has a filter of VLANs in any case, which only who asks for it can fill (`vipdp_dpdk_all_vlans`).
 */
static uint64_t rx_offloads(const struct rte_eth_dev_info *info)
{
	uint64_t wanted = is_virtio(info) ? RTE_ETH_RX_OFFLOAD_VLAN_FILTER : RTE_ETH_RX_OFFLOAD_CHECKSUM;

	return wanted & info->rx_offload_capa;
}

/* Flows are spread over the queues by addresses and ports, as far as the NIC can. */
int vipdp_dpdk_configure(uint16_t device, uint16_t queues, uint32_t mtu, uint16_t *rx_ring,
			 uint16_t *tx_ring)
{
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf;
	uint64_t hashes;
	int result = rte_eth_dev_info_get(device, &info);

	if (result < 0)
		return result;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = mtu;
	conf.rxmode.offloads = rx_offloads(&info);
	/* All frames of a transmit queue are of its port's own pool, and have one reference. */
	conf.txmode.offloads = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE & info.tx_offload_capa;
	hashes = (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP) & info.flow_type_rss_offloads;
	if (queues > 1 && hashes != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = hashes;
	}
	result = rte_eth_dev_configure(device, queues, queues, &conf);
	if (result < 0)
		return result;
	return negative(rte_eth_dev_adjust_nb_rx_tx_desc(device, rx_ring, tx_ring));
}

/*
 * For a device that does no DMA the frames lie one behind the other, whatever the size of a page: they take
 * less memory so, and the driver over AF_XDP takes it for granted that a pool is as long as all its frames.
 */
void *vipdp_dpdk_pool(const char *name, unsigned int frames, unsigned int cache, int socket, int is_virtual)
{
	struct rte_pktmbuf_pool_private private = {
		.mbuf_data_room_size = RTE_PKTMBUF_HEADROOM + DATA_ROOM,
	};
	unsigned int flags = is_virtual ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0;
	struct rte_mempool *pool =
		rte_mempool_create_empty(name, frames,
					 sizeof(struct rte_mbuf) + private.mbuf_data_room_size,
					 cache, sizeof(private), socket, flags);

	if (pool == NULL)
		return NULL;
	if (rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL) != 0)
		goto failed;
	rte_pktmbuf_pool_init(pool, &private);
	if (rte_mempool_populate_default(pool) < 0)
		goto failed;
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
failed:
	rte_mempool_free(pool);
	return NULL;
}

int vipdp_dpdk_queue(uint16_t device, uint16_t queue, uint16_t rx_ring, uint16_t tx_ring, int socket,
		     void *pool)
{
	int result = rte_eth_rx_queue_setup(device, queue, rx_ring, socket, NULL, pool);

	if (result == 0)
		result = rte_eth_tx_queue_setup(device, queue, tx_ring, socket, NULL);
	return negative(result);
}

int vipdp_dpdk_start(uint16_t device)
{
	return negative(rte_eth_dev_start(device));
}

/* The pools are freed after it, by `vipdp_dpdk_free_pool`. */
void vipdp_dpdk_close(uint16_t device)
{
	rte_eth_dev_stop(device);
	rte_eth_dev_close(device);
}

/* As rte_pktmbuf_init has it for a pool whose mbufs have no private area. */
void vipdp_dpdk_buffers(void *pool, struct vipdp_buffers *out)
{
	out->offset = sizeof(struct rte_mbuf);
	out->len = rte_pktmbuf_data_room_size(pool);
}

void vipdp_dpdk_free_pool(void *pool)
{
	rte_mempool_free(pool);
}

int vipdp_dpdk_add_mac(uint16_t device, const uint8_t *mac)
{
	struct rte_ether_addr address;

	memcpy(address.addr_bytes, mac, sizeof(address.addr_bytes));
	return negative(rte_eth_dev_mac_addr_add(device, &address, 0));
}

int vipdp_dpdk_all_groups(uint16_t device)
{
	return negative(rte_eth_allmulticast_enable(device));
}

/* Frames of every VLAN are received, also by a device that has a filter of them unasked. */
int vipdp_dpdk_all_vlans(uint16_t device)
{
	struct rte_eth_dev_info info;
	int result = rte_eth_dev_info_get(device, &info);

	if (result < 0 || !is_virtio(&info) || !(rx_offloads(&info) & RTE_ETH_RX_OFFLOAD_VLAN_FILTER))
		return negative(result);
	for (uint16_t vlan = 0; vlan < RTE_ETHER_MAX_VLAN_ID && result == 0; vlan++)
		result = rte_eth_dev_vlan_filter(device, vlan, 1);
	return negative(result);
}

int vipdp_dpdk_promiscuous(uint16_t device)
{
	return negative(rte_eth_promiscuous_enable(device));
}

/* Whether the driver knows that the device is not there any more; few do. */
int vipdp_dpdk_is_removed(uint16_t device)
{
	return rte_eth_dev_is_removed(device);
}

int vipdp_dpdk_link(uint16_t device, struct vipdp_link *out)
{
	struct rte_eth_link link;
	int result;

	memset(&link, 0, sizeof(link));
	result = rte_eth_link_get_nowait(device, &link);
	out->is_up = link.link_status == RTE_ETH_LINK_UP;
	out->speed_mbps = link.link_speed;
	return negative(result);
}

int vipdp_dpdk_statistics(uint16_t device, struct vipdp_statistics *out)
{
	struct rte_eth_stats stats;
	int result = rte_eth_stats_get(device, &stats);

	if (result < 0)
		return result;
	out->received = stats.ipackets;
	out->transmitted = stats.opackets;
	out->missed = stats.imissed;
	out->errors = stats.ierrors;
	out->no_mbuf = stats.rx_nombuf;
	out->tx_errors = stats.oerrors;
	return 0;
}

/* The data path. */

static inline void describe(struct vipdp_frame *frame, struct rte_mbuf *mbuf, uint16_t owner)
{
	frame->data = rte_pktmbuf_mtod(mbuf, uint8_t *);
	frame->len = mbuf->data_len;
	frame->headroom = mbuf->data_off;
	frame->owner = owner;
}

/* The pools are made here, and leave no room between an mbuf and its buffer. */
static inline struct rte_mbuf *mbuf_of(const struct vipdp_frame *frame)
{
	return (struct rte_mbuf *)(frame->data - frame->headroom - sizeof(struct rte_mbuf));
}

/*
 * Whether a received frame may be other than vipdp takes it: a few are. What is not doubtful is of the pool, in one
 * segment and referred to by nobody else, so that it can be put back as it is.
 */
static inline int is_doubtful(const struct rte_mbuf *mbuf, const struct rte_mempool *pool)
{
	const uint64_t flags = RTE_MBUF_F_RX_IP_CKSUM_BAD | RTE_MBUF_F_RX_L4_CKSUM_BAD |
			       RTE_MBUF_F_RX_VLAN_STRIPPED | RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_INDIRECT;

	return mbuf->nb_segs != 1 || mbuf->pool != pool || (mbuf->ol_flags & flags) != 0;
}

/*
 * Such a frame as vipdp takes it, or NULL if it does not. Copies what is not in a buffer of the pool, and puts a tag
 * back that the NIC took off.
 */
static __attribute__((noinline, cold)) struct rte_mbuf *usable(struct rte_mbuf *mbuf, struct rte_mempool *pool,
							       struct vipdp_rx_drops *drops)
{
	const uint64_t stripped = RTE_MBUF_F_RX_VLAN | RTE_MBUF_F_RX_VLAN_STRIPPED;
	uint64_t flags = mbuf->ol_flags;

	if ((flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD ||
	    (flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_BAD) {
		drops->bad_checksum++;
		goto unusable;
	}
	if (mbuf->nb_segs == 1 && (mbuf->pool != pool || !RTE_MBUF_DIRECT(mbuf))) {
		struct rte_mbuf *copy = rte_pktmbuf_copy(mbuf, pool, 0, UINT32_MAX);

		rte_pktmbuf_free(mbuf);
		mbuf = copy;
	}
	if (mbuf == NULL || mbuf->nb_segs != 1 ||
	    ((flags & stripped) == stripped && rte_vlan_insert(&mbuf) != 0)) {
		drops->unusable++;
		goto unusable;
	}
	return mbuf;
unusable:
	rte_pktmbuf_free(mbuf);
	return NULL;
}

/* Receives BURST frames at most into `out`, in their order, each of `owner`. */
unsigned int vipdp_dpdk_rx(uint16_t device, uint16_t queue, void *pool, uint16_t owner,
			   struct vipdp_frame *out, struct vipdp_rx_drops *drops)
{
	struct rte_mbuf *mbufs[BURST];
	unsigned int received = rte_eth_rx_burst(device, queue, mbufs, BURST);
	struct vipdp_frame *next = out;

	for (unsigned int at = 0; at < received; at++) {
		struct rte_mbuf *mbuf = mbufs[at];

		if (unlikely(is_doubtful(mbuf, pool))) {
			mbuf = usable(mbuf, pool, drops);
			if (mbuf == NULL)
				continue;
		}
		describe(next, mbuf, owner);
		/*
		 * It was written by the NIC or on another core, and the headers are read next, of a TCP
		 * segment up to the flags. A pool's frames do not compete for places in the cache.
		 */
		rte_prefetch0(next->data);
		rte_prefetch0(next->data + 73);
		next++;
	}
	return next - out;
}

/*
 * Hands frames to the driver, from the first on. Returns how many it took; the rest is as before. UINT32_MAX if some
 * are not the owner's, or shorter than an Ethernet header.
 */
uint32_t vipdp_dpdk_tx(uint16_t device, uint16_t queue, uint16_t owner, const struct vipdp_frame *frames,
		       uint32_t count)
{
	struct rte_mbuf *mbufs[BURST];
	uint32_t sent = 0;

	while (sent < count) {
		uint32_t now = RTE_MIN(count - sent, (uint32_t)BURST);
		uint32_t taken;

		for (uint32_t at = 0; at < now; at++) {
			const struct vipdp_frame *frame = &frames[sent + at];
			struct rte_mbuf *mbuf = mbuf_of(frame);

			if (unlikely(frame->owner != owner || frame->len < RTE_ETHER_HDR_LEN)) {
				if (frame->owner != (owner | CHANGED) || frame->len < RTE_ETHER_HDR_LEN)
					return UINT32_MAX;
				mbuf->data_off = frame->headroom;
				mbuf->data_len = frame->len;
				mbuf->pkt_len = frame->len;
			}
			mbufs[at] = mbuf;
		}
		taken = rte_eth_tx_burst(device, queue, mbufs, now);
		sent += taken;
		if (taken < now)
			break;
	}
	return sent;
}

/* Frees the mbufs of frames that were transmitted, for drivers that do so only when asked. */
void vipdp_dpdk_reap(uint16_t device, uint16_t queue)
{
	rte_eth_tx_done_cleanup(device, queue, 0);
}

/* All of `count` frames, or none: BURST at most. */
int vipdp_dpdk_alloc(void *pool, uint16_t owner, struct vipdp_frame *out, unsigned int count)
{
	struct rte_mbuf *mbufs[BURST];

	if (count > BURST || rte_pktmbuf_alloc_bulk(pool, mbufs, count) != 0)
		return -ENOMEM;
	for (unsigned int at = 0; at < count; at++)
		describe(&out[at], mbufs[at], owner);
	return 0;
}

/*
 * Gives mbufs of frames back. They are the pool's, in one segment, and referred to by nobody else: none of that need
 * be found out, nor is a line of theirs looked at that the NIC's driver has left far away.
 */
void vipdp_dpdk_free(void *pool, void **mbufs, unsigned int count)
{
	rte_mempool_put_bulk(pool, mbufs, count);
}

/* How many of a pool's frames are in nobody's hands. Not for every packet. */
unsigned int vipdp_dpdk_available(void *pool)
{
	return rte_mempool_avail_count(pool);
}

/* What a program takes that only forwards: receives and transmits, and frees what is not taken. */
unsigned int vipdp_dpdk_forward(uint16_t device, uint16_t queue)
{
	struct rte_mbuf *mbufs[BURST];
	unsigned int received = rte_eth_rx_burst(device, queue, mbufs, BURST);
	unsigned int sent = rte_eth_tx_burst(device, queue, mbufs, received);

	if (unlikely(sent < received))
		rte_pktmbuf_free_bulk(&mbufs[sent], received - sent);
	return received;
}
