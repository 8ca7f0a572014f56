# shellcheck shell=bash
# vipdp on a bond: n1 has two NICs as one, to two ports of a switch; n2 and the client are on that switch by veths.
#
#   rn-n1  eth0 = bond of NIC 1 and NIC 2  ==two cables==  NIC 3 and NIC 4  rn-sw br0 --- veth rn-n2
#                                                                                     --- veth rn-client
# With active-backup the switch's two NICs are ports of its bridge; with 802.3ad they are a bond of their own, which
# speaks LACP.

declare -A PORTS=([n1a]=52:54:00:00:00:11 [n1b]=52:54:00:00:00:12 [swa]=52:54:00:00:00:21 [swb]=52:54:00:00:00:22)

# take NAME NAMESPACE: moves a NIC there under that name. Virtual NICs do not say how fast they are nor that they are full
# duplex, without which bonding speaks no LACP and has each port alone.
take() {
    local interface
    interface=$(interface_of "${PORTS[$1]}")
    ip link set "$interface" netns "$PREFIX-$2" name "$1"
    on "$2" ethtool -s "$1" speed 1000 duplex full
}

# bond NAMESPACE NAME MODE NIC NIC
bond() {
    local namespace=$PREFIX-$1 name=$2 mode=$3 nic
    shift 3
    # shellcheck disable=SC2046 # words
    ip -n "$namespace" link add "$name" type bond mode "$mode" miimon 100 $([[ $mode != 802.3ad ]] || echo lacp_rate fast)
    for nic; do
        ip -n "$namespace" link set "$nic" down
        ip -n "$namespace" link set "$nic" master "$name"
        ip -n "$namespace" link set "$nic" up
    done
    ip -n "$namespace" link set "$name" up
}

# bonded_segment MODE: namespaces, bonds and bridge.
bonded_segment() {
    local host nic
    for host in sw "${HOSTS[@]}"; do
        ip netns add "$PREFIX-$host"
        ip -n "$PREFIX-$host" link set lo up
        on "$host" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    done
    take n1a n1 && take n1b n1 && take swa sw && take swb sw
    ip -n "$PREFIX-sw" link add br0 type bridge forward_delay 0 mcast_snooping 0
    ip -n "$PREFIX-sw" link set br0 up
    bond n1 eth0 "$1" n1a n1b
    if [[ $1 == 802.3ad ]]; then
        bond sw trunk "$1" swa swb
        ip -n "$PREFIX-sw" link set trunk master br0
    else
        for nic in swa swb; do
            ip -n "$PREFIX-sw" link set "$nic" master br0 up
        done
    fi
    for host in n2 client; do
        ip link add "$host" netns "$PREFIX-sw" type veth peer name eth0 netns "$PREFIX-$host"
        # A veth would leave checksums to be filled in by a NIC that is never reached.
        on sw ethtool -K "$host" tx off >/dev/null
        on "$host" ethtool -K eth0 tx off >/dev/null
        ip -n "$PREFIX-sw" link set "$host" master br0 up
        ip -n "$PREFIX-$host" link set eth0 up
    done
    many_clients
    for host in "${HOSTS[@]}"; do
        address "$host"
    done
    wait_for 30 on client ping -q -c 1 -W 1 192.0.2.11 >/dev/null || fail "the client does not reach n1 by the bond"
    [[ $1 != 802.3ad ]] || wait_for 20 has_ports 2 || fail "the bonds have not agreed by LACP"
}

# has_ports N: both bonds know each other by LACP, and send by so many ports.
has_ports() {
    local bond state
    for bond in n1/eth0/${PORTS[swa]} sw/trunk/${PORTS[n1a]}; do
        state=$(on "${bond%%/*}" cat "/proc/net/bonding/$(cut -d / -f 2 <<<"$bond")")
        [[ $state == *"Number of ports: $1"* && $state == *"Partner Mac Address: ${bond##*/}"* ]] || return 1
    done
}

# loses_port: one of the two cables is pulled; the bond goes on, and so does the cluster.
loses_port() {
    # A cable has two ends, and both lose their carrier.
    cable nic1 off
    cable nic3 off
    await_shared
    answered_once "n1 n2"
    cable nic1 on
    cable nic3 on
}

# dead_end: one of the two cables eats all frames, LACP's too, but both of its ends keep their carrier. The bonds find
# out by LACP's silence, some seconds at its fast rate, and leave it out.
dead_end() {
    local before
    before=$(claims)
    deaf add
    wait_for 20 has_ports 1 || fail "the bonds keep a port that hears no LACP"
    [[ $(on n1 cat /sys/class/net/n1b/carrier) == 1 ]] || fail "n1b lost its carrier"
    await_shared
    answered_once "n1 n2" >/dev/null
    deaf delete
    wait_for 40 has_ports 2 || fail "the bonds do not take the port again"
    await_shared
    answered_once "n1 n2"
    say "buckets changed hands $(($(claims) - before)) times meanwhile"
}

# deaf add|delete: what both ends of the second cable send is lost, or not any more.
deaf() {
    tc -n "$PREFIX-n1" qdisc "$1" dev n1b root netem loss 100%
    tc -n "$PREFIX-sw" qdisc "$1" dev swb root netem loss 100%
}

modprobe -a bonding sch_netem
open_qmp
check bond "$JOB_BOND" bonded_segment "$JOB_BOND"
services_up
cluster_files
check bond "cluster starts" cluster_up
say "n1: $(status_of n1 '.interface | "\(.driver) \(.xdp_mode), \(.queues) queues"')"
check bond "each query once" answered_once "n1 n2"
check bond "a cable pulled" loses_port
check bond "each query once, with both cables" answered_once "n1 n2"
[[ $JOB_BOND != 802.3ad ]] || check bond "a dead end with carrier" dead_end
check bond "n2 is killed" fails_over kill_node n2
check bond "SIGTERM" cluster_down
