"""From raw to kept: what a manifest's counts say befell the documents, in the order of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_READER = "reading"  # the step of reasons like "read.broken_json"
# Counts that are no documents lost. Those after the first two are of preparations of version 1.
_NO_DROPS = ("read", "kept", "clean", "invalid_utf8_replaced")


@dataclass(frozen=True)
class Flow:
    """What befell the documents of one source, or of several together."""

    read: int
    kept: int
    drops: dict[str, int]
    """By reason, in the order in which the steps come."""

    @property
    def by_step(self) -> dict[str, int]:
        """The drops by the step they are of: what stands before the reason's first dot."""
        found: Counter[str] = Counter()
        for reason, count in self.drops.items():
            found[step_of(reason)] += count
        return dict(found)

    @property
    def unexplained(self) -> int:
        """Documents that were read and are neither kept nor dropped; 0 where the counts are sound."""
        return self.read - self.kept - sum(self.drops.values())


def flows(made: Mapping[str, Any]) -> dict[str, Flow]:
    """By source. Empty where the manifest keeps no counts."""
    return {
        source: _flow(counts, steps_of(made, source)) for source, counts in made.get("counts", {}).items()
    }


def together(parts: Iterable[Flow]) -> Flow:
    """Several sources as one; a reason keeps the place it has in the first source that knows it."""
    parts = list(parts)
    drops: Counter[str] = Counter()
    for part in sorted(parts, key=lambda part: -len(part.drops)):
        drops.update(part.drops)
    return Flow(sum(part.read for part in parts), sum(part.kept for part in parts), dict(drops))


def steps_of(made: Mapping[str, Any], source: str) -> list[str]:
    """The steps that a source's documents passed, by name, as the config that made the dataset lists them."""
    config = made.get("config", {})
    own = config.get("sources", {}).get(source, {}).get("steps")
    steps = own if own is not None else config.get("steps", [])
    return [name for step in steps for name in step]


def step_of(reason: str) -> str:
    """The step of a reason: "gopher_quality" of "gopher_quality.stop_words"."""
    step = reason.partition(".")[0]
    return _READER if step == "read" else step


def _flow(counts: Mapping[str, int], steps: list[str]) -> Flow:
    place = {name: at for at, name in enumerate([_READER, *steps])}

    def order(reason: str) -> tuple[bool, int, bool]:
        """Reader, steps, then what is decided over all documents: of that, duplicates last."""
        step = step_of(reason)
        return step not in place, place.get(step, 0), step.startswith("duplicate")

    drops = {
        reason: count
        for reason, count in counts.items()
        if count and reason not in _NO_DROPS and not reason.endswith("_bytes")
    }
    ordered = {reason: drops[reason] for reason in sorted(drops, key=order)}
    return Flow(counts.get("read", 0), counts.get("kept", 0), ordered)
