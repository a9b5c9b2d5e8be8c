"""Whether a run that was killed and resumed did what an unbroken one did, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint, committed
from megatrain.observe.history import read_metrics
from megatrain.observe.lines import is_count, is_number
from megatrain.observe.samples import read_samples
from megatrain.state import RunFolder

SUMMED = ("loss", "grad_norm")
"""Sums over the ranks: their last digits depend on the order of summation, so on the layout."""
COUNTED = ("lr", "consumed_samples", "consumed_tokens", "skipped")
"""Equal on every layout."""

# Sums over thousands of terms in another order. fp32 has an ulp of 1.2e-7: some ulps a sum, then a few
# updates; 5e-7 of the loss was the most seen in the tests of layouts. bf16 keeps 8 bits in every activation
# and weight: one that rounds the other way moves the loss by some 1e-3, 4e-3 was seen.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}


@dataclass(frozen=True)
class Told:
    """What the last attempt at a step told of it."""

    attempt: int
    numbers: Mapping[str, float | None]
    """SUMMED and COUNTED; None stands for what is not finite."""
    samples: tuple[tuple[int, ...], ...]
    """Of each rank that reads data, in order of rank."""


@dataclass(frozen=True)
class Trace:
    """A run, told by its files."""

    steps: Mapping[int, Told]
    stored: tuple[str, ...] = ()
    """Hashes of the newest checkpoint's files, which hold weights and moments."""

    @property
    def resumed_at(self) -> int:
        """The step whose checkpoint the last attempt began with; 0 if it began anew."""
        last = max((told.attempt for told in self.steps.values()), default=0)
        return min((step for step, told in self.steps.items() if told.attempt == last), default=1) - 1


@dataclass(frozen=True)
class Difference:
    """A quantity in which the runs differ."""

    step: int
    what: str
    unbroken: object
    resumed: object
    remark: str = ""

    def __str__(self) -> str:
        remark = f" ({self.remark})" if self.remark else ""
        return f"step {self.step}: {self.what} is {self.unbroken} unbroken and {self.resumed} resumed{remark}"


@dataclass(frozen=True)
class Comparison:
    """What was compared, and the first difference."""

    steps: int
    """That both runs told of."""
    resumed_at: int
    samples_equal: bool
    largest: Mapping[str, float] = field(default_factory=dict)
    """Of each of SUMMED: the largest relative difference."""
    first: Difference | None = None


def read_trace(folder: RunFolder) -> Trace:
    """What the files of a run with observe.sample_ids tell of its steps."""
    samples = read_samples(folder)
    steps = {
        line["step"]: Told(
            line["attempt"], {name: line[name] for name in (*SUMMED, *COUNTED)}, samples.get(line["step"], ())
        )
        for line in read_metrics(folder)
        if _is_complete(line)
    }
    place = LocalPlace(folder.checkpoints)
    saved = committed(place)
    files = Checkpoint(saved[0], place).manifest.files if saved else ()
    return Trace(steps, tuple(info.xxh3 for info in files))


def _is_complete(line: Mapping[str, object]) -> bool:
    """Whether a line of metrics.jsonl has all that is compared; another process may have written others."""
    return is_count(line.get("attempt")) and all(
        name in line and (line[name] is None or type(line[name]) is bool or is_number(line[name]))
        for name in (*SUMMED, *COUNTED)
    )


def compare(
    unbroken: Trace, resumed: Trace, *, steps: int, checkpoint: int, tolerance: float | None
) -> Comparison:
    """Compare the steps 1 to `steps` of a run with one that resumed at step `checkpoint`.

    Without a tolerance (the layouts are the same) everything must be equal bit for bit, the checkpoints at
    the end too. With one, the sums may differ by it, relatively, and a batch may be shared out otherwise.
    """
    found = []
    if resumed.resumed_at != checkpoint:
        found.append(Difference(checkpoint, "the resumed step", checkpoint, resumed.resumed_at))
    for step in range(1, steps + 1):
        remark = "before the checkpoint: two equal starts differ" if step <= checkpoint else ""
        found += _differences(step, unbroken.steps.get(step), resumed.steps.get(step), tolerance, remark)
    if tolerance is None and unbroken.stored != resumed.stored:
        hashes = (" ".join(unbroken.stored) or "absent", " ".join(resumed.stored) or "absent")
        found.append(Difference(steps, "the hash of weights and moments", *hashes))
    common = unbroken.steps.keys() & resumed.steps.keys() & set(range(1, steps + 1))
    both = [(unbroken.steps[step], resumed.steps[step]) for step in common]
    return Comparison(
        steps=len(both),
        resumed_at=resumed.resumed_at,
        samples_equal=len(both) == steps and not any(_other_sample(a, b, tolerance) for a, b in both),
        largest={
            name: max((relative(a.numbers[name], b.numbers[name]) for a, b in both), default=0.0)
            for name in SUMMED
        },
        first=found[0] if found else None,
    )


def relative(a: float | None, b: float | None) -> float:
    """The relative difference; what is not finite differs from every number by infinity."""
    if a == b:
        return 0.0
    if a is None or b is None:
        return float("inf")
    return abs(a - b) / max(abs(a), abs(b))


def _differences(
    step: int, unbroken: Told | None, resumed: Told | None, tolerance: float | None, remark: str
) -> Iterator[Difference]:
    """The order of causes: other samples make other sums."""
    if unbroken is None or resumed is None:
        there, here = ("absent" if told is None else "there" for told in (unbroken, resumed))
        yield Difference(step, "the step", there, here, remark)
        return
    other = _other_sample(unbroken, resumed, tolerance)
    if other is not None:
        row, ours, theirs = other
        yield Difference(step, f"sample {row} of the batch", ours, theirs, remark)
    for name in COUNTED:
        a, b = unbroken.numbers[name], resumed.numbers[name]
        if a != b:
            yield Difference(step, name, a, b, remark)
    for name in SUMMED:
        a, b = unbroken.numbers[name], resumed.numbers[name]
        apart = relative(a, b)
        if apart > (tolerance or 0.0):
            allowed = f"allowed {tolerance:g}" if tolerance is not None else "must be equal bit for bit"
            detail = f"relative difference {apart:.1e}, {allowed}"
            yield Difference(step, name, a, b, f"{detail}; {remark}" if remark else detail)


def _other_sample(unbroken: Told, resumed: Told, tolerance: float | None) -> tuple[int, str, str] | None:
    """The first row of the global batch that differs, counted from 1, and its samples; absent ones differ.

    Rows as the ranks shared them out, or, where the layouts may differ, in the order of the run.
    """
    ours, theirs = (list(chain(*told.samples)) for told in (unbroken, resumed))
    if tolerance is not None:
        ours, theirs = sorted(ours), sorted(theirs)
    if not ours and not theirs:
        return 1, "absent", "absent"
    rows = enumerate(zip_longest(ours, theirs, fillvalue="absent"), start=1)
    return next(((row, str(a), str(b)) for row, (a, b) in rows if a != b), None)
