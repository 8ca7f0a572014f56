# shellcheck shell=bash
# The daemons that announce the VIPs of an anycast node from its loopback interface (ANNOUNCE=interface), with the
# configurations of configs/anycast, and the configuration of vipdp's own speaker (ANNOUNCE=bgp).

# daemon_of NODE: frr, bird or gobgp; where they are mixed, by turns.
daemon_of() {
    local all=(frr bird gobgp)
    if [[ $DAEMON == mixed ]]; then echo "${all[(${1#n} - 1) % 3]}"; else echo "$DAEMON"; fi
}

# daemon_config NODE FILE: a ready configuration, which is that of n1, as this node's.
daemon_config() {
    local number=${1#n} numbered=()
    [[ $PEERS == unnumbered ]] || numbered=(-e '/neighbor eth0 interface/d' -e 's/! \(neighbor .* peer-group LEAF\)/\1/')
    sed -e "s/65011/$((65010 + number))/" -e "s/65001/$((65000 + $(leaf_number "$number")))/" \
        -e "s/10\.1\.1\.2/$(node_address4 "$number")/" "${numbered[@]}" \
        -e "s/10\.1\.1\.1/$(leaf_address4 "$number")/" -e "s/2001:db8:1:1::1/$(leaf_address6 "$number")/" \
        -e "s/172\.20\.0\.1/$VIP4/" -e "s/2001:db8:20::1/$VIP6/" -e "s/100 ms/$BFD_MS ms/" \
        -e "s/\(transmit\|receive\)-interval 100/\1-interval $BFD_MS/" \
        "$SCRIPTS/../configs/anycast/$2"
}

# daemon_up NODE: starts what announces for the node.
daemon_up() {
    local node=$1 directory=$STATE/$1
    case $(daemon_of "$node") in
        frr) daemon_config "$node" frr.conf >"$directory/frr.conf" && frr_up "$node" ;;
        bird)
            daemon_config "$node" bird.conf >"$directory/bird.conf"
            ! is_running "$directory/bird.pid" || return 0
            launch "$directory/bird.pid" "$directory/bird.log" "$PREFIX-$node" \
                bird -f -c "$directory/bird.conf" -s "$directory/bird.ctl" -P "$directory/bird.process"
            ;;
        gobgp)
            daemon_config "$node" gobgpd.toml >"$directory/gobgpd.toml"
            ! is_running "$directory/gobgpd.pid" || return 0
            launch "$directory/gobgpd.pid" "$directory/gobgpd.log" "$PREFIX-$node" \
                gobgpd --config-file "$directory/gobgpd.toml" --api-hosts 127.0.0.1:50051 --pprof-disable
            launch "$directory/gobgp-lo.pid" "$directory/gobgp-lo.log" "$PREFIX-$node" \
                "$SCRIPTS/../configs/anycast/gobgp-lo" "$VIP4" "$VIP6"
            ;;
    esac
}

# announce_config NUMBER: what node.toml says of it.
announce_config() {
    local number=$1 peer
    printf 'announce = "%s"\n' "$ANNOUNCE"
    [[ $ANNOUNCE == bgp ]] || { echo 'announce_interface = "lo"' && return; }
    cat <<END

[bgp]
as = $((65010 + number))
router_id = "$(node_address4 "$number")"
hold_s = 9

[bgp.bfd]
interval_ms = $BFD_MS
multiplier = 3
END
    if [[ $PEERS == unnumbered ]]; then
        peer_config 'interface = "eth0"' '"external"'
    else
        for peer in "$(leaf_address4 "$number")" "$(leaf_address6 "$number")"; do
            peer_config "address = \"$peer\"" "$((65000 + $(leaf_number "$number")))"
        done
    fi
}

# peer_config WHO AS
peer_config() {
    printf '\n[[bgp.peer]]\n%s\nas = %s\nbfd = true\n' "$1" "$2"
}
