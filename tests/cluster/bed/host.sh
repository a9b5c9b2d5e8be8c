#!/usr/bin/env bash
# PID 1 of one host, within namespaces of its own (network, mounts, name, IPC, processes): FOLDER NAME
# Waits for its cable, starts its daemons, and then only buries the dead. When it is killed, the host is off.
set -euo pipefail
bed="$1" name="$2"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

hostname "$name"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/munge /run/tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
# As Debian has it: a host's own name is a loopback address, which other hosts cannot use.
{ printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name"; grep -v " $name\$" "$bed/hosts"; } >/run/hosts
mount --bind /run/hosts /etc/hosts
mount --bind "$bed/slurm" /etc/slurm
mount --bind "$bed/ssh/client" /etc/ssh/ssh_config.d

until ip -4 address show dev eth0 2>/dev/null | grep -q inet; do sleep 0.05; done
munged --force --key-file="$bed/munge.key" --log-file="$bed/log/munged-$name" --seed-file=/run/munge/seed
# MaxStartups: pdsh opens many connections at once.
/usr/sbin/sshd -E "$bed/log/sshd-$name" -h "$bed/ssh/host" -o PidFile=none -o UsePAM=no -o StrictModes=no \
    -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no -o MaxStartups=200 \
    -o AuthorizedKeysFile="$bed/ssh/id.pub"
case "$name" in
    ctl) slurmctld ;;
    *) mkdir -p "/run/slurmd" && slurmd -N "$name" ;;
esac
touch "$bed/up/$name"

set +e
while :; do sleep 3600 & wait $!; done
