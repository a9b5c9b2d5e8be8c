"""Host memory that a save copies the live tensors into: all that a training step waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.fragments import Held
from megatrain.checkpoint.manifest import box_key
from megatrain.checkpoint.storage import (
    NAMES,
    Entry,
    pieces,
    raw_bytes,
    safetensors_chunks,
    safetensors_header,
)
from megatrain.durable import PAGE_BYTES


@dataclass(frozen=True)
class OwnBox:
    """A box that this rank writes."""

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    box: Box


def own(held: Sequence[Held]) -> list[Held]:
    """What this rank writes, in the order of its file."""
    return sorted((h for h in held if h.owner), key=lambda h: (h.tensor, h.box))


def own_boxes(mine: Sequence[Held]) -> list[OwnBox]:
    return [OwnBox(h.tensor, h.shape, NAMES[h.data.dtype], h.box) for h in mine]


def entries_of(mine: Sequence[Held]) -> list[Entry]:
    return [Entry(box_key(h.tensor, h.box), h.data.dtype, tuple(h.data.shape)) for h in mine]


def live_chunks(held: Sequence[Held]) -> Iterator[memoryview]:
    """The rank's file straight from the live tensors, which must not change meanwhile."""
    mine = own(held)
    return safetensors_chunks(entries_of(mine), (h.data for h in mine))


class Staging:
    """One buffer, laid out as this rank's file; pinned where the tensors are on a GPU, reused by every save.

    It lies on pages of memory, so that it can be written past the page cache.
    """

    def __init__(self, held: Sequence[Held]) -> None:
        mine = own(held)
        entries = entries_of(mine)
        on_gpu = any(h.data.is_cuda for h in mine)
        header = safetensors_header(entries)
        size = len(header) + sum(e.bytes for e in entries)
        room = torch.empty(size + PAGE_BYTES, dtype=torch.uint8, pin_memory=on_gpu)
        room.zero_()  # else the first save would wait for the kernel to find the memory
        self._buffer = room[-room.data_ptr() % PAGE_BYTES :][:size]
        raw_bytes(self._buffer)[: len(header)] = header
        self._views, at = [], len(header)
        for entry in entries:
            self._views.append(self._buffer[at : at + entry.bytes].view(entry.dtype).view(entry.shape))
            at += entry.bytes

    def copy(self, held: Sequence[Held]) -> None:
        """Take the values of this moment."""
        mine = own(held)
        if not mine:
            return
        torch._foreach_copy_(self._views, [h.data for h in mine], non_blocking=True)
        if mine[0].data.is_cuda:
            torch.cuda.current_stream().synchronize()

    def chunks(self) -> Iterator[memoryview]:
        """The bytes of the file."""
        yield from pieces(raw_bytes(self._buffer))
