"""Samples that a run leaves out: ranges of its order, and which sample comes next without them."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Range = tuple[int, int]
Ranges = tuple[Range, ...]
Ints = npt.NDArray[np.int64]


def merged(ranges: Iterable[Range]) -> Ranges:
    """The same samples as ranges [first, last) that are in order, apart and not empty."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        elif first < last:
            found.append((first, last))
    return tuple(found)


def samples(start: int, count: int, skipped: Ranges) -> Ints:
    """The samples numbered start .. start + count - 1 among those that are not skipped [count]."""
    return numbered(np.arange(start, start + count, dtype=np.int64), skipped)


def numbered(numbers: Ints, skipped: Ranges) -> Ints:
    """The samples of these numbers among those that are not skipped; numbers of any shape."""
    ranges = np.array(merged(skipped), np.int64).reshape(-1, 2)
    left_out = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])
    # How many samples that are not skipped come before each range.
    before = ranges[:, 0] - left_out[:-1]
    found: Ints = numbers + left_out[np.searchsorted(before, numbers, side="right")]
    return found


def sample(number: int, skipped: Ranges) -> int:
    """One of `samples`."""
    return int(samples(number, 1, skipped)[0])


def covers(skipped: Ranges, first: int, last: int) -> bool:
    """Whether all of [first, last) is skipped."""
    return merged([*skipped, (first, last)]) == merged(skipped)
