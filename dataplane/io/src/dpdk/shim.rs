//! The functions of `dpdk/shim.c`, and the structures that they share with it.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr::NonNull;

use super::port::Frame;

/// `BURST` of the shim: frames in one call of the driver.
pub(super) const BURST: usize = 64;
const _: () = assert!(BURST == vipdp_core::port::BURST, "a burst is one call");

/// `DATA_ROOM` of the shim: bytes of a buffer behind its headroom.
pub(super) const DATA_ROOM: usize = 2048;

/// `struct vipdp_rx_drops`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct RxDrops {
    pub(super) unusable: u64,
    pub(super) bad_checksum: u64,
}

/// `struct vipdp_buffers`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Buffers {
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// `struct vipdp_device_info`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct DeviceInfo {
    pub(super) driver: [c_char; 64],
    pub(super) mac: [u8; 6],
    pub(super) rx_queues_max: u16,
    pub(super) tx_queues_max: u16,
    pub(super) mtu_max: u32,
    pub(super) interface: u32,
    pub(super) socket: c_int,
}

/// `struct vipdp_link`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Link {
    pub(super) is_up: c_int,
    pub(super) speed_mbps: u32,
}

/// `struct vipdp_statistics`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct DeviceStatistics {
    pub(super) received: u64,
    pub(super) transmitted: u64,
    pub(super) missed: u64,
    pub(super) errors: u64,
    pub(super) no_mbuf: u64,
    pub(super) tx_errors: u64,
}

// SAFETY: the declarations are those of dpdk/shim.c, which build.rs compiles.
unsafe extern "C" {
    pub(super) fn vipdp_dpdk_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    pub(super) fn vipdp_dpdk_cleanup();
    pub(super) fn vipdp_dpdk_runtime_directory() -> *const c_char;
    pub(super) fn vipdp_dpdk_version() -> *const c_char;
    pub(super) fn vipdp_dpdk_error(error: c_int) -> *const c_char;
    pub(super) fn vipdp_dpdk_enter_thread() -> c_int;
    pub(super) fn vipdp_dpdk_leave_thread();

    pub(super) fn vipdp_dpdk_devices(device: *mut u16) -> c_int;
    pub(super) fn vipdp_dpdk_info(device: u16, out: *mut DeviceInfo) -> c_int;
    pub(super) fn vipdp_dpdk_configure(
        device: u16,
        queues: u16,
        mtu: u32,
        rx_ring: *mut u16,
        tx_ring: *mut u16,
    ) -> c_int;
    pub(super) fn vipdp_dpdk_pool(
        name: *const c_char,
        frames: c_uint,
        cache: c_uint,
        socket: c_int,
        is_virtual: c_int,
    ) -> *mut c_void;
    pub(super) fn vipdp_dpdk_buffers(pool: *mut c_void, out: *mut Buffers);
    pub(super) fn vipdp_dpdk_free_pool(pool: *mut c_void);
    pub(super) fn vipdp_dpdk_queue(
        device: u16,
        queue: u16,
        rx_ring: u16,
        tx_ring: u16,
        socket: c_int,
        pool: *mut c_void,
    ) -> c_int;
    pub(super) fn vipdp_dpdk_start(device: u16) -> c_int;
    pub(super) fn vipdp_dpdk_close(device: u16);
    pub(super) fn vipdp_dpdk_add_mac(device: u16, mac: *const u8) -> c_int;
    pub(super) fn vipdp_dpdk_all_vlans(device: u16) -> c_int;
    pub(super) fn vipdp_dpdk_all_groups(device: u16) -> c_int;
    pub(super) fn vipdp_dpdk_promiscuous(device: u16) -> c_int;
    pub(super) fn vipdp_dpdk_is_removed(device: u16) -> c_int;
    pub(super) fn vipdp_dpdk_link(device: u16, out: *mut Link) -> c_int;
    pub(super) fn vipdp_dpdk_statistics(device: u16, out: *mut DeviceStatistics) -> c_int;

    pub(super) fn vipdp_dpdk_rx(
        device: u16,
        queue: u16,
        pool: *mut c_void,
        owner: u16,
        out: *mut Frame,
        drops: *mut RxDrops,
    ) -> c_uint;
    pub(super) fn vipdp_dpdk_tx(
        device: u16,
        queue: u16,
        owner: u16,
        frames: *const Frame,
        count: u32,
    ) -> u32;
    pub(super) fn vipdp_dpdk_reap(device: u16, queue: u16);
    pub(super) fn vipdp_dpdk_alloc(
        pool: *mut c_void,
        owner: u16,
        out: *mut Frame,
        count: c_uint,
    ) -> c_int;
    pub(super) fn vipdp_dpdk_free(pool: *mut c_void, mbufs: *const NonNull<c_void>, count: c_uint);
    pub(super) fn vipdp_dpdk_available(pool: *mut c_void) -> c_uint;
    pub(super) fn vipdp_dpdk_forward(device: u16, queue: u16) -> c_uint;
}
