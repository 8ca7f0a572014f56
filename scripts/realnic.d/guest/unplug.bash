# shellcheck shell=bash
# NICs that fail under load: made to start again by their driver's own means, taken from their driver and given back to
# it, and taken out of their slot.
#
# The node whose NIC it is must not crash and must not go on claiming; the other one serves all.

# shellcheck source=scripts/realnic.d/guest/load.bash
source "$GUEST/load.bash"

# resets WHAT COMMAND...: the NIC of n2 starts again; both nodes live, share, and every query is answered once.
resets() {
    on n2 "$@" || fail "the driver refuses: $*"
    wait_for 20 has_carrier n2 || fail "no carrier after $*"
    is_well n1
    is_well n2
    await_shared
    answered_once "n1 n2"
}

# is_served_by_n1: n2's NIC is gone: n1 serves all, and n2, which lives, nobody.
is_served_by_n1() {
    wait_for 20 is_gone n2 || fail "the kernel still has the NIC"
    wait_for 30 has_all n1 || fail "n1 has $(owned n1) buckets"
    is_well n1
    answered_once n1 >/dev/null || fail "not all answered by n1"
    ! grep -Ei 'panick|BUG|overflow' "$STATE/n2/vipdp.log" || fail "n2 panicked"
}

# unbound: the driver of n2's NIC lets go of it.
unbound() {
    local device driver
    device=$(on n2 readlink -f /sys/class/net/eth0/device)
    driver=$(readlink -f "$device/driver")
    say "$driver $(basename "$device")" >"$STATE/n2/driver"
    basename "$device" >"$driver/unbind" || fail "$driver keeps $device"
    is_served_by_n1
    is_well n2
    [[ $(owned n2) == 0 ]] || fail "n2 claims $(owned n2) buckets without a NIC"
    say "$(basename "$driver"): n1 has all, n2 lives and has none"
}

# bound: the driver takes the NIC again. It is another one of the same name, on which nothing is set up: vipdp says so and ends,
# and whoever looks after it (systemd: configs/vipdp.service) starts it anew.
bound() {
    local driver device error
    read -r driver device <"$STATE/n2/driver"
    say "$device" >"$driver/bind" || fail "$driver does not take $device"
    wait_for 20 interface_of "${MACS[n2]}" >/dev/null || fail "no NIC: $(ip -br link | tr '\n' ' ')"
    ip link set "$(interface_of "${MACS[n2]}")" netns "$PREFIX-n2" name eth0
    link_up n2
    wait_for 20 is_over "$STATE/n2/vipdp.pid" || fail "vipdp on n2 goes on, with a NIC on which it has set up nothing"
    error=$(tail -n 1 "$STATE/n2/vipdp.log")
    [[ $error == *"another NIC of the same name"* ]] || fail "vipdp on n2 ended with: $error"
    on n2 "$BINARY" --config "$STATE/n2/node.toml" cleanup
    vipdp_up n2
    await_shared
    answered_once "n1 n2"
}

# unplugged: n2's NIC leaves its slot. Its vipdp may stay or end, but not crash; it claims nothing that the other one has,
# as far as anybody hears, and cleans up.
unplugged() {
    local status ended=no
    qmp '{"execute":"device_del","arguments":{"id":"nic2"}}'
    is_served_by_n1
    if is_running "$STATE/n2/vipdp.pid"; then
        status=$(owned n2)
        end "$STATE/n2/vipdp.pid" || fail "SIGTERM did not end n2, which had lost its NIC"
    else
        status=none ended=yes
    fi
    ! on n2 ip -br link | grep -q vipdp0 || fail "the host of n2 still has the VIPs"
    say "vipdp on n2 ended by itself: $ended; buckets it had then: $status; $(tail -n 1 "$STATE/n2/vipdp.log" | cut -c 1-200)"
}

is_gone() { ! ip -n "$PREFIX-$1" link show dev eth0 >/dev/null 2>&1; }

open_qmp
segment_up
services_up
cluster_files
check load "cluster starts" cluster_up
endless_load
while read -r command; do
    # shellcheck disable=SC2086 # words
    check reset "$command, under load" resets $command
done <<<"${JOB_RESETS//;/$'\n'}"
check unbind "unbind, under load" unbound
check unbind "bind, under load" bound
check unplug "device_del, under load" unplugged
kill "$LOADING" || true
