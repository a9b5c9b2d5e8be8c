"""`megatrain data tokenizer`: how well a dataset's tokenizer, or another one, fits its text."""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from data_tools.tokenizer.existing import read_tokenizer
from data_tools.tokenizer.report import TextSample, report
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import splits_in
from megatrain.data.shard import read_shard
from megatrain.data.tokenizer import Tokenizer
from megatrain.durable import write_durably
from megatrain.errors import FailedWork, UserError, require

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


def sample_documents(folder: Path, documents: int, seed: int) -> Iterator[TextSample]:
    """Documents of a dataset or a split, about as many of each source, in runs from shards drawn at random.

    A shard does not say the language of a document: its script stands for it. Raises UserError where the
    folder holds no dataset.
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
            for document in islice(read_shard(path), first, first + each):
                text = tokenizer.decode(document.tokens[:-1])
                yield TextSample(text, source, script_of(text))


def script_of(text: str) -> str:
    """The script that most letters of a text's beginning are of; `other` where it is none of the known."""
    beginning = text[:2000]
    counts = {name: len(re.findall(f"[{spans}]", beginning)) for name, spans in _SCRIPTS.items()}
    name = max(counts, key=lambda script: counts[script])
    return name if counts[name] else "other"


def main(arguments: Sequence[str]) -> int:
    """`DATASET [--tokenizer PATH] [--documents N] [--seed N] [--json FILE]`: report, give the exit code."""
    options = _parser().parse_args(arguments)
    try:
        samples = sample_documents(options.dataset, options.documents, options.seed)
        if options.tokenizer is None:
            tokenizer = Tokenizer.load(options.dataset)
        else:
            tokenizer = read_tokenizer(options.tokenizer).tokenizer()
        found = report(tokenizer, samples)
        print(found.text())
        if options.json is not None:
            write_durably(options.json, json.dumps(found.record(), ensure_ascii=False, indent=1).encode())
    except (UserError, FailedWork) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {options.json}: cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="megatrain data tokenizer",
        description="How many tokens the documents of a dataset take, by script and source, which pieces are "
        "never used and which are longest.",
        epilog="example: megatrain data tokenizer data/web --tokenizer ../llama/tokenizer.json",
    )
    parser.add_argument("dataset", type=Path, help="a dataset's folder, or one of its splits")
    parser.add_argument("--tokenizer", type=Path, help="another one: a file or a folder; default: its own")
    parser.add_argument("--documents", type=_positive, default=2000, help="how many to look at (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the report there as well")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
