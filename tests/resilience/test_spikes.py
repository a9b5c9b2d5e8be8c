"""The laws of the guard: what it lets pass, and that bad numbers cannot teach it anything."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from megatrain.config import SpikesConfig
from megatrain.resilience.spikes import Judge, extended, judge_after, limit
from megatrain.state import RunState, Verdict

ON = SpikesConfig(action="skip", window=32, warmup_updates=16)
NUMBERS = st.floats(0, 1e6)
WINDOWS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=16, max_size=60).map(tuple)
ANY = st.floats(allow_nan=True, allow_infinity=True)


@given(WINDOWS, ANY, ANY)
def test_what_is_not_finite_is_never_fine(
    window: tuple[tuple[float, float], ...], a: float, b: float
) -> None:
    for judge in (Judge(), judge_after(window, ON), judge_after((), ON)):
        verdict = judge(a, b)
        assert (verdict is Verdict.NOT_FINITE) == (not (math.isfinite(a) and math.isfinite(b)))


@given(WINDOWS)
def test_one_sided_and_above_everything_usual(window: tuple[tuple[float, float], ...]) -> None:
    """At least half of what was seen, and whatever is below it, is fine; the limit is beyond the floor."""
    judge = judge_after(window, ON)
    losses = sorted(loss for loss, _ in window[-32:])
    norms = sorted(norm for _, norm in window[-32:])
    middle = (len(losses) - 1) // 2
    assert judge(losses[middle], norms[middle]) is Verdict.FINE
    assert judge(0.0, 0.0) is Verdict.FINE
    assert judge.loss_limit >= losses[middle] * (1 + ON.loss_floor)
    assert judge.norm_limit >= norms[middle] * (1 + ON.norm_floor)
    assert judge(math.nextafter(judge.loss_limit, math.inf), 0.0) is Verdict.LOSS_SPIKE
    assert judge(0.0, math.nextafter(judge.norm_limit, math.inf)) is Verdict.NORM_SPIKE


@given(st.lists(NUMBERS, min_size=16, max_size=32), st.data())
def test_outliers_below_half_do_not_move_the_limit_out_of_reach(
    values: list[float], data: st.DataObject
) -> None:
    """The limit stays within what the usual values allow, however large a minority is."""
    count = data.draw(st.integers(0, (len(values) - 1) // 2 - 1))
    spoilt = values[count:] + [1e30] * count
    assert limit(spoilt, 8, 0.1) <= max(values) * 1.1 + 8 * 1.4826 * max(values) + 1e-9


def test_a_flat_curve_does_not_trip_and_a_spike_does() -> None:
    flat = ((2.5, 0.3),) * 40
    judge = judge_after(flat, ON)
    assert judge(2.5, 0.3) is judge(2.6, 0.7) is Verdict.FINE
    assert judge(2.8, 0.3) is Verdict.LOSS_SPIKE and judge(2.5, 1.0) is Verdict.NORM_SPIKE


def test_ordinary_curves_pass() -> None:
    """Falling losses with noise and heavy-tailed norms, as small models have them: no step is held up."""
    draw = random.Random(0)
    window: tuple[tuple[float, float], ...] = ()
    for step in range(3000):
        loss = 2 + 8 * math.exp(-step / 300) + draw.gauss(0, 0.05)
        norm = math.exp(draw.gauss(-1, 0.25))
        assert judge_after(window, ON)(loss, norm) is Verdict.FINE, step
        window = extended(window, loss, norm, ON.window)
    assert judge_after(window, ON)(loss + 1.5, norm) is Verdict.LOSS_SPIKE


def test_off_and_while_warming_up_only_finiteness_counts() -> None:
    window = ((1.0, 1.0),) * 40
    assert judge_after(window, SpikesConfig(action="off"))(1e9, 1e9) is Verdict.FINE
    assert judge_after(window[:15], ON)(1e9, 1e9) is Verdict.FINE
    assert judge_after(window[:16], ON)(1e9, 1.0) is Verdict.LOSS_SPIKE


@given(WINDOWS, NUMBERS, NUMBERS, st.integers(1, 80))
def test_the_window_is_the_newest_and_survives_json(
    window: tuple[tuple[float, float], ...], loss: float, norm: float, keep: int
) -> None:
    import json

    longer = extended(window, loss, norm, keep)
    assert longer == (*window, (loss, norm))[-keep:]
    state = RunState(seed=1, data_fingerprint="f", window=longer)
    assert RunState.from_json(json.loads(json.dumps(state.to_json()))) == state
