# shellcheck shell=bash
# What is checked on a segment. Each function is a check: it prints a detail, or fails with the reason.

# status_of NODE FILTER: what jq makes of its status.
status_of() { status_json "$1" | jq -er "$2"; }

# attached MODE: the XDP program of n1 runs there, as its status and its log say. The log says too that the driver refused
# where it is not the driver's.
attached() {
    local mode log=$STATE/n1/vipdp.log
    mode=$(status_of n1 .interface.xdp_mode)
    [[ $mode == "$1" ]] || fail "$mode, not $1"
    grep -q "running.*program ${1^}" "$log" || fail "the log does not say: program ${1^}"
    [[ $1 == native ]] || grep -q 'WARN.*no XDP in this mode.*mode=Native' "$log" || fail "the log does not say that the driver refused"
    say "$mode"
}

# zero_copy yes|no: whether the NIC writes into vipdp's memory, as the status and, where it does not, the log say.
zero_copy() {
    local all
    all=$(status_of n1 'if all(.workers[]; .zero_copy) then "yes" elif any(.workers[]; .zero_copy) then "some" else "no" end')
    [[ $all == "$1" ]] || fail "zero-copy: $all, not $1"
    [[ $1 == yes ]] || grep -q 'INFO.*no zero-copy: ' "$STATE/n1/vipdp.log" || fail "the log does not say why there is no zero-copy"
    say "$all"
}

# has_queues N: vipdp serves so many.
has_queues() {
    local queues
    queues=$(status_of n1 '"\(.interface.queues) \(.workers | length)"')
    [[ $queues == "$1 $1" ]] || fail "queues and workers of n1: $queues, not $1"
    say "$1"
}

# spread: every queue of n1 has received.
spread() {
    local counts
    counts=$(status_of n1 '[.workers[].rx] | map(tostring) | join(" + ")')
    [[ " $counts " != *" 0 "* ]] || fail "frames by queue: $counts"
    say "$counts frames"
}

# resolves4: every answer to ARP for the VIP says the shared MAC.
resolves4() {
    local wanted found
    wanted=$(status_of n1 .interface.shared_mac_v4)
    found=$(on client arping -I "$(device)" -c 2 -w 10 "$VIP4" | sed -n 's/.*\[\(.*\)\].*/\L\1/p' | sort -u)
    [[ $found == "$wanted" ]] || fail "ARP for $VIP4: '$found', not $wanted"
    on client ip neigh flush dev "$(device)"
    on client ping -q -c 2 -i 0.2 -W 5 "$VIP4" >/dev/null || fail "no answer to ping from $VIP4"
    say "$found"
}

# solicit6: asks for the VIP's neighbour and listens for so long that whoever else might answer has done it. Other checks
# go on beside it; resolves6 reads what came.
solicit6() {
    rm -f "$STATE/neighbours.all"
    (
        on client ndisc6 -q -m -r 1 -w 6000 "$VIP6" "$(device)" >"$STATE/neighbours" || true
        mv "$STATE/neighbours" "$STATE/neighbours.all"
    ) &
}

# resolves6: every neighbour advertisement says the shared MAC too.
resolves6() {
    local wanted found
    wanted=$(status_of n1 .interface.shared_mac_v6)
    wait_for 10 test -e "$STATE/neighbours.all" || fail "ndisc6 does not end"
    found=$(tr '[:upper:]' '[:lower:]' <"$STATE/neighbours.all" | sort -u)
    [[ $found == "$wanted" ]] || fail "NDP for $VIP6: '$found', not $wanted"
    on client ip -6 neigh flush dev "$(device)"
    on client ping -q -c 2 -i 0.2 -W 5 "$VIP6" >/dev/null || fail "no answer to ping from $VIP6"
    say "$found"
}

# load QUERIES [RATE]: asks both VIPs, each query from another client, and prints the account.
load() {
    on client "$LOAD" --server "$VIP4" --server "$VIP6" --sources "$SOURCES4" --sources "$SOURCES6" \
        --queries "$1" --rate "${2:-200}" --timeout-ms 5000 --linger-ms 500 --distinct --json
}

# answered_once NODES: every query is answered once, by these nodes ("n1 n2") and no other.
answered_once() {
    load 200 | jq -nr --arg nodes "$1" '
        input | if .totals.sent == 200 and .totals.answered == 200 and .totals.duplicates == 0 and (.nodes | keys | join(" ")) == $nodes
        then "\(.totals.answered) of \(.totals.sent), " + ([.nodes | to_entries[] | "\(.key) \(.value.answers)"] | join(", "))
        else "not each answered once: \([.totals, .nodes] | tojson)\n" | halt_error end'
}

# answers_long: an answer of 3,000 bytes by TCP, and, cut into fragments, by UDP.
answers_long() {
    local vip way bytes
    for vip in "$VIP4" "$VIP6"; do
        for way in +tcp +bufsize=4096; do
            bytes=$(on client kdig +short "$way" +timeout=15 +retry=2 "@$vip" big.example. TXT | wc -c)
            ((bytes > 3000)) || fail "$bytes bytes of big.example. TXT from $vip with $way"
        done
    done
}

# bad_checksums: what the NIC, or the client's queueing discipline before it, spoilt reaches no service.
bad_checksums() {
    local before after device
    device=$(device)
    # The client's own hand makes the checksum, then the discipline spoils it: that of UDP, 6 bytes into its header.
    on client ethtool -K eth0 tx off >/dev/null || true
    on client tc qdisc add dev "$device" root handle 1: prio
    on client tc filter add dev "$device" parent 1: protocol ip u32 match ip protocol 17 0xff match ip dst "$VIP4/32" \
        action pedit munge offset 26 u16 set 0x0bad pipe
    before=$(received)
    on client kdig +timeout=1 +retry=1 "@$VIP4" id.server CH TXT >/dev/null && fail "a datagram with a false checksum was answered"
    after=$(received)
    on client tc qdisc del dev "$device" root
    on client ethtool -K eth0 tx on >/dev/null || true
    on client kdig +timeout=5 "@$VIP4" id.server CH TXT >/dev/null || fail "one with a right checksum is not"
    say "$((after - before)) dropped"
}

# received: UDP datagrams that either node's stack threw away for their checksums.
received() {
    local node sum=0
    for node in n1 n2; do
        sum=$((sum + $(on "$node" nstat -asz UdpInCsumErrors | awk '$1 == "UdpInCsumErrors" { print $2 }')))
    done
    say "$sum"
}

# fails_over DO...: n2 is made to fail; n1 has everything then, and answers all.
fails_over() {
    local start
    "$@"
    start=${EPOCHREALTIME/[.,]/}
    wait_for 30 has_all n1 || fail "n1 has $(owned n1) buckets after $*"
    say "n1 has all after $(((${EPOCHREALTIME/[.,]/} - start) / 1000)) ms"
    answered_once n1 >/dev/null || fail "not all answered by n1: $(answered_once n1 2>&1)"
}

# comes_back DO...: n2 is made well again; both share, and answer each query once.
comes_back() {
    "$@"
    await_shared
    answered_once "n1 n2"
}

kill_node() {
    kill -s KILL "$(pid_of "$STATE/$1/vipdp.pid")"
    end "$STATE/$1/vipdp.pid"
}

unplug() {
    cable "${1/n/nic}" off
    [[ ${JOB_CARRIER:-yes} == yes ]] || return 0
    wait_for 10 has_no_carrier "$1" || fail "$1 still has a carrier"
}

plug() {
    cable "${1/n/nic}" on
    wait_for 20 has_carrier "$1" || fail "$1 has no carrier"
}

link_down() { ip -n "$PREFIX-$1" link set eth0 down; }

link_up() {
    ip -n "$PREFIX-$1" link set eth0 up
    wait_for 20 has_carrier "$1" || fail "$1 has no carrier"
    [[ -z $TAG ]] || ip -n "$PREFIX-$1" link set "eth0.$TAG" up
    address "$1"
}

# claims: how often the nodes have claimed or released buckets so far.
claims() { cat "$STATE"/n?/vipdp.log | grep -cE 'claimed|released'; }

# host_state NODE: all that vipdp may change on its host, for comparison. Whether there is a carrier LOWER_UP tells at once;
# what else tells it the kernel makes of that up to a second later.
host_state() {
    local node=$1 family
    ip -n "$PREFIX-$node" -d -j link | jq -S 'map(del(.stats64, .ifindex, .link_index, .operstate) | .flags |= (. - ["NO-CARRIER"] | sort))'
    ip -n "$PREFIX-$node" -j address | jq -S 'map({ifname, addr: [.addr_info[]? | {local, prefixlen, scope}] | sort})'
    for family in -4 -6; do
        ip -n "$PREFIX-$node" "$family" rule
        ip -n "$PREFIX-$node" "$family" route show table all | sed 's/ expires [^ ]*//' | sort
    done
    ip -n "$PREFIX-$node" maddress | grep -v users | sort
    on "$node" sysctl net.ipv4.conf net.ipv6.conf net.core 2>/dev/null | grep -v stable_secret
    on "$node" ethtool -k eth0
    on "$node" ethtool -l eth0 2>/dev/null || true
    on "$node" grep -s . /sys/class/net/eth0/{mtu,napi_defer_hard_irqs,gro_flush_timeout,threaded,flags}
}

remember_host() { host_state n1 >"$STATE/n1/before"; }

# restored: after SIGTERM the hosts are as they were, and the VIPs are gone. What the nodes have counted until then is left
# for the host.
restored() {
    local node
    for node in n1 n2; do
        status_json "$node" >"$OUT/$node${TAG:+-vlan}.json"
    done
    cluster_down
    host_state n1 >"$STATE/n1/after"
    diff "$STATE/n1/before" "$STATE/n1/after" >"$STATE/n1/difference" ||
        fail "the host of n1 is not as before: $(tr '\n' ' ' <"$STATE/n1/difference")"
    ! on client ping -q -c 1 -W 1 "$VIP4" >/dev/null || fail "somebody answers for $VIP4"
}
