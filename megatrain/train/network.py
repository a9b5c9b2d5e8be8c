"""Which network joins the hosts of a run, where gloo would choose wrongly.

gloo tells the other ranks the address that this host's own name stands for. Debian and Ubuntu write that name
as 127.0.1.1 into /etc/hosts: nobody else can reach it, and all ranks hang until they time out.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from contextlib import closing
from pathlib import Path

SIOCGIFADDR = 0x8915  # netdevice(7)
INNER = ("lo", "docker", "virbr", "veth", "br-")
"""Interfaces whose names begin so lead to no other host."""


def interface_for_gloo(master: str) -> str | None:
    """The interface that reaches the other hosts, to be named in GLOO_SOCKET_IFNAME.

    None where gloo's own choice is good, or where none is found. `master` is where rank 0 runs.
    """
    if not _is_loopback(_address_of(socket.gethostname())):
        return None
    addresses = {
        name: address
        for _, name in socket.if_nameindex()
        if not name.startswith(INNER) and (address := _address_on(name))
    }
    towards_master = _own_address_towards(master)
    for name, address in addresses.items():
        if address == towards_master:
            return name
    default = _default_interface()
    return default if default in addresses else next(iter(addresses), None)


def _address_of(host: str) -> str | None:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None


def _is_loopback(address: str | None) -> bool:
    return address is None or ipaddress.ip_address(address).is_loopback


def _address_on(interface: str) -> str | None:
    """IPv4."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def _own_address_towards(host: str) -> str | None:
    """No packet is sent: the kernel only looks up its route."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _default_interface() -> str | None:
    try:
        rows = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    except OSError:
        return None
    return next((row[0] for row in rows if row[1] == "00000000"), None)
