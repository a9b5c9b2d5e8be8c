#!/usr/bin/env bash
# PID 1 of the whole bed, within namespaces of its own: makes the switch that joins the hosts, and waits for the end of
# its input. When it ends, also because whoever holds the other end was killed, the kernel ends every process of the
# bed, and its networks and mounts go with them.
set -euo pipefail

ip link set lo up
ip link add switch type bridge forward_delay 0 stp_state 0
ip link set switch up
echo ready
cat >/dev/null
