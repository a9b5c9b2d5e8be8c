"""Passes over the data: how often a run draws the samples of each source, and what is said of too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatrain.data.mixture import TokenMixture
from megatrain.data.order import SampleOrder
from megatrain.errors import require

FEW = 4
"""Up to 4 passes, repeated text is nearly as good as new text; after some 16 it adds little (Muennighoff et
al. 2023, "Scaling data-constrained language models", arXiv 2305.16264)."""
MOST = 1_000_000
"""More passes are refused: no training needs them, not even one that overfits a single window on purpose."""


@dataclass(frozen=True)
class Passes:
    """Samples that a run draws from a source."""

    source: str
    drawn: int
    samples: int
    """Samples that the source has."""

    @property
    def passes(self) -> float:
        return self.drawn / self.samples


def passes_over(order: SampleOrder, steps: int, global_batch: int) -> tuple[Passes, ...]:
    """Return the passes of a whole run over each source that it draws from.

    Raises UserError where they are absurdly many, as with a mistyped train.steps.
    """
    total, room = steps * global_batch, sum(order.sizes)
    require(
        total <= MOST * room,
        f"train.steps ({steps:,}) x train.global_batch ({global_batch:,}) makes {total // room:,} passes "
        f"over the {room:,} samples of the data, at most {MOST:,} are allowed; lower train.steps or add text",
    )
    drawn = order.drawn(total)
    return tuple(
        Passes(name, drawn[name], size) for name, size in zip(order.sources, order.sizes, strict=True)
    )


def passes_lines(passes: Sequence[Passes], steps: int, global_batch: int) -> list[str]:
    """Return a line for each source: `drama: 480 of 480 samples (60 steps x 8), 26.7 passes over 18`."""
    total = f"{steps * global_batch:,} samples ({steps:,} steps x {global_batch:,})"
    return [
        f"{one.source}: {one.drawn:,} of {total}, {one.passes:,.1f} passes over {one.samples:,}"
        for one in passes
    ]


def warnings_of(
    passes: Sequence[Passes], train: TokenMixture, validation: TokenMixture | None, sequence_length: int
) -> tuple[str, ...]:
    """Return a line for each thing that a person should know of the data before the run begins."""
    repeated = [one for one in passes if one.passes > FEW]
    lines = []
    if repeated:
        named = ", ".join(f"{one.source} {one.passes:,.1f}" for one in repeated[:8])
        lines.append(
            f"passes over the data: {named}{' ...' if repeated[8:] else ''}: beyond {FEW}, repeated text is "
            "worth less than new text, and after some 16 little (arXiv 2305.16264)"
        )
    if validation is not None:
        for text in validation.without_window(sequence_length):
            lines.append(
                f"validation: {text}, but a window takes data.sequence_length ({sequence_length}) + 1: it is "
                "not evaluated"
            )
        for name in train.sources:
            if name not in validation.sources:
                lines.append(f"validation: the split has no text of source {name}: it is not evaluated")
    return tuple(lines)
