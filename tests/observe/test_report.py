"""The loss curve is drawn from what lies in the run folder, whatever is missing there."""

import math
from pathlib import Path

import numpy as np
import pytest

from megatrain.observe import draw_loss_curve, read_evaluations, read_metrics
from megatrain.observe.report import smooth
from megatrain.state import RunFolder
from tests.observe.test_log import log_to, result, state


def test_smooth_is_a_centred_mean_without_nan() -> None:
    values = np.array([1.0, 2.0, math.nan, 4.0, 5.0])
    assert smooth(values, 3).tolist() == [1.5, 1.5, 3.0, 4.5, 4.5]
    assert smooth(values, 1)[[0, 1, 3, 4]].tolist() == [1.0, 2.0, 4.0, 5.0]
    assert np.isnan(smooth(values, 1)[2])
    assert smooth(np.array([]), 5).tolist() == []
    assert smooth(np.full(100, 7.0), 10) == pytest.approx(np.full(100, 7.0))


@pytest.mark.parametrize("steps", [0, 1, 200])
@pytest.mark.parametrize("evaluated", [False, True])
def test_draws_short_and_long_runs(tmp_path: Path, steps: int, evaluated: bool) -> None:
    folder = RunFolder(tmp_path / "a run")
    log = log_to(folder)
    for step in range(1, steps + 1):
        log.step(state(step), result(math.nan if step == 50 else 9.0 / step))
        if evaluated and step % 20 == 1:
            log.evaluation(state(step), {"only": {"loss": 9.0 / step, "bits_per_byte": 3.0 / step}})
    log.close()
    path = draw_loss_curve(folder, {"bigram": 2.5, "unigram": 3.0})
    assert path == folder.loss_curve
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    assert not list(folder.root.glob("*.tmp*"))


def test_reads_around_rubbish(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_metrics(folder) == [] == read_evaluations(folder)
    folder.metrics.write_bytes(
        b'{"step": 1, "loss": 1}\n{"ste\n\xff\xfe\n[1]\n{"step": null}\n{"step": 2, "lo'
    )
    assert [record["step"] for record in read_metrics(folder)] == [1]
