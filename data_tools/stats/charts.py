"""The pictures of a report: what is left after each step, bars of parts, histograms of lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_tools.datasets.lengths import LengthCounts
from data_tools.stats.figures import compact, compact_power, percent
from data_tools.stats.flow import Flow
from data_tools.stats.style import COLOURS
from data_tools.stats.svg import box, drawing, shape, words
from data_tools.tokenizer.fertility import ratio, shown

WIDTH = 880
_LABELS = 150  # what stands left of bars
_TRUNK = 260.0  # width of the whole stream
_BEND = 14.0
_GAP = 24.0


def stream(flow: Flow) -> str:
    """A stream of documents that flows down and grows narrower.

    Those that a step drops leave it to the right, in a band as wide as they are many.
    """
    scale = _TRUNK / max(1, flow.read)
    left, y, rest = 20.0, 44.0, flow.read
    parts = [
        words(left, 18, f"read: {flow.read:,} documents", class_="strong"),
        box(left, 28.0, _TRUNK, 16.0, "kept", f"{flow.read:,} read"),
    ]
    for step, count in flow.by_step.items():
        top, now, then = y, left + rest * scale, left + (rest - count) * scale
        y += max(count * scale, 1.0) + _GAP
        parts.append(
            box(left, top, max(then - left, 1.0), y - top + 1, "kept", f"after {step}: {rest - count:,}")
        )
        parts.append(_leaving(then, now, top, f"{step}: {count:,} dropped"))
        middle = top + _BEND + max(count * scale, 1.0) / 2 + 4
        parts.append(words(left + _TRUNK + 66, middle, f"{step}: {count:,} ({percent(count / flow.read)})"))
        rest -= count
    kept = f"kept: {flow.kept:,} documents ({shown(ratio(flow.kept, flow.read), '.1%')})"
    parts.append(words(left, y + 18, kept, class_="strong"))
    name = f"Of {flow.read:,} documents read, {flow.kept:,} were kept; dropped: " + (
        ", ".join(f"{step} {count:,}" for step, count in flow.by_step.items()) or "none"
    )
    return drawing(WIDTH, y + 28, name, *parts)


def bars(
    rows: Sequence[tuple[str, Mapping[str, float]]],
    colours: Mapping[str, str],
    name: str,
    *,
    unit: str,
    scale: str,
) -> str:
    """A bar for each row, of its parts one after the other.

    `scale` "share" makes all bars equally long, "size" as long as they are large. A part without a colour of
    its own takes that of "other".
    """
    largest = max((sum(parts.values()) for _, parts in rows), default=0)
    room = WIDTH - _LABELS - 110
    drawn = []
    for number, (label, parts) in enumerate(rows):
        total, x, y = sum(parts.values()), float(_LABELS), 8.0 + 30 * number
        drawn.append(words(_LABELS - 10, y + 15, _cut(label), text_anchor="end"))
        for part, value in parts.items():
            width = room * value / max(1, total if scale == "share" else largest)
            tip = f"{label}, {part}: {value:,} {unit} ({percent(value / max(1, total))})"
            drawn.append(box(x, y, width, 20.0, colours.get(part, "other"), tip))
            x += width
        drawn.append(words(x + 8, y + 15, compact(total), class_="quiet"))
    return drawing(WIDTH, 30 * len(rows) + 10, name, *drawn)


def histogram(lengths: LengthCounts, name: str) -> str:
    """Documents, and above them tokens, by the documents' length in powers of two."""
    octaves = lengths.octaves()
    step = min(60.0, (WIDTH - 80) / len(octaves))
    height = 120.0
    most = max(max(count / lengths.documents, size / lengths.tokens) for count, size in octaves.values())
    drawn = []
    for number, (power, (count, size)) in enumerate(octaves.items()):
        x = 40 + number * step
        where = f"{2**power:,} to {2 ** (power + 1) - 1:,} tokens"
        for at, share, colour, what in (
            (x + 0.10 * step, count / lengths.documents, "documents", f"{count:,} documents"),
            (x + 0.50 * step, size / lengths.tokens, "tokens", f"{size:,} tokens"),
        ):
            tall = height * share / most
            tip = f"{where}: {what} ({percent(share)})"
            drawn.append(box(at, 8 + height - tall, 0.38 * step, tall, colour, tip))
        drawn.append(words(x, 26 + height, compact_power(power), class_="quiet", text_anchor="middle"))
    last = 40 + len(octaves) * step
    drawn.append(box(40.0, 8 + height, last - 40, 1.0, "line", "document length in tokens"))
    drawn.append(words(last + 4, 26 + height, "tokens", class_="quiet"))
    drawn.append(words(4, 18, f"{most:.0%}", class_="quiet"))
    return drawing(WIDTH, height + 34, name, *drawn)


def colours_of(parts: Sequence[str], first: int = 0) -> dict[str, str]:
    """Colours for as many parts as there are, from the first that is free; the rest share that of "other"."""
    return {part: f"c{number}" for part, number in zip(parts, range(first, COLOURS), strict=False)}


def _leaving(inner: float, outer: float, top: float, tip: str) -> str:
    """The band between two places across the stream, bent to the right by a quarter circle."""
    thick = max(outer - inner, 1.0)
    end, turned, upper = 20 + _TRUNK + 56, inner + thick + _BEND, top + _BEND
    wide = thick + _BEND
    return shape(
        f"M{inner + thick:.1f} {top:.1f}A{_BEND:.1f} {_BEND:.1f} 0 0 0 {turned:.1f} {upper:.1f}"
        f"H{end:.1f}V{upper + thick:.1f}H{turned:.1f}"
        f"A{wide:.1f} {wide:.1f} 0 0 1 {inner:.1f} {top:.1f}Z",
        "dropped",
        tip,
    )


def _cut(label: str) -> str:
    return label if len(label) <= 20 else label[:19] + "…"
