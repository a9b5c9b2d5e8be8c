"""Which samples any step of a run takes: from its config and what it has written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatrain.checkpoint.place import place_of_run
from megatrain.checkpoint.read import Checkpoint, newest_first
from megatrain.config import Config, load_config
from megatrain.data.listing import ListedSample, listed
from megatrain.data.mixture import TokenMixture
from megatrain.data.skipped import samples
from megatrain.data.training import TrainingSamples
from megatrain.errors import FailedWork, require
from megatrain.observe.history import step_lines
from megatrain.observe.lines import is_count
from megatrain.resilience.timeline import belongs, leaving_out, read_records
from megatrain.state import RunFolder, RunState
from megatrain.train.begun import settled
from megatrain.train.preflight import require_same_data


@dataclass(frozen=True)
class StepSamples:
    """The samples of one step's global batch, in the order of the batch's rows."""

    step: int
    samples: tuple[ListedSample, ...]


def samples_of_step(where: Path, step: int, overrides: Sequence[str] = ()) -> StepSamples:
    """The samples that a step takes, of a run by its folder or of one that a config describes.

    Steps of the past are those of the run's last time line; of steps to come it is said what they will take.
    Raises UserError where there is no such run, config or step.
    """
    path = where / "config.yaml" if where.is_dir() else where
    require(path.is_file(), f"{where}: neither a config nor the folder of a run (config.yaml)")
    config = settled(load_config(path, overrides))
    require(
        1 <= step <= config.train.steps,
        f"--step ({step}): steps are counted from 1, and the run has {config.train.steps} (train.steps)",
    )
    folder = RunFolder(where if where.is_dir() else Path(config.run.folder))
    state = _newest(config, folder)
    training = TrainingSamples(TokenMixture.open(config.data, "train"), config.data)
    order = training.order(config.run.seed)
    if state.data_fingerprint:
        require_same_data(state, training.fingerprint(order), config)
    begins = _consumed_before(step, state, folder, config.train.global_batch)
    ids = samples(begins, config.train.global_batch, state.skipped)
    return StepSamples(step, tuple(listed(training, order, ids)))


def _consumed_before(step: int, state: RunState, folder: RunFolder, global_batch: int) -> int:
    """Samples taken before the step, by the run's own record where it has one."""
    if step == 1:
        return 0
    found = None
    for line in step_lines(folder):
        if line["step"] == step - 1 and is_count(line.get("consumed_samples")):
            found = int(line["consumed_samples"])
        elif line["step"] < step - 1:  # what came after it is undone
            found = None
    if found is not None:
        return found
    return state.consumed_samples + (step - 1 - state.step) * global_batch


def _newest(config: Config, folder: RunFolder) -> RunState:
    """The newest state that the run has saved, or that of a run that begins."""
    records = read_records(folder)
    place = place_of_run(folder, config.checkpoint.folder, config.checkpoint.staging)
    for name in newest_first(place):
        try:
            state = Checkpoint(name, place).manifest.state
        except FailedWork:
            continue
        if belongs(state, records):
            return leaving_out(state, records)
    return leaving_out(RunState(seed=config.run.seed, data_fingerprint=""), records)
