# shellcheck shell=bash
# What guests share in which a NIC fails under load.

# endless_load: the client asks both VIPs for as long as the guest runs.
endless_load() {
    on client "$LOAD" --server "$VIP4" --server "$VIP6" --sources "$SOURCES4" --sources "$SOURCES6" \
        --duration 200 --rate 100 --timeout-ms 1000 --linger-ms 100 --json >"$STATE/load.json" 2>&1 &
    # shellcheck disable=SC2034 # whoever has started it ends it
    LOADING=$!
}

# is_well NODE: its vipdp runs, and has not been started anew since.
is_well() { is_running "$STATE/$1/vipdp.pid" || fail "vipdp on $1 is over: $(tail -n 3 "$STATE/$1/vipdp.log" | tr '\n' ' ')"; }
