"""Which of the collected documents count as the same as another, over all sources at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.config import Duplicates
from data_tools.selection import Keys, first_of_each

REMOVED = np.dtype([("row", "<i8"), ("key", "<u8", 2)])
"""A document that is removed: its number among all collected ones, and its key, by which the number is
checked.
"""


def removed_documents(collected: Sequence[Path], known: Keys, config: Duplicates) -> npt.NDArray[Any]:
    """The table [removed] of REMOVED, in the order of rows. `known` documents come before all others."""
    keys = np.concatenate([np.load(folder / "keys.npy") for folder in collected])
    again = ~first_of_each(np.concatenate([known, keys]))[len(known) :]
    rows = np.flatnonzero(again) if config.exact else np.zeros(0, np.int64)
    table = np.zeros(len(rows), REMOVED)
    table["row"], table["key"] = rows, keys[rows]
    return table
