# shellcheck shell=bash
# A guest, as the host sees it: its initramfs, its wires, QEMU, and its end.
#
#   namespace $PREFIX-$NAME of the host              guest
#     br0, which floods all ---- TAP node1 ---------- PCI NIC 1   namespace rn-n1
#                           ---- TAP node2 ---------- PCI NIC 2   namespace rn-n2
#                           ---- TAP client --------- PCI NIC 3   namespace rn-client
#
# Every NIC hears every frame, as on a segment whose switch floods the shared MAC. The TAPs give the NICs what real
# ones have: checksums, segmentation, several queues.

# The modules that the initramfs needs to reach the host's root. All others the guest finds there.
BOOT_MODULES=(virtio_pci 9p 9pnet_virtio overlay)

# A guest's kernel of Intel's cores takes their time-stamp counter for a clock, the cheapest one there is.
CPU=max,vendor=GenuineIntel
KERNEL_ARGUMENTS=(console=ttyS0 quiet loglevel=4 panic=-1 panic_on_oops=1 no_timer_check
    rcupdate.rcu_expedited=1 mitigations=off net.ifnames=0)

# set_clock: tells kernels how fast the time-stamp counter counts, which is this machine's. On a busy machine they may
# measure it wrongly, by several times, or find that it is no clock, and then each look at another one has QEMU emulate a device.
set_clock() {
    local program=$OUT/bin/timestamp
    # Where this machine's own kernel does not trust it, neither may a guest's.
    grep -qE '^(tsc|kvm-clock|hyperv_clocksource.*)$' /sys/devices/system/clocksource/clocksource0/current_clocksource || return 0
    grep -qw constant_tsc /proc/cpuinfo || return 0
    cc -O2 -o "$program" "$SCRIPTS/realnic.d/timestamp.c" || fail "no program that measures the time-stamp counter"
    KERNEL_ARGUMENTS+=("tsc_early_khz=$("$program")" tsc=reliable)
}

# initramfs KERNEL-DIRECTORY VERSION FILE MAIN: writes an initramfs that goes on with the program MAIN of the host's.
initramfs() {
    local kernel=$1 version=$2 file=$3 main=$4 root number=0 path
    root=$(mktemp -d)
    mkdir -p "$root/bin" "$root/modules"
    cp "$(command -v busybox)" "$root/bin/busybox"
    install -m 755 "$SCRIPTS/realnic.d/guest/init" "$root/init"
    printf 'JOB_MAIN=%q\n' "$main" >"$root/job"
    while read -r _ path _; do
        printf -v number '%02d' $((10#$number + 1))
        case $path in
            *.xz) xz -dc "$path" ;;
            *.zst) zstd -dqc "$path" ;;
            *) cat "$path" ;;
        esac >"$root/modules/$number-$(basename "$path")"
    done < <(modprobe -d "$kernel" -S "$version" -a --show-depends "${BOOT_MODULES[@]}" |
        awk '$1 == "insmod" && !seen[$0]++')
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$file"
    rm -rf "$root"
}

# wire NAMESPACE QUEUES TAP...: the namespace with its bridge and TAPs.
wire() {
    local namespace=$1 queues=$2 tap
    local -a multi=()
    shift 2
    ((queues == 1)) || multi=(multi_queue)
    ip netns add "$namespace"
    ip netns exec "$namespace" sysctl -qw net.ipv6.conf.default.disable_ipv6=1
    ip -n "$namespace" link add br0 type bridge ageing_time 0 mcast_snooping 0 forward_delay 0
    for tap; do
        ip -n "$namespace" tuntap add dev "$tap" mode tap vnet_hdr "${multi[@]}"
        ip -n "$namespace" link set "$tap" master br0 up
    done
    ip -n "$namespace" link set br0 up
}

# boot NAMESPACE DIRECTORY SECONDS QEMU-ARGUMENT...: runs QEMU until the guest ends, at most so long. The directory has the
# initramfs, takes the console's log, and is what the guest sees as /run/out.
boot() {
    local namespace=$1 directory=$2 limit=$3
    shift 3
    # shellcheck disable=SC2054 # commas are QEMU's
    local -a arguments=(
        -accel "tcg,thread=multi" -cpu "$CPU" -smp "${GUEST_CORES:-2}" -m 2048 -machine q35,hpet=off
        -no-user-config -nodefaults -display none -no-reboot
        -kernel "$KERNEL/boot/vmlinuz-$(<"$KERNEL/version")" -initrd "$directory/initramfs"
        -append "${KERNEL_ARGUMENTS[*]}"
        -virtfs "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"
        -virtfs "local,path=$directory/out,mount_tag=out,security_model=none"
        -device virtio-rng-pci
        -chardev "file,id=console,path=$directory/console.log" -serial chardev:console
        # By this port the guest gives QEMU commands: it can pull its own cables.
        -device virtio-serial-pci -device virtserialport,chardev=port,name=qmp
        -chardev "socket,id=port,path=$directory/port,server=on,wait=off"
        -chardev "socket,id=qmp,path=$directory/qmp,server=on,wait=off" -mon chardev=qmp,mode=control
    )
    # shellcheck disable=SC2153 # fetch_qemu sets it
    ip netns exec "$namespace" timeout --kill-after=5 "$limit" "${QEMU[@]}" "${arguments[@]}" "$@" \
        </dev/null >"$directory/qemu.log" 2>&1 &
    local qemu=$! joined status=0
    wait_for 10 test -S "$directory/qmp" -a -S "$directory/port" || true
    socat "UNIX-CONNECT:$directory/qmp" "UNIX-CONNECT:$directory/port" 2>/dev/null &
    joined=$!
    wait "$qemu" || status=$?
    wait "$joined" || true
    return "$status"
}
