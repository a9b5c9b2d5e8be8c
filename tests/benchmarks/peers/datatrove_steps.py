"""datatrove's own steps on the texts of `data_steps.py`, run by a Python that has datatrove installed.

    PYTHON datatrove_steps.py TEXTS.jsonl PAGES.jsonl lid.176.ftz

Reads the name of a step a line ("minhash"; "minhash regex": with words by a regular expression in place of
spaCy), passes all texts (`extract`: pages) through it once and prints a line of JSON: the processor-seconds
that took and how many documents were kept. Kernels alone, in one process, with nothing read or written
meanwhile: without datatrove's sandbox for extraction and its files of signatures.
"""

from __future__ import annotations

import json
import re
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
from datatrove.utils.word_tokenizers import WordTokenizer

WARM_UP = 20
REGEX = " regex"
Step = Callable[[str], Any]
"""Takes a document's text; gives something false where the document is dropped."""


class RegexWords(WordTokenizer):  # type: ignore[misc]
    """What datatrove takes in place of spaCy where it is given it: words by a regular expression."""

    _word, _sentence = re.compile(r"\w+|[^\w\s]"), re.compile(r"[^.!?]*[.!?]+|[^.!?]+$")

    def word_tokenize(self, text: str) -> list[str]:
        return self._word.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [found for each in self._sentence.findall(text) if (found := each.strip())]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [found.span() for found in self._sentence.finditer(text)]


def steps(model: str) -> dict[str, Step]:
    """By name; those that split words a second time with another splitter."""
    lid.FT176LID.MODEL_URL = model  # else it is downloaded
    regex = {f"{name}{REGEX}": step for name, step in of_words(RegexWords()).items()}
    return {
        "extract": Trafilatura(favour_precision=True).extract,
        "language": passes([LanguageFilter(["en"])]),
        "pii": PIIFormatter().format,
        **of_words("eng"),
        **regex,
    }


def of_words(language: Any) -> dict[str, Step]:
    """With the settings of FineWeb's published script, but for the one where ours differ."""
    filters = {
        "gopher_repetition": GopherRepetitionFilter(language=language),
        "gopher_quality": GopherQualityFilter(language=language),
        "c4_quality": C4QualityFilter(filter_no_terminal_punct=False, language=language),
        # The ratio is the paper's, and ours.
        "fineweb_quality": FineWebQualityFilter(char_duplicates_ratio=0.1, language=language),
    }
    signer = MinhashDedupSignature(
        "/nowhere",  # written to by its `run` alone
        MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64)),
        language=language,
    )
    return {
        **{name: passes([step]) for name, step in filters.items()},
        "four": passes(list(filters.values())),
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
