# shellcheck shell=bash
# Namespaces, links, addresses and routes of the lab; scripts/topology draws them.

SOURCES4=10.64.0.0/16
SOURCES6=fd64::/64
# The subnets of the next hops, which only the router has an address in, and the first next hops.
HOPS4=10.53.0.1/16 HOPS6=fd53::1/64
NEXT_HOPS4=10.53.1.0 NEXT_HOPS6=fd53::1:0

# set_vips: the service addresses of the mode, VIP4 and VIP6, and what they are in the configuration.
# shellcheck disable=SC2034 # for the scripts that read this one
set_vips() {
    VIP4=192.0.2.53 VIP6=2001:db8:53::53
    VIPS=("$VIP4" "$VIP6")
    case ${MODE:-} in
        tiered)
            VIP4=198.51.100.53 VIP6=2001:db8:80::53
            VIPS=(198.51.100.0/24 2001:db8:80::/64)
            ;;
        anycast)
            VIP4=172.20.0.1 VIP6=2001:db8:20::1
            VIPS=("$VIP4" "$VIP6")
            ;;
    esac
}
set_vips

# node_address4 NUMBER, node_address6 NUMBER: those of its own. In the anycast mode each node has a segment of its own,
# unless frames are to be sent on by their MAC.
node_address4() {
    case ${MODE:-}/${FORWARD:-} in
        anycast/mac) echo "10.1.0.$((10 + $1))" ;;
        anycast/*) echo "10.1.$1.2" ;;
        *) echo "192.0.2.$((10 + $1))" ;;
    esac
}
node_address6() {
    case ${MODE:-}/${FORWARD:-} in
        anycast/mac) echo "2001:db8:1::$((10 + $1))" ;;
        anycast/*) echo "2001:db8:1:$1::2" ;;
        *) echo "2001:db8:53::$((10 + $1))" ;;
    esac
}
# node_mac NODE: that of its NIC.
node_mac() {
    local nic=eth0
    [[ $IO == af_xdp ]] || nic=phy0
    ip netns exec "$PREFIX-$1" cat "/sys/class/net/$nic/address"
}

# namespaces: those of this lab that exist.
namespaces() {
    ip netns list | awk '{print $1}' | grep -Ex "$PREFIX-(client|router|sw|spine[0-9]|leaf[0-9]|n[0-9]+)" || true
}

settings() {
    local namespace=$1
    shift
    ip netns exec "$namespace" sysctl -qw "$@"
}

# add_namespace NAME: a network namespace whose interfaces use their IPv6 addresses at once.
add_namespace() {
    ip netns add "$PREFIX-$1"
    settings "$PREFIX-$1" net.ipv6.conf.{all,default}.{accept_dad,dad_transmits,accept_ra}=0 \
        net.ipv4.conf.{all,default}.rp_filter=0
    ip -n "$PREFIX-$1" link set lo up
}

# add_link NAME INTERFACE NAME INTERFACE: a veth pair. Kernel sockets leave checksums to the "NIC"; over veth
# nobody would ever fill them in before an AF_XDP socket sees the frame.
add_link() {
    ip -n "$PREFIX-$1" link add "$2" type veth peer name "$4" netns "$PREFIX-$3"
    ip netns exec "$PREFIX-$1" ethtool -K "$2" tx off >/dev/null
    ip netns exec "$PREFIX-$3" ethtool -K "$4" tx off >/dev/null
    ip -n "$PREFIX-$1" link set "$2" up
    ip -n "$PREFIX-$3" link set "$4" up
}

# add_nic NUMBER PEER: the link of a node to its peer, a switch or a leaf, and eth0, the interface that the node has there.
# With DPDK the kernel has no NIC. Here the NIC is phy0, of which the node's kernel is to take no notice, as if it had
# been unbound: it drops what comes there, which packet sockets and XDP programs have seen by then. eth0 is a TAP that
# vipdp attaches to; it has no carrier until then.
add_nic() {
    local node=n$1
    if [[ $IO == af_xdp ]]; then
        add_link "$node" eth0 "$2" "$node"
        return
    fi
    add_link "$node" phy0 "$2" "$node"
    ip -n "$PREFIX-$node" link set phy0 arp off
    settings "$PREFIX-$node" net.ipv6.conf.phy0.disable_ipv6=1
    ip netns exec "$PREFIX-$node" nft -f - <<'END'
table netdev phy0 {
    chain unbound {
        type filter hook ingress device phy0 priority 0; policy drop;
    }
}
END
    ip -n "$PREFIX-$node" tuntap add dev eth0 mode tap multi_queue vnet_hdr
    ip -n "$PREFIX-$node" link set eth0 up
}

# add_switch: a bridge that learns, without spanning tree, that floods multicast as a plain switch does.
add_switch() {
    add_namespace sw
    settings "$PREFIX-sw" net.ipv6.conf.{all,default}.disable_ipv6=1
    # A switch does not look into packets; where br_netfilter is loaded, a bridge drops malformed ones.
    if [[ -d /proc/sys/net/bridge ]]; then
        settings "$PREFIX-sw" net.bridge.bridge-nf-call-{ip,ip6,arp}tables=0
    fi
    ip -n "$PREFIX-sw" link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    ip -n "$PREFIX-sw" link set br0 up
}

add_router() {
    add_namespace router
    settings "$PREFIX-router" net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    add_link router lan sw router
    ip -n "$PREFIX-sw" link set router master br0
    ip -n "$PREFIX-router" address add 192.0.2.1/24 dev lan
    ip -n "$PREFIX-router" address add 2001:db8:53::1/64 dev lan nodad
    [[ $MODE == tiered ]] || return 0
    ip -n "$PREFIX-router" address add "$HOPS4" dev lan
    ip -n "$PREFIX-router" address add "$HOPS6" dev lan nodad
}

# add_client: it takes every address of SOURCES4 and SOURCES6 for its own.
add_client() {
    add_namespace client
    settings "$PREFIX-client" net.ipv6.ip_nonlocal_bind=1
    add_link client uplink router client
    ip -n "$PREFIX-client" address add 198.18.0.2/30 dev uplink
    ip -n "$PREFIX-client" address add 2001:db8:c::2/64 dev uplink nodad
    ip -n "$PREFIX-router" address add 198.18.0.1/30 dev client
    ip -n "$PREFIX-router" address add 2001:db8:c::1/64 dev client nodad
    ip -n "$PREFIX-client" route add default via 198.18.0.1
    ip -n "$PREFIX-client" route add default via 2001:db8:c::1
    ip -n "$PREFIX-client" route add local "$SOURCES4" dev lo
    ip -n "$PREFIX-client" route add local "$SOURCES6" dev lo
    ip -n "$PREFIX-router" route add "$SOURCES4" via 198.18.0.2
    ip -n "$PREFIX-router" route add "$SOURCES6" via 2001:db8:c::2
}

# add_node NUMBER
add_node() {
    local node=n$1
    add_namespace "$node"
    add_nic "$1" sw
    ip -n "$PREFIX-sw" link set "$node" master br0
    ip -n "$PREFIX-$node" address add "$(node_address4 "$1")/24" dev eth0
    ip -n "$PREFIX-$node" address add "$(node_address6 "$1")/64" dev eth0 nodad
    ip -n "$PREFIX-$node" route add default via 192.0.2.1
    ip -n "$PREFIX-$node" route add default via 2001:db8:53::1
    # Answers come from the address that was asked, also where that is one of a prefix.
    settings "$PREFIX-$node" net.ipv6.ip_nonlocal_bind=1
}

# route_vips COUNT: the router spreads the VIPs over the next hops of the first COUNT nodes, as `vipdp plan` says.
# Where it did so before, flows stay on their next hops as long as they are busy.
# A real router hashes what is in the packet. Here, with policy 1, it would take the hash that the client's socket has
# given the packet, which another namespace of this kernel still sees, and which the client changes when it sees a
# retransmission. Policy 3 reads the packet: addresses, protocol and ports.
route_vips() {
    local nodes
    nodes=$(seq -s, -f 'n%.0f' "$1")
    "$BINARY" plan --nodes "$nodes" --tiers "$TIERS" --vips "$(IFS=, && echo "${VIPS[*]}")" \
        --next-hops4 "$NEXT_HOPS4" --next-hops6 "$NEXT_HOPS6" --router linux >"$STATE/router.sh" ||
        fail "vipdp plans no router"
    settings "$PREFIX-router" net.ipv{4,6}.fib_multipath_hash_policy=3 net.ipv{4,6}.fib_multipath_hash_fields=55
    grep -v fib_multipath_hash_policy "$STATE/router.sh" | ip netns exec "$PREFIX-router" sh -s lan ||
        fail "the router does not take its routes"
}

# is_settled NAMESPACE: all links are up, but for TAPs, and no IPv6 address is still being checked.
is_settled() {
    local down
    down=$(ip -n "$1" -d -j link show up | jq -r '.[] | select(.operstate == "DOWN" or .operstate == "LOWERLAYERDOWN")
        | select(.linkinfo.info_kind != "tun") | .ifname')
    [[ -z $down && -z $(ip -n "$1" -6 address show tentative) ]]
}

# has_path ADDRESS...: the client reaches each address. What was lost is asked again soon: that is the caller's.
has_path() {
    local address
    for address; do
        ip netns exec "$PREFIX-client" ping -q -c 1 -W 0.2 "$address" >/dev/null || return 1
    done
}

await_links() {
    local namespace
    for namespace in $(namespaces); do
        wait_for 10 is_settled "$namespace" || fail "the links in $namespace do not come up"
    done
}

# await_hosts COUNT: waits until the client reaches the own addresses of the first COUNT hosts.
await_hosts() {
    local number
    for ((number = 1; number <= $1; number++)); do
        wait_for 60 has_path "$(node_address4 "$number")" "$(node_address6 "$number")" ||
            fail "the client does not reach n$number"
    done
}

build_network() {
    local nodes=$1 number
    add_switch
    add_router
    add_client
    for ((number = 1; number <= nodes; number++)); do
        add_node "$number"
    done
    await_links
    # With DPDK it takes vipdp to reach a node.
    [[ $IO != af_xdp ]] || await_hosts "$nodes"
}

# remove_network: ends what still runs in the namespaces (their processes can only be the lab's own) and deletes them.
remove_network() {
    local namespace pid signal
    for namespace in $(namespaces); do
        for signal in TERM KILL; do
            for pid in $(ip netns pids "$namespace"); do
                kill -s "$signal" "$pid" 2>/dev/null || true
            done
            wait_for 3 is_empty "$namespace" && break
        done
        ip netns delete "$namespace"
    done
}

is_empty() { [[ -z $(ip netns pids "$1") ]]; }
