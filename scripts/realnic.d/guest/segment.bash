# shellcheck shell=bash
# The segment in a guest: two nodes and a client, each a network namespace with a NIC of its own.
#
#   rn-n1      eth0  192.0.2.11  2001:db8:53::11    knot, vipdp
#   rn-n2      eth0  192.0.2.12  2001:db8:53::12    knot, vipdp
#   rn-client  eth0  192.0.2.1   2001:db8:53::1     the nodes' router; 10.64.0.0/16 and fd64::/64 are all its own
#   the VIPs: 192.0.2.53, 2001:db8:53::53
#
# With TAG the addresses are on eth0.TAG instead, and INTERFACE is what vipdp has for a NIC: eth0, or that one. Functions that start a node or ask its status are the lab's.

VIP4=192.0.2.53 VIP6=2001:db8:53::53
SOURCES4=10.64.0.0/16 SOURCES6=fd64::/64
HOSTS=(client n1 n2)
# What the guest's command line in scripts/realnic gives the NICs.
declare -A MACS=([client]=52:54:00:00:00:01 [n1]=52:54:00:00:00:11 [n2]=52:54:00:00:00:12)
declare -A NUMBERS=([client]=1 [n1]=11 [n2]=12)
# A tagged segment's VLAN.
TAG=
INTERFACE=eth0

on() {
    local host=$1
    shift
    ip netns exec "$PREFIX-$host" "$@"
}

# device: where the addresses are.
device() { say "eth0${TAG:+.$TAG}"; }

# interface_of MAC: prints the name of the NIC that has it, which is in no namespace yet. Interfaces of VLANs and bonds have
# their NIC's address, but no device.
interface_of() {
    local path
    for path in /sys/class/net/*/device; do
        path=${path%/device}
        [[ $(<"$path/address") != "$1" ]] || { say "${path##*/}" && return; }
    done
    return 1
}

# segment_up: the namespaces with their NICs, up and with carrier.
segment_up() {
    local host
    for host in "${HOSTS[@]}"; do
        wait_for 10 interface_of "${MACS[$host]}" >/dev/null || fail "no NIC for $host: $(ip -br link | tr '\n' ' ')"
        ip netns add "$PREFIX-$host"
        give_nic "$host" "$(interface_of "${MACS[$host]}")"
        ip -n "$PREFIX-$host" link set lo up
        on "$host" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 \
            net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.accept_ra=0 net.ipv6.conf.eth0.keep_addr_on_down=1
        ip -n "$PREFIX-$host" link set eth0 up
    done
    many_clients
    for host in "${HOSTS[@]}"; do
        wait_for 20 is_ready "$host" || fail "no carrier on $host"
        address "$host"
    done
}

# give_nic HOST INTERFACE: the host has it, as its eth0.
give_nic() { ip link set "$2" netns "$PREFIX-$1" name eth0; }

# many_clients: the client's host has all the addresses that queries come from.
many_clients() {
    on client sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip -n "$PREFIX-client" route add local "$SOURCES4" dev lo
    ip -n "$PREFIX-client" -6 route add local "$SOURCES6" dev lo
}

has_carrier() { [[ $(on "$1" cat /sys/class/net/eth0/carrier 2>/dev/null) == 1 ]]; }
# is_ready HOST: its eth0 can have addresses.
is_ready() { has_carrier "$1"; }
has_no_carrier() { ! has_carrier "$1"; }

# address HOST: its addresses and routes, on whatever the tag says; after its link was down too.
address() {
    local host=$1 namespace=$PREFIX-$1 number=${NUMBERS[$1]} device
    device=$(device)
    ip -n "$namespace" address replace "192.0.2.$number/24" dev "$device"
    ip -n "$namespace" address replace "2001:db8:53::$number/64" dev "$device" nodad
    [[ $host != client ]] || return 0
    ip -n "$namespace" route replace default via 192.0.2.1
    ip -n "$namespace" -6 route replace default via 2001:db8:53::1
}

# tag VLAN: moves the segment's addresses to a VLAN. NICs leave its tags in the frames.
tag() {
    local host namespace
    TAG=$1
    for host in "${HOSTS[@]}"; do
        namespace=$PREFIX-$host
        ip -n "$namespace" address flush dev eth0 scope global
        ip -n "$namespace" link add link eth0 name "eth0.$TAG" type vlan id "$TAG"
        keep_tags "$host"
        ip -n "$namespace" link set "eth0.$TAG" up
        wait_for 20 is_ready "$host" || fail "no carrier on $host after its NIC was told to keep tags"
        address "$host"
    done
}

# keep_tags HOST: its NIC does not strip VLAN tags, where it could.
keep_tags() {
    on "$1" ethtool -K eth0 rxvlan off >/dev/null || true
    on "$1" ethtool -k eth0 | grep -q '^rx-vlan-offload: off' || fail "the NIC of $1 strips tags, and cannot but do so"
}

# services_up: the nodes' DNS servers.
services_up() {
    local node starting=()
    for node in n1 n2; do
        mkdir -p "$STATE/$node"
        # What vipdp says outlives the guest.
        ln -s "$OUT/$node.log" "$STATE/$node/vipdp.log"
        dns_up "$node" &
        starting+=($!)
    done
    for node in "${starting[@]}"; do
        wait "$node" || fail "a DNS server does not start"
    done
}

# queues_of HOST: prints how many receive queues its NIC uses.
queues_of() { on "$1" find /sys/class/net/eth0/queues -name 'rx-*' | wc -l; }

# use_queues N: the nodes' NICs use so many.
use_queues() {
    local node
    for node in n1 n2; do
        [[ $(queues_of "$node") == "$1" ]] || on "$node" ethtool -L eth0 combined "$1"
        wait_for 20 has_carrier "$node" || fail "no carrier after the number of queues was changed"
    done
}

# node_io NODE: what its file says of its NIC, beside the name.
node_io() { :; }

# cluster_files: the cluster's files and both nodes'.
cluster_files() {
    local number
    mkdir -p "$STATE"/n1/state "$STATE"/n2/state
    cat >"$STATE/cluster.toml" <<END
id = 53
generation = 1
mode = "shared-mac"
vips = ["$VIP4", "$VIP6"]
key_file = "cluster.key"
partition = "none"
$([[ $INTERFACE == *.* || -z $TAG ]] || say "vlan = $TAG")

# An emulated core stands still now and then.
[timing]
heartbeat_ms = 200
multiplier = 8
hold_s = 7

[[member]]
slot = 0
name = "n1"
address = "192.0.2.11"

[[member]]
slot = 1
name = "n2"
address = "192.0.2.12"
END
    for number in 1 2; do
        cat >"$STATE/n$number/node.toml" <<END
slot = $((number - 1))
interface = "$INTERFACE"
cluster = "../cluster.toml"
heartbeat_interface = "$(device)"
egress = "$EGRESS"
poll = "$POLL"
tap = "vipdp0"
flows_max = 65536
state_dir = "$STATE/n$number/state"
$(node_io "n$number")
END
    done
    [[ -f $STATE/cluster.key ]] || "$BINARY" keygen "$STATE/cluster.key" >/dev/null
}

# cluster_up: starts both nodes side by side, so that neither need hand over what it took alone, and waits until they
# share the buckets.
cluster_up() {
    local first
    vipdp_up n1 &
    first=$!
    vipdp_up n2
    wait "$first"
    await_shared
}

await_shared() { wait_for 40 is_balanced || fail "the nodes do not share the buckets: $(owned n1) and $(owned n2)"; }

# status_json NODE: as the lab's, but that the admin socket is a file, for which no namespace need be entered.
status_json() { timeout 20 "$BINARY" status --config "$STATE/$1/node.toml" --json 2>/dev/null; }

# owned NODE: how many buckets it says that it has.
owned() { status_json "$1" | jq .buckets.owned; }

has_all() { [[ $(owned "$1") == 4096 ]]; }

# cluster_down: SIGTERM to both.
cluster_down() {
    end "$STATE/n1/vipdp.pid" || fail "SIGTERM did not end n1"
    end "$STATE/n2/vipdp.pid" || fail "SIGTERM did not end n2"
}
