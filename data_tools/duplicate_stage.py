"""Which of the collected documents count as the same as another, over all sources at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.config import Duplicates
from data_tools.selection import first_of_each

REMOVED = np.dtype([("row", "<i8"), ("key", "<u8", 2)])
"""A document that is removed: its number among all collected ones, and its key, by which the number is checked."""


def removed_documents(collected: Sequence[Path], config: Duplicates) -> np.ndarray:
    """The table [removed] of REMOVED, in the order of rows."""
    keys = np.concatenate([np.load(folder / "keys.npy") for folder in collected])
    rows = np.flatnonzero(~first_of_each(keys)) if config.exact else np.zeros(0, np.int64)
    table = np.zeros(len(rows), REMOVED)
    table["row"], table["key"] = rows, keys[rows]
    return table
