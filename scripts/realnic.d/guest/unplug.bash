# shellcheck shell=bash
# NICs that fail under load: taken out of their slot, and made to start again by their driver's own means.
#
# The node whose NIC it is must not crash and must not go on claiming; the other one serves all.

# endless_load: the client asks both VIPs for as long as the guest runs.
endless_load() {
    on client "$LOAD" --server "$VIP4" --server "$VIP6" --sources "$SOURCES4" --sources "$SOURCES6" \
        --duration 200 --rate 100 --timeout-ms 1000 --linger-ms 100 --json >"$STATE/load.json" 2>&1 &
    LOADING=$!
}

# is_well NODE: its vipdp runs, and has not been started anew since.
is_well() { is_running "$STATE/$1/vipdp.pid" || fail "vipdp on $1 is over: $(tail -n 3 "$STATE/$1/vipdp.log" | tr '\n' ' ')"; }

# resets WHAT COMMAND...: the NIC of n2 starts again; both nodes live, share, and every query is answered once.
resets() {
    on n2 "$@" || fail "the driver refuses: $*"
    wait_for 20 has_carrier n2 || fail "no carrier after $*"
    is_well n1
    is_well n2
    await_shared
    answered_once "n1 n2"
}

# unplugged: n2's NIC leaves its slot. Its vipdp may stay or end, but not crash; it claims nothing that the other one has,
# as far as anybody hears, and cleans up.
unplugged() {
    local status ended=no
    qmp '{"execute":"device_del","arguments":{"id":"nic2"}}'
    wait_for 20 is_gone n2 || fail "the kernel still has the NIC"
    wait_for 30 has_all n1 || fail "n1 has $(owned n1) buckets"
    is_well n1
    answered_once n1 >/dev/null || fail "not all answered by n1"
    ! grep -Ei 'panick|BUG|overflow' "$STATE/n2/vipdp.log" || fail "n2 panicked"
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
check unplug "device_del, under load" unplugged
kill "$LOADING" || true
