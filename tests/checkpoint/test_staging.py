"""The copy that a save is written from is the file of the live tensors, byte for byte, on pages of memory."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.fragments import Held
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.staging import Staging, live_chunks
from megatrain.durable import CHUNK_BYTES, PAGE_BYTES, replacing, write_uncached


def held(rows: int) -> list[Held]:
    torch.manual_seed(rows)
    found = []
    for name in ("weights/a", "exp_avg/a", "weights/b"):
        data = torch.randn(rows, 1000)
        found.append(Held(name, (rows, 1000), Box((0, 0), (rows, 1000)), data, owner=True))
    return found


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_copy_is_written_as_the_live_tensors_were(rows: int, tmp_path: Path) -> None:
    live = held(rows)
    wanted = b"".join(live_chunks(live))
    staging = Staging(live)
    staging.copy(live)
    for one in live:
        one.data.zero_()
    LocalPlace(tmp_path).write("step/file", staging.chunks())
    assert (tmp_path / "step/file").read_bytes() == wanted
    assert max(map(len, staging.chunks())) <= CHUNK_BYTES


def test_a_copy_lies_on_pages() -> None:
    """Else it could not be written past the page cache."""
    first = next(Staging(held(7)).chunks())
    assert torch.frombuffer(first, dtype=torch.uint8).data_ptr() % PAGE_BYTES == 0


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_pieces_of_any_size_and_place_are_written_in_order(where: str, tmp_path: Path) -> None:
    """Aligned ones after others and the other way round."""
    room = torch.arange(16 * PAGE_BYTES, dtype=torch.int32).view(torch.uint8)
    start = -room.data_ptr() % PAGE_BYTES
    data = memoryview(room[start:].numpy())
    page = PAGE_BYTES
    cuts = [0, page, 4 * page, 4 * page + 1, 5 * page, 5 * page, 8 * page, 8 * page + 100, 9 * page + 100]
    folder = tmp_path if where == "disk" or not os.path.isdir("/dev/shm") else Path("/dev/shm")
    path = folder / f"write-uncached-{os.getpid()}"
    try:
        with replacing(path) as file:
            for first, last in itertools.pairwise(cuts):
                write_uncached(file, data[first:last])
        assert path.read_bytes() == bytes(data[: cuts[-1]])
    finally:
        path.unlink(missing_ok=True)


def test_an_error_of_the_disk_is_raised() -> None:
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        write_uncached(file, memoryview(bytes(10)))
