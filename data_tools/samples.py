"""A few of the documents that were dropped for each reason, kept for people to read."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from data_tools.document import Drop
from megatrain.durable import write_durably

_MAX_CHARACTERS = 2_000


class Samples:
    """Of each reason those with the smallest hash: the same ones however the documents were divided."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heaps: dict[str, list[tuple[int, str]]] = {}

    def offer(self, drop: Drop, text: str, file: str, record: int) -> None:
        """A document that was dropped; `text` is as the steps before left it."""
        rank = -xxhash.xxh3_64_intdigest(f"{file}\0{record}".encode("utf-8", "replace"))
        heap = self._heaps.setdefault(drop.reason, [])
        if self._count == 0 or (len(heap) == self._count and rank <= heap[0][0]):
            return
        tree = {
            "reason": drop.reason,
            "detail": drop.detail,
            "file": file,
            "record": record,
            "text": text[:_MAX_CHARACTERS].encode("utf-8", "replace").decode(),
        }
        self._push(heap, (rank, json.dumps(tree, ensure_ascii=False)))

    def write(self, path: Path) -> None:
        """A JSON line for each, by reason."""
        lines = [
            line for reason in sorted(self._heaps) for _, line in sorted(self._heaps[reason], reverse=True)
        ]
        write_durably(path, "".join(f"{line}\n" for line in lines).encode())

    def _push(self, heap: list[tuple[int, str]], item: tuple[int, str]) -> None:
        (heapq.heappushpop if len(heap) == self._count else heapq.heappush)(heap, item)


def merged(paths: Iterable[Path], count: int, path: Path) -> None:
    """One file of what the tasks of a source kept."""
    samples = Samples(count)
    for one in paths:
        for line in one.read_text(encoding="utf-8").split("\n")[:-1]:
            tree: dict[str, Any] = json.loads(line)
            samples.offer(Drop(tree["reason"], tree["detail"]), tree["text"], tree["file"], tree["record"])
    samples.write(path)
