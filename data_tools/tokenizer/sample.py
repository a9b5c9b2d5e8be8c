"""The text that a tokenizer is trained on: chosen by hash, so by no order, and of bounded size."""

import heapq
from collections.abc import Iterator, Mapping, Sequence

import xxhash

from data_tools.tokenizer.section import TokenizerTraining

# A longer document gives its beginning: one of a gigabyte would be a sample of its own.
MAX_DOCUMENT_BYTES = 1 << 20
_SALT = 0x70CE417E
_ALL = ""


class TrainingSample:
    """The documents with the smallest hashes, of each source as many as fill its share of the text.

    The same documents in any order, by any number of hands (`merge`), make the same sample. Memory: the text
    of the sample.
    """

    def __init__(self, section: TokenizerTraining) -> None:
        self._by_source = section.weights is not None
        weights = section.weights or {_ALL: 1.0}
        total = sum(weights.values())
        self._kept = {
            name: _Smallest(int(section.training_bytes * weight / total)) for name, weight in weights.items()
        }

    def wants(self, source: str, doc_id: bytes) -> bool:
        """Whether `add` would keep this document: when not, its text need not be read."""
        return self._kept[self._name(source)].wants(_priority(doc_id))

    def add(self, source: str, doc_id: bytes, text: str) -> None:
        """Offer a document. Each is offered once; `doc_id` is the hash by which it is known."""
        if self.wants(source, doc_id):
            self._kept[self._name(source)].add(_priority(doc_id), _beginning(text))

    def merge(self, other: "TrainingSample") -> None:
        """Offer all that another sample of the same section kept of other documents."""
        for name, kept in other._kept.items():
            for priority, content in kept.items():
                self._kept[name].add(priority, content)

    def texts(self) -> Iterator[str]:
        """The texts, source by source."""
        for name in sorted(self._kept):
            for _, content in sorted(self._kept[name].items()):
                yield content.decode()

    @property
    def bytes_by_source(self) -> Mapping[str, int]:
        """How much text each source has given; that of all under "" where the section has no weights."""
        return {name: kept.size for name, kept in self._kept.items()}

    def _name(self, source: str) -> str:
        return source if self._by_source else _ALL


class _Smallest:
    """The texts of smallest priority that fill a quota: all are needed, none more."""

    def __init__(self, quota: int) -> None:
        self._quota = quota
        self._heap: list[tuple[int, bytes]] = []  # Largest priority first: its negative is the key.
        self.size = 0

    def wants(self, priority: int) -> bool:
        return self.size < self._quota or (bool(self._heap) and priority <= -self._heap[0][0])

    def add(self, priority: int, content: bytes) -> None:
        if not self.wants(priority):
            return
        heapq.heappush(self._heap, (-priority, content))
        self.size += len(content)
        while self.size - len(self._heap[0][1]) >= self._quota:
            self.size -= len(heapq.heappop(self._heap)[1])

    def items(self) -> Sequence[tuple[int, bytes]]:
        return [(-negative, content) for negative, content in self._heap]


def _priority(doc_id: bytes) -> int:
    return xxhash.xxh3_64_intdigest(doc_id, _SALT)


def _beginning(text: str) -> bytes:
    content = text[:MAX_DOCUMENT_BYTES].encode()
    if len(content) > MAX_DOCUMENT_BYTES:
        content = content[:MAX_DOCUMENT_BYTES].decode(errors="ignore").encode()
    return content
