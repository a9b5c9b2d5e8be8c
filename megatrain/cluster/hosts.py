"""The hosts of a run: a hostfile read, and those left out that do not answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from megatrain.config import Config, derive
from megatrain.errors import UserError, require

LINE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\s+slots=(?P<slots>[1-9]\d*))?")
ANSWER_S = 20.0


@dataclass(frozen=True)
class Host:
    name: str
    slots: int
    """Ranks that it gets."""


def read_hostfile(path: Path) -> list[Host]:
    """`HOST slots=N` a line; `#` begins a comment. Raises UserError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"cluster.hostfile ({path}): {why}; write lines like `host slots=8`") from None
    hosts = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = LINE.fullmatch(text)
        if found is None:
            raise UserError(f"cluster.hostfile ({path}): line {number}: {text!r} is not like `host slots=8`")
        hosts.append(Host(found["name"], int(found["slots"] or 1)))
    require(hosts, f"cluster.hostfile ({path}): names no host; write a line like `host slots=8` for each")
    names = [host.name for host in hosts]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"cluster.hostfile ({path}): {twice} stands there twice")
    return hosts


def answers(host: Host) -> bool:
    """Whether a command can be run on it by ssh, without a password, within some seconds."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={ANSWER_S / 2:.0f}", host.name, "true"]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def answering(hosts: Sequence[Host], probe: Callable[[Host], bool] = answers) -> list[Host]:
    """Those that answer, in the order of the file; all are asked at once."""
    with ThreadPoolExecutor(max_workers=32) as threads:
        return [host for host, well in zip(hosts, threads.map(probe, hosts), strict=True) if well]


def usable(config: Config, hosts: Sequence[Host]) -> list[Host]:
    """As many of the hosts, from the first on, as give a valid layout: the global batch stays what it is,
    micro-batches a step change. Raises UserError where there is none."""
    for count in range(len(hosts), 0, -1):
        world = sum(host.slots for host in hosts[:count])
        try:
            derive(config, world)
        except UserError:
            continue
        return list(hosts[:count])
    raise UserError(
        f"cluster.hostfile ({config.cluster.hostfile}): no number of the hosts that answer "
        f"({', '.join(host.name for host in hosts) or 'none'}) gives a layout for parallel.tensor "
        f"({config.parallel.tensor})"
    )
