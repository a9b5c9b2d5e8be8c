"""Which documents go where: split by hash, shuffled by hash."""

import numpy as np
import numpy.typing as npt

from data_tools.config import Split
from megatrain.data.permutation import mix

SPLITS = ("train", "validation", "test")
_SPLIT_SALT = 0x5B1175A17

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
"""[documents, 2]: the two halves of the xxh3-128 of a document's text after all steps, big end first."""


def split_of(keys: Keys, split: Split) -> Ints:
    """The number in SPLITS of each document [n]; added data moves none: it depends on the text alone."""
    share = (mix(keys[:, 0] ^ np.uint64(_SPLIT_SALT)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.where(share < split.validation, 1, np.where(share < split.validation + split.test, 2, 0))


def shuffle_order(keys: Keys, seed: int) -> Keys:
    """The place of each document [n] in the shuffle: it depends on the seed and on the text, on nothing else.

    Equal places (rare) are told apart by the key.
    """
    salt = mix(np.array([seed % 2**64], np.uint64))
    return mix(keys[:, 1] ^ salt)
