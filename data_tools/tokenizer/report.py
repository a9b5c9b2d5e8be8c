"""How well a tokenizer fits text: how many tokens it takes, by language and source, and which ids it leaves
idle."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.tokenizer.fertility import HEAD, Fertility, count_words, ratio, shown
from megatrain.data.tokenizer import Tokenizer

_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class TextSample:
    """One document to try the tokenizer on."""

    text: str
    source: str
    language: str


@dataclass(frozen=True)
class Piece:
    """An id, what it stands for and how often it came."""

    id: int
    text: str
    bytes: int
    count: int


@dataclass(frozen=True)
class TokenizerReport:
    """A tokenizer, tried on text."""

    kind: str
    hash: str
    vocab_size: int
    overall: Fertility
    by_language: Mapping[str, Fertility]
    by_source: Mapping[str, Fertility]
    pieces: int
    """Ids that stand for text, byte pieces apart."""
    unused_pieces: int
    """How many of them never came."""
    unused: tuple[Piece, ...]
    """The longest of those, as examples."""
    longest: tuple[Piece, ...]
    """The longest pieces of all, used or not."""

    def record(self) -> dict[str, Any]:
        """For a manifest or a page, as JSON."""
        return {
            **asdict(self),
            "overall": self.overall.record(),
            "by_language": {name: row.record() for name, row in self.by_language.items()},
            "by_source": {name: row.record() for name, row in self.by_source.items()},
        }

    def text(self) -> str:
        """The whole as a table to read."""
        lines = [f"tokenizer {self.hash[:12]} ({self.kind}), {self.vocab_size:,} ids", HEAD]
        lines += [row.row(f"language {name}") for name, row in self.by_language.items()]
        lines += [row.row(f"source {name}") for name, row in self.by_source.items()]
        lines.append(self.overall.row("all"))
        share = shown(ratio(self.unused_pieces, self.pieces), ".1%")
        lines.append(f"never used: {self.unused_pieces:,} of {self.pieces:,} pieces ({share})")
        lines.append("longest never used: " + " ".join(repr(piece.text) for piece in self.unused))
        lines.append("longest: " + " ".join(f"{piece.text!r}×{piece.count:,}" for piece in self.longest))
        return "\n".join(lines)


def report(tokenizer: Tokenizer, samples: Iterable[TextSample]) -> TokenizerReport:
    """Encode and decode the samples, one at a time, and count."""
    byte_ids = tokenizer.byte_ids()
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    by_language: dict[str, Fertility] = {}
    by_source: dict[str, Fertility] = {}
    for sample in samples:
        ids = np.array(tokenizer.encode(sample.text), np.int64)
        np.add.at(counts, ids, 1)
        one = Fertility(
            documents=1,
            characters=len(sample.text),
            bytes=len(sample.text.encode()),
            words=count_words(sample.text),
            tokens=len(ids),
            byte_tokens=int(byte_ids[ids].sum()),
            lossy_documents=int(tokenizer.decode(ids) != sample.text),
        )
        by_language[sample.language] = by_language.get(sample.language, Fertility()) + one
        by_source[sample.source] = by_source.get(sample.source, Fertility()) + one
    contents = tokenizer.contents()
    lengths = np.array([len(content) for content in contents]) * ~byte_ids
    unused = (lengths > 0) & (counts == 0)
    return TokenizerReport(
        kind=tokenizer.info.kind,
        hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        overall=sum(by_source.values(), Fertility()),
        by_language=dict(sorted(by_language.items())),
        by_source=dict(sorted(by_source.items())),
        pieces=int((lengths > 0).sum()),
        unused_pieces=int(unused.sum()),
        unused=_longest(np.where(unused, lengths, 0), contents, counts),
        longest=_longest(lengths, contents, counts),
    )


def _longest(
    lengths: npt.NDArray[np.int64], contents: list[bytes], counts: npt.NDArray[np.int64]
) -> tuple[Piece, ...]:
    """The longest few, the smaller id first among equals."""
    order = np.argsort(-lengths, kind="stable")[:_EXAMPLES]
    return tuple(
        Piece(int(id_), contents[id_].decode(errors="replace"), int(lengths[id_]), int(counts[id_]))
        for id_ in order
        if lengths[id_] > 0
    )
