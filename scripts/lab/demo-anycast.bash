# shellcheck shell=bash
# The anycast part of scripts/demo: the third seed's session, a kill, and connections while the network spreads anew.

ROUTES_MS=3000       # from the stop of a node's services until the spines know: three checks, 200 ms apart, and BGP
HTTP_LOOPS=16        # who ask the web servers, ten times a second each
HTTP_SLOW_MS=500     # a request that takes longer met a dead node
STEERED_S=25         # how long connections last while a node comes and goes

on_client() { scripts/topology exec client -- "$@"; }

# show_routes: what one spine knows, as the seed shows it.
show_routes() { scripts/topology exec spine1 -- ip route show "$SERVER4"; }

# ways: by how many ways each spine sends to each VIP, if all say the same.
ways() {
    local spine vip
    for spine in spine1 spine2; do
        for vip in "$SERVER4" "$SERVER6"; do
            scripts/topology exec "$spine" -- ip -j "-$([[ $vip == *:* ]] && echo 6 || echo 4)" route show "$vip" |
                jq '[.[] | if .nexthops then .nexthops[] else . end] | length'
        done
    done | sort -u | paste -s -d ' '
}

# await_ways COUNT WHAT: waits until every spine has so many, since the moment SINCE_US.
await_ways() {
    local count=$1 what=$2 deadline=$((SECONDS + 20))
    until [[ $(ways) == "$count" ]]; do
        ((SECONDS < deadline)) || fail "the spines do not have $count ways to the VIPs"
    done
    jq -n --argjson ms $(((${EPOCHREALTIME/[.,]/} - SINCE_US) / 1000)) '{ms: $ms}' >"$OUT/routes.json"
    show_routes
    expect "$what" "<= $ROUTES_MS ms" "$OUT/routes.json" '"\(.ms) ms"' ".ms <= $ROUTES_MS"
}

# replay_session: the seed's own, on n1.
replay_session() {
    local turn
    heading "Four nodes announce: the routes on spine1, and some pages"
    show_routes
    for ((turn = 0; turn < 6; turn++)); do
        on_client scripts/lab/get "$SERVER4"
    done
    measure_shares "4 nodes" "$OUT/before.json" 4
    heading "The services on n1 are stopped"
    SINCE_US=${EPOCHREALTIME/[.,]/}
    scripts/topology service-stop n1
    await_ways 3 "services of n1 stop: 3 routes after"
    measure_shares "without n1" "$OUT/without.json" 3
    heading "The services on n1 are started"
    scripts/topology service-start n1
    SINCE_US=${EPOCHREALTIME/[.,]/}
    await_ways 4 "services of n1 start: 4 routes after"
}

# kill_under_requests: as in the other modes, and web servers are asked too.
kill_under_requests() {
    local loop
    heading "$VICTIM is killed (SIGKILL) under $RATE queries and $((HTTP_LOOPS * 10)) HTTP requests a second"
    for ((loop = 0; loop < HTTP_LOOPS; loop++)); do
        timeout 60 scripts/topology exec client -- scripts/lab/requests 10 "$SERVER4" "$SERVER6" \
            >"$OUT/requests.$loop" &
        HTTP_CLIENTS+=($!)
    done
    kill_under_load
    kill -s TERM "${HTTP_CLIENTS[@]}" 2>/dev/null || true
    wait "${HTTP_CLIENTS[@]}" 2>/dev/null || true
    jq -Rs --slurpfile killed "$OUT/killed.json" --argjson slow "$HTTP_SLOW_MS" '
        [split("\n")[] | select(length > 0) | split(" ") | {began: (.[0] | tonumber), ms: (.[1] | tonumber), node: .[2]}]
        | {all: length, slow: map(select(.ms > $slow or .node == "-")) | {count: length, last: (map(.began) | max)}}
        | .gap_ms = ((.slow.last // $killed[0].killed) - $killed[0].killed | . / 1e6 | round)' \
        "$OUT"/requests.* >"$OUT/requests.json"
    expect "kill: HTTP requests slow or lost" "" "$OUT/requests.json" '"\(.slow.count) of \(.all)"' '.all > 0'
    expect "kill: HTTP: last of them began after" "<= $GAP_MS ms" "$OUT/requests.json" '"\(.gap_ms) ms"' \
        ".gap_ms <= $GAP_MS"
}

# outlast_changes yes|no: connections while n5 comes to leaf1 and goes, with and without steering.
outlast_changes() {
    local steer=$1 batch=1 number whole=0 condition=true wanted=''
    [[ $steer == no ]] && batch=2
    [[ $steer == no ]] || condition=".whole == $TRANSFERS" wanted=all
    heading "$TRANSFERS connections while a node comes and goes: steer $steer"
    scripts/topology down
    scripts/topology up --mode anycast --nodes 5 --hold 1 --steer "$steer" >/dev/null
    scripts/topology stop n5
    scripts/topology wait
    start_transfers "$batch" "$STEERED_S"
    scripts/topology start n5
    scripts/topology wait
    say "n5 is there"
    scripts/topology stop n5
    scripts/topology wait
    say "n5 is gone"
    for ((number = 1; number <= TRANSFERS; number++)); do
        wait "${TRANSFER_CLIENTS[batch * 1000 + number]}" || true
        if grep -q " end " "$OUT/transfer.$batch.$number"; then
            whole=$((whole + 1))
        fi
    done
    say "$whole of $TRANSFERS connections are whole"
    jq -n --argjson whole "$whole" '{whole: $whole}' >"$OUT/whole.json"
    expect "a node comes and goes, steer $steer: whole" "$wanted" "$OUT/whole.json" \
        "\"\\(.whole) of $TRANSFERS\"" "$condition"
}

demonstrate_anycast() {
    HTTP_CLIENTS=()
    scripts/topology up --mode anycast --nodes "$NODES" --hold 1
    replay_session
    kill_under_requests
    heading "$VICTIM returns under $RATE queries a second"
    return_under_load
    measure_shares "$NODES again" "$OUT/after.json" "$NODES"
    outlast_changes no
    outlast_changes yes
}
