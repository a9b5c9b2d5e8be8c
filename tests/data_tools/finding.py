"""Texts to tables to what is found of duplicates, all stages in one process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from data_tools.duplicates.applying import removed_documents, repeated_parts
from data_tools.duplicates.choosing import choose, plan_choices
from data_tools.duplicates.clustering import cluster, plan_clustering
from data_tools.duplicates.corpus import (
    Corpus,
    Part,
    write_band_keys,
    write_exact_keys,
    write_ids,
    write_repeat_keys,
)
from data_tools.duplicates.cutting import cut
from data_tools.duplicates.hashing import UInts
from data_tools.duplicates.matching import match, plan_matches
from data_tools.duplicates.near import Signer
from data_tools.duplicates.paragraphs import ParagraphKeyer
from data_tools.duplicates.repeating import RepeatKind, find_repeats, plan_repeats
from data_tools.duplicates.report import Report, merge
from data_tools.duplicates.substrings import SubstringKeyer

PLENTY = 1 << 26


@dataclass(frozen=True)
class Shard:
    """Some documents of a source."""

    source: int
    texts: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """What is left of the texts, part by part, and the report."""

    kept: list[list[str]]
    report: Report
    copies: int
    repeats: int


def ids_of(texts: Sequence[str]) -> UInts:
    digests = b"".join(xxhash.xxh3_128_digest(text.encode()) for text in texts)
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def write_corpus(
    folder: Path,
    shards: Sequence[Shard],
    sources: Sequence[str] = ("first", "second", "third"),
    *,
    signer: Signer | None = None,
    keyers: dict[RepeatKind, ParagraphKeyer | SubstringKeyer] | None = None,
) -> Corpus:
    """The tables that collecting would leave."""
    parts = []
    for number, shard in enumerate(shards):
        ids, texts = ids_of(shard.texts), list(shard.texts)
        paths = {name: folder / f"{name}-{number}" for name in ("ids", "exact", "bands")}
        write_ids(paths["ids"], ids)
        write_exact_keys(paths["exact"], ids)
        if signer is not None:
            write_band_keys(paths["bands"], signer.band_keys(texts))
        repeats = {name: folder / f"{name}-{number}" for name in keyers or {}}
        for name, keyer in (keyers or {}).items():
            write_repeat_keys(repeats[name], ids, [keyer.keys(texts)])
        parts.append(
            Part(
                shard.source,
                len(texts),
                paths["ids"],
                paths["exact"],
                paths["bands"] if signer is not None else None,
                **{str(name): path for name, path in repeats.items()},
            )
        )
    return Corpus(tuple(sources), tuple(parts))


def find(
    folder: Path,
    shards: Sequence[Shard],
    *,
    signer: Signer | None = None,
    keyers: dict[RepeatKind, ParagraphKeyer | SubstringKeyer] | None = None,
    memory_bytes: int = PLENTY,
) -> Outcome:
    """Run every stage on the texts and remove what it finds."""
    folder.mkdir(parents=True)
    corpus = write_corpus(folder, shards, signer=signer, keyers=keyers)
    copies = plan_matches(corpus, "exact", memory_bytes, folder)
    near = plan_matches(corpus, "bands", memory_bytes, folder) if signer is not None else []
    repeated = sum(match(task) for task in copies)
    for task in near:
        match(task)
    (folder / "scratch").mkdir()
    edges = tuple(task.out for task in [*copies, *near])
    clustering = plan_clustering(corpus, edges, memory_bytes, folder / "scratch", folder / "labels")
    cluster(clustering)
    choices = plan_choices(corpus, clustering.out, memory_bytes, folder)
    report = merge([choose(task) for task in choices])
    removed = tuple(task.out for task in choices)
    repeats = {kind: plan_repeats(corpus, kind, removed, memory_bytes, folder) for kind in keyers or {}}
    count = sum(find_repeats(task) for tasks in repeats.values() for task in tasks)
    kept = []
    for number, shard in enumerate(shards):
        gone = removed_documents(corpus, number, ids_of(shard.texts), removed)
        found = {
            kind: repeated_parts(corpus, number, [task.out for task in tasks])
            for kind, tasks in repeats.items()
        }
        kept.append([])
        for document in np.flatnonzero(~gone).tolist():
            text = shard.texts[document]
            spans = []
            for kind, parts in found.items():
                assert keyers is not None
                spans += keyers[kind].spans(text, *parts.of(document))
            kept[-1].append(cut(text, spans))
    return Outcome(kept, report, repeated, count)
