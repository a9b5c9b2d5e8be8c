"""Rules of the section `data`: sources, their weights, phases, where shards lie."""

from __future__ import annotations

from itertools import pairwise

from megatrain.config.derived import first_samples
from megatrain.config.tree import DataConfig
from megatrain.errors import require
from megatrain.remote import is_remote


def check_data(data: DataConfig) -> None:
    """Raise UserError for the first rule that the section breaks."""
    require(
        data.document_mask or data.document_start != "none",
        "data.document_start (none): without data.document_mask each token predicts the next one, also "
        "behind EOS; set data.document_start=eos or leave it out",
    )
    _check_sources(data)
    _check_phases(data)
    _check_cache(data)


def _check_sources(data: DataConfig) -> None:
    weighted = [source.weight is not None for source in data.sources]
    require(
        all(weighted) or not any(weighted),
        "data.sources: either every source has a weight or none has (then samples are drawn by size)",
    )
    for source in data.sources:
        require(
            source.weight is None or source.name is not None,
            f"data.sources: {source.path} has a weight ({source.weight}), so it must say by its name "
            "which source of the folder it means",
        )
    named = [(source.path, source.name) for source in data.sources]
    require(len(set(named)) == len(named), "data.sources: the same source is named twice")


def _check_phases(data: DataConfig) -> None:
    if not data.phases:
        return
    for source in data.sources:
        require(
            source.weight is None,
            f"data.sources: {source.path} has a weight ({source.weight}), but data.phases give the weights; "
            "leave one of them out",
        )
    first = data.phases[0].from_tokens
    require(first == 0, f"data.phases: the first has from_tokens={first:g}; it must begin at 0")
    for (one, other), (before, after) in zip(
        pairwise(first_samples(data)), pairwise(phase.from_tokens for phase in data.phases), strict=True
    ):
        require(
            one < other,
            f"data.phases: from_tokens {before:g} is followed by {after:g}: each phase must begin after the "
            f"one before, by a sample of data.sequence_length ({data.sequence_length}) tokens at least",
        )


def _check_cache(data: DataConfig) -> None:
    folder = data.cache.folder
    remote = [source.path for source in data.sources if is_remote(source.path)]
    require(
        not remote or folder is not None,
        f"data.sources: {remote and remote[0]} lies on object storage: name a folder on each node's own disk "
        "for copies of its shards by data.cache.folder",
    )
    require(
        folder is None or folder.startswith("/"),
        f"data.cache.folder ({folder}) must be an absolute path on each node's own disk",
    )
