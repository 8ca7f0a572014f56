# shellcheck shell=bash
# The rows of the table: what each guest has, and what is expected of vipdp there.
#
# FAULTS are guests of the same kind, whose program is another one than the table's.
#
# A function per row, and per fault, sets:
#   TIER      first: Debian's own QEMU; second: a newer one, by hand; dpdk: DPDK has the NICs, by hand; faults
#   TITLE     as the table says it
#   SUITE     the suite of the kernel
#   EMULATOR  installed, or the suite of QEMU
#   DRIVER    kernel modules to load
#   DEVICE    QEMU's device, with its properties
#   PROGRAM   what runs in the guest (row.bash)
#   WIRES     taps: scripts/realnic.d/host.bash draws them; cables: NIC 1 to NIC 3, NIC 2 to NIC 4, inside QEMU; hub: the same
#             three as with taps, inside QEMU (taps)
#   TAPS      queues of the TAP behind the NIC
#   IOMMU     "yes": what NICs read and write goes through one
#   JOB       what the guest's program needs: see realnic.d/guest/row.bash, dpdk.bash
#   WHY       sentences by column: why the driver cannot do better
# shellcheck disable=SC2034

ROWS=(virtio-net vmxnet3 e1000e igb igb-linux7 virtio-net-zero-copy dpdk-e1000e dpdk-virtio-net dpdk-igb)
FAULTS=(ports netem vlan pktgen unplug-virtio-net unplug-e1000e unplug-dpdk-virtio-net unplug-dpdk-e1000e bond-active-backup bond-lacp)

row_virtio-net() {
    TIER=first TITLE="virtio-net" SUITE=bookworm DRIVER=(virtio_net)
    DEVICE=virtio-net-pci,mq=on,vectors=6 TAPS=2
    JOB=([ATTACH]=native [ZERO_COPY]=no [QUEUES]="1 2")
    WHY=([zero-copy]="virtio_net has no AF_XDP zero-copy before Linux 6.11")
}

row_vmxnet3() {
    TIER=first TITLE="vmxnet3" SUITE=bookworm-backports DRIVER=(vmxnet3)
    DEVICE=vmxnet3 TAPS=1
    JOB=([ATTACH]=native [ZERO_COPY]=no [QUEUES]="2 2" [SPREAD]=no [OFF]=lro)
    WHY=(
        [zero-copy]="vmxnet3 has no AF_XDP zero-copy"
        [failover]="vmxnet3 forgets the XDP program when it is set down: vipdp finds that it does not run, and attaches it again"
        [queues]="vmxnet3 has as many queues as the machine has cores, and QEMU puts all frames into the first"
    )
}

row_e1000e() {
    TIER=first TITLE="e1000e" SUITE=bookworm DRIVER=(e1000e)
    DEVICE=e1000e TAPS=1
    JOB=([ATTACH]=generic [ZERO_COPY]=no [QUEUES]="1 1" [CARRIER]=no)
    WHY=(
        [failover]="QEMU's e1000e does not tell its driver of a pulled cable, so that it is a segment gone silent"
        [attach]="e1000e has no XDP, so that the program runs in the stack"
        [zero-copy]="zero-copy wants XDP in the driver"
        [queues]="e1000e has one receive queue"
    )
}

row_igb() {
    TIER=second TITLE="igb" SUITE=bookworm EMULATOR=bookworm-backports DRIVER=(igb)
    DEVICE=igb TAPS=1
    JOB=([ATTACH]=native [ZERO_COPY]=no [QUEUES]="1 2")
    WHY=([zero-copy]="igb has no AF_XDP zero-copy before Linux 6.14")
}

row_igb-linux7() {
    TIER=second TITLE="igb, Linux 7" SUITE=trixie-backports EMULATOR=bookworm-backports DRIVER=(igb)
    DEVICE=igb TAPS=1
    JOB=([ATTACH]=native [ZERO_COPY]=no [QUEUES]="1 2")
    WHY=([zero-copy]="igb loses frames above 1,024 bytes in zero-copy with frames of 2 KiB, so that vipdp has it copy")
}

row_virtio-net-zero-copy() {
    TIER=second TITLE="virtio-net, zero-copy" SUITE=trixie-backports EMULATOR=bookworm-backports DRIVER=(virtio_net)
    # The driver maps AF_XDP's memory for the device by itself only where addresses are an IOMMU's.
    DEVICE=virtio-net-pci,mq=on,vectors=6,iommu_platform=on,disable-legacy=on TAPS=2
    JOB=([ATTACH]=native [ZERO_COPY]=yes [QUEUES]="1 2")
}

# virtio_nics: what faults have that need no NIC in particular.
virtio_nics() {
    TIER=faults SUITE=bookworm DRIVER=(virtio_net) DEVICE=virtio-net-pci TAPS=1
}

row_ports() {
    virtio_nics
    TITLE="tests of AF_XDP ports" PROGRAM=ports.bash DRIVER=(veth)
}

row_netem() {
    virtio_nics
    TITLE="netem on all hosts" PROGRAM=netem.bash
}

row_vlan() {
    virtio_nics
    TITLE="vipdp on the interface of a VLAN" PROGRAM=vlan.bash
}

row_pktgen() {
    virtio_nics
    TITLE="pktgen of the kernel" PROGRAM=pktgen.bash WIRES=hub
}

row_unplug-virtio-net() {
    virtio_nics
    TITLE="virtio-net starts again, and is unplugged" PROGRAM=unplug.bash
    JOB=([RESETS]="ethtool -G eth0 rx 128")
}

row_unplug-e1000e() {
    virtio_nics
    TITLE="e1000e starts again, and is unplugged" PROGRAM=unplug.bash DRIVER=(e1000e) DEVICE=e1000e
    JOB=([RESETS]="ethtool -r eth0;ethtool -G eth0 rx 512")
}

row_bond-active-backup() {
    virtio_nics
    TITLE="bonding, active-backup" PROGRAM=bonding.bash WIRES=cables
    JOB=([BOND]=active-backup)
}

row_bond-lacp() {
    virtio_nics
    TITLE="bonding, 802.3ad (LACP)" PROGRAM=bonding.bash WIRES=cables
    JOB=([BOND]=802.3ad)
}

# dpdk ATTACH BIND KERNEL-DRIVER: what rows have in which DPDK has the nodes' NICs.
dpdk() {
    TIER=dpdk SUITE=bookworm PROGRAM=dpdk.bash DRIVER=("$3" "$2") TAPS=1
    JOB=(
        [EGRESS]=tap [ATTACH]=$1 [BIND]=$2 [KERNEL_DRIVER]=$3 [ZERO_COPY]="DMA by $2" [QUEUES]="1 2"
        [HUGEPAGES]="true false" [FLAGS]=yes [PROMISCUOUS]=false
    )
}

row_dpdk-e1000e() {
    dpdk net_e1000_em vfio-pci e1000e
    TITLE="DPDK on e1000e" DEVICE=e1000e IOMMU=yes
    JOB[QUEUES]="1 1"
    WHY=([queues]="DPDK's driver of e1000e has one receive queue")
}

row_dpdk-virtio-net() {
    dpdk net_virtio uio_pci_generic virtio-pci
    TITLE="DPDK on virtio-net" DRIVER=(virtio_net uio_pci_generic) DEVICE=virtio-net-pci,mq=on,vectors=6 TAPS=2
    JOB[HUGEPAGES]="true true" JOB[FLAGS]=no
    WHY=(
        [zero-copy]="without an IOMMU DPDK must know physical addresses, which it does of huge pages only"
        [checksums]="virtio-net does not say that a checksum is wrong: the kernel finds that out"
    )
}

row_dpdk-igb() {
    dpdk net_e1000_igb vfio-pci igb
    TITLE="DPDK on igb" DEVICE=igb IOMMU=yes EMULATOR=bookworm-backports
}

row_unplug-dpdk-virtio-net() {
    dpdk net_virtio uio_pci_generic virtio-pci
    TIER=faults TITLE="DPDK on virtio-net is unplugged" PROGRAM=unplug_dpdk.bash
    DRIVER=(virtio_net uio_pci_generic) DEVICE=virtio-net-pci
    JOB[QUEUES]="1 1" JOB[HUGEPAGES]="true true" JOB[LOSS]="the NIC is gone"
}

row_unplug-dpdk-e1000e() {
    dpdk net_e1000_em vfio-pci e1000e
    TIER=faults TITLE="DPDK on e1000e is unplugged" PROGRAM=unplug_dpdk.bash DEVICE=e1000e IOMMU=yes
    JOB[QUEUES]="1 1" JOB[LOSS]="the NIC is to go"
}
