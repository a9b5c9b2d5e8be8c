"""Checkpoints on the nodes' own disks: copies between neighbours, so that one lost node costs nothing.

Each rank writes its part to its node's disk and sends it to a rank of the next node, which keeps it beside
its own. Every node keeps the manifest. When a run goes on, the nodes put together who has which file whole,
and a node gets from the others just the files that its ranks read.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from megatrain.checkpoint.place import LocalPlace, blocks
from megatrain.durable import CHUNK_BYTES
from megatrain.errors import FailedWork, UserError
from megatrain.parallel.collectives import gather_objects
from megatrain.parallel.context import ParallelContext

NODE_VARIABLE = "MEGATRAIN_NODE"  # names a rank's node where its host's name does not


@dataclass(frozen=True)
class Nodes:
    """Which rank runs on which node, and a way between them beside the step's collectives."""

    of_rank: tuple[int, ...]
    """Node of each rank; nodes are numbered in the order of their first ranks."""
    rank: int
    group: dist.ProcessGroup | None

    @staticmethod
    def create(context: ParallelContext, timeout_s: float) -> Nodes:
        """Collective."""
        names = gather_objects(_node_name(), context.world)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        group = None
        if len(numbers) > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        return Nodes(tuple(numbers[name] for name in names), context.world.rank, group)

    @property
    def count(self) -> int:
        return max(self.of_rank) + 1

    @property
    def node(self) -> int:
        """This rank's."""
        return self.of_rank[self.rank]

    def ranks(self, node: int) -> list[int]:
        return [rank for rank, its in enumerate(self.of_rank) if its == node]

    @property
    def firsts(self) -> list[int]:
        """The first rank of each node, which looks after the node's folder."""
        return [self.of_rank.index(node) for node in range(self.count)]

    def partner(self, rank: int) -> int:
        """Who keeps a copy of this rank's part: the rank of the next node at the same place."""
        node = self.of_rank[rank]
        place = self.ranks(node).index(rank)
        return self.ranks((node + 1) % self.count)[place]

    def require_even(self) -> None:
        """Raises UserError where the nodes have different numbers of ranks."""
        sizes = {len(self.ranks(node)) for node in range(self.count)}
        if len(sizes) > 1:
            raise UserError(
                f"checkpoint.tiers: partner_copy needs as many ranks on each node, here {sorted(sizes)}; "
                "set partner_copy: false"
            )


def near_place(folder: str, name: str, nodes: Nodes) -> LocalPlace:
    """The folder of one run on this node; `{node}` in it stands for the node's number."""
    return LocalPlace(Path(folder.replace("{node}", str(nodes.node)), name))


def exchange(nodes: Nodes, chunks: Iterable[memoryview]) -> Iterator[memoryview]:
    """Collective. Send a file to this rank's partner and give the pieces of the one that comes from the rank
    whose partner this is; none if that rank has no file. Must be read to its end, or the partners wait for
    ever.

    Raises OSError when a partner is gone.
    """
    target = nodes.partner(nodes.rank)
    (source,) = [rank for rank in range(len(nodes.of_rank)) if nodes.partner(rank) == nodes.rank]
    outgoing = iter(chunks)
    more, expected = True, True
    sizes = torch.zeros(2, dtype=torch.int64)  # of the next piece: to be sent, to come
    room = torch.empty(CHUNK_BYTES, dtype=torch.uint8)
    while more or expected:
        piece = next(outgoing, None) if more else None
        sizes[0] = len(piece) if piece is not None else 0
        _swap(nodes, sizes[:1] if more else None, target, sizes[1:] if expected else None, source)
        more, expected = more and bool(sizes[0]), expected and bool(sizes[1])
        sent = torch.frombuffer(piece, dtype=torch.uint8) if more else None
        coming = room[: int(sizes[1])] if expected else None
        _swap(nodes, sent, target, coming, source)
        if coming is not None:
            yield memoryview(coming.numpy())  # type: ignore[arg-type]


def fetch(nodes: Nodes, place: LocalPlace, folder: str, transfers: Sequence[tuple[str, int, int]]) -> None:
    """Collective. Bring files, each (name, node that has it, node that needs it), into the folder of the
    latter.

    Raises FailedWork on the node that needs it.
    """
    for name, source, target in transfers:
        giver, taker = nodes.firsts[source], nodes.firsts[target]
        if nodes.rank == giver:
            _give(nodes, place, f"{folder}/{name}", taker)
        elif nodes.rank == taker:
            try:
                place.write(f"{folder}/{name}", _take(nodes, giver))
            except OSError as error:
                raise FailedWork(f"{place}/{folder}/{name}: cannot be fetched: {error}") from None


def transfers_for(
    wanted: Mapping[int, set[str]], where: Mapping[str, Sequence[int]]
) -> list[tuple[str, int, int]]:
    """Which file goes from which node to which: wanted by node, whole on nodes."""
    return [
        (name, where[name][0], node)
        for node, names in sorted(wanted.items())
        for name in sorted(names)
        if node not in where[name]
    ]


def _give(nodes: Nodes, place: LocalPlace, name: str, taker: int) -> None:
    file = place.open(name)
    try:
        dist.send(torch.tensor([file.size]), taker, group=nodes.group)
        for piece in blocks(file):
            dist.send(torch.frombuffer(piece, dtype=torch.uint8), taker, group=nodes.group)
    finally:
        file.close()


def _take(nodes: Nodes, giver: int) -> Iterator[memoryview]:
    size = torch.zeros(1, dtype=torch.int64)
    dist.recv(size, giver, group=nodes.group)
    left = int(size)
    room = torch.empty(CHUNK_BYTES, dtype=torch.uint8)
    while left:
        piece = room[: min(CHUNK_BYTES, left)]
        dist.recv(piece, giver, group=nodes.group)
        left -= len(piece)
        yield memoryview(piece.numpy())  # type: ignore[arg-type]


def _swap(
    nodes: Nodes, out: torch.Tensor | None, target: int, into: torch.Tensor | None, source: int
) -> None:
    try:
        works = []
        if into is not None:
            works.append(dist.irecv(into, source, group=nodes.group))
        if out is not None:
            works.append(dist.isend(out, target, group=nodes.group))
        for work in works:
            if work is not None:
                work.wait()
    except RuntimeError as error:
        raise OSError(f"a neighbour cannot be reached: {error}") from None


def _node_name() -> str:
    """Of the machine that this rank runs on; two containers on one host count as one."""
    name = os.environ.get(NODE_VARIABLE)
    if name:
        return name
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()} {boot}"
