"""Collectives along one axis, with their gradients; an axis of size 1 returns early, in here and nowhere
else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from megatrain.errors import FailedWork, UserError
from megatrain.parallel.context import Axis, ParallelContext

T = TypeVar("T")


def all_reduce(x: torch.Tensor, axis: Axis, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> torch.Tensor:
    """Collective. Reduce `x` in place over the axis."""
    if axis.size > 1:
        dist.all_reduce(x, op=op, group=axis.group)
    return x


def finish(work: dist.Work) -> None:
    """Wait for a collective that was begun before; the watchdog knows by this function that a rank waits."""
    work.wait()


def gather_objects(value: Any, axis: Axis) -> list[Any]:
    """Collective. Every rank's value, by rank; small things only."""
    if axis.size == 1:
        return [value]
    values: list[Any] = [None] * axis.size
    dist.all_gather_object(values, value, group=axis.group)
    return values


def broadcast_object(value: Any, axis: Axis) -> Any:
    """Collective. The value of the axis' rank 0, everywhere."""
    if axis.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, group=axis.group, group_src=0)
    return box[0]


def alike(work: Callable[[], T], context: ParallelContext) -> T:
    """Collective. Run `work` on each rank; if it fails on one, all raise that rank's UserError or
    FailedWork."""
    result, failure = None, None
    try:
        result = work()
    except (UserError, FailedWork) as error:
        failure = (type(error).__name__, str(error))
    for found in gather_objects(failure, context.world):
        if found is not None:
            raise (UserError if found[0] == "UserError" else FailedWork)(found[1])
    return result  # type: ignore[return-value]


def barrier(axis: Axis) -> None:
    """Collective. Wait for every rank of the axis."""
    if axis.size > 1:
        dist.barrier(group=axis.group)


class _Enter(torch.autograd.Function):
    """Into a split layer: the input is whole on every rank, its gradient is a sum of the ranks' parts."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return all_reduce(grad.contiguous().clone(), ctx.axis), None


class _Leave(torch.autograd.Function):
    """Out of a split layer: the output is a sum of the ranks' parts, its gradient is whole on every rank."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, axis: Axis) -> torch.Tensor:
        return all_reduce(x.clone(), axis)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


def enter_split(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    """Identity forward, all-reduce backward ("f" of Megatron-LM, arXiv 1909.08053)."""
    return x if axis.size == 1 else _Enter.apply(x, axis)  # type: ignore[no-untyped-call]


def leave_split(x: torch.Tensor, axis: Axis) -> torch.Tensor:
    """All-reduce forward, identity backward ("g" of Megatron-LM, arXiv 1909.08053)."""
    return x if axis.size == 1 else _Leave.apply(x, axis)  # type: ignore[no-untyped-call]
