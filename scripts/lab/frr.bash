# shellcheck shell=bash
# FRR in namespaces of the lab: zebra, bgpd and bfdd, each with its sockets in the lab's own directory.

FRR=/usr/lib/frr

frr_directory() { echo "$STATE/$1/frr"; }

# frr_up NAME: runs the daemons in the namespace, with the configuration $STATE/NAME/frr.conf, and returns when they
# have read it. Where they run, nothing is read anew.
frr_up() {
    local name=$1 daemon directory
    directory=$(frr_directory "$name")
    ! is_running "$STATE/$name/bfdd.pid" || return 0
    mkdir -p "$directory"
    cp "$STATE/$name/frr.conf" "$directory/frr.conf"
    # The daemons give up their rights, and are this user then.
    chown -R frr:frr "$directory"
    for daemon in zebra bgpd bfdd; do
        # What killed ones left is not to be taken for those that start.
        rm -f "$directory/$daemon.vty" "$directory/$daemon.pid"
        frr_launch "$name" "$daemon"
        wait_for 20 frr_listens "$name" "$daemon" ||
            fail "$daemon of $name does not start: $(tail -n 5 "$STATE/$name/$daemon.log")"
    done
    ip netns exec "$PREFIX-$name" vtysh --vty_socket "$directory" --config_dir "$directory" --boot \
        >"$STATE/$name/vtysh.log" 2>&1 || fail "FRR of $name does not take its configuration: $(<"$STATE/$name/vtysh.log")"
}

frr_launch() {
    local name=$1 daemon=$2 directory extra=()
    directory=$(frr_directory "$name")
    # The control socket has no other option.
    [[ $daemon != bfdd ]] || extra=(--bfdctl "$directory/bfdd.sock")
    launch "$STATE/$name/$daemon.pid" "$STATE/$name/$daemon.log" "$PREFIX-$name" \
        "$FRR/$daemon" --profile datacenter --vty_socket "$directory" --socket "$directory/zserv.api" \
        --pid_file "$directory/$daemon.pid" --vty_port 0 --config_file "$directory/none" --log stdout \
        --log-level warnings "${extra[@]}"
}

frr_listens() { [[ -S $(frr_directory "$1")/$2.vty ]]; }

# vtysh_on NAME WORDS...: gives the FRR of a namespace a command.
vtysh_on() {
    local name=$1
    shift
    ip netns exec "$PREFIX-$name" vtysh --vty_socket "$(frr_directory "$name")" --command "$*"
}
