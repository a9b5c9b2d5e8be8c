"""What `megatrain export` does: a run or a checkpoint found, its own config and real text used, exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require
from megatrain.export.hf import ExportResult, export_hf
from megatrain.export.source import Source, find_source, sample_texts
from megatrain.export.weights import Dtype


@dataclass(frozen=True)
class RunExport:
    source: Source
    """With the newer checkpoints that were passed over, to be told to the user."""
    result: ExportResult


def export_run(
    where: Path,
    out: Path | None = None,
    *,
    dtype: Dtype | None = None,
    shard_gib: float | None = None,
    tokenizer_folder: Path | None = None,
    verify: Literal["logits", "tokenizer"] = "logits",
) -> RunExport:
    """Export the newest whole checkpoint of a run folder, or a checkpoint folder in its run.

    `out` is RUN/export where it is not named; dtype and shard_gib are those of the run's config.
    Raises as `find_source` and `export_hf` do.
    """
    source = find_source(where, tokenizer_folder)
    require(source.kind == "checkpoint", f"{where}: is an export already; name the run or a checkpoint")
    facts, config = source.facts, source.config
    assert config is not None and source.run is not None  # or there were no facts
    tokenizer = Tokenizer.load(source.tokenizer_folder)
    result = export_hf(
        source.folder,
        source.tokenizer_folder,
        out or source.run.root / "export",
        run=facts,
        dtype=dtype or config.export.dtype,
        shard_gib=shard_gib or config.export.shard_gib,
        texts=sample_texts(config, tokenizer),
        verify=verify,
    )
    return RunExport(source, result)
