# shellcheck shell=bash
# keepalived on the nodes of a lab without vipdp: one VRRP instance per family, in one group, so that both VIPs are
# always with the same node.

# How long a keepalived that starts only listens.
STARTUP_DELAY_S=1

# keepalived_config NODE INTERVAL: advertisements every INTERVAL seconds, of VRRP version 3, whose resolution is a
# hundredth of a second (RFC 5798, section 5.2.7). A backup takes over after three of them and a part of one, the less
# the higher its priority (section 6.1). Nobody takes over from a living master, so that a node's return changes nothing.
# The process has real-time priority, as vipdp's control thread has with fast heartbeats; the kernel kills it after a
# second without a pause, not after the default 10 ms, which it needs now and then to become master on a busy machine.
# Priorities are far apart, so that two backups rarely come forward at once; where they do, the higher one hears of the
# lower one and announces itself again (vrrp_higher_prio_send_advert). One that starts listens first, lest it becomes
# master because it has not heard of the living one yet.
keepalived_config() {
    local number=${1#n} interval=$2 family address
    cat <<END
global_defs {
    vrrp_version 3
    vrrp_rt_priority 50
    vrrp_rlimit_rttime 1000000
    vrrp_no_swap
    vrrp_higher_prio_send_advert
    vrrp_startup_delay $STARTUP_DELAY_S
}
vrrp_sync_group vips {
    group {
        ipv4
        ipv6
    }
}
END
    for family in ipv4 ipv6; do
        address=$VIP4/32
        [[ $family == ipv4 ]] || address=$VIP6/128
        cat <<END
vrrp_instance $family {
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 53
    priority $((254 - 84 * (number - 1)))
    advert_int $interval
    virtual_ipaddress {
END
        # The address that advertisements come from is link-local (RFC 5798, section 5.1.2.2).
        [[ $family == ipv4 ]] || say "        fe80::53"
        cat <<END
        $address
    }
}
END
    done
}

# keepalived_up NODE INTERVAL: starts it, and waits until it takes part.
keepalived_up() {
    local node=$1 interval=$2 directory=$STATE/$1
    keepalived_config "$node" "$interval" >"$directory/keepalived.conf"
    # Its own, so that the nodes do not take each other's for theirs.
    : >"$directory/keepalived.log"
    rm -f "$directory"/keepalived.{parent,vrrp}
    launch "$directory/keepalived.pid" "$directory/keepalived.log" "$PREFIX-$node" \
        keepalived --vrrp --dont-fork --log-console --log-detail --use-file "$directory/keepalived.conf" \
        --pid "$directory/keepalived.parent" --vrrp_pid "$directory/keepalived.vrrp"
    # It is to be killed; bash would tell of it.
    disown "$!"
    wait_for 10 takes_part "$node" || fail "keepalived on $node: $(tail -n 5 "$directory/keepalived.log")"
}

takes_part() { (($(grep -c 'Entering BACKUP STATE' "$STATE/$1/keepalived.log") >= 2)); }

# keepalived_kill NODE: SIGKILL to it and to the process that speaks VRRP.
keepalived_kill() {
    local parent vrrp
    parent=$(pid_of "$STATE/$1/keepalived.pid") || fail "keepalived does not run on $1"
    read -r vrrp <"$STATE/$1/keepalived.vrrp"
    kill -s KILL "$parent" "$vrrp"
}

# masters: the nodes that have both VIPs.
masters() {
    local number node
    for ((number = 1; number <= NODES; number++)); do
        node=n$number
        if [[ -n $(ip -n "$PREFIX-$node" address show to "$VIP4" up) &&
            -n $(ip -n "$PREFIX-$node" address show to "$VIP6" up) ]]; then
            echo "$node"
        fi
    done
}

# drop_vips NODE: what its restart does to the addresses that a killed keepalived leaves.
drop_vips() {
    ip -n "$PREFIX-$1" address delete "$VIP4/32" dev eth0 2>/dev/null || true
    ip -n "$PREFIX-$1" address delete "$VIP6/128" dev eth0 2>/dev/null || true
    ip -n "$PREFIX-$1" address delete "fe80::53/128" dev eth0 2>/dev/null || true
}
