"""datatrove's own steps on the texts of `data_steps.py`, run by a Python that has datatrove installed.

    PYTHON datatrove_steps.py TEXTS.jsonl PAGES.jsonl lid.176.ftz

Reads the name of a step a line, passes all texts (`extract`: pages) through it once and prints a line of
JSON: the processor-seconds that took and how many documents were kept. Kernels alone, in one process, with
nothing read or written meanwhile: without datatrove's sandbox for extraction and its files of signatures.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.utils import lid
from datatrove.utils.hashing import HashConfig

WARM_UP = 20
Step = Callable[[str], Any]
"""Takes a document's text; gives something false where the document is dropped."""


def steps(model: str) -> dict[str, Step]:
    """By name, with the settings of FineWeb's published script, but for the one where ours differ."""
    lid.FT176LID.MODEL_URL = model  # else it is downloaded
    filters = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4_quality": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb_quality": FineWebQualityFilter(char_duplicates_ratio=0.1),  # the paper's, and ours
    }
    signer = MinhashDedupSignature(
        "/nowhere",  # written to by its `run` alone
        MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64)),
    )
    return {
        "extract": Trafilatura(favour_precision=True).extract,
        **{name: passes([step]) for name, step in filters.items()},
        "four": passes(list(filters.values())),
        "language": passes([LanguageFilter(["en"])]),
        "pii": PIIFormatter().format,
        "minhash": lambda text: signer.get_signature(signer.get_shingles(text)),
    }


def passes(filters: list[Any]) -> Step:
    def keeps(text: str) -> bool:
        document = Document(text=text, id="")
        for each in filters:
            found = each.filter(document)
            if not (found[0] if isinstance(found, tuple) else found):
                return False
        return True

    return keeps


def count(step: Step, texts: Iterable[str]) -> int:
    kept = 0
    for text in texts:
        try:
            kept += bool(step(text))
        except Exception:  # datatrove's own `run` counts such a document and goes on
            continue
    return kept


def read(path: str) -> list[str]:
    return [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def main() -> None:
    texts, pages, known = read(sys.argv[1]), read(sys.argv[2]), steps(sys.argv[3])
    for step in known:
        count(known[step], (pages if step == "extract" else texts)[:WARM_UP])
    for line in sys.stdin:
        name = line.strip()
        began = time.process_time()
        kept = count(known[name], pages if name == "extract" else texts)
        print(json.dumps({"step": name, "cpu_s": time.process_time() - began, "kept": kept}), flush=True)


if __name__ == "__main__":
    main()
