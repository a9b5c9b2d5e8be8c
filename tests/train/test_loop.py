"""When a checkpoint is due, and what a step moves on."""

from __future__ import annotations

from dataclasses import replace

from megatrain.config import parse_config
from megatrain.state import RunState, StepResult, Verdict
from megatrain.train.loop import advance, tiers_due

RESULT = StepResult(
    loss=2.0,
    grad_norm=0.5,
    learning_rate=1e-3,
    samples=5,
    valid_tokens=100,
    verdict=Verdict.FINE,
    step_s=1.0,
    data_wait_s=0.0,
    stop=None,
    save=False,
    saving=False,
)


def saved(
    bad: set[int], *, asked: frozenset[int] = frozenset(), steps: int = 20
) -> list[tuple[int, list[str]]]:
    """The steps after which something is due, in a run in which these are skipped."""
    config = parse_config("checkpoint: {every: 6, tiers: [{folder: /local, every: 4}]}")
    state, found = RunState(seed=1, data_fingerprint="f"), []
    for step in range(1, steps + 1):
        verdict = Verdict.LOSS_SPIKE if step in bad else Verdict.FINE
        result = replace(RESULT, verdict=verdict, save=step in asked)
        before, state = state, advance(state, result, window=3)
        if tiers := tiers_due(config, before, state, result):
            found.append((step, tiers))
    assert state.optimizer_step == steps - len(bad) and state.consumed_samples == 5 * steps
    assert state.consumed_tokens == 100 * (steps - len(bad)) and state.window == ((2.0, 0.5),) * 3
    return found


def test_each_tier_at_its_own_steps_and_when_asked() -> None:
    near, main = ["near 1"], ["main"]
    usual = [(4, near), (6, main), (8, near), (12, main + near), (16, near), (18, main), (20, near)]
    assert saved(set()) == usual
    assert saved(set(), asked=frozenset({7}))[2] == (7, main)


def test_not_while_steps_are_skipped_but_right_after() -> None:
    """What lies before the row is not pushed out by copies of itself, and no turn is lost."""
    near, main = ["near 1"], ["main"]
    assert saved({5, 6, 7, 8}) == [
        (4, near),
        (9, main + near),
        (12, main + near),
        (16, near),
        (18, main),
        (20, near),
    ]
    assert saved({6})[1] == (7, main) and saved({10})[3] == (12, main + near)
    assert saved({1, 2, 3}, asked=frozenset({3}))[0] == (4, near)
