"""From raw to kept: what a manifest's counts say befell the documents, in the order of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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


@dataclass(frozen=True)
class EvaluationSet:
    """What the step decontaminate looked for, and found."""

    texts: int
    too_short: int
    """Texts too short to be looked for."""
    documents: int
    """Those that held text of the set, and were dropped or cut."""


def evaluation_sets(made: Mapping[str, Any]) -> dict[str, EvaluationSet]:
    """By name. Empty where there was no such step."""
    found = {}
    for name, told in made.get("evaluation_sets", {}).items():
        reason = f"decontaminate.{name}"
        counted = [of for what in ("counts", "changes") for of in made.get(what, {}).values()]
        documents = sum(of.get(reason, 0) for of in counted)
        found[name] = EvaluationSet(told["texts"], told["too_short"], documents)
    return found


def flows(made: Mapping[str, Any]) -> dict[str, Flow]:
    """By source. Empty where the manifest keeps no counts."""
    return {
        source: _flow(counts, steps_of(made, source)) for source, counts in made.get("counts", {}).items()
    }


def together(parts: Iterable[Flow]) -> Flow:
    """Several sources as one; their reasons in an order that is that of each, where there is such a one."""
    parts = list(parts)
    drops: Counter[str] = Counter()
    for part in parts:
        drops.update(part.drops)
    ordered = {reason: drops[reason] for reason in _in_common_order([list(part.drops) for part in parts])}
    return Flow(sum(part.read for part in parts), sum(part.kept for part in parts), ordered)


def _in_common_order(lists: list[list[str]]) -> Iterator[str]:
    """The items of all lists, each once: next comes what no list has behind another that is to come."""
    left = [one for one in lists if one]
    while left:
        behind = {item for one in left for item in one[1:]}
        # Where two lists contradict each other, the first has its way.
        chosen = next((one[0] for one in left if one[0] not in behind), left[0][0])
        yield chosen
        left = [rest for one in left if (rest := [item for item in one if item != chosen])]


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
        # "kept_bytes" is no reason, "read.invalid_bytes" is one.
        if count and reason not in _NO_DROPS and ("." in reason or not reason.endswith("_bytes"))
    }
    ordered = {reason: drops[reason] for reason in sorted(drops, key=order)}
    return Flow(counts.get("read", 0), counts.get("kept", 0), ordered)
