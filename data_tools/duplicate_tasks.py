"""The tasks that look for duplicates over all sources at once, each on a range of keys or rows.

A task's range fits into `memory_mib`, however many documents there are.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.config import DataConfig, Duplicates
from data_tools.duplicates import choosing, clustering, matching, repeating
from data_tools.duplicates.corpus import Corpus, Part
from data_tools.task import Stage

Result = Mapping[str, Any]
_MIB = 1 << 20
TABLES = ("ids", "exact", "bands", "paragraphs", "substrings")
"""What a collected task has of its documents, `NAME.arrow` each; the config decides which."""


def corpus_of(described: Mapping[str, Any], work: Path, config: Duplicates) -> Corpus:
    """The corpus that a stage's JSON describes: its parts' folders, from the workshop on."""
    sources = tuple(described["sources"])
    wanted = {"exact": config.exact, **{name: getattr(config, name) for name in ("paragraphs", "substrings")}}
    wanted["bands"] = config.near

    def part(told: Mapping[str, Any]) -> Part:
        folder = work / told["folder"]
        tables = {name: folder / f"{name}.arrow" for name in TABLES[1:] if wanted[name]}
        return Part(sources.index(told["source"]), told["documents"], folder / "ids.arrow", **tables)

    return Corpus(sources, tuple(part(told) for told in described["parts"]))


def memory_of(config: DataConfig) -> int:
    """The bytes that a task may take."""
    return config.memory_mib * _MIB


def match(stage: Stage, task: Mapping[str, Any], room: Path) -> Result:
    """Task: {"kind", "number": which range of keys}. Leaves the pairs that share a key."""
    plan = matching.plan_matches(_corpus(stage), task["kind"], memory_of(stage.config), room)
    return {"repeated": matching.match(plan[task["number"]])}


def cluster(stage: Stage, task: Mapping[str, Any], room: Path) -> Result:
    """The one task of its stage. Leaves the label of every document, from all pairs."""
    edges = tuple(stage.folder.parent / name for name in stage.shared["edges"])
    scratch = room / "scratch"
    scratch.mkdir()
    corpus, memory = _corpus(stage), memory_of(stage.config)
    clustering.cluster(clustering.plan_clustering(corpus, edges, memory, scratch, room / "labels.arrow"))
    shutil.rmtree(scratch)
    return {}


def choose(stage: Stage, task: Mapping[str, Any], room: Path) -> Result:
    """Task: {"number": which range of labels}. Leaves what is removed; gives the report on it."""
    labels = stage.folder.parent / stage.shared["labels"]
    plan = choosing.plan_choices(_corpus(stage), labels, memory_of(stage.config), room)
    return choosing.choose(plan[task["number"]]).as_json()


def repeats(stage: Stage, task: Mapping[str, Any], room: Path) -> Result:
    """Task: {"kind", "number": which range of keys}. Leaves the parts of documents that repeat an earlier
    one."""
    removed = tuple(stage.folder.parent / name for name in stage.shared["removed"])
    plan = repeating.plan_repeats(_corpus(stage), task["kind"], removed, memory_of(stage.config), room)
    return {"repeated": repeating.find_repeats(plan[task["number"]])}


def _corpus(stage: Stage) -> Corpus:
    return corpus_of(stage.shared["corpus"], stage.folder.parent, stage.config.duplicates)
