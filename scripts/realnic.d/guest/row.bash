# shellcheck shell=bash
# A row of the table: a cluster of two nodes and a client on one model of NIC.
#
# Twice the same cluster: untagged, where a node is killed and a cable pulled, and tagged with answers by way of vipdp,
# where a link is set down.
#
#   JOB_ATTACH, JOB_ZERO_COPY   what status is to say: native or generic, yes or no
#   JOB_QUEUES                  how many queues the first and the second cluster have
#   JOB_EGRESS                  the first cluster's, if not "direct"
#   JOB_SPREAD                  "no" where frames come by one queue, however many there are
#   JOB_CARRIER                 "no" where the driver does not hear of a pulled cable
#   JOB_OFF                     features of the driver that XDP does not go with

# common QUEUES: what is checked of each cluster.
common() {
    local form="untagged, $1 queue(s), egress $EGRESS" column=DNS
    [[ -z $TAG ]] || form="VLAN $TAG${form#untagged}" column=VLAN
    solicit6
    check attach "XDP program, with $1 queue(s)" attached "$JOB_ATTACH"
    check zero-copy "with $1 queue(s)" zero_copy "$JOB_ZERO_COPY"
    check queues "$1 queue(s)" has_queues "$1"
    check ARP "$form" resolves4
    check "$column" "$form" answered_once "n1 n2"
    check NDP "$form" resolves6
    check "$column" "3,000 bytes, $form" answers_long
}

untagged() {
    EGRESS=${JOB_EGRESS:-direct} TAG='' QUEUES=${JOB_QUEUES% *}
    check queues "set to $QUEUES" use_queues "$QUEUES"
    cluster_files
    remember_host
    check DNS "cluster starts" cluster_up
    common "$QUEUES"
    check failover "n2 is killed" fails_over kill_node n2
    check failover "n2 runs again" vipdp_up n2
    # While n2 listens and holds back, n1 serves all.
    check DNS "false checksums" bad_checksums
    check failover "n2 has its part again" comes_back is_running "$STATE/n2/vipdp.pid"
    check failover "cable of n2 pulled" fails_over unplug n2
    check failover "cable of n2 plugged in" comes_back plug n2
    check restore "SIGTERM, egress $EGRESS" restored
}

tagged() {
    EGRESS=tap QUEUES=${JOB_QUEUES#* }
    check queues "set to $QUEUES" use_queues "$QUEUES"
    check VLAN "tags stay in frames" tag 100
    # The check had a shell of its own.
    TAG=100
    cluster_files
    remember_host
    check VLAN "cluster starts" cluster_up
    common "$QUEUES"
    ((QUEUES == 1)) || [[ ${JOB_SPREAD:-yes} == no ]] || check queues "frames on all" spread
    check failover "link of n2 set down" fails_over link_down n2
    check failover "link of n2 set up" comes_back link_up n2
    check restore "SIGTERM, egress $EGRESS" restored
}

open_qmp
segment_up
for node in n1 n2; do
    [[ -z ${JOB_OFF:-} ]] || on "$node" ethtool -K eth0 "$JOB_OFF" off
done
services_up
if [[ -n ${JOB_TRACE:-} ]]; then
    for node in n1 n2; do
        on "$node" ip -ts monitor link address route neigh >"$OUT/$node.events" 2>&1 &
    done
fi
echo "guest: segment up after $(cut -d ' ' -f 1 /proc/uptime) s"
untagged
tagged
