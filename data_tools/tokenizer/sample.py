"""The text that a tokenizer is trained on: chosen by documents' hashes and sizes alone, and bounded."""

import numpy as np
import numpy.typing as npt

from data_tools.tokenizer.section import TokenizerTraining
from megatrain.data.permutation import mix

# A longer document gives its beginning: one of a gigabyte would be a sample of its own.
MAX_DOCUMENT_BYTES = 1 << 20
_SALT = np.uint64(0x70CE417E)
_ALL = ""
_CHOSEN = np.dtype([("priority", "<u8"), ("low", "<u8"), ("part", "<i8"), ("row", "<i8"), ("bytes", "<i8")])

Ints = npt.NDArray[np.int64]


class TrainingSample:
    """Of each source the documents with the smallest hashes, as many as fill its share of the text.

    The same documents in any order, divided into any parts, make the same sample; no text is read to choose
    it. Memory: 40 bytes a document of the sample and of the part that is offered.
    """

    def __init__(self, section: TokenizerTraining) -> None:
        self._by_source = section.weights is not None
        weights = section.weights or {_ALL: 1.0}
        total = sum(weights.values())
        self._quotas = {
            name: int(section.training_bytes * weight / total) for name, weight in weights.items()
        }
        self._chosen = {name: np.empty(0, _CHOSEN) for name in weights}

    def offer(
        self, source: str, part: int, rows: Ints, keys: npt.NDArray[np.uint64], num_bytes: Ints
    ) -> None:
        """Some documents of a part: their rows [n], the halves of their hashes [n, 2], the bytes of their
        texts [n]. Each document is offered once."""
        name = source if self._by_source else _ALL
        before, quota = self._chosen[name], self._quotas[name]
        new = np.empty(len(rows), _CHOSEN)
        new["priority"], new["low"] = mix(keys[:, 0] ^ _SALT), keys[:, 1]
        new["part"], new["row"] = part, rows
        new["bytes"] = np.minimum(num_bytes, MAX_DOCUMENT_BYTES)
        if len(before) and int(before["bytes"].sum()) >= quota:
            new = new[new["priority"] <= before["priority"][-1]]
        self._chosen[name] = _first(np.concatenate([before, new]), quota)

    def rows(self, part: int) -> Ints:
        """Which documents of a part are taken, rising [n]."""
        return np.sort(np.concatenate([one["row"][one["part"] == part] for one in self._chosen.values()]))

    @property
    def documents(self) -> int:
        """How many are taken."""
        return sum(map(len, self._chosen.values()))

    @property
    def bytes_by_source(self) -> dict[str, int]:
        """How much text each source gives; that of all under "" where the section has no weights."""
        return {name: int(one["bytes"].sum()) for name, one in self._chosen.items()}


def beginning(text: str) -> str:
    """What a document gives of its text."""
    text = text[:MAX_DOCUMENT_BYTES]
    content = text.encode()
    return (
        text if len(content) <= MAX_DOCUMENT_BYTES else content[:MAX_DOCUMENT_BYTES].decode(errors="ignore")
    )


def _first(documents: npt.NDArray[np.void], quota: int) -> npt.NDArray[np.void]:
    """By rising hash as many as fill the quota: all are needed, none more."""
    if quota == 0:
        return documents[:0]
    ordered = documents[np.lexsort((documents["low"], documents["priority"]))]
    return ordered[: int(np.searchsorted(np.cumsum(ordered["bytes"]), quota)) + 1]
