"""Looking at a prepared dataset: statistics, a few documents, whether its bytes are still those written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import splits_in
from megatrain.data.shard import read_shard
from megatrain.errors import FailedWork, require


@dataclass(frozen=True)
class SourceStatistics:
    """What one source has in one split. Lengths are in tokens, EOS included."""

    split: str
    source: str
    shards: int
    documents: int
    tokens: int
    text_bytes: int
    length_min: int
    length_median: int
    length_max: int


@dataclass(frozen=True)
class SampleDocument:
    """One document as the tokenizer gives it back."""

    split: str
    source: str
    doc_id: str
    tokens: int
    text: str


@dataclass(frozen=True)
class Inspection:
    """Statistics of every split and source, and a few documents drawn at random."""

    fingerprints: dict[str, str]
    statistics: tuple[SourceStatistics, ...]
    documents: tuple[SampleDocument, ...]

    def text(self) -> str:
        """The whole as text to read."""
        head = f"{'split':<12}{'source':<16}{'shards':>7}{'documents':>11}{'tokens':>14}{'bytes/token':>13}"
        lines = [head + "  tokens a document: least, median, most"]
        for row in self.statistics:
            lines.append(
                f"{row.split:<12}{row.source:<16}{row.shards:>7,}{row.documents:>11,}{row.tokens:>14,}"
                f"{row.text_bytes / row.tokens:>13.2f}  "
                f"{row.length_min:,}, {row.length_median:,}, {row.length_max:,}"
            )
        lines += [f"fingerprint of {split}: {value}" for split, value in self.fingerprints.items()]
        for document in self.documents:
            name = f"{document.split}/{document.source} {document.doc_id}"
            lines.append(f"--- {name}, {document.tokens:,} tokens")
            lines.append(document.text if len(document.text) <= 600 else document.text[:600] + " ...")
        return "\n".join(lines)


def inspect(folder: Path, *, documents: int = 3, seed: int = 0) -> Inspection:
    """Statistics and random documents of a dataset's folder, or of one of its splits.

    Reads every shard's document lengths and, for the documents, the tokenizer beside the shards. Raises
    UserError where the folder holds no dataset.
    """
    datasets = _open_all(folder)
    statistics = tuple(
        _statistics(split, dataset, source)
        for split, dataset in datasets.items()
        for source in dataset.sources
    )
    rng = np.random.default_rng(seed)
    shares = np.array([row.documents for row in statistics], float)
    drawn = rng.choice(len(statistics), documents, p=shares / shares.sum())
    samples = tuple(
        _sample(
            datasets[statistics[row].split], statistics[row], int(rng.integers(statistics[row].documents))
        )
        for row in drawn
    )
    return Inspection({split: d.fingerprint for split, d in datasets.items()}, statistics, samples)


def verify(folder: Path) -> str:
    """Hash every shard again, check what Arrow reads against the manifest, and say what was found whole.

    Raises FailedWork naming the damaged shard, UserError where a shard is missing or cut short.
    """
    datasets = _open_all(folder)
    for dataset in datasets.values():
        dataset.verify()
        dataset.tokenizer()  # Loading it checks its hash against its description and the shards.
        for shard in dataset.manifest.shards:
            path = dataset.folder / shard.name
            lengths, sources = _lengths(path)
            counted = (len(lengths), int(lengths.sum()), sources)
            if counted != (shard.documents, shard.tokens, {shard.source}):
                raise FailedWork(
                    f"{path}: holds {counted}, the manifest says otherwise; prepare the dataset again"
                )
    shards = sum(len(dataset.manifest.shards) for dataset in datasets.values())
    return f"{folder}: whole: {shards} shards in {', '.join(datasets)}; every hash is the manifest's"


def made(folder: Path) -> str:
    """How a dataset was made: tool version, parameters of every step, counts kept and dropped, as JSON."""
    dataset = next(iter(_open_all(folder).values()))
    return json.dumps(dataset.manifest.made, indent=2, ensure_ascii=False)


def _open_all(folder: Path) -> dict[str, TokenDataset]:
    splits: Sequence[Path] = splits_in(Path(folder))
    require(splits, f"{folder}: no prepared dataset there; make one with `megatrain prepare`")
    return {path.name: TokenDataset.open(path) for path in splits}


def _lengths(path: Path) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], set[str]]:
    documents = [(len(document.tokens), document.source) for document in read_shard(path)]
    return np.array([length for length, _ in documents], np.int64), {source for _, source in documents}


def _statistics(split: str, dataset: TokenDataset, source: str) -> SourceStatistics:
    shards = [shard for shard in dataset.manifest.shards if shard.source == source]
    lengths = np.concatenate([_lengths(dataset.folder / shard.name)[0] for shard in shards])
    return SourceStatistics(
        split=split,
        source=source,
        shards=len(shards),
        documents=len(lengths),
        tokens=int(lengths.sum()),
        text_bytes=sum(shard.text_bytes for shard in shards),
        length_min=int(lengths.min()),
        length_median=int(np.median(lengths)),
        length_max=int(lengths.max()),
    )


def _sample(dataset: TokenDataset, row: SourceStatistics, number: int) -> SampleDocument:
    tokenizer = dataset.tokenizer()
    for shard in dataset.manifest.shards:
        if shard.source != row.source:
            continue
        if number >= shard.documents:
            number -= shard.documents
            continue
        for at, document in enumerate(read_shard(dataset.folder / shard.name)):
            if at == number:
                text = tokenizer.decode(document.tokens[:-1])
                return SampleDocument(
                    row.split, row.source, document.doc_id.hex(), len(document.tokens), text
                )
    raise AssertionError("a row of statistics counts documents that no shard holds")
