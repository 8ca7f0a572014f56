# shellcheck shell=bash
# A row of the table where DPDK has the nodes' NICs: row.bash's clusters, and what is different with DPDK.
#
#   JOB_ATTACH          DPDK's name of its driver
#   JOB_BIND            the kernel's driver for user space: vfio-pci or uio_pci_generic
#   JOB_KERNEL_DRIVER   the driver that it has else
#   JOB_HUGEPAGES       hugepages of the first and the second cluster
#   JOB_FLAGS           "yes" where the NIC says which checksums are wrong, else "no"
#   JOB_PROMISCUOUS     "true" where it has no filter for the shared MAC address, else "false"

# shellcheck source=scripts/realnic.d/guest/dpdk_nics.bash
source "$GUEST/dpdk_nics.bash"

# attached DRIVER: DPDK has the NIC by its driver.
attached() {
    local found
    found=$(status_of n1 '.interface | "\(.backend), \(.driver)"')
    [[ $found == "dpdk, $1" ]] || fail "$found, not dpdk, $1"
    say "$found"
}

# zero_copy WHAT: the NIC writes into vipdp's memory, which is in huge pages or not, as its file says.
zero_copy() {
    local kilobytes pages
    kilobytes=$(awk '$1 == "HugetlbPages:" { print $2 }' "/proc/$(pid_of "$STATE/n1/vipdp.pid")/status")
    pages=$(sed -n 's/^hugepages = //p' "$STATE/n1/node.toml")
    [[ $( ((kilobytes)) && echo true || echo false) == "$pages" ]] || fail "$kilobytes KiB in huge pages with hugepages = $pages"
    say "$1 into $([[ $pages == true ]] && echo huge pages || echo "pages of 4 KiB")"
}

# own_address: the node's own addresses are reached by way of vipdp: ping, and a megabyte by TCP each way.
own_address() {
    local address sum there back
    head -c 1000000 /dev/urandom >"$STATE/megabyte"
    sum=$(sha256sum <"$STATE/megabyte")
    on n1 socat -t 30 TCP6-LISTEN:2222,ipv6only=0,fork,reuseaddr EXEC:sha256sum &
    there=$!
    on n1 socat -U TCP6-LISTEN:2223,ipv6only=0,fork,reuseaddr "OPEN:$STATE/megabyte" &
    back=$!
    wait_for 10 listens n1 tcp 2222 || fail "nothing listens on n1"
    wait_for 10 listens n1 tcp 2223 || fail "nothing listens on n1"
    for address in 192.0.2.11 '[2001:db8:53::11]'; do
        on client ping -q -c 2 -W 5 "${address//[][]/}" >/dev/null || fail "no answer to ping from $address"
        [[ $(on client timeout 60 socat -t 30 - "TCP:$address:2222" <"$STATE/megabyte") == "$sum" ]] || fail "a megabyte does not get to $address"
        [[ $(on client timeout 60 socat -u "TCP:$address:2223" - | sha256sum) == "$sum" ]] || fail "a megabyte does not come from $address"
    done
    kill "$there" "$back"
    say "1 MB by TCP each way, both families"
}

# filters PROMISCUOUS: whether n1's NIC receives all frames. If not, none comes that is to a strange MAC address.
filters() {
    local found before received
    found=$(status_of n1 '.interface.dpdk.promiscuous | tostring')
    [[ $found == "$1" ]] || fail "promiscuous: $found, not $1"
    on client ip neigh replace 192.0.2.99 lladdr 02:00:00:00:00:99 dev "$(device)"
    before=$(received_by n1)
    on client ping -q -c 500 -i 0.002 -W 1 192.0.2.99 >"$STATE/strange" || true
    grep -q '^500 packets transmitted' "$STATE/strange" || fail "the client did not send 500: $(tail -n 2 "$STATE/strange")"
    received=$(($(received_by n1) - before))
    on client ip neigh del 192.0.2.99 dev "$(device)"
    [[ $( ((received >= 500)) && echo true || echo false) == "$1" ]] || fail "$received frames of 500 to a strange MAC address, promiscuous: $1"
    say "promiscuous: $1; 500 frames to a strange MAC address: $received received, heartbeats and all"
}

received_by() { status_of "$1" '[.workers[].rx] | add'; }

# said_by_nic yes|no: of frames with false checksums some are dropped since the NIC says so, or none.
said_by_nic() {
    local before dropped
    before=$(bad_checksums_of_nics)
    bad_checksums >/dev/null
    dropped=$(($(bad_checksums_of_nics) - before))
    [[ $( ((dropped)) && echo yes || echo no) == "$1" ]] || fail "$dropped dropped for what the NIC said"
    say "$dropped dropped for what the NIC said"
}

bad_checksums_of_nics() {
    local node sum=0
    for node in n1 n2; do
        sum=$((sum + $(status_of "$node" '[.workers[].dpdk.bad_checksum] | add')))
    done
    say "$sum"
}

# cleaned_up: what a vipdp that was killed has left is put back by the command for it.
cleaned_up() {
    kill_node n1
    on n1 "$BINARY" --config "$STATE/n1/node.toml" cleanup
    host_state n1 >"$STATE/n1/after"
    diff "$STATE/n1/before" "$STATE/n1/after" >"$STATE/n1/difference" ||
        fail "the host of n1 is not as before: $(tr '\n' ' ' <"$STATE/n1/difference")"
}

# given_back: the kernel's own driver takes the NIC of n1 again, with its MAC address, and it works.
given_back() {
    local interface
    ip -n "$PREFIX-n1" link delete eth0
    bind "${ADDRESSES[n1]}" "$JOB_KERNEL_DRIVER"
    wait_for 20 interface_of "${MACS[n1]}" >/dev/null || fail "no NIC with ${MACS[n1]}: $(ip -br link | tr '\n' ' ')"
    interface=$(interface_of "${MACS[n1]}")
    ip link set "$interface" netns "$PREFIX-n1" name eth0
    ip -n "$PREFIX-n1" link set eth0 up
    [[ -z $TAG ]] || ip -n "$PREFIX-n1" link add link eth0 name "eth0.$TAG" type vlan id "$TAG"
    [[ -z $TAG ]] || ip -n "$PREFIX-n1" link set "eth0.$TAG" up
    wait_for 20 has_carrier n1 || fail "no carrier"
    address n1
    on client ping -q -c 3 -W 5 192.0.2.11 >/dev/null || fail "no answer to ping from $JOB_KERNEL_DRIVER"
    say "$JOB_KERNEL_DRIVER on $interface"
}

# The clusters of every row.
# shellcheck source=scripts/realnic.d/guest/row.bash
source "$GUEST/row.bash"
# Once more, for what only DPDK has.
check restore "cluster starts again" cluster_up
check checksums "dropped for what the NIC says" said_by_nic "$JOB_FLAGS"
check filters "shared MAC address" filters "$JOB_PROMISCUOUS"
check host "the node's own addresses" own_address
check restore "SIGKILL and cleanup" cleaned_up
check restore "SIGTERM of n2" end "$STATE/n2/vipdp.pid"
check restore "back to the kernel's driver" given_back
