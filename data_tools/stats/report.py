"""All that is told of a dataset, gathered once: as text to read, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_tools.datasets.overview import QUANTILES, SourceStatistics, statistics, table
from data_tools.datasets.shards import open_splits
from data_tools.readers import told_left_out
from data_tools.stats.figures import percent
from data_tools.stats.flow import EvaluationSet, Flow, evaluation_sets, flows, together
from data_tools.tokenizer.report import TokenizerReport
from data_tools.tokenizer.sampled_report import report_on
from megatrain.data.manifest import TokenizerInfo

_DOCUMENTS = 1000


@dataclass(frozen=True)
class Report:
    """Statistics of a finished dataset."""

    folder: Path
    fingerprints: dict[str, str]
    tokenizer: TokenizerInfo
    rows: tuple[SourceStatistics, ...]
    flows: dict[str, Flow]
    """By source; empty where the dataset's makers kept no counts."""
    languages: dict[str, dict[str, int]]
    """Documents by source and language, most first; empty where languages were not told apart."""
    fertility: TokenizerReport
    """How many tokens a sample of the documents takes."""
    made: Mapping[str, Any]

    def text(self) -> str:
        """The whole as tables to read."""
        parts = [table(self.rows)]
        if self.flows:
            parts.append(_flow_table(self.flows))
        if self.changes:
            parts.append(_change_table(self.changes))
        if unused := _unused_lines(self.made):
            parts.append("\n".join(unused))
        if self.languages:
            parts.append(_language_table(self.languages))
        if self.evaluation_sets:
            parts.append(_evaluation_table(self.evaluation_sets))
        parts.append(self.fertility.text())
        parts.append(
            "\n".join(f"fingerprint of {name}: {value}" for name, value in self.fingerprints.items())
        )
        return "\n\n".join(parts)

    @property
    def changes(self) -> dict[str, dict[str, int]]:
        """By what was done to documents that the steps let through, and source: how often, as the step
        counts (places, lines, documents, bytes)."""
        by_source = self.made.get("changes", {})
        names = sorted({name for done in by_source.values() for name in done})
        return {name: {source: done.get(name, 0) for source, done in by_source.items()} for name in names}

    @property
    def evaluation_sets(self) -> dict[str, EvaluationSet]:
        """By name: what was looked for by the step decontaminate, and found."""
        return evaluation_sets(self.made)

    def json(self) -> str:
        """The whole as JSON, with how the dataset was made."""
        rows = [
            {field.name: getattr(row, field.name) for field in fields(row) if field.name != "lengths"}
            | {"length_quantiles": dict(zip(map(str, QUANTILES), row.quantiles(), strict=True))}
            for row in self.rows
        ]
        tree = {
            "fingerprints": self.fingerprints,
            "tokenizer": asdict(self.tokenizer),
            "statistics": rows,
            "fertility": self.fertility.record(),
            "evaluation_sets": {name: asdict(one) for name, one in self.evaluation_sets.items()},
            "made": self.made,
        }
        return json.dumps(tree, indent=2, ensure_ascii=False)


def report(folder: Path) -> Report:
    """Gather the statistics of a dataset or of one of its splits. Raises UserError where there is none."""
    splits = open_splits(folder)
    first = next(iter(splits.values())).manifest
    languages = {
        source: dict(sorted(spoken.items(), key=lambda item: (-item[1], item[0])))
        for source, spoken in first.made.get("languages", {}).items()
        if spoken
    }
    return Report(
        folder=folder,
        fingerprints={name: dataset.fingerprint for name, dataset in splits.items()},
        tokenizer=first.tokenizer,
        rows=statistics(splits),
        flows=flows(first.made),
        languages=languages,
        fertility=report_on(folder, None, _DOCUMENTS, seed=0),
        made=first.made,
    )


def _flow_table(flows: Mapping[str, Flow]) -> str:
    columns = {**flows, "all": together(flows.values())}
    reasons = list(columns["all"].drops)
    width = max(len("unexplained"), *(len(reason) for reason in reasons), 0)
    lines = [_line("from raw to kept", width, columns)]
    lines.append(_line("read", width, (f"{flow.read:,}" for flow in columns.values())))
    for reason in reasons:
        lines.append(_line(reason, width, (_lost(flow, reason) for flow in columns.values())))
    if any(flow.unexplained for flow in columns.values()):
        lines.append(_line("unexplained", width, (f"{flow.unexplained:,}" for flow in columns.values())))
    lines.append(_line("kept", width, (f"{flow.kept:,}" for flow in columns.values())))
    return "\n".join(lines)


def _change_table(changes: Mapping[str, Mapping[str, int]]) -> str:
    sources = list(next(iter(changes.values())))
    width = max(map(len, changes))
    return "\n".join(
        [
            _line("changed in documents", width, sources),
            *(_line(name, width, (f"{n:,}" for n in done.values())) for name, done in changes.items()),
        ]
    )


def _unused_lines(made: Mapping[str, Any]) -> list[str]:
    """What of the sources was not read: files of folders, and columns that no record has."""
    lines = [
        f"left out of the folders of {source}: {told_left_out(left_out)}"
        for source, left_out in made.get("left_out", {}).items()
        if left_out
    ]
    for source, seen in made.get("metadata", {}).items():
        absent = [target for target, count in seen.items() if not count]
        if absent:
            lines.append(f"metadata that no record of {source} has: {', '.join(absent)}")
    return lines


def _language_table(languages: Mapping[str, Mapping[str, int]]) -> str:
    lines = ["languages, documents"]
    width = max(map(len, languages))
    for source, spoken in languages.items():
        lines.append(
            f"{source:<{width}}  " + ", ".join(f"{name} {count:,}" for name, count in spoken.items())
        )
    return "\n".join(lines)


def _evaluation_table(sets: Mapping[str, EvaluationSet]) -> str:
    width = max(len("evaluation set"), *map(len, sets))
    lines = [f"{'evaluation set':<{width}} {'texts':>10} {'too short':>10} {'documents with its text':>24}"]
    lines += [
        f"{name:<{width}} {one.texts:>10,} {one.too_short:>10,} {one.documents:>24,}"
        for name, one in sets.items()
    ]
    return "\n".join(lines)


def _lost(flow: Flow, reason: str) -> str:
    count = flow.drops.get(reason, 0)
    return f"-{count:,} ({percent(count / flow.read)})" if count else "0"


def _line(name: str, width: int, cells: Iterable[str]) -> str:
    return f"{name:<{max(width, len('changed in documents'))}}" + "".join(f" {cell:>22}" for cell in cells)
