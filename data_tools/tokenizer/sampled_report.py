"""How well a dataset's tokenizer, or another one, fits its text: the documents that this is tried on."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from data_tools.datasets.lineage import lineage_of
from data_tools.tokenizer.existing import read_tokenizer
from data_tools.tokenizer.report import TextSample, TokenizerReport, report
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import splits_in
from megatrain.data.shard import read_shard
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require

# Of each source: from more, the documents would be no more telling, and longer to reach.
_SHARDS = 4
_SCRIPTS = {
    "Latin": "A-Za-zÀ-ɏ",
    "Han": "㐀-䶿一-鿿豈-﫿",
    "Kana": "ぁ-ヿ",
    "Hangul": "가-힣",
    "Cyrillic": "Ѐ-ӿ",
    "Arabic": "؀-ۿ",
    "Devanagari": "ऀ-ॿ",
}


def report_on(folder: Path, other: Path | None, documents: int, seed: int) -> TokenizerReport:
    """The report of a dataset's tokenizer, or of another one, on documents of the dataset.

    Raises UserError where there is no dataset, or the other tokenizer cannot be used.
    """
    samples = sample_documents(folder, documents, seed)
    tokenizer = Tokenizer.load(folder) if other is None else read_tokenizer(other).tokenizer()
    return report(tokenizer, samples)


def sample_documents(folder: Path, documents: int, seed: int) -> Iterator[TextSample]:
    """Documents of a dataset or a split, about as many of each source, in runs from shards drawn at random.

    The language is that which preparing found; where it did not look, the script stands for it. Raises
    UserError where the folder holds no dataset.
    """
    datasets = [TokenDataset.open(path) for path in splits_in(folder)]
    require(datasets, f"{folder}: no prepared dataset there; make one with `megatrain prepare`")
    return _draw(datasets, documents, np.random.default_rng(seed))


def _draw(datasets: Sequence[TokenDataset], documents: int, rng: np.random.Generator) -> Iterator[TextSample]:
    tokenizer = datasets[0].tokenizer()
    sources = sorted({source for dataset in datasets for source in dataset.sources})
    for source in sources:
        shards = [(d.folder / s.name, s) for d in datasets for s in d.manifest.shards if s.source == source]
        chosen = rng.choice(len(shards), min(_SHARDS, len(shards)), replace=False).tolist()
        each = -(-documents // (len(sources) * len(chosen)))
        for path, shard in [shards[number] for number in chosen]:
            first = int(rng.integers(max(1, shard.documents - each + 1)))
            run = list(islice(read_shard(path), first, first + each))
            lineage = lineage_of(path, range(first, first + len(run)), [one.doc_id for one in run])
            for number, document in enumerate(run):
                text = tokenizer.decode(document.tokens[:-1])
                language = lineage[number].language if lineage else None
                yield TextSample(text, source, language or script_of(text))


def script_of(text: str) -> str:
    """The script that most letters of a text's beginning are of; `other` where it is none of the known."""
    beginning = text[:2000]
    counts = {name: len(re.findall(f"[{spans}]", beginning)) for name, spans in _SCRIPTS.items()}
    name = max(counts, key=lambda script: counts[script])
    return name if counts[name] else "other"
