# shellcheck shell=bash
# A bad segment: netem delays, reorders, doubles and loses what each host sends, heartbeats and answers alike.
#
# Nobody's buckets may change hands, and each query that arrives is answered by one node.

# impair ARGUMENT...: what netem does to all that every host sends; without arguments nothing any more.
impair() {
    local host
    for host in "${HOSTS[@]}"; do
        tc -n "$PREFIX-$host" qdisc del dev eth0 root 2>/dev/null || true
        (($# == 0)) || tc -n "$PREFIX-$host" qdisc add dev eth0 root netem "$@"
    done
}

# endures LOST DOUBLED ARGUMENT...: under netem with these arguments nothing changes hands. At most so many of 200 queries are
# lost, and answers come twice only where netem doubles frames.
endures() {
    local lost=$1 doubled=$2 account before
    shift 2
    before=$(claims)
    impair "$@"
    account=$(load 200)
    impair
    jq -e --argjson lost "$lost" --argjson doubled "$doubled" '
        .totals.sent == 200 and .totals.lost <= $lost and .totals.failures == 0 and ($doubled == 1 or .totals.duplicates == 0)
        and (.nodes | keys | join(" ")) == "n1 n2"' <<<"$account" >/dev/null ||
        fail "$(jq -c '[.totals, .nodes]' <<<"$account")"
    [[ $(claims) == "$before" ]] || fail "buckets changed hands: $(tail -n 3 "$STATE/n1/vipdp.log" | tr '\n' ' ')"
    jq -r '"\(.totals.answered) of 200 answered, \(.totals.duplicates) twice"' <<<"$account"
}

modprobe sch_netem
segment_up
services_up
cluster_files
check netem "cluster starts" cluster_up
check netem "delay 50 ms, +-20 ms" endures 0 0 delay 50ms 20ms
check netem "reordering of one in four" endures 0 0 delay 20ms reorder 75% 50%
check netem "one in five doubled" endures 0 1 duplicate 20%
# A query and its answer cross a lossy link each: one in ten is lost, 20 of 200; three times that is no chance.
check netem "loss of one in twenty" endures 60 0 loss 5%
check netem "all is well again" answered_once "n1 n2"
check netem "SIGTERM" cluster_down
