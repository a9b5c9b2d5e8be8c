"""Boxes: what a rank holds of a logical tensor. Pure arithmetic on offsets and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from megatrain.parallel.plan import Piece


@dataclass(frozen=True, order=True)
class Box:
    """A rectangular part of a tensor."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def intersect(self, other: Box) -> Box | None:
        """The part that both cover, or None."""
        low = tuple(map(max, self.offset, other.offset))
        high = tuple(
            min(a + n, b + m)
            for a, n, b, m in zip(self.offset, self.shape, other.offset, other.shape, strict=True)
        )
        shape = tuple(h - a for a, h in zip(low, high, strict=True))
        return Box(low, shape) if all(n > 0 for n in shape) else None

    def within(self, outer: Box) -> tuple[slice, ...]:
        """Slices that cut this box out of a tensor that holds `outer`."""
        return tuple(
            slice(a - b, a - b + n) for a, n, b in zip(self.offset, self.shape, outer.offset, strict=True)
        )


def flat_range_boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[Box, int]]:
    """Cut the flat range [start, stop) of a row-major tensor into at most 2*ndim-1 boxes.

    Yields each box with the flat position of its first element; boxes are runs of memory, in order.
    """
    if start >= stop:
        return
    if len(shape) <= 1:
        yield Box((start,) * len(shape), (stop - start,) * len(shape)), start
        return
    inner = math.prod(shape[1:])
    first, last = -(-start // inner), stop // inner  # whole rows [first, last)
    if first > last:  # within one row
        yield from _in_row(shape, last, start, stop)
        return
    if start % inner:
        yield from _in_row(shape, first - 1, start, first * inner)
    if last > first:
        yield Box((first,) + (0,) * (len(shape) - 1), (last - first, *shape[1:])), first * inner
    if stop % inner:
        yield from _in_row(shape, last, last * inner, stop)


def _in_row(shape: tuple[int, ...], row: int, start: int, stop: int) -> Iterator[tuple[Box, int]]:
    base = row * math.prod(shape[1:])
    for box, at in flat_range_boxes(shape[1:], start - base, stop - base):
        yield Box((row, *box.offset), (1, *box.shape)), base + at


def piece_boxes(piece: Piece, start: int, stop: int) -> Iterator[tuple[Box, int]]:
    """The boxes of the logical tensor that the flat range [start, stop) of a *stored* parameter covers.

    Yields each box, in the logical tensor's coordinates, with the flat position in the stored parameter of
    its first element.
    """
    inner = math.prod(piece.local[1:])
    first = piece.first_row * inner
    low, high = max(start, first), min(stop, first + math.prod(piece.local))
    for box, at in flat_range_boxes(piece.local, low - first, high - first):
        offset = tuple(a + b for a, b in zip(box.offset, piece.offset, strict=True))
        yield Box(offset, box.shape), first + at
