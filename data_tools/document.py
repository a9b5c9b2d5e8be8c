"""A document on its way through the steps, and what a step may make of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(slots=True)
class Document:
    """One document. A step may change it and hand it on; nobody else holds it."""

    text: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the reader and the steps know of it: "url", "date", "language", ... JSON values alone."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the steps did to a document that is kept, e.g. "pii.email": 2; summed over documents for the
    report."""
    content: bytes | None = None
    """The raw page, where the reader gives markup that a later `extract` step turns into `text`."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A document, or a record that never became one, that goes no further."""

    reason: str
    """A short stable name, "step.rule": "gopher_quality.mean_word_length", "read.broken_json"."""
    detail: str = ""
    """What was found, for whoever reads the samples of what was dropped: "mean word length 11.2"."""


class StepSection(Protocol):
    """The config section of a step."""

    def build(self) -> Step: ...


class Step(Protocol):
    """One line of the list of steps, made from its config section by `section.build()`.

    Built once a process; gives the document on, changed or not, or says why it goes no further. A function of
    the document and the settings alone: no clock, no random numbers, nothing remembered between documents.
    """

    def __call__(self, document: Document) -> Document | Drop: ...
