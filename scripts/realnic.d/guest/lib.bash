# shellcheck shell=bash
# What all programs in a guest share: results, and the way to QEMU.

OUT=/run/out
# For the functions of the lab.
# shellcheck disable=SC2034
{
    PREFIX=rn STATE=/run/lab MODE=shared-mac NODES=2 SPARES=0 EGRESS=direct POLL=adaptive
    BINARY=$JOB_BINARIES/vipdp LOAD=$JOB_BINARIES/dns-load
    exec {LOCK}</dev/null
}

# wait_for SECONDS COMMAND...: as the lab's, with four times the time: emulated cores are slow, those of a busy machine more so.
wait_for() {
    local deadline=$((SECONDS + 4 * $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# check COLUMN WHAT COMMAND...: runs the command and records how it went. What it prints is the detail of a check that
# passes, and the last line of it the reason of one that fails.
check() {
    local column=$1 what=$2 status=0 started=$SECONDS printed
    shift 2
    # Not in a condition, where the shell would not end at the first command that fails.
    set +e
    (set -e && "$@") >"$STATE/printed" 2>&1
    status=$?
    set -e
    printed=$(<"$STATE/printed")
    printed=${printed##*$'\n'}
    printed=${printed//$'\t'/ }
    record "$column" "$( ((status)) && echo fail || echo pass)" "$what" "$printed" $((SECONDS - started))
    if ((status)); then
        { echo "--- $column, $what" && cat "$STATE/printed"; } >>"$OUT/failures.log"
        evidence
    fi
}

# record COLUMN pass|fail|cannot WHAT TEXT [SECONDS]
record() {
    local IFS=$'\t'
    echo "$2 $1: $3: $4"
    echo "$1"$'\t'"$2"$'\t'"$3"$'\t'"$4"$'\t'"${5:-0}" >>"$OUT/results"
}

# evidence: leaves what tells why for the host.
evidence() {
    local node
    for node in n1 n2; do
        status_json "$node" >"$OUT/$node.json" || true
        ip -n "$PREFIX-$node" -s link >"$OUT/$node.links" || true
    done
    dmesg >"$OUT/dmesg.log"
}

# open_qmp: the way to QEMU, which the checks' shells inherit.
open_qmp() {
    local port
    port=$(grep -lx qmp /sys/class/virtio-ports/*/name)
    exec {QMP}<>"/dev/$(basename "$(dirname "$port")")"
    qmp '{"execute":"qmp_capabilities"}'
}

# qmp JSON: gives QEMU a command, and waits for its answer.
qmp() {
    local line
    printf '%s\n' "$1" >&"$QMP"
    while read -r -t 10 -u "$QMP" line; do
        case $line in
            *'"return"'*) return 0 ;;
            *'"error"'*) fail "QEMU: $line" ;;
        esac
    done
    fail "QEMU does not answer $1"
}

# cable NIC on|off: plugs the NIC's cable in, or pulls it.
cable() { qmp "{\"execute\":\"set_link\",\"arguments\":{\"name\":\"$1\",\"up\":$([[ $2 == on ]] && echo true || echo false)}}"; }
