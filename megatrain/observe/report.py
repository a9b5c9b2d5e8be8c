"""The loss curve of a run as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from megatrain.observe.history import STARTS, History, evaluations, read_history
from megatrain.observe.lines import is_number
from megatrain.observe.metrics import Record
from megatrain.state import RunFolder

INK, LIGHT, ACCENT, GREY = "#1f3b73", "#a9bcdf", "#d1495b", "#6b7280"
MOST_POINTS = 4000
"""Points of a curve: more than the picture has columns, fewer than matplotlib refuses to draw."""


def read_passes(folder: RunFolder) -> list[str]:
    """Return the line of `passes` for a run's folder."""
    return passes(read_history(folder))


def passes(history: History) -> list[str]:
    """Return a line on the passes over each source, as the newest start of the run has logged them."""
    newest = None
    for event in history.events:
        if event["event"] in STARTS and isinstance(event.get("passes"), dict):
            newest = event["passes"]
    numbers = {name: value for name, value in (newest or {}).items() if is_number(value)}
    if not numbers:
        return []
    return [
        "passes over the data up to train.steps: "
        + ", ".join(f"{name} {n:,.1f}" for name, n in numbers.items())
    ]


def draw_loss_curve(
    folder: RunFolder, baselines: Mapping[str, float] | None = None, history: History | None = None
) -> Path:
    """Draw RUN/loss.png: the loss of training and validation over the steps; gives its path. Raises OSError.

    baselines: name → bits per byte; they stand in a second panel with the bits per byte of the evaluations,
    which is left out when no evaluation has any. history: what the folder has, where it was read already.
    """
    # Of the API that keeps no global state; importing matplotlib takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history = history or read_history(folder)
    evaluated = evaluations(history.events)
    with_bits = [record for record in evaluated if _overall(record).get("bits_per_byte") is not None]
    panels = 2 if with_bits else 1
    figure = Figure(figsize=(6.4 * panels, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_loss(axes[0], history, evaluated)
    if with_bits:
        _draw_bits(axes[1], with_bits, baselines or {})
    figure.suptitle(folder.root.resolve().name, fontsize=11, color=GREY)
    temporary = folder.loss_curve.with_suffix(".tmp.png")
    try:
        figure.savefig(temporary)
        os.replace(temporary, folder.loss_curve)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
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


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` points of a curve: the lowest and the highest of each of equal stretches, so that
    a spike of one step stays visible. NaN counts as absent unless a stretch has nothing else."""
    if len(y) <= most:
        return x, y
    width = -(-len(y) // (most // 2))
    padded = np.full(-(-len(y) // width) * width, np.nan)
    padded[: len(y)] = y
    rows = padded.reshape(-1, width)
    lowest = np.where(np.isnan(rows), np.inf, rows).argmin(axis=1)
    highest = np.where(np.isnan(rows), -np.inf, rows).argmax(axis=1)
    ends = np.sort(np.stack([lowest, highest], axis=1), axis=1) + width * np.arange(len(rows))[:, None]
    chosen = np.minimum(ends.reshape(-1), len(y) - 1)
    return x[chosen], y[chosen]


def _overall(evaluation: Record) -> Mapping[str, float]:
    """The numbers of the whole validation split: the row "all", or the only row."""
    results: Mapping[str, Mapping[str, float]] = evaluation["results"]
    if "all" in results or len(results) != 1:
        return results.get("all", {})
    return next(iter(results.values()))


def _draw_loss(axis: Any, history: History, evaluated: Sequence[Record]) -> None:
    rows = history.steps.last_of_each()
    steps = np.array(history.steps.step, dtype=float)[rows]
    loss, tokens = (history.steps.column(name)[rows] for name in ("loss", "consumed_tokens"))
    window = max(1, len(steps) // 40)
    label = "training, each step" if window > 1 else "training"
    axis.plot(*thinned(steps, loss), color=LIGHT, linewidth=0.8, label=label)
    if window > 1:
        mean = thinned(steps, smooth(loss, window))
        axis.plot(*mean, color=INK, linewidth=1.6, label=f"training, mean of {window} steps")
    points = [
        (record["step"], _overall(record)["loss"])
        for record in evaluated
        if _overall(record).get("loss") is not None
    ]
    if points:
        axis.plot(
            *zip(*points, strict=True), "o-", color=ACCENT, markersize=4, linewidth=1.0, label="validation"
        )
    axis.set_xlabel("step")
    axis.set_ylabel("loss (nats per token)")
    _decorate(axis)
    if len(steps) > 1 and steps[-1] > 0 and tokens[-1] > 0:
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
