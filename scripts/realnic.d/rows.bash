# shellcheck shell=bash
# The rows of the table: what each guest has, and what is expected of vipdp there.
#
# A function per row sets:
#   TIER      first: from Debian's own suites, part of the tests; second: by hand
#   TITLE     as the table says it
#   SUITE     the suite of the kernel
#   EMULATOR  installed, or the suite of QEMU
#   DRIVER    kernel modules to load
#   DEVICE    QEMU's device, with its properties
#   TAPS      queues of the TAP behind the NIC
#   JOB       what the guest's program needs: see realnic.d/guest/row.bash
#   WHY       sentences by column: why the driver cannot do better
# shellcheck disable=SC2034

ROWS=(virtio-net vmxnet3 e1000e)

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
        [queues]="vmxnet3 has as many queues as the machine has cores, and QEMU puts all frames into the first"
    )
}

row_e1000e() {
    TIER=first TITLE="e1000e" SUITE=bookworm DRIVER=(e1000e)
    DEVICE=e1000e TAPS=1
    JOB=([ATTACH]=generic [ZERO_COPY]=no [QUEUES]="1 1")
    WHY=(
        [attach]="e1000e has no XDP, so that the program runs in the stack"
        [zero-copy]="zero-copy wants XDP in the driver"
        [queues]="e1000e has one receive queue"
    )
}
