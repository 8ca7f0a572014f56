# shellcheck shell=bash
# The fabric of the anycast mode, in place of the switch and the router: spines, leaves, FRR on each.
#
#                 vd-client            198.18.1.0/30, 198.18.2.0/30
#                 /       \
#          vd-spine1     vd-spine2     AS 65101, 65102
#             |  \  \  \ /  /  / |
#          vd-leaf1 .. vd-leaf4        AS 65001 .. 65004; their links to the spines have no addresses
#             |           |
#           vd-n1 ..    vd-n4          AS 65011 ..; n5 is on leaf1 again; 10.1.N.0/29, 2001:db8:1:N::/64
#
# With FORWARD=mac all nodes and leaves are on one segment, 10.1.0.0/24 and 2001:db8:1::/64, and each node still has
# its leaf for a peer.

SPINES=2 LEAVES=4

leaf_of() { echo "leaf$((($1 - 1) % LEAVES + 1))"; }
leaf_number() { echo "$((($1 - 1) % LEAVES + 1))"; }

# leaf_address4 NODE, leaf_address6 NODE: what its leaf has towards it, by the node's number.
leaf_address4() {
    if [[ $FORWARD == mac ]]; then echo "10.1.0.$(leaf_number "$1")"; else echo "10.1.$1.1"; fi
}
leaf_address6() {
    if [[ $FORWARD == mac ]]; then echo "2001:db8:1::$(leaf_number "$1")"; else echo "2001:db8:1:$1::1"; fi
}

# hosts_of LEAF: the numbers of its nodes.
hosts_of() { seq "$1" "$LEAVES" "$((NODES + SPARES))"; }

# add_fabric_router NAME LOOPBACK4 LOOPBACK6
# The hash is of the packet, as in scripts/lab/network.bash; and each router has its own, or one would find all flows
# that another sends it alike.
add_fabric_router() {
    add_namespace "$1"
    settings "$PREFIX-$1" net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
        net.ipv6.conf.all.keep_addr_on_down=1
    spread_by_flow "$1"
    ip -n "$PREFIX-$1" address add "$2/32" dev lo
    ip -n "$PREFIX-$1" address add "$3/128" dev lo
}

# spread_by_flow NAME: its ECMP is by addresses, protocol and ports.
spread_by_flow() {
    settings "$PREFIX-$1" net.ipv{4,6}.fib_multipath_hash_policy=3 net.ipv{4,6}.fib_multipath_hash_fields=55
    # Kernels before 6.11 have no seed to set.
    [[ ! -e /proc/sys/net/ipv4/fib_multipath_hash_seed ]] ||
        settings "$PREFIX-$1" net.ipv4.fib_multipath_hash_seed="$((0x$(md5sum <<<"$1" | cut -c 1-7)))"
}

add_fabric() {
    local spine leaf
    for ((spine = 1; spine <= SPINES; spine++)); do
        add_fabric_router "spine$spine" "10.0.1.$spine" "2001:db8:0:1::$spine"
    done
    for ((leaf = 1; leaf <= LEAVES; leaf++)); do
        add_fabric_router "leaf$leaf" "10.0.2.$leaf" "2001:db8:0:2::$leaf"
        for ((spine = 1; spine <= SPINES; spine++)); do
            add_link "leaf$leaf" "spine$spine" "spine$spine" "leaf$leaf"
        done
    done
    [[ $FORWARD == mac ]] || return 0
    add_switch
    for ((leaf = 1; leaf <= LEAVES; leaf++)); do
        add_link "leaf$leaf" lan sw "leaf$leaf"
        ip -n "$PREFIX-sw" link set "leaf$leaf" master br0
        ip -n "$PREFIX-leaf$leaf" address add "10.1.0.$leaf/24" dev lan
        ip -n "$PREFIX-leaf$leaf" address add "2001:db8:1::$leaf/64" dev lan nodad
    done
}

# add_fabric_client: behind both spines, and as in the other modes every address of SOURCES4 and SOURCES6 is its own.
add_fabric_client() {
    local spine hops4=() hops6=()
    add_namespace client
    settings "$PREFIX-client" net.ipv6.ip_nonlocal_bind=1
    spread_by_flow client
    for ((spine = 1; spine <= SPINES; spine++)); do
        add_link client "spine$spine" "spine$spine" client
        ip -n "$PREFIX-client" address add "198.18.$spine.2/30" dev "spine$spine"
        ip -n "$PREFIX-client" address add "2001:db8:c:$spine::2/64" dev "spine$spine" nodad
        ip -n "$PREFIX-spine$spine" address add "198.18.$spine.1/30" dev client
        ip -n "$PREFIX-spine$spine" address add "2001:db8:c:$spine::1/64" dev client nodad
        ip -n "$PREFIX-spine$spine" route add "$SOURCES4" via "198.18.$spine.2"
        ip -n "$PREFIX-spine$spine" route add "$SOURCES6" via "2001:db8:c:$spine::2"
        hops4+=(nexthop via "198.18.$spine.1")
        hops6+=(nexthop via "2001:db8:c:$spine::1")
    done
    ip -n "$PREFIX-client" route add default "${hops4[@]}"
    ip -n "$PREFIX-client" route add default "${hops6[@]}"
    ip -n "$PREFIX-client" route add local "$SOURCES4" dev lo
    ip -n "$PREFIX-client" route add local "$SOURCES6" dev lo
}

# add_fabric_node NUMBER: its way out is its leaf, whatever BGP says. Between leaf and node there is room for more than
# two IPv4 addresses: where there is not, FRR takes the other one for the peer of an unnumbered session.
add_fabric_node() {
    local number=$1 node=n$1 leaf length4=29
    leaf=$(leaf_of "$number")
    add_namespace "$node"
    # Answers come from the address that was asked, also where that is one of a prefix.
    settings "$PREFIX-$node" net.ipv6.ip_nonlocal_bind=1
    if [[ $FORWARD == mac ]]; then
        length4=24
        add_nic "$number" sw
        ip -n "$PREFIX-sw" link set "$node" master br0
    else
        add_nic "$number" "$leaf"
        ip -n "$PREFIX-$leaf" address add "$(leaf_address4 "$number")/29" dev "$node"
        ip -n "$PREFIX-$leaf" address add "$(leaf_address6 "$number")/64" dev "$node" nodad
    fi
    ip -n "$PREFIX-$node" address add "$(node_address4 "$number")/$length4" dev eth0
    ip -n "$PREFIX-$node" address add "$(node_address6 "$number")/64" dev eth0 nodad
    ip -n "$PREFIX-$node" route add default via "$(leaf_address4 "$number")"
    ip -n "$PREFIX-$node" route add default via "$(leaf_address6 "$number")"
}

build_fabric() {
    local hosts=$1 number router
    add_fabric
    add_fabric_client
    for ((number = 1; number <= hosts; number++)); do
        add_fabric_node "$number"
    done
    await_links
    for ((number = 1; number <= LEAVES; number++)); do
        mkdir -p "$STATE/leaf$number"
        leaf_config "$number" >"$STATE/leaf$number/frr.conf"
    done
    for ((number = 1; number <= SPINES; number++)); do
        mkdir -p "$STATE/spine$number"
        spine_config "$number" >"$STATE/spine$number/frr.conf"
    done
    for router in $(fabric_routers); do
        beside frr_up "$router"
    done
    await_started
}

fabric_routers() { seq -f 'spine%.0f' "$SPINES" && seq -f 'leaf%.0f' "$LEAVES"; }

# advertise INTERFACE...: whoever has an unnumbered session here is found by his router advertisement, one a second.
advertise() {
    local interface
    for interface; do
        printf 'interface %s\n ipv6 nd ra-interval msec 1000\n no ipv6 nd suppress-ra\nexit\n' "$interface"
    done
}

# router_config NAME AS ROUTER_ID INTERFACE...: what spines and leaves have in common, and the start of their BGP.
# Routes have their next hops themselves: in a group of the kernel's next hops, one whose link was down for a while is
# missing for ever, since the kernel takes it out and this zebra does not put it back.
# Route maps hold from when they are read on, not five seconds later.
router_config() {
    cat <<END
hostname $1
no zebra nexthop kernel enable
!
$(shift 3 && advertise "$@")
!
bfd
 profile fast
  transmit-interval $BFD_MS
  receive-interval $BFD_MS
  detect-multiplier 3
 exit
exit
!
router bgp $2
 bgp router-id $3
 bgp bestpath as-path multipath-relax
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp route-map delay-timer 0
END
}

# peer_group NAME: members of any other AS, whose failure BFD finds.
peer_group() {
    cat <<END
 neighbor $1 peer-group
 neighbor $1 remote-as external
 neighbor $1 timers 3 9
 neighbor $1 timers connect 1
 neighbor $1 bfd
 neighbor $1 bfd profile fast
END
}

spine_config() {
    local leaf family leaves=()
    mapfile -t leaves < <(seq -f 'leaf%.0f' "$LEAVES")
    router_config "spine$1" "$((65100 + $1))" "10.0.1.$1" "${leaves[@]}"
    peer_group LEAVES
    for ((leaf = 1; leaf <= LEAVES; leaf++)); do
        echo " neighbor leaf$leaf interface peer-group LEAVES"
    done
    for family in "ipv4 $SOURCES4" "ipv6 $SOURCES6"; do
        cat <<END
 address-family ${family% *} unicast
  network ${family#* }
  redistribute connected
  maximum-paths 64
  neighbor LEAVES activate
 exit-address-family
END
    done
    echo exit
}

# leaf_config NUMBER: from servers only the VIPs are accepted, as the third seed has it. What one spine has told is not
# told to the other, so that a withdrawn route is gone everywhere at once.
leaf_config() {
    local leaf=$1 number spines=() servers=()
    mapfile -t spines < <(seq -f 'spine%.0f' "$SPINES")
    [[ $PEERS == numbered ]] || mapfile -t servers < <(hosts_of "$leaf" | sed s/^/n/)
    cat <<END
ip prefix-list VIPS seq 5 permit $VIP4/32
ipv6 prefix-list VIPS seq 5 permit $VIP6/128
!
bgp community-list standard FROM-SPINES permit 65000:1
!
route-map FROM-SPINES permit 10
 set community 65000:1 additive
exit
route-map TO-SPINES deny 10
 match community FROM-SPINES
exit
route-map TO-SPINES permit 20
exit
route-map TO-SERVERS deny 10
exit
!
END
    router_config "leaf$leaf" "$((65000 + leaf))" "10.0.2.$leaf" "${spines[@]}" "${servers[@]}"
    peer_group SPINES
    for ((number = 1; number <= SPINES; number++)); do
        echo " neighbor spine$number interface peer-group SPINES"
    done
    if [[ $PEERS == unnumbered ]]; then
        peer_group SERVERS
    else
        # A session for each family: IPv6 next hops are then addresses of the segment.
        peer_group SERVERS
        peer_group SERVERS6
    fi
    for number in $(hosts_of "$leaf"); do
        if [[ $PEERS == unnumbered ]]; then
            echo " neighbor n$number interface peer-group SERVERS"
        else
            echo " neighbor $(node_address4 "$number") peer-group SERVERS"
            echo " neighbor $(node_address6 "$number") peer-group SERVERS6"
        fi
    done
    leaf_family ipv4 SERVERS
    if [[ $PEERS == unnumbered ]]; then leaf_family ipv6 SERVERS; else leaf_family ipv6 SERVERS6; fi
    echo exit
}

# leaf_family FAMILY GROUP: the address family of a leaf, the servers of which are the group.
leaf_family() {
    cat <<END
 address-family $1 unicast
  redistribute connected
  maximum-paths 64
  neighbor SPINES activate
  neighbor SPINES route-map FROM-SPINES in
  neighbor SPINES route-map TO-SPINES out
  neighbor $2 activate
  neighbor $2 prefix-list VIPS in
  neighbor $2 route-map TO-SERVERS out
 exit-address-family
END
}

# next_hops ROUTER VIP: by how many ways its kernel sends to the VIP.
next_hops() {
    local family=-4
    [[ $2 != *:* ]] || family=-6
    ip -n "$PREFIX-$1" "$family" -j route show "$2" proto bgp |
        jq '[.[] | if .nexthops then .nexthops[] else . end] | length'
}

# announcing LEAF: how many of its nodes announce, when all is well.
announcing() {
    local number count=0
    for number in $(hosts_of "$1"); do
        if [[ $WITH_VIPDP == no ]] || is_running "$STATE/n$number/vipdp.pid"; then
            count=$((count + 1))
        fi
    done
    echo "$count"
}

# has_routes: to both VIPs every leaf has a way by each of its nodes, and every spine by each leaf that has nodes.
has_routes() {
    local router vip count used=0
    local -A ways
    for ((router = 1; router <= LEAVES; router++)); do
        count=$(announcing "$router")
        if ((count)); then
            ways[leaf$router]=$count
            used=$((used + 1))
        fi
    done
    for ((router = 1; router <= SPINES; router++)); do
        ways[spine$router]=$used
    done
    for router in "${!ways[@]}"; do
        for vip in "$VIP4" "$VIP6"; do
            [[ $(next_hops "$router" "$vip") == "${ways[$router]}" ]] || return 1
        done
    done
}

# print_routes: what each router knows of the VIPs.
print_routes() {
    local router
    printf '%-8s %-22s %s\n' router "ways to $VIP4" "to $VIP6"
    for router in $(fabric_routers); do
        printf '%-8s %-22s %s\n' "$router" "$(next_hops "$router" "$VIP4")" "$(next_hops "$router" "$VIP6")"
    done
}
