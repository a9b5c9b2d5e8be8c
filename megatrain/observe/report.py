"""Reading a run's records back, and drawing its loss curve."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatrain.observe.metrics import Record
from megatrain.state import Event, RunFolder

INK, LIGHT, ACCENT, GREY = "#1f3b73", "#a9bcdf", "#d1495b", "#6b7280"


def read_metrics(folder: RunFolder) -> list[Record]:
    """The steps in order, each once: a step that was computed again counts as its last computation.

    A line torn by a kill is left out, and so is what a rollback or a resume undid: all that stands from the
    step on at which a later line begins again.
    """
    return last_of_each(
        record for record in read_lines(folder.metrics) if isinstance(record.get("step"), int)
    )


def read_evaluations(folder: RunFolder) -> list[Record]:
    """The evaluations in order of steps, each with its `results`; the last one of a step counts."""
    return last_of_each(
        record
        for record in read_lines(folder.events)
        if record.get("event") == Event.EVALUATION.value and isinstance(record.get("results"), dict)
    )


def read_passes(folder: RunFolder) -> list[str]:
    """Return a line on the passes over each source, as the newest start of the run has logged them."""
    starts = (Event.START.value, Event.RESUME.value)
    newest = None
    for record in read_lines(folder.events):
        if record.get("event") in starts and isinstance(record.get("passes"), dict):
            newest = record["passes"]
    numbers = {str(name): value for name, value in (newest or {}).items() if isinstance(value, int | float)}
    if not numbers:
        return []
    return [
        "passes over the data up to train.steps: "
        + ", ".join(f"{name} {n:,.1f}" for name, n in numbers.items())
    ]


def draw_loss_curve(folder: RunFolder, baselines: Mapping[str, float] | None = None) -> Path:
    """Draw RUN/loss.png: the loss of training and validation over the steps; gives its path.

    baselines: name → bits per byte; they stand in a second panel with the bits per byte of the evaluations,
    which is left out when no evaluation has any.
    """
    # Of the API that keeps no global state; importing matplotlib takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics, evaluations = read_metrics(folder), read_evaluations(folder)
    with_bits = [record for record in evaluations if _overall(record).get("bits_per_byte") is not None]
    panels = 2 if with_bits else 1
    figure = Figure(figsize=(6.4 * panels, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_loss(axes[0], metrics, evaluations)
    if with_bits:
        _draw_bits(axes[1], with_bits, baselines or {})
    figure.suptitle(folder.root.resolve().name, fontsize=11, color=GREY)
    temporary = folder.loss_curve.with_suffix(".tmp.png")
    figure.savefig(temporary)
    os.replace(temporary, folder.loss_curve)
    return folder.loss_curve


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a window that is centred and shorter at the ends; NaN counts as absent."""
    half = max(0, window // 2)
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    first = np.maximum(np.arange(len(values)) - half, 0)
    count = counts[last] - counts[first]
    return np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), np.nan)


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a file of JSON lines; a torn line is left out, an absent file has none."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # Torn by a kill, or not UTF-8.
                continue
            if isinstance(record, dict):
                yield record


def last_of_each(records: Iterator[Record]) -> list[Record]:
    """A line whose step is not above the one before undoes what stands from its step on."""
    kept: list[Record] = []
    for record in records:
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def _overall(evaluation: Record) -> Mapping[str, float]:
    """The numbers of the whole validation split: the row "all", or the only row."""
    results: Mapping[str, Mapping[str, float]] = evaluation["results"]
    if "all" in results or len(results) != 1:
        return results.get("all", {})
    return next(iter(results.values()))


def _column(records: Sequence[Record], name: str) -> np.ndarray:
    """Null, which stands for what is not finite, becomes NaN."""
    return np.array([np.nan if record.get(name) is None else record[name] for record in records], dtype=float)


def _draw_loss(axis: Any, metrics: Sequence[Record], evaluations: Sequence[Record]) -> None:
    steps, loss = _column(metrics, "step"), _column(metrics, "loss")
    window = max(1, len(steps) // 40)
    axis.plot(
        steps, loss, color=LIGHT, linewidth=0.8, label="training, each step" if window > 1 else "training"
    )
    if window > 1:
        axis.plot(
            steps, smooth(loss, window), color=INK, linewidth=1.6, label=f"training, mean of {window} steps"
        )
    points = [
        (record["step"], _overall(record)["loss"])
        for record in evaluations
        if _overall(record).get("loss") is not None
    ]
    if points:
        axis.plot(
            *zip(*points, strict=True), "o-", color=ACCENT, markersize=4, linewidth=1.0, label="validation"
        )
    axis.set_xlabel("step")
    axis.set_ylabel("loss (nats per token)")
    _decorate(axis)
    tokens = _column(metrics, "consumed_tokens")
    if len(steps) > 1 and tokens[-1] > 0:
        _tokens_axis(axis, steps, tokens)


def _tokens_axis(axis: Any, steps: np.ndarray, tokens: np.ndarray) -> None:
    """Tokens above; as tokens a step hardly change, one factor maps the axes."""
    unit, name = next(
        (unit, name) for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")) if tokens[-1] >= unit
    )
    factor = tokens[-1] / steps[-1] / unit
    above = axis.secondary_xaxis("top", functions=(lambda x: x * factor, lambda x: x / factor))
    above.set_xlabel(f"training tokens ({name})" if name else "training tokens", color=GREY, fontsize=9)
    above.tick_params(colors=GREY, labelsize=8)
    above.spines["top"].set_visible(False)


def _draw_bits(axis: Any, evaluations: Sequence[Record], baselines: Mapping[str, float]) -> None:
    steps = [record["step"] for record in evaluations]
    bits = [_overall(record)["bits_per_byte"] for record in evaluations]
    axis.plot(steps, bits, "o-", color=ACCENT, markersize=4, linewidth=1.2, label="model, validation")
    axis.annotate(
        f"{bits[-1]:.3f}",
        (steps[-1], bits[-1]),
        textcoords="offset points",
        xytext=(0, 7),
        ha="right",
        fontsize=9,
        color=ACCENT,
    )
    for number, (name, value) in enumerate(sorted(baselines.items(), key=lambda item: -item[1])):
        axis.axhline(value, color=GREY, linewidth=1.0, linestyle=("--", "-.", ":")[number % 3])
        axis.annotate(
            f"{name}  {value:.3f}",
            (0.99, value),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(0, 3),
            ha="right",
            fontsize=8,
            color=GREY,
        )
    axis.set_xlabel("step")
    axis.set_ylabel("bits per byte")
    _decorate(axis)


def _decorate(axis: Any) -> None:
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.02)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8.5)
