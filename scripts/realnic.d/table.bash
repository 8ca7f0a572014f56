# shellcheck shell=bash
# The table: a row per model of NIC, a column per thing that was checked.

COLUMNS=(attach zero-copy queues ARP NDP VLAN DNS failover restore)
HEADS=("attach mode" zero-copy queues ARP NDP VLAN "DNS answered once" failover "restore on exit")
# Those that show what was found, in place of how it went.
VALUES=" attach zero-copy queues "

# cell DIRECTORY COLUMN: what all checks of the column come to.
cell() {
    awk -F '\t' -v column="$2" -v shows="$([[ $VALUES == *" $2 "* ]] && echo 1)" '
        $1 != column { next }
        { count++ }
        $2 == "fail" { failed = 1 }
        shows && $2 == "pass" && $3 ~ /queue\(s\)$/ && !seen[$4]++ { values = values (values ? ", " : "") $4 }
        END { print !count ? "not checked" : failed ? "FAIL" : values ? values : "pass" }' "$1/out/results"
}

# print_table ROW...: Markdown, with the sentences that say why below.
print_table() {
    local row column index number=0 line
    local -a notes=()
    say "| NIC | kernel |$(printf ' %s |' "${HEADS[@]}")"
    say "|---|---|$(printf '%s' "${HEADS[@]/*/---|}")"
    for row; do
        describe "$row"
        line="| $TITLE | $(cat "$OUT/$row/kernel" 2>/dev/null || echo none) |"
        for column in "${COLUMNS[@]}"; do
            if [[ -f $OUT/$row/out/results ]]; then
                line+=" $(cell "$OUT/$row" "$column")"
            else
                line+=" -"
            fi
            if [[ -n ${WHY[$column]:-} ]]; then
                notes+=("${WHY[$column]}.")
                line+=" [${#notes[@]}]"
            fi
            line+=" |"
        done
        say "$line"
    done
    say
    for ((index = 0; index < ${#notes[@]}; index++)); do
        say "$((++number)). ${notes[$index]}"
    done
}

# print_report ROW...: the table of those that are rows of it, the checks of those that are faults, and what failed.
print_report() {
    local row
    local -a rows=() dpdk=() faults=()
    for row; do
        # shellcheck disable=SC2153 # rows.bash has them
        if [[ " ${FAULTS[*]} " == *" $row "* ]]; then
            faults+=("$row")
        elif [[ $row == dpdk-* ]]; then
            dpdk+=("$row")
        else
            rows+=("$row")
        fi
    done
    ((${#rows[@]} == 0)) || print_table "${rows[@]}"
    ((${#dpdk[@]} == 0)) || print_dpdk "${dpdk[@]}"
    ((${#faults[@]} == 0)) || print_faults "${faults[@]}"
    print_failures "$@"
}

# print_dpdk ROW...: the table of those in which DPDK has the NICs, with what is checked in them alone.
print_dpdk() {
    local -a COLUMNS=("${COLUMNS[@]}" filters checksums host)
    local -a HEADS=("${HEADS[@]}" "MAC filter" "wrong checksums" "node's own address")
    print_table "$@"
}

# print_faults FAULT...
print_faults() {
    local row
    say
    say "| guest | what was done | | what was seen |"
    say "|---|---|---|---|"
    for row; do
        describe "$row"
        [[ ! -f $OUT/$row/out/results ]] || awk -F '\t' -v title="$TITLE" \
            '{ print "| " title " | " $3 " | " $2 " | " $4 " |" }' "$OUT/$row/out/results"
    done
    say
}

print_failures() {
    local row
    for row; do
        [[ ! -f $OUT/$row/reason ]] || say "- **$row**: $(<"$OUT/$row/reason")"
        [[ ! -f $OUT/$row/out/results ]] || awk -F '\t' -v row="$row" \
            '$2 == "fail" { print "- **" row "**, " $1 ", " $3 ": " $4 }' "$OUT/$row/out/results"
    done
}
