"""How MDS stores an array of tokens: its type and its shape where the column's encoding leaves them open, its
values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_TYPES = {
    8: "uint8",
    9: "int8",
    16: "uint16",
    17: "int16",
    32: "uint32",
    33: "int32",
    64: "uint64",
    65: "int64",
}


def encoded(tokens: npt.NDArray[Any]) -> bytes:
    """The bytes of a column `ndarray:TYPE`, of one dimension."""
    size = len(tokens)
    log2 = next(log2 for log2 in range(4) if size < 1 << (8 << log2))
    return bytes([1 << 2 | log2]) + size.to_bytes(1 << log2, "little") + tokens.tobytes()


def decoded(content: bytes, encoding: str) -> npt.NDArray[Any]:
    """The tokens in a column `ndarray`, `ndarray:TYPE` or `ndarray:TYPE:SHAPE`, flat.

    Raises ValueError where they are no integers or the bytes are no such column.
    """
    _, dtype, shape = (*encoding.split(":"), "", "")[:3]
    at = 0
    if not dtype:
        dtype, at = _TYPES.get(content[0] if content else 0, "of an unknown type"), 1
    if dtype not in _TYPES.values():
        raise ValueError(f"tokens are {dtype}, not integers")
    if not shape:
        dimensions, log2 = divmod(content[at] if at < len(content) else 0, 4)
        at += 1 + (dimensions << log2)
    return np.frombuffer(content[at:], np.dtype(dtype).newbyteorder("<"))
