# shellcheck shell=bash
# A VLAN's interface as vipdp's own: the nodes have eth0.100 for a NIC, whose frames have no tag any more.

segment_up
services_up
# The program runs in the stack there: checksums that the sender leaves to a NIC are not made by then.
on client ethtool -K eth0 tx off >/dev/null
check vlan "eth0.100" tag 100
# The checks read them.
# shellcheck disable=SC2034
TAG=100 INTERFACE=eth0.100
for EGRESS in direct tap; do
    cluster_files
    remember_host
    check vlan "cluster starts, egress $EGRESS" cluster_up
    solicit6
    check vlan "attached, egress $EGRESS" attached generic
    check vlan "the log says what is better" grep -q 'WARN.*interface of a VLAN' "$STATE/n1/vipdp.log"
    check vlan "ARP, egress $EGRESS" resolves4
    check vlan "NDP, egress $EGRESS" resolves6
    check vlan "each query once, egress $EGRESS" answered_once "n1 n2"
    check vlan "3,000 bytes, egress $EGRESS" answers_long
    check vlan "SIGTERM, egress $EGRESS" restored
done
