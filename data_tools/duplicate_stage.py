"""The stages that look for duplicates over all sources at once, one after the other.

`match` finds pairs of documents with a key in common, `cluster` what belongs together, `choose` which of them
is kept, `repeats` the paragraphs and substrings that an earlier document has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_tools.duplicate_tasks import corpus_of, memory_of
from data_tools.duplicates import choosing, matching, repeating
from data_tools.duplicates.corpus import Corpus
from data_tools.duplicates.report import Report, merge
from data_tools.stages import Workshop


@dataclass(frozen=True)
class Found:
    """What the search found: names of files in the workshop. Nothing, where nothing was looked for."""

    corpus: Mapping[str, Any]
    """The collected tasks that were looked through: "sources" and "parts"."""
    removed: Sequence[str] = ()
    exact: Sequence[str] = ()
    paragraphs: Sequence[str] = ()
    substrings: Sequence[str] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    def shared(self) -> dict[str, Any]:
        """For the tasks of a later stage, as JSON values."""
        kinds = {name: list(getattr(self, name)) for name in ("removed", "exact", "paragraphs", "substrings")}
        return {"corpus": self.corpus, **kinds}


def find_duplicates(shop: Workshop, described: Mapping[str, Any]) -> Found:
    """All the stages, as far as the config wants them."""
    config, memory = shop.config.duplicates, memory_of(shop.config)
    corpus = corpus_of(described, shop.folder, config)
    shared = {"corpus": described}
    kinds: list[Literal["exact", "bands"]] = ["exact"] if config.exact else []
    kinds += ["bands"] if config.near is not None else []
    tasks = [
        {"kind": kind, "number": number}
        for kind in kinds
        for number in range(len(matching.plan_matches(corpus, kind, memory, shop.folder)))
    ]
    edges, removed, report = list[str](), list[str](), dict[str, Any]()
    if tasks:
        decides = [config.model_dump(mode="json"), shop.config.memory_mib]
        name, _ = shop.stage("match", tasks, shared, decides)
        edges = [f"{name}/{at:05d}/{t['kind']}-{t['number']:05d}.arrow" for at, t in enumerate(tasks)]
        name, _ = shop.stage("cluster", [{}], {**shared, "edges": edges}, decides)
        labels = f"{name}/00000/labels.arrow"
        count = len(choosing.plan_choices(corpus, Path(labels), memory, shop.folder))
        chosen = [{"number": number} for number in range(count)]
        name, results = shop.stage("choose", chosen, {**shared, "labels": labels}, decides)
        removed = [f"{name}/{number:05d}/removed-{number:05d}.arrow" for number in range(count)]
        report = merge(map(Report.from_json, results)).as_json()
    paragraphs, substrings = (
        _find_repeats(shop, corpus, kind, {**shared, "removed": removed})
        for kind in ("paragraphs", "substrings")
    )
    exact = [edge for edge in edges if Path(edge).name.startswith("exact")]
    return Found(described, removed, exact, paragraphs, substrings, report)


def _find_repeats(shop: Workshop, corpus: Corpus, kind: Any, shared: Mapping[str, Any]) -> list[str]:
    if getattr(shop.config.duplicates, kind) is None:
        return []
    count = len(repeating.plan_repeats(corpus, kind, (), memory_of(shop.config), shop.folder))
    tasks = [{"kind": kind, "number": number} for number in range(count)]
    decides = [shop.config.duplicates.model_dump(mode="json"), shop.config.memory_mib]
    name, _ = shop.stage("repeats", tasks, shared, decides)
    return [f"{name}/{at:05d}/{kind}-{at:05d}.arrow" for at in range(count)]
