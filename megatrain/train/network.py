"""Which network joins the ranks of a run: the loopback alone on one host, else the one between its hosts.

gloo gives the other ranks the address that this host's own name stands for. Debian and Ubuntu write that name
as 127.0.1.1 into /etc/hosts: nobody else can reach it, and all ranks hang until they time out. On one host it
would listen where neighbours on the network can reach it, and so would NCCL and torch's store.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

SIOCGIFADDR = 0x8915  # netdevice(7)
INNER = ("lo", "docker", "virbr", "veth", "br-")
"""Interfaces whose names begin so lead to no other host."""


LOOPBACK = "127.0.0.1"


def is_single_host(world: int, environment: Mapping[str, str]) -> bool:
    """Return whether all ranks of a run are on this host, by what its launcher has set."""
    local = environment.get("LOCAL_SIZE") or environment.get("LOCAL_WORLD_SIZE")
    if local is not None:
        return world <= int(local)
    return world == 1 or environment.get("MASTER_ADDR", LOOPBACK) in (LOOPBACK, "localhost")


def loopback_interface() -> str:
    """Return the name of the interface that has the loopback address, for gloo and NCCL."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if _address_on(name) == LOOPBACK), "lo")


def loopback_store(rank: int, world: int, port: int, timeout: timedelta) -> Any:
    """Collective. Return the store that the ranks of one host meet at, which listens on the loopback alone.

    torch's own would listen on all interfaces, whatever MASTER_ADDR is. A rank on its own needs no listener.
    Raises OSError on rank 0 when the port is taken.
    """
    stores: Any = dist  # its stubs do not export them
    if world == 1:
        return stores.PrefixStore("default_pg", stores.HashStore())
    listening = None
    if rank == 0:
        # Its owner is the store from here on.
        listening = socket.create_server((LOOPBACK, port), backlog=max(128, world)).detach()
    store = stores.TCPStore(LOOPBACK, port, world, rank == 0, timeout, master_listen_fd=listening)
    return stores.PrefixStore("default_pg", store)


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
