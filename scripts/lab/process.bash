# shellcheck shell=bash
# Processes of the lab, started here and ended here by a record of theirs.
#
# A record is a file "PID STARTTIME" (the latter field 22 of /proc/PID/stat, in clock ticks since boot): together
# they name one process for good, so that a process that got the number of a dead one is never taken for it.

say() { printf '%s\n' "$*"; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# wait_for SECONDS COMMAND...: runs COMMAND until it succeeds; fails when the time is over.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# start_time PID: prints its start time; fails if there is no such process or it is only waiting to be reaped.
start_time() {
    local stat fields
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    # The name, in parentheses, may hold anything; the third field comes after its last one.
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != [ZX] ]] && echo "${fields[19]}"
}

# pid_of RECORD: prints the number of the recorded process; fails if it is over.
pid_of() {
    local pid started
    [[ -s $1 ]] && read -r pid started <"$1" && [[ $(start_time "$pid") == "$started" ]] && echo "$pid"
}

is_running() { pid_of "$1" >/dev/null; }
is_over() { ! is_running "$1"; }

# launch RECORD LOG NAMESPACE COMMAND...: starts COMMAND in a network namespace, in a session of its own.
launch() {
    local record=$1 log=$2 namespace=$3 pid
    shift 3
    # The lock of this script is not for those who outlive it.
    setsid ip netns exec "$namespace" "$@" </dev/null >>"$log" 2>&1 {LOCK}>&- &
    pid=$!
    echo "$pid $(start_time "$pid" || echo over)" >"$record"
}

# end RECORD [SIGNAL]: sends the signal (TERM) and waits for the end; fails if it took KILL after 10 s.
end() {
    local record=$1 signal=${2:-TERM} pid status=0
    if pid=$(pid_of "$record"); then
        kill -s "$signal" "$pid" 2>/dev/null || true
        if ! wait_for 10 is_over "$record"; then
            kill -s KILL "$pid" 2>/dev/null || true
            wait_for 10 is_over "$record" || fail "process $pid does not end"
            status=1
        fi
    fi
    rm -f "$record"
    return "$status"
}

# end_all SIGNAL RECORD...: ends them side by side.
end_all() {
    local signal=$1 record pid
    shift
    for record; do
        if pid=$(pid_of "$record"); then
            kill -s "$signal" "$pid" 2>/dev/null || true
        fi
    done
    for record; do
        end "$record" "$signal" || say "killed, since SIG$signal did not end it: ${record%.pid}" >&2
    done
}
