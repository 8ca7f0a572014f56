# shellcheck shell=bash
# What runs on a node of the lab: a DNS server, a TCP service, vipdp.

# dns_up NODE: knot, which answers for whatever addresses the node has, and says in id.server. who it is.
# A wildcard socket answers from the address that was asked, so the VIPs may come and go with vipdp.
dns_up() {
    local node=$1 directory=$STATE/$1/knot record=$STATE/$1/knot.pid
    is_running "$record" && return
    mkdir -p "$directory"
    # One that was killed leaves this file, and would not start again.
    rm -f "$directory/knot.pid"
    cat >"$directory/knot.conf" <<END
server:
    rundir: $directory
    identity: $node
    nsid: $node
    listen: [ 0.0.0.0@53, ::@53 ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    udp-max-payload: 4096
control:
    listen: $directory/knot.sock
log:
  - target: stderr
    any: warning
database:
    storage: $directory
    journal-db-max-size: 1M
    kasp-db-max-size: 5M
    timer-db-max-size: 1M
template:
  - id: default
    storage: $directory
    journal-content: none
    zonefile-sync: -1
zone:
  - domain: example.
    file: example.zone
END
    zone "$node" >"$directory/example.zone"
    launch "$record" "$STATE/$node/knot.log" "$PREFIX-$node" knotd -c "$directory/knot.conf"
    wait_for 20 answers_dns "$node" || fail "knot on $node does not answer: $(tail -n 5 "$STATE/$node/knot.log")"
}

# zone NODE: the zone example., whose big.example. TXT of 3,000 bytes fits neither a frame nor plain DNS over UDP.
zone() {
    local chunk
    printf -v chunk '%0200d' 0
    cat <<END
\$TTL 3600
@    SOA ns hostmaster 1 3600 600 86400 3600
     NS  ns
ns   A   192.0.2.53
     AAAA 2001:db8:53::53
www  A   198.51.100.80
     AAAA 2001:db8:80::80
node 0 TXT "$1"
big  TXT ( $(printf "\"${chunk//0/x}\" %.0s" {1..15}) )
END
}

# answers_dns NODE. Where nobody listens yet, kdig would wait for its whole second.
answers_dns() {
    listens "$1" udp 53 && [[ $(ip netns exec "$PREFIX-$1" kdig +short +timeout=1 +retry=0 @127.0.0.1 id.server CH TXT 2>/dev/null) == "\"$1\"" ]]
}

# tcp_up NODE: scripts/lab/stream on port 8080. A client that has said all it has to say still wants its transfer,
# so -t.
tcp_up() {
    local node=$1 record=$STATE/$1/stream.pid
    is_running "$record" && return
    launch "$record" "$STATE/$node/stream.log" "$PREFIX-$node" \
        env PATH="$SCRIPTS/lab:$PATH" socat -t 10000 TCP6-LISTEN:8080,ipv6only=0,fork,reuseaddr,backlog=1024 \
        EXEC:"stream $node"
    wait_for 10 listens "$node" tcp 8080 || fail "nothing listens on $node: $(tail -n 5 "$STATE/$node/stream.log")"
}

# web_up NODE: nginx, whose page names the node. It too answers for whatever addresses the node has.
web_up() {
    local node=$1 directory=$STATE/$1/web record=$STATE/$1/web.pid
    is_running "$record" && return
    mkdir -p "$directory"
    rm -f "$directory/nginx.pid"
    cat >"$directory/nginx.conf" <<END
user root;
worker_processes 1;
daemon off;
pid $directory/nginx.pid;
error_log stderr warn;
events {
    worker_connections 1024;
}
http {
    access_log off;
    default_type text/html;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    server {
        listen 80;
        listen [::]:80 ipv6only=on;
        location / {
            return 200 "<html><body> <h1>It works!</h1> $node </body></html>\n";
        }
    }
}
END
    launch "$record" "$STATE/$node/web.log" "$PREFIX-$node" nginx -e stderr -p "$directory" -c "$directory/nginx.conf"
    wait_for 20 answers_http "$node" || fail "nginx on $node does not answer: $(tail -n 5 "$STATE/$node/web.log")"
}

answers_http() { [[ $(ip netns exec "$PREFIX-$1" "$SCRIPTS/lab/get" 127.0.0.1 2>/dev/null) == *" $1 "* ]]; }

# listens NODE udp|tcp PORT
listens() {
    [[ -n $(ip netns exec "$PREFIX-$1" ss -Hln "--$2" "sport = :$3") ]]
}

# cluster_config: cluster.toml, identical on all nodes.
cluster_config() {
    local number gateway=
    [[ $PARTITION != gateway ]] || gateway='gateway = ["192.0.2.1", "2001:db8:53::1"]'
    cat <<END
id = 53
generation = 1
mode = "$MODE"
vips = [$(printf '"%s", ' "${VIPS[@]}")]
key_file = "cluster.key"
profile = "$PROFILE"
partition = "$PARTITION"
$gateway
$([[ $MODE != anycast ]] || echo "all_down = \"$ALL_DOWN\"")

[timing]
hold_s = $HOLD

END
    case $MODE in
        tiered)
            cat <<END
[tiered]
tiers = $TIERS
next_hops4 = "$NEXT_HOPS4"
next_hops6 = "$NEXT_HOPS6"
mac = "$MAC"
claims = "$CLAIMS"
END
            ;;
        anycast)
            # Between the nodes there are routers.
            cat <<END
[anycast]
steer = $([[ $STEER == yes ]] && echo true || echo false)
forward = "$FORWARD"

[heartbeat]
transport = "unicast"
END
            ;;
        *) printf '[shared_mac]\nmac = "%s"\n' "$MAC" ;;
    esac
    for ((number = 1; number <= NODES; number++)); do
        cat <<END

[[member]]
slot = $((number - 1))
name = "n$number"
address = "$(node_address4 "$number")"
weight = 1
END
        # Without heartbeats nothing else tells it.
        [[ $CLAIMS != wire ]] || printf 'mac = "%s"\n' "$(node_mac "n$number")"
    done
}

# node_config NUMBER: node.toml.
node_config() {
    cat <<END
slot = $(($1 - 1))
interface = "eth0"
cluster = "../cluster.toml"
cores = [$((($1 - 1) % $(nproc)))]
poll = "$POLL"
egress = "$EGRESS"
coalesce = ${VIPDP_COALESCE:-true}
$([[ $IO != af_xdp ]] || echo "offload = \"$OFFLOAD\"")
tap = "vipdp0"
flows_max = 65536
state_dir = "$STATE/n$1/state"
END
    [[ $MODE != anycast ]] || announce_config "$1"
    io_config
    [[ $MODE == anycast ]] || return 0
    cat <<END

[[check]]
name = "dns"
type = "dns"
query_name = "example."
query_type = "SOA"
interval_ms = 200
timeout_ms = 200

[[check]]
name = "web"
type = "http"
url = "http://$VIP4/"
body = "It works!"
interval_ms = 200
timeout_ms = 200
END
}

# io_config: what node.toml says of DPDK.
io_config() {
    local driver=net_af_packet0
    [[ $IO != af_xdp ]] || return 0
    [[ $IO == dpdk ]] || driver=net_af_xdp0
    printf '\n[io]\nbackend = "dpdk"\ndevargs = "%s,iface=phy0"\nhugepages = false\n' "$driver"
}

# status_json NODE: what its vipdp says; fails if it does not answer.
status_json() {
    ip netns exec "$PREFIX-$1" timeout 5 "$BINARY" status --config "$STATE/$1/node.toml" --json 2>/dev/null
}

answers_status() { status_json "$1" >/dev/null; }
answers_or_is_over() { answers_status "$1" || is_over "$STATE/$1/vipdp.pid"; }

# vipdp_up NODE: starts vipdp and waits until its admin socket answers.
vipdp_up() {
    local node=$1 record=$STATE/$1/vipdp.pid log=$STATE/$1/vipdp.log
    is_running "$record" && return
    launch "$record" "$log" "$PREFIX-$node" "$BINARY" --config "$STATE/$node/node.toml"
    wait_for 20 answers_or_is_over "$node" || fail "vipdp on $node does not answer: $(tail -n 5 "$log")"
    is_running "$record" || fail "vipdp on $node ended: $(tail -n 5 "$log")"
}

# running_nodes: those whose vipdp runs.
running_nodes() {
    local number
    for ((number = 1; number <= NODES + SPARES; number++)); do
        if is_running "$STATE/n$number/vipdp.pid"; then
            echo "n$number"
        fi
    done
}

# unowned: how many buckets nobody can own: with as many nodes down as there are tiers, some next hops are lost.
unowned() {
    local down=$((NODES - $(running_nodes | wc -l))) tier lost=1
    [[ $MODE == tiered ]] || { echo 0 && return; }
    for ((tier = 0; tier < TIERS; tier++)); do
        lost=$((lost * (down > tier ? down - tier : 0)))
    done
    echo "$lost"
}

# is_balanced: every running vipdp answers, they agree on the owner of every bucket, and each owns its part.
is_balanced() {
    local node unowned
    unowned=$(unowned)
    for node in $(running_nodes); do
        status_json "$node" || return 1
    done | jq -se --argjson unowned "$unowned" '
        length as $nodes | length > 0
        and ([.[].buckets.owners] | unique | length == 1 and ([.[0][] | select(. == null)] | length == $unowned))
        and all(.[]; (.node.slot as $slot | [.buckets.owners[] | select(. == $slot)] | length)
            == .buckets.owned)
        and ((.[0].buckets.owners | length) as $all | [.[].buckets.owned]
            | add == $all - $unowned and ((max - min) * $nodes <= $all / 25 or max - min <= 1))' >/dev/null
}
