# shellcheck shell=bash
# The kernel's packet generator as a load, faster than the emulated machine takes it, and where each packet went.
#
# The NICs hang on a hub in QEMU, which keeps 10,000 frames for each: what the nodes do not take they lose, and count.
# Rates in a guest say nothing; counts do.

PACKETS=9000
# Nobody listens there: the kernel counts what reaches it.
PORT=9

# flood ADDRESS MAC: sends the datagrams, each from another client, and prints how many went out.
flood() {
    on client "$JOB_BINARIES/pktgen" --interface eth0 --engine kernel --uncounted --to "$1" --to-mac "$2" \
        --from "${SOURCES4%/*}" --port "$PORT" --count "$PACKETS" --json | jq -er .sent
}

# counts NODE: prints what it received, accepted, dropped and lost, and what of it came to the host and was lost there.
counts() {
    status_of "$1" '.workers | [map(.rx), map(.verdicts.pass), map(.verdicts.drop), map(.kernel | .rx_dropped + .rx_ring_full)]
        | map(add) | map(tostring) | join(" ")' | tr '\n' ' '
    say "$(delivered "$1") $(refused "$1" vipdp0)"
}

# delivered NODE: datagrams that came to its stack, and to nobody there.
delivered() { on "$1" nstat -asz UdpNoPorts | awk '$1 == "UdpNoPorts" { print $2 }'; }

# refused NODE INTERFACE: packets that the stack received by it and had no room for.
refused() { ip -n "$PREFIX-$1" -s -j link show dev "$2" | jq '.[0].stats64.rx.dropped'; }

# since NODE: what its counts have grown by.
since() { paste -d ' ' "$STATE/$1/counts" <(counts "$1") | awk '{ for (at = 1; at <= 6; at++) printf "%d ", $(at + 6) - $at }'; }

# is_accounted_for NODE SENT: it has received or lost as many.
is_accounted_for() {
    local -a grown
    read -ra grown < <(since "$1") || true
    ((grown[0] + grown[3] == $2))
}

# accounted: of a flood to a VIP each node has accepted, dropped or lost every packet; what it accepted came to its host;
# and no packet was accepted by both, or dropped by both.
accounted() {
    local node sent accepted=0 dropped=0 lost=0 text=
    local -a grown
    for node in n1 n2; do
        counts "$node" >"$STATE/$node/counts"
    done
    sent=$(flood "$VIP4" "$(status_of n1 .interface.shared_mac_v4)")
    for node in n1 n2; do
        wait_for 20 is_accounted_for "$node" "$sent" || fail "$node, of $sent: received, accepted, dropped, lost: $(since "$node")"
        read -ra grown < <(since "$node") || true
        ((grown[1] + grown[2] == grown[0])) || fail "$node received ${grown[0]}, but accepted ${grown[1]} and dropped ${grown[2]}"
        ((grown[4] + grown[5] == grown[1])) || fail "$node accepted ${grown[1]}, but its host had ${grown[4]} and lost ${grown[5]}"
        text+="$node: ${grown[1]} accepted, ${grown[2]} dropped, ${grown[3]} lost; "
        accepted=$((accepted + grown[1])) dropped=$((dropped + grown[2])) lost=$((lost + grown[3]))
    done
    # What one accepts the other drops, unless it lost that.
    ((accepted <= sent && dropped <= sent && accepted + dropped + lost == 2 * sent && accepted > 0 && dropped > 0)) ||
        fail "$sent sent; $text"
    say "$sent sent; ${text%; }"
}

# plain: the same to the host of n1 by its own address, without vipdp.
plain() {
    local sent before lost_before
    before=$(delivered n1) lost_before=$(lost_by_kernel)
    sent=$(flood 192.0.2.11 "${MACS[n1]}")
    wait_for 20 is_delivered "$((before + lost_before + sent))" ||
        fail "$sent sent; $(($(delivered n1) - before)) came, $(($(lost_by_kernel) - lost_before)) were lost"
    say "$sent sent; the kernel of n1 had $(($(delivered n1) - before)), and lost $(($(lost_by_kernel) - lost_before))"
}

lost_by_kernel() { refused n1 eth0; }

is_delivered() { (($(delivered n1) + $(lost_by_kernel) == $1)); }

modprobe pktgen
segment_up
services_up
cluster_files
check pktgen "plain kernel, no vipdp" plain
check pktgen "cluster starts" cluster_up
check pktgen "to a VIP" accounted
check pktgen "each query once afterwards" answered_once "n1 n2"
check pktgen "SIGTERM" cluster_down
