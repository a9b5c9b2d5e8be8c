"""One training step: forward and backward of every micro-batch, agreement over all ranks, update."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatrain.data.loader import RankBatch
from megatrain.parallel.collectives import finish
from megatrain.parallel.context import Axis, ParallelContext
from megatrain.resilience.signals import Wish
from megatrain.state import StepResult, Stop
from megatrain.train.engine import Engine


@dataclass(frozen=True)
class Agreed:
    """What the ranks said in the step's one collective, put together."""

    loss: float
    finite: bool
    wish: Wish
    data_wait_s: float
    slowest_step_s: float
    saving: bool


def train_step(
    engine: Engine,
    batch: RankBatch,
    learning_rate: float,
    wish: Wish,
    *,
    samples: int,
    last_step_s: float,
    saving: bool = False,
) -> StepResult:
    """Collective. One optimizer step on one global batch of `samples` samples; `saving`: this rank still
    writes a checkpoint.

    A batch whose loss or gradient is not finite leaves the weights as they were, on all ranks alike.
    """
    started = time.perf_counter()
    engine.set_learning_rate(learning_rate)
    count = ValidTokens(batch.valid_tokens, engine.context)
    loss_sum = torch.zeros((), dtype=torch.float64, device=engine.context.device)
    for index, micro_batch in enumerate(batch.micro_batches):
        loss = engine.forward(micro_batch)
        loss_sum += loss.total.detach()
        engine.backward(loss.total, max(1, count.total()))
        if index < len(batch.micro_batches) - 1:
            engine.micro_step()
    valid = count.total()
    agreed = agree(float(loss_sum), valid, wish, batch.wait_s, last_step_s, engine.context, saving=saving)
    engine.optimizer.veto = not agreed.finite
    engine.micro_step()
    grad_norm = engine.grad_norm
    return StepResult(
        loss=agreed.loss,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        samples=samples,
        valid_tokens=valid,
        skipped=not (agreed.finite and math.isfinite(grad_norm)),
        step_s=time.perf_counter() - started,
        data_wait_s=agreed.data_wait_s,
        stop=Stop.PREEMPTED if agreed.wish.preempt else Stop.ASKED if agreed.wish.stop else None,
        save=agreed.wish.save,
        saving=agreed.saving,
    )


class ValidTokens:
    """The valid tokens of the global batch, summed over the data axis while the first forward pass runs."""

    def __init__(self, own: int, context: ParallelContext) -> None:
        """Collective."""
        self._count = torch.tensor([own], dtype=torch.int64, device=context.device)
        axis = context.data
        self._work = dist.all_reduce(self._count, group=axis.group, async_op=True) if axis.size > 1 else None

    def total(self) -> int:
        if self._work is not None:
            finish(self._work)
            self._work = None
        return int(self._count)


def agree(
    loss_sum: float,
    valid: int,
    wish: Wish,
    wait_s: float,
    step_s: float,
    context: ParallelContext,
    *,
    saving: bool = False,
) -> Agreed:
    """Collective. The step's one collective: every rank comes to the same numbers in the same order of
    summation."""
    own = [loss_sum, float(wish.preempt), float(wish.stop), float(wish.save), wait_s, step_s, float(saving)]
    rows = _gather_rows(own, context.world, context.device)
    # tensor-parallel neighbours have the same loss: one of them counts
    losses = rows[:: context.tensor.size, 0]
    loss = math.fsum(losses.tolist()) / max(1, valid)
    asked = rows[:, 1:4].amax(dim=0).tolist()
    return Agreed(
        loss=loss,
        finite=math.isfinite(loss) and bool(rows[:, 0].isfinite().all()),
        wish=Wish(preempt=bool(asked[0]), stop=bool(asked[1]), save=bool(asked[2])),
        data_wait_s=float(rows[:, 4].max()),
        slowest_step_s=float(rows[:, 5].max()),
        saving=bool(rows[:, 6].max()),
    )


def _gather_rows(own: list[float], axis: Axis, device: torch.device) -> torch.Tensor:
    """Collective. One row a rank, on the CPU, fp64."""
    row = torch.tensor(own, dtype=torch.float64, device=device)
    rows = [torch.empty_like(row) for _ in range(axis.size)]
    if axis.size == 1:
        rows[0] = row
    else:
        dist.all_gather(rows, row, group=axis.group)
    return torch.stack(rows).cpu()
