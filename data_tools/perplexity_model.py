"""A model for the step `perplexity`, made from files of good text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.document import Document
from data_tools.ngram_model import NgramModel, save_model
from data_tools.readers import Source, find_files, read_documents
from data_tools.train_ngram_model import train_ngram_model


def make_model(
    files: Sequence[str],
    out: Path,
    *,
    calibrating: Sequence[str] = (),
    text_column: str = "text",
    order: int = 3,
    max_words: int = 10_000_000,
) -> NgramModel:
    """Train on the texts of some files, of any kind that sources have, and write the model.

    Percentiles are of the `calibrating` files' texts, such as a sample of the crawl; without any, of a tenth
    of the texts. Raises UserError where files are missing or hold too little.
    """
    model = train_ngram_model(
        _texts(files, text_column),
        calibrating=_texts(calibrating, text_column) if calibrating else None,
        order=order,
        max_words=max_words,
    )
    save_model(model, out)
    return model


def _texts(files: Sequence[str], text_column: str) -> Iterator[str]:
    source = Source(files=tuple(files), text_column=text_column)
    for part in find_files("texts", source):
        for _, found in read_documents(part, source, "texts"):
            if isinstance(found, Document):
                yield found.text
