"""Collectives along one axis, with their gradients; an axis of size 1 returns early, in here and nowhere
else."""

from __future__ import annotations

import json
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
    """Collective. Every rank's value, by rank; small plain data only (see `encoded`)."""
    own = encoded(value)
    if axis.size == 1:
        return [decoded(own)]
    device = _device_of(axis)
    size = torch.tensor([own.numel()], device=device)
    sizes = [torch.empty_like(size) for _ in range(axis.size)]
    dist.all_gather(sizes, size, group=axis.group)
    lengths = [int(one) for one in sizes]
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    padded[: own.numel()] = own.to(device)
    texts = [torch.empty_like(padded) for _ in range(axis.size)]
    dist.all_gather(texts, padded, group=axis.group)
    return [decoded(text[:length].cpu()) for text, length in zip(texts, lengths, strict=True)]


def broadcast_object(value: Any, axis: Axis) -> Any:
    """Collective. The value of the axis' rank 0, everywhere; small plain data only (see `encoded`)."""
    own = encoded(value if axis.rank == 0 else None)
    if axis.size == 1:
        return decoded(own)
    device = _device_of(axis)
    size = torch.tensor([own.numel()], device=device)
    dist.broadcast(size, group=axis.group, group_src=0)
    text = own.to(device) if axis.rank == 0 else torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(text, group=axis.group, group_src=0)
    return decoded(text.cpu())


def encoded(value: Any) -> torch.Tensor:
    """Return plain data as the bytes of its JSON: None, booleans, numbers, text, lists, dicts with text keys.

    Nothing that one rank sends is code on another, as a pickle would be. A tuple arrives as a list.

    Raises TypeError for anything else.
    """
    _require_plain(value)
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def decoded(text: torch.Tensor) -> Any:
    """Return what `encoded` was given."""
    return json.loads(text.numpy().tobytes())


def _require_plain(value: Any) -> None:
    match value:
        case None | bool() | int() | float() | str():
            return
        case list() | tuple():
            for one in value:
                _require_plain(one)
        case dict() if all(type(key) is str for key in value):
            for one in value.values():
                _require_plain(one)
        case _:
            raise TypeError(f"{type(value).__name__} is not plain data; send its fields")


def _device_of(axis: Axis) -> torch.device:
    """Where the tensors of an axis' collectives are."""
    if dist.get_backend(axis.group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


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
