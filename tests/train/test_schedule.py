"""The learning rate at exact points."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatrain.config import ScheduleConfig
from megatrain.train.schedule import learning_rate

PEAK, STEPS, WARM = 1.0, 111, 10


def rates(kind: str, **more: object) -> list[float]:
    schedule = ScheduleConfig.model_validate(
        {"kind": kind, "learning_rate": PEAK, "final_fraction": 0.1, "warmup_steps": WARM, **more}
    )
    return [learning_rate(step, schedule, STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
def test_the_warm_up_is_linear_and_never_zero(kind: str) -> None:
    assert rates(kind)[: WARM + 1] == [PEAK * (n + 1) / (WARM + 1) for n in range(WARM)] + [PEAK]


def test_the_ways_down() -> None:
    cosine, linear, wsd, constant = (rates(kind) for kind in ("cosine", "linear", "wsd", "constant"))
    middle = (WARM + STEPS - 1) // 2  # 60: half of the way from 10 to 110
    assert math.isclose(cosine[middle], 0.55) and math.isclose(linear[middle], 0.55)
    quarter = WARM + 25
    assert math.isclose(cosine[quarter], 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert math.isclose(linear[quarter], 1 - 0.9 / 4)
    assert set(constant[WARM:]) == {PEAK}
    decay = 11  # a tenth of the run
    assert set(wsd[WARM : STEPS - decay + 1]) == {PEAK} and wsd[STEPS - decay + 1] < PEAK
    assert math.isclose(wsd[-6], (PEAK + 0.1) / 2)
    longer = rates("wsd", decay_steps=50)
    assert longer[STEPS - 50] == PEAK > longer[STEPS - 49]
    for series in (cosine, linear, wsd, longer):
        assert math.isclose(series[-1], 0.1)
    assert rates("cosine", final_fraction=0)[-1] == 0.0


@given(
    st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.data(),
)
def test_up_then_down_and_within_bounds(kind: str, steps: int, final: float, data: st.DataObject) -> None:
    warm = data.draw(st.integers(0, steps - 1))
    schedule = ScheduleConfig(kind=kind, learning_rate=0.3, final_fraction=final, warmup_steps=warm)
    series = [learning_rate(step, schedule, steps) for step in range(steps)]
    bound = math.nextafter(0.3, 1)  # cosine adds its end to the rest: one rounding
    assert all(0 < rate <= bound or rate == final == 0 for rate in series)
    assert all(a < b for a, b in itertools.pairwise(series[: warm + 1]))
    assert all(a >= b for a, b in itertools.pairwise(series[warm:]))
