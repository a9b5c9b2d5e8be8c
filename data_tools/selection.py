"""Which collected documents go where: duplicates out, split by hash, shuffled by hash."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.collect import Collected, Keys
from data_tools.config import Split
from megatrain.data.permutation import mix

SPLITS = ("train", "validation", "test")
_SPLIT_SALT = 0x5B1175A17

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Documents:
    """A table of documents [n]: key, source, the text file that each lies in and where."""

    source_names: tuple[str, ...]
    texts: tuple[Path, ...]
    keys: Keys
    source: Ints
    text: Ints
    offset: Ints
    length: Ints

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Documents":
        """The table of some rows, in their order."""
        return Documents(
            self.source_names,
            self.texts,
            self.keys[rows],
            self.source[rows],
            self.text[rows],
            self.offset[rows],
            self.length[rows],
        )


def tabulate(collected: Sequence[Collected], source_names: Sequence[str]) -> Documents:
    """All collected documents, in the order of sources, files and places in them."""
    ends = [np.cumsum(part.lengths) for part in collected]
    return Documents(
        source_names=tuple(source_names),
        texts=tuple(part.text for part in collected),
        keys=np.concatenate([part.keys for part in collected]),
        source=np.concatenate(
            [np.full(len(part.keys), source_names.index(part.source_name), np.int64) for part in collected]
        ),
        text=np.concatenate([np.full(len(part.keys), i, np.int64) for i, part in enumerate(collected)]),
        offset=np.concatenate([end - part.lengths for end, part in zip(ends, collected, strict=True)]),
        length=np.concatenate([part.lengths for part in collected]),
    )


def first_of_each(keys: Keys) -> npt.NDArray[np.bool_]:
    """Which rows are the first with their key [n]: what exact duplicate removal keeps."""
    order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    first = np.ones(len(keys), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    kept = np.zeros(len(keys), bool)
    kept[order[first]] = True
    return kept


def split_of(keys: Keys, split: Split) -> Ints:
    """The number in SPLITS of each document [n]; added data moves none: it depends on the text alone."""
    share = (mix(keys[:, 0] ^ np.uint64(_SPLIT_SALT)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.where(share < split.validation, 1, np.where(share < split.validation + split.test, 2, 0))


def shuffled(keys: Keys, seed: int) -> Ints:
    """The rows in an order that depends on the seed and on the texts, not on the order they came in [n]."""
    salt = mix(np.array([seed % 2**64], np.uint64))
    return np.lexsort((keys[:, 0], keys[:, 1], mix(keys[:, 1] ^ salt)))
