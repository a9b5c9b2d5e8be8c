"""A model for the step `perplexity`, made from files of good text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.document import Document
from data_tools.ngram_model import NgramModel, save_model
from data_tools.progress import Progress
from data_tools.readers import Source, find_files, read_documents
from data_tools.train_ngram_model import train_ngram_model
from megatrain.errors import UserError, require

_NAME = "texts"


def make_model(
    files: Sequence[str],
    out: Path,
    *,
    calibrating: Sequence[str] = (),
    text_column: str = "text",
    order: int = 3,
    max_words: int = 10_000_000,
    progress: Progress | None = None,
) -> NgramModel:
    """Train on the texts of some files, of any kind that sources have, and write the model.

    Percentiles are of the `calibrating` files' texts, such as a sample of the crawl; without any, of a tenth
    of the texts. What could not be read is counted aloud. Raises UserError where files are missing or hold
    too little.
    """
    home = out.absolute().parent
    require(home.is_dir(), f"--out {out}: there is no folder {home}; make it first")
    require(not out.is_dir(), f"--out {out}: is a folder; name a file")
    broken = Counter[str]()
    try:
        model = train_ngram_model(
            _texts(files, text_column, broken),
            calibrating=_texts(calibrating, text_column, broken) if calibrating else None,
            order=order,
            max_words=max_words,
        )
    except UserError as error:  # in the words of a config, which there is none of
        told = str(error).replace(f"sources.{_NAME}.text_column", "--text-column")
        told = told.replace(f"sources.{_NAME}.files: ", "")
        raise UserError(f"{told}; {_left_out(broken)}" if broken else told) from None
    if broken:
        (progress or Progress()).note(_left_out(broken))
    save_model(model, out)
    return model


def _texts(files: Sequence[str], text_column: str, broken: Counter[str]) -> Iterator[str]:
    source = Source(files=tuple(files), text_column=text_column)
    for part in find_files(_NAME, source):
        for _, found in read_documents(part, source, _NAME):
            if isinstance(found, Document):
                yield found.text
            else:
                broken[found.reason] += 1


def _left_out(broken: Counter[str]) -> str:
    return "left out: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(broken.items()))
