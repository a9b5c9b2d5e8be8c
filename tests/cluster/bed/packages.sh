#!/usr/bin/env bash
# Installs the Debian packages of the test cluster that are missing; does nothing when all are there.
#   bash tests/cluster/bed/packages.sh
set -euo pipefail

missing=()
for pair in slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge sshd:openssh-server ssh-keygen:openssh-client \
    pdsh:pdsh ip:iproute2; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

[ "$(id -u)" -eq 0 ] || { echo "packages: ${missing[*]} are missing, and only root can install them" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "packages: ${missing[*]} are missing, and there is no apt-get" >&2; exit 1; }
# Debian starts a daemon as soon as its package is there, unless this program says 101.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt_get() { timeout 600 apt-get -qq -o DPkg::Lock::Timeout=120 "$@" >&2 </dev/null; }
apt_get update
apt_get install -y --no-install-recommends "${missing[@]}"
