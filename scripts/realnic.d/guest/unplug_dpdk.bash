# shellcheck shell=bash
# A NIC that DPDK has goes away under load: its driver is unbound, the kernel removes it, and it is taken out of its slot.
#
# vipdp, whose NIC it is, must not crash: it says what has happened, puts the host back, and ends with an error for whoever
# looks after it (systemd: configs/vipdp.service) to start it anew. The other node serves all.
#
#   JOB_LOSS    what vipdp says of it

# shellcheck source=scripts/realnic.d/guest/dpdk_nics.bash
source "$GUEST/dpdk_nics.bash"
# shellcheck source=scripts/realnic.d/guest/load.bash
source "$GUEST/load.bash"

# lost COMMAND...: n2's NIC goes by this.
lost() {
    local start taken going log=$STATE/n2/vipdp.log
    start=${EPOCHREALTIME/[.,]/}
    # vfio lets go of it only when vipdp has closed it.
    "$@" &
    going=$!
    wait_for 30 has_all n1 || fail "n1 has $(owned n1) buckets after $*"
    taken=$(((${EPOCHREALTIME/[.,]/} - start) / 1000))
    wait_for 20 is_over "$STATE/n2/vipdp.pid" || fail "vipdp on n2 goes on without a NIC: $(tail -n 1 "$log")"
    wait "$going" || fail "not done: $*"
    is_well n1
    tail -n 1 "$log" | grep -q "^vipdp: $JOB_LOSS" || fail "vipdp on n2 ended with: $(tail -n 1 "$log")"
    ! grep -Ei 'panick|BUG|overflow' "$log" || fail "n2 panicked"
    host_state n2 >"$STATE/n2/after"
    diff "$STATE/n2/before" "$STATE/n2/after" >"$STATE/n2/difference" ||
        fail "the host of n2 is not as before: $(tr '\n' ' ' <"$STATE/n2/difference")"
    answered_once n1 >/dev/null || fail "not all answered by n1"
    say "n1 has all after $taken ms; $(tail -n 1 "$log" | cut -c 1-200)"
}

# unbind: another driver gets it, as soon as vfio lets go of it or, with uio, at once: while vipdp stands still, so that the
# registers are taken from it before it can know.
unbind() {
    local pid going device=/sys/bus/pci/devices/${ADDRESSES[n2]}
    say "$JOB_KERNEL_DRIVER" >"$device/driver_override"
    pid=$(stands_still)
    say "${ADDRESSES[n2]}" >"$device/driver/unbind" &
    going=$!
    wait_for 20 test ! -e "$device/driver" || fail "$JOB_BIND still has it"
    [[ $JOB_BIND == vfio-pci ]] || say "${ADDRESSES[n2]}" >/sys/bus/pci/drivers_probe
    kill -s CONT "$pid"
    wait "$going"
}

# remove: the kernel removes it, likewise.
remove() {
    local pid going gone=/sys/bus/pci/devices/${ADDRESSES[n2]}
    pid=$(stands_still)
    say 1 >"$gone/remove" &
    going=$!
    # vfio keeps the device until it is closed.
    [[ $JOB_BIND != vfio-pci ]] || gone+=/driver
    wait_for 20 test ! -e "$gone" || fail "$gone is still there"
    kill -s CONT "$pid"
    wait "$going"
}

# stands_still: vipdp on n2 does; prints its number.
stands_still() {
    local pid
    pid=$(pid_of "$STATE/n2/vipdp.pid")
    kill -s STOP "$pid"
    say "$pid"
}

pull() { qmp '{"execute":"device_del","arguments":{"id":"nic2"}}'; }

# back: the NIC of n2 is DPDK's again, and vipdp started anew.
back() {
    say 1 >/sys/bus/pci/rescan
    wait_for 10 test -e "/sys/bus/pci/devices/${ADDRESSES[n2]}" || fail "no NIC"
    bind "${ADDRESSES[n2]}" "$JOB_BIND"
    vipdp_up n2
    await_shared
    answered_once "n1 n2"
}

# shellcheck disable=SC2034 # for cluster_files
QUEUES=1 EGRESS=$JOB_EGRESS
open_qmp
segment_up
services_up
cluster_files
host_state n2 >"$STATE/n2/before"
check load "cluster starts" cluster_up
endless_load
check unbind "another driver gets it, under load" lost unbind
check unbind "bind, and vipdp anew" back
check remove "removed by the kernel, under load" lost remove
check remove "found again, and vipdp anew" back
check unplug "device_del, under load" lost pull
kill "$LOADING" || true
