# shellcheck shell=bash
# The nodes' NICs where DPDK has them, for programs that are read after this.
#
#   client: eth0, a NIC of the kernel's          nodes: PCI NIC --- a driver for user space --- vipdp --- TAP eth0
#
#   JOB_BIND            the kernel's driver for user space: vfio-pci or uio_pci_generic
#   JOB_HUGEPAGES       hugepages of the first and the second cluster

# PCI addresses of the nodes' NICs.
declare -A ADDRESSES=()

# pci_address INTERFACE: prints that of its device.
pci_address() {
    readlink -f "/sys/class/net/$1/device" | grep -oE '[0-9a-f]{4}(:[0-9a-f]{2}){2}\.[0-9a-f]' | tail -n 1
}

# bind PCI-ADDRESS DRIVER: the kernel's driver of the device is that one.
bind() {
    local device=/sys/bus/pci/devices/$1
    say "$2" >"$device/driver_override"
    [[ ! -e $device/driver ]] || say "$1" >"$device/driver/unbind"
    say "$1" >/sys/bus/pci/drivers_probe
    [[ $(basename "$(readlink -f "$device/driver")") == "$2" ]] || fail "$2 does not take $1: $(dmesg | tail -n 3)"
}

# give_nic HOST INTERFACE: the client's is the kernel's; nodes have a TAP in its place.
give_nic() {
    local address
    if [[ $1 == client ]]; then
        ip link set "$2" netns "$PREFIX-$1" name eth0
        return
    fi
    address=$(pci_address "$2")
    ADDRESSES[$1]=$address
    bind "$address" "$JOB_BIND"
    ip -n "$PREFIX-$1" tuntap add dev eth0 mode tap multi_queue vnet_hdr
    # So the kernel leaves it when it was attached to once: the host's state is compared.
    on "$1" ethtool -K eth0 tx off tso off >/dev/null
}

# is_ready HOST: a node's TAP has no carrier until vipdp runs. The link-local address that an interface gets with its
# first carrier, and keeps, it is given now, since the host's state is compared.
is_ready() {
    if [[ $1 == client ]]; then
        has_carrier "$1"
    else
        ip -n "$PREFIX-$1" address replace "fe80::5054:ff:fe00:${NUMBERS[$1]}/64" dev "$(device)" nodad
    fi
}

# few_drivers: DPDK loads every driver that it finds, which takes an emulated core most of the time that vipdp is given to
# start: it finds those that are wanted here.
few_drivers() {
    local all name
    all=$(echo /usr/lib/*/dpdk/pmds-*)
    [[ -d $all ]] || fail "no drivers of DPDK in $all"
    mkdir /run/pmds
    for name in bus_pci bus_vdev mempool_ring net_e1000 net_virtio; do
        cp -a "$all/librte_$name".so* /run/pmds
    done
    mount --bind /run/pmds "$all"
}

# use_queues N: the nodes' files say it.
use_queues() { say "$1"; }

node_io() {
    local pages=${JOB_HUGEPAGES% *}
    [[ -z $TAG ]] || pages=${JOB_HUGEPAGES#* }
    printf '\n[io]\nbackend = "dpdk"\ndevargs = "%s"\nqueues = %s\nhugepages = %s\n' "${ADDRESSES[$1]}" "$QUEUES" "$pages"
}

# shellcheck disable=SC2034 # for the functions of the lab
BINARY=$JOB_BINARIES/vipdp-dpdk
few_drivers
sysctl -qw vm.nr_hugepages=192
